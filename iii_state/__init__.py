"""State for iii engines: JSON values at a scope and a key, atomic updates, durable triggers."""
