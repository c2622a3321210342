"""Sleep images on the disk: `images.py` has their names, `generation.py` their content."""
