"""What the tests of the guard share: sockets to an engine."""

from tests.support.engines.fixtures import session

__all__ = ["session"]
