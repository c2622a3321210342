"""Drains a host: parks new work and puts its guests to sleep before a deadline."""
