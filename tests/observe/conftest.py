from tests.support.engines.embedded import embedded, kind, kv, kv_engine, state

__all__ = ["embedded", "kind", "kv", "kv_engine", "state"]
