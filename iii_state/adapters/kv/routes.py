"""Which queues the event of a write goes to."""

from __future__ import annotations

from iii_state.adapters.local_queue import Queue
from iii_state.adapters.prefix_routes import PrefixRoutes, Wanted


class KvRoutes:
    """The queues that want the events of a scope and key: four look-ups, whatever the number of subscriptions."""

    def __init__(self) -> None:
        self.enabled = True
        """Whether writes have events at all."""
        self.are_particular = False
        """Whether a queue that is routed to may want only some of the events of its scope and key, or only a part of each."""
        self._queues: dict[tuple[str | None, str | None], dict[str, Queue]] = {}
        self._prefixed: PrefixRoutes[str, Queue] | None = None
        """None where no prefix is wanted."""

    def add(self, queue: Queue) -> None:
        """Route to a queue from now on, or take on its new settings."""
        self.are_particular = self.are_particular or queue.is_particular
        if queue.has_prefix:
            if self._prefixed is None:
                self._prefixed = PrefixRoutes()
            self._prefixed.add(Wanted.of(queue.subscription), queue.id, queue)
            return
        wanted = (queue.subscription.scope, queue.subscription.key)
        self._queues.setdefault(wanted, {})[queue.id] = queue

    def remove(self, queue: Queue) -> None:
        """Route to a queue no more."""
        if queue.has_prefix:
            if self._prefixed is not None:
                self._prefixed.remove(Wanted.of(queue.subscription), queue.id)
                self._prefixed = self._prefixed or None
            return
        wanted = (queue.subscription.scope, queue.subscription.key)
        queues = self._queues.get(wanted)
        if queues is not None and queues.pop(queue.id, None) is not None and not queues:
            del self._queues[wanted]

    def matching(self, scope: str, key: str) -> list[Queue]:
        """The queues that want the events of this scope and key."""
        if not (self._queues or self._prefixed is not None) or not self.enabled:
            return []
        found: list[Queue] = []
        for wanted in ((scope, key), (scope, None), (None, key), (None, None)):
            queues = self._queues.get(wanted)
            if queues is not None:
                found.extend(queues.values())
        if self._prefixed is not None:
            found += [queue for _, queue in self._prefixed.matching(scope, key)]
        return found
