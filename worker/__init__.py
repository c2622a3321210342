"""hostd's privileged side.  Read `worker/job.py` first."""
