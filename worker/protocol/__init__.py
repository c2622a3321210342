"""What hostd reads from callers and writes for them: requests, results, events, metrics."""
