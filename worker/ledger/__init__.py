"""The ledger: one SQLite file with every request that this host has accepted."""
