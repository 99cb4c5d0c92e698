"""The queues that want the events of whole families of scopes and keys: those that begin alike."""

from __future__ import annotations

from typing import Generic, TypeVar

from iii_state.events import Subscription

T = TypeVar("T")
Q = TypeVar("Q", bytes, str)
"""The name of a queue."""


class _Prefixes(dict[str, T]):
    """Prefix → what is kept of it. A look-up takes a step for each length that prefixes here have, whatever their number."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[int, int] = {}
        self._lengths: tuple[int, ...] = ()

    def __setitem__(self, prefix: str, value: T) -> None:
        if prefix not in self:
            self._count(len(prefix), 1)
        super().__setitem__(prefix, value)

    def __delitem__(self, prefix: str) -> None:
        super().__delitem__(prefix)
        self._count(len(prefix), -1)

    def _count(self, length: int, change: int) -> None:
        count = self._counts[length] = self._counts.get(length, 0) + change
        if not count:
            del self._counts[length]
        if count in (0, 1):
            self._lengths = tuple(sorted(self._counts))

    def of(self, text: str) -> list[T]:
        """What is kept of the prefixes of a text, shortest first."""
        found = []
        size = len(text)
        for length in self._lengths:
            if length > size:
                break
            if (value := self.get(text[:length])) is not None:
                found.append(value)
        return found


class _Keys(Generic[Q, T]):
    """What is wanted of the scopes that one name, or one prefix, stands for."""

    def __init__(self) -> None:
        self.exact: dict[str | None, dict[Q, T]] = {}
        """By key, None for any."""
        self.prefixes: _Prefixes[dict[Q, T]] = _Prefixes()

    def __bool__(self) -> bool:
        return bool(self.exact or self.prefixes)

    def collect(self, key: str, found: list[tuple[Q, T]]) -> None:
        """Add what is wanted of a key."""
        for name in (key, None):
            if name in self.exact:
                found += self.exact[name].items()
        if self.prefixes:
            for queues in self.prefixes.of(key):
                found += queues.items()


class Wanted:
    """What a subscription wants whose config has a prefix; of scope and its prefix one at most is given, and so for the key."""

    __slots__ = ("key", "key_prefix", "scope", "scope_prefix")

    def __init__(self, scope: str | None, key: str | None, scope_prefix: str | None, key_prefix: str | None) -> None:
        self.scope, self.key = scope, key
        self.scope_prefix, self.key_prefix = scope_prefix, key_prefix

    @classmethod
    def of(cls, subscription: Subscription) -> Wanted:
        """That of a subscription."""
        return cls(subscription.scope, subscription.key, subscription.scope_prefix, subscription.key_prefix)


class PrefixRoutes(Generic[Q, T]):
    """Queues by what they want of scopes and keys, where one of both is a prefix, each with something that is kept of it."""

    def __init__(self) -> None:
        self._scopes: dict[str | None, _Keys[Q, T]] = {}
        """By scope, None for any."""
        self._prefixes: _Prefixes[_Keys[Q, T]] = _Prefixes()

    def __bool__(self) -> bool:
        return bool(self._scopes or self._prefixes)

    def add(self, wanted: Wanted, queue: Q, kept: T) -> None:
        """Route to a queue from now on."""
        if wanted.scope_prefix is not None:
            keys = self._prefixes.get(wanted.scope_prefix)
            if keys is None:
                keys = self._prefixes[wanted.scope_prefix] = _Keys()
        else:
            keys = self._scopes.setdefault(wanted.scope, _Keys())
        if wanted.key_prefix is not None:
            queues = keys.prefixes.get(wanted.key_prefix)
            if queues is None:
                queues = keys.prefixes[wanted.key_prefix] = {}
        else:
            queues = keys.exact.setdefault(wanted.key, {})
        queues[queue] = kept

    def remove(self, wanted: Wanted, queue: Q) -> None:
        """Route to a queue no more, if it is there."""
        keys = self._scopes.get(wanted.scope) if wanted.scope_prefix is None else self._prefixes.get(wanted.scope_prefix)
        if keys is None:
            return
        queues = keys.exact.get(wanted.key) if wanted.key_prefix is None else keys.prefixes.get(wanted.key_prefix)
        if queues is None or queues.pop(queue, None) is None:
            return
        if not queues:
            if wanted.key_prefix is None:
                del keys.exact[wanted.key]
            else:
                del keys.prefixes[wanted.key_prefix]
        if not keys:
            if wanted.scope_prefix is None:
                del self._scopes[wanted.scope]
            else:
                del self._prefixes[wanted.scope_prefix]

    def matching(self, scope: str, key: str) -> list[tuple[Q, T]]:
        """The queues that want the events of this scope and key, and what is kept of each."""
        found: list[tuple[Q, T]] = []
        for name in (scope, None):
            if name in self._scopes:
                self._scopes[name].collect(key, found)
        if self._prefixes:
            for keys in self._prefixes.of(scope):
                keys.collect(key, found)
        return found
