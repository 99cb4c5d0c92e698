"""Where values and queues live: kv, redis, bridge. No adapter knows another."""
