"""`hostd run`: serves the queue from start to stop, and looks after the host meanwhile."""
