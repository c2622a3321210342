"""Bridges and TAPs, by rtnetlink."""
