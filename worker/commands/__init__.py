"""What an operator asks of this host: `hostd why`, `status`, `plan`, `doctor`, `ledger` ..."""
