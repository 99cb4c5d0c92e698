"""Requests of `state::*` that hypothesis makes, with small alphabets so that they meet; and what calls functions of an adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import strategies as st

from iii_state import values
from iii_state.errors import FunctionError
from iii_state.host import LOCAL
from iii_state.state.functions.history import HistoryFunctions
from iii_state.state.functions.lists import ListFunctions
from iii_state.state.functions.many import ManyFunctions
from iii_state.state.functions.snapshots import Snapshots
from iii_state.state.functions.values import ValueFunctions
from iii_state.tasks.results import result_of
from tests.support.functions_model import etag
from tests.support.stores import Store
from tests.support.strategies import HOUR_MS

KEYS = ("a", "ab", "b", "é", "\U0001f600")

NUMBERS = st.sampled_from([0, 1, 2, 3, 1.0, 2.5, -0.0, 2**53, 2**53 + 1, 2.0**53, 2**64 - 1])
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "x", "é", "\n1", '"']))
MEMBERS = st.sampled_from(["n", "d", "x", "é\n"])
DOCUMENTS = st.one_of(
    LEAVES,
    st.fixed_dictionaries({}, optional={"n": NUMBERS, "d": st.dictionaries(MEMBERS, LEAVES, max_size=2), "x": LEAVES}),
    st.lists(LEAVES, max_size=2),
)
PATHS = st.sampled_from([None, "n", "d", ["d", "x"], "x", ["é\n"]])
TTLS = st.integers(1, 3).map(lambda hours: hours * HOUR_MS)
OPS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("increment"), "path": PATHS, "by": st.sampled_from([1, -1, 0.5])}),
        st.fixed_dictionaries({"type": st.just("set"), "path": PATHS, "value": LEAVES}),
        st.fixed_dictionaries({"type": st.just("append"), "path": PATHS, "value": LEAVES}),
        st.fixed_dictionaries({"type": st.just("remove"), "path": PATHS}),
        st.fixed_dictionaries({"type": st.just("merge"), "path": PATHS, "value": st.dictionaries(MEMBERS, LEAVES, max_size=2)}),
    ),
    max_size=3,
)


def optional(required: dict[str, st.SearchStrategy[Any]], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=more)


def changes(conditions: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A set, an update or a delete, without scope and key; `type` says which."""
    return st.one_of(
        optional({"type": st.just("set"), "value": DOCUMENTS}, **{"if": conditions, "ttl_ms": TTLS}),
        optional({"type": st.just("update"), "ops": OPS}, **{"if": conditions, "ttl_ms": TTLS, "strict": st.booleans()}),
        optional({"type": st.just("delete")}, **{"if": conditions}),
    )


def conditions(held: list[Any], revisions: list[int]) -> st.SearchStrategy[Any]:
    """Conditions, of which many hold: they are often made of values that are there."""
    etags = [etag(value) or "" for value in held] + ["0" * 40]
    seen = st.sampled_from(held) if held else DOCUMENTS
    of_values = [st.fixed_dictionaries({"path": PATHS, name: st.one_of(LEAVES, DOCUMENTS)}) for name in ("equals", "not_equals")]
    of_values += [st.fixed_dictionaries({name: seen}) for name in ("equals", "not_equals")]
    of_values += [st.fixed_dictionaries({"path": PATHS, name: st.just(True)}) for name in ("absent", "present")]
    of_values += [st.fixed_dictionaries({"path": PATHS, name: NUMBERS}) for name in ("lt", "lte", "gt", "gte")]
    types = st.sampled_from(["null", "boolean", "number", "string", "array", "object"])
    of_values += [
        st.fixed_dictionaries({"path": PATHS, "type": types}),
        st.fixed_dictionaries({"etag": st.sampled_from(etags)}),
    ]
    if revisions:
        of_values.append(st.fixed_dictionaries({"revision": st.sampled_from(revisions)}))
    return st.lists(st.one_of(of_values), min_size=1, max_size=2)


def caller_of(store: Store) -> Callable[[str, dict[str, Any]], Awaitable[bytes | tuple[str, str]]]:
    """Calls functions of an adapter; answers the text of the reply, or code and message of the error."""
    single = ValueFunctions(store.adapter)
    groups: list[Any] = [single, ManyFunctions(store.adapter, single), ListFunctions(store.adapter, Snapshots(store.adapter))]
    groups.append(HistoryFunctions(store.adapter.history))
    handlers = {name.removeprefix("state::"): handler for group in groups for name, handler, _ in group}

    async def call(function: str, request: dict[str, Any]) -> bytes | tuple[str, str]:
        try:
            return await asyncio.wait_for(result_of(handlers[function](values.encode(request), LOCAL)), 10) or b"null"
        except FunctionError as error:
            return str(error.code), error.message

    return call
