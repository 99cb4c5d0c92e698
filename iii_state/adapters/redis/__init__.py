"""The Redis adapter: values in hashes, queues in streams, every mutation one script."""

from iii_state.adapters.redis.adapter import RedisAdapter

__all__ = ["RedisAdapter"]
