"""Figures of scopes that an operator has named: how many values each has, and how often it is called."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import msgspec

from iii_state.adapters.base import Adapter
from iii_state.errors import StateError
from iii_state.figures import Figure, counter, gauge
from iii_state.host import Caller, Handler
from iii_state.tasks.results import Result, result_of
from iii_state.values import Json

LIMIT_SECONDS = 2.0
"""A store that does not answer within so long is left out."""

SCOPE_VALUES = gauge("scope_values", "Values of a scope that metrics_scopes names.", "scope")
SCOPE_CALLS = counter(
    "scope_calls", "Calls of functions that ask for a scope which metrics_scopes names.", "scope", "function", "adapter"
)


class _Item(msgspec.Struct):
    scope: str = ""


class _Request(msgspec.Struct):
    """What tells of which scopes a call is."""

    scope: str | None = None
    items: list[_Item] = []


_request = msgspec.json.Decoder(_Request)

_FIRST = re.compile(rb'\s*\{\s*"scope"\s*:\s*"([^"\\]*)"')


class ScopeFigures:
    """Counts calls of these scopes, and of no others: each call is looked at for that, so it costs nothing where none is named."""

    def __init__(self, adapter: Adapter, scopes: Sequence[str]) -> None:
        self._adapter = adapter
        self._scopes = scopes
        self._counts: dict[str, dict[str, int]] = {}
        """Function → scope → calls."""

    def counting(self, function_id: str, handler: Handler) -> Handler:
        """What stands in place of a function's handler, and counts its calls by scope."""
        if not self._scopes or not function_id.startswith("state::"):
            return handler
        counts = self._counts[function_id] = dict.fromkeys(self._scopes, 0)

        def call(data: Json, caller: Caller) -> Result[bytes | None]:
            for scope in _scopes_of(data):
                if scope in counts:
                    counts[scope] += 1
            return handler(data, caller)

        return call

    async def figures(self, tells_of_store: bool) -> list[Figure]:
        """What has been counted here, and, where this engine is the one to tell, what the store holds."""
        found = [
            Figure(SCOPE_CALLS, count, (scope, function_id, self._adapter.name))
            for function_id, counts in self._counts.items()
            for scope, count in counts.items()
            if count
        ]
        if tells_of_store:
            try:
                async with asyncio.timeout(LIMIT_SECONDS):
                    found += [
                        Figure(SCOPE_VALUES, count, (scope,))
                        for scope in self._scopes
                        if (count := await result_of(self._adapter.values.count(scope))) is not None
                    ]
            except (StateError, TimeoutError):
                pass  # that the store does not answer is a figure of its own
        return found


def _scopes_of(data: Json) -> tuple[str, ...] | set[str]:
    found = _FIRST.match(data)
    if found is not None:  # as most callers write it; the value behind it need not be looked at then
        try:
            return (found[1].decode(),)
        except UnicodeError:
            return ()
    try:
        request = _request.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ()
    return {item.scope for item in request.items} if request.scope is None else {request.scope}
