"""The adapters that touch the kernel and Firecracker: a package a port, with the port's name."""
