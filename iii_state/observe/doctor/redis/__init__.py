"""What is to be known of a Redis, and of what iii-state keeps there."""

from iii_state.observe.doctor.redis.examination import examine

__all__ = ["examine"]
