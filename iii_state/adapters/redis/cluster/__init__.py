"""A store that lies on a Redis Cluster: partitions, each of which is what a single Redis is, and what makes one store of them."""
