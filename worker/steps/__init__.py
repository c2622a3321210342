"""States that a host can be in: each step looks, and makes true what is not."""
