"""From a request and the facts to ordered steps.  Pure."""
