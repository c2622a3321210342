"""Jails: what the jailer starts a VMM in."""
