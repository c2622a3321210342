"""What a client sends to Redis and how it reads the replies, without a connection (sans-I/O)."""
