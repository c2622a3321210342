"""Carries out one request: attempts, reservations, result; supersede, cancel, reconcile."""
