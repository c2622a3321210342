"""hostctl."""
