"""The only code that touches the kernel, Firecracker and Redis."""
