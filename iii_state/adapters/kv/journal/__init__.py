"""The file of a kv store, and how changes get into it."""
