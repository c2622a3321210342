"""Names of things on the host, and where they are: functions of ids."""
