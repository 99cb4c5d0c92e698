"""The adapter contract: the same cases over every adapter."""
