from tests.support.engines.embedded import embedded, kind, kv, kv_engine, state
from tests.support.engines.fixtures import engine, module, other, port, session, worker

__all__ = ["embedded", "engine", "kind", "kv", "kv_engine", "module", "other", "port", "session", "state", "worker"]
