"""Finds and removes what earlier requests left on the host."""
