"""The embedded adapter: values and queues in this process, and in one SQLite file where they are to last."""

from iii_state.adapters.kv.adapter import KvAdapter

__all__ = ["KvAdapter"]
