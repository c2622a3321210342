"""What a person asks of a host: `hostd plan`, `why`, `status`, `doctor`, `config`."""
