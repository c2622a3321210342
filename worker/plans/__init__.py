"""From the facts on the host to the action that a request needs, and to the plan of its steps."""
