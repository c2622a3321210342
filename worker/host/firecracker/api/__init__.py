"""The client of a VMM's API."""
