"""The connections to Redis: where it is, the calls that all share one, what is published, what replicas have."""
