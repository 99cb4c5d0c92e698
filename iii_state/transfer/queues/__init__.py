"""Queues as rows: what waits, and dead letters, from a stopped store into a file, and from a file into a stopped store."""
