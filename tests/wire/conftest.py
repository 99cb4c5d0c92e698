from tests.support.engines.fixtures import engine, module, other, port, session, worker

__all__ = ["engine", "module", "other", "port", "session", "worker"]
