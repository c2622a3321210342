"""Wrappers of the kernel's interfaces; they know nothing of tenants, instances or requests."""
