"""rq-dashboard for hostd's queues, made safe to run: `python -m worker.dashboard`.

It looks at what anybody who may enqueue has written to Redis, so nothing there is trusted: no
pickle (`inert`), no script in a description (`pages`), no action on behalf of another site
(`guard`).  It has no login: it listens on loopback, and a proxy with a login may stand before it.
"""
