"""The adapter of the port `vmm`: drives Firecracker and its jailer."""
