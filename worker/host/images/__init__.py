"""Sleep images on the disk."""
