"""The driver of Firecracker and its jailer."""
