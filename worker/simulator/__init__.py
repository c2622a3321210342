"""Stand-in `firecracker` and `jailer` programs for machines without KVM or binary."""
