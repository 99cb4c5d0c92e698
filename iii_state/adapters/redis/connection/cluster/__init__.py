"""The connections to a Redis Cluster: one for the calls of all partitions of a master, and one on which it is listened to."""
