"""The Redis adapter: values in hashes, queues in streams, every mutation one script."""
