"""Which queues the event of a write goes to."""

from __future__ import annotations

from iii_state.adapters.local_queue import Queue


class KvRoutes:
    """The queues that want the events of a scope and key: four look-ups, whatever the number of subscriptions."""

    def __init__(self) -> None:
        self.enabled = True
        """Whether writes have events at all."""
        self._queues: dict[tuple[str | None, str | None], dict[str, Queue]] = {}

    def add(self, queue: Queue) -> None:
        """Route to a queue from now on."""
        wanted = (queue.subscription.scope, queue.subscription.key)
        self._queues.setdefault(wanted, {})[queue.id] = queue

    def remove(self, queue: Queue) -> None:
        """Route to a queue no more."""
        wanted = (queue.subscription.scope, queue.subscription.key)
        queues = self._queues.get(wanted)
        if queues is not None and queues.pop(queue.id, None) is not None and not queues:
            del self._queues[wanted]

    def matching(self, scope: str, key: str) -> list[Queue]:
        """The queues that want the events of this scope and key."""
        if not self._queues or not self.enabled:
            return []
        found: list[Queue] = []
        for wanted in ((scope, key), (scope, None), (None, key), (None, None)):
            queues = self._queues.get(wanted)
            if queues is not None:
                found.extend(queues.values())
        return found
