"""`hostd demo`: the whole life of a few instances on real parts, in a sandbox."""
