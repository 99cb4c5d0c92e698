"""What bridges and attached workers ask an engine for: sessions, the succession of a store, and the way to it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import msgspec

from iii_state import values
from iii_state.adapters.base import Adapter
from iii_state.errors import Code
from iii_state.host import Caller
from iii_state.sessions import MAX_NUMBER, OpenRequest, check_session, owned
from iii_state.state.functions.declared import Declared, Registration, everybodys, failing_with, for_operators
from iii_state.tasks.results import Result, then
from iii_state.values.requests import read, within

MAX_STANDBY_MS = 3_600_000


class RouteRequest(msgspec.Struct):
    """`iii-state::route`: the bridges that were passed already."""

    visited: list[str] = []


class SuccessionRequest(msgspec.Struct):
    """`iii-state::line_up`: for how long a worker is in the succession of a store's standbys; with 0 it leaves."""

    worker: str
    ttl_ms: int


class PeerFunctions:
    """The functions `iii-state::*` that other parts of this project call, over any adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def __iter__(self) -> Iterator[Registration]:
        session = "iii-state::session_open"
        yield (
            session,
            Declared(
                session,
                OpenRequest,
                partial(read, session, expected=OpenRequest),
                self._open_session,
                lambda opened: opened,
                failing_with(Code.STORE_ERROR, "open a session"),
                everybodys,
            ),
            "Open a session, or raise its epoch: {session, epoch, previous_epoch?}",
        )
        succession = "iii-state::line_up"
        yield (
            succession,
            Declared(
                succession,
                SuccessionRequest,
                partial(read, succession, expected=SuccessionRequest),
                self._enter_or_leave,
                lambda workers: values.encode({"before": workers}),
                failing_with(Code.STORE_ERROR, "line up"),
                for_operators,
            ),
            "Line up to serve this store to an engine, or step out: {worker, ttl_ms}",
        )
        route = "iii-state::route"
        yield (
            route,
            Declared(
                route,
                RouteRequest,
                partial(read, route, expected=RouteRequest),
                lambda request, _: self._adapter.route(request.visited),
                lambda visited: values.encode({"visited": visited}),
                lambda error: error,
                everybodys,
            ),
            "Which bridges a call passes on its way to the store: {visited}",
        )

    def _open_session(self, request: OpenRequest, caller: Caller) -> Result[bytes]:
        check_session(request.session)
        within("epoch", request.epoch, 1, MAX_NUMBER)
        within("previous_epoch", request.previous_epoch, 0, request.epoch - 1)
        session = owned(request.session, None if caller.identity is None else caller.identity.name)
        answer = self._adapter.sessions.open(session, request.previous_epoch, request.epoch)

        def opened(_: None) -> bytes:
            return values.encode({"session": request.session, "epoch": request.epoch, "store": self._adapter.store})

        return then(answer, opened)

    def _enter_or_leave(self, request: SuccessionRequest, caller: Caller) -> Result[list[str]]:
        within("ttl_ms", request.ttl_ms, 0, MAX_STANDBY_MS)
        if request.ttl_ms:
            return self._adapter.succession.enter(request.worker, request.ttl_ms)
        return then(self._adapter.succession.leave(request.worker), lambda _: [])
