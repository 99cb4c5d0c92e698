"""What an engine has counted of its workers and connections."""

from __future__ import annotations

from collections.abc import Iterator

from iii_state.engine.functions.registry import FunctionRegistry
from iii_state.engine.server import Server
from iii_state.engine.triggers.registry import TriggerRegistry
from iii_state.engine.workers.workers import Workers
from iii_state.figures import Figure, counter, gauge

OPEN = gauge("connections_open", "WebSocket connections that are open.")
CONNECTIONS = counter("connections", "WebSocket connections that were taken.")
RECEIVED = counter("received_bytes", "Bytes that have come over WebSocket connections.")
SENT = counter("sent_bytes", "Bytes that were sent over WebSocket connections.")
UNREAD = gauge("unread_bytes", "Bytes that wait for workers that read slowly.")
WORKERS = gauge("workers", "Workers that are connected.")
FUNCTIONS = gauge("functions", "Functions that are registered.")
TRIGGERS = gauge("triggers", "Triggers that are registered.")
EXECUTED = gauge("invocations_in_flight", "Calls that workers carry out now, those of event handlers among them.")


def engine_figures(functions: FunctionRegistry, triggers: TriggerRegistry, workers: Workers, server: Server) -> Iterator[Figure]:
    """Asked for when somebody looks."""
    traffic = server.current_traffic()
    yield Figure(OPEN, len(server))
    yield Figure(CONNECTIONS, traffic.connections)
    yield Figure(RECEIVED, traffic.received_bytes)
    yield Figure(SENT, traffic.sent_bytes)
    yield Figure(UNREAD, sum(worker.link.unsent for worker in workers))
    yield Figure(WORKERS, len(workers))
    yield Figure(FUNCTIONS, sum(1 for _ in functions))
    yield Figure(TRIGGERS, sum(1 for _ in triggers))
    yield Figure(EXECUTED, sum(len(worker.pending) for worker in workers))
