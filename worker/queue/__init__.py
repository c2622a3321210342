"""Everything that speaks to Redis, and all that is known of RQ."""
