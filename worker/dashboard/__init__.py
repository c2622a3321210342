"""rq-dashboard for hostd's queues, made safe to run: `python -m worker.dashboard`.

It reads what any client that may enqueue has written to Redis, so nothing there is trusted: it
loads no pickle (`inert`), runs no script from a description (`pages`), and acts for no other site
(`guard`).  It has no login: it listens on loopback; use a proxy if a login is needed.
"""
