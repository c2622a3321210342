"""Drives Firecracker and its jailer."""
