"""ext4 images and LUKS2 containers in files, and the tmpfs for secrets."""
