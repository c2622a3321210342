"""Decides when a request may run: threads, turns, admission, locks."""
