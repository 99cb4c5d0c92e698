"""Random calls, calls made again, stragglers, reconnects and restarts against a model of what was to happen once."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.errors import RequestFenced, SessionLost, SessionTaken
from iii_state.sessions import Request
from tests.support.loops import LoopFactory
from tests.support.stores import ALL, LIMIT, Store, drain, new_store, plan

T = TypeVar("T")
SLOTS = 3
KINDS = ("increment", "failing", "set", "delete")
INCREMENT = plan({"type": "increment", "path": "n", "by": 1})
FAILING = plan({"type": "increment", "path": "n", "by": 1}, {"type": "append", "path": "n", "value": "x"})

_runs = itertools.count()


class Sessions(RuleBasedStateMachine):
    """A caller of one session with a few slots. The model is a counter, and the first answer of every call."""

    store_kind = ""
    new_loop: LoopFactory

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.new_loop()
        self.folder = tempfile.TemporaryDirectory()
        directory = Path(self.folder.name) / f"{self.store_kind}-{next(_runs)}"
        self.store: Store = self.do(new_store(self.store_kind, directory))
        self.count: int | None = None
        self.epoch = 0
        self.held = 0
        self.seqs = itertools.count(1)
        self.session = "session-0"
        self.last: dict[int, tuple[int, str, Any]] = {}
        """Slot → number, kind and answer of the last call there."""
        self.past: list[tuple[Request, str]] = []
        self.events = 0
        self.do(self.store.start())
        self.do(self.store.subscribe(ALL))
        self.do(self.store.open(self.session, 0, self.raised()))
        self.held = self.epoch

    def do(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def raised(self) -> int:
        self.epoch += 1
        return self.epoch

    def make(self, kind: str, request: Request | None) -> Any:
        match kind:
            case "increment":
                return self.do(self.store.update("s", "k", INCREMENT, LIMIT, request=request))
            case "failing":
                return self.do(self.store.update("s", "k", FAILING, LIMIT, request=request))
            case "set":
                return self.do(self.store.set("s", "k", values.to_stored(b'{"n":0}'), request=request))
        return self.do(self.store.delete("s", "k", request=request))

    def document(self) -> bytes | None:
        return None if self.count is None else values.to_stored(b'{"n":%d}' % self.count)

    def check_first(self, kind: str, answer: Any) -> None:
        """An answer of a call that has been applied just now, which the model follows."""
        old = self.document()
        self.count = 0 if kind == "set" else None if kind == "delete" else (self.count or 0) + 1
        if kind in ("increment", "failing"):
            assert isinstance(answer, Updated)
            assert (answer.old, answer.new) == (old, self.document())
            assert [error.op_index for error in answer.errors] == ([1] if kind == "failing" else [])
        else:
            assert answer == old
        self.events += 1

    @rule(slot=st.integers(0, SLOTS - 1), kind=st.sampled_from(KINDS))
    def call(self, slot: int, kind: str) -> None:
        request = Request(self.session, self.held, slot, next(self.seqs))
        answer = self.make(kind, request)
        self.check_first(kind, answer)
        self.last[slot] = (request.seq, kind, answer)
        self.past.append((request, kind))

    @rule(kind=st.sampled_from(KINDS))
    def call_without_a_ticket(self, kind: str) -> None:
        self.check_first(kind, self.make(kind, None))

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def call_again(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.last)))
        seq, kind, answer = self.last[slot]
        assert self.make(kind, Request(self.session, self.held, slot, seq)) == answer

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def straggler(self, data: st.DataObject) -> None:
        request, kind = data.draw(st.sampled_from(self.past))
        if request.session == self.session and request.epoch == self.held and self.last[request.slot][0] == request.seq:
            assert self.make(kind, request) == self.last[request.slot][2]
            return
        if request.session == self.session:
            with pytest.raises(RequestFenced):
                self.make(kind, request)

    @rule(lost=st.booleans())
    def reconnect(self, lost: bool) -> None:
        """`lost`: the answer is not heard, and the caller opens again."""
        for _ in range(2 if lost else 1):
            self.do(self.store.open(self.session, self.held, self.raised()))
        for late in range(1, self.epoch + 1):
            with pytest.raises(SessionTaken):
                self.do(self.store.open(self.session, self.held, late))
        self.held = self.epoch

    @rule()
    def begin_anew(self) -> None:
        with pytest.raises(SessionLost):
            self.make("increment", Request("never-opened", 1, 0, 1))
        self.session = f"session-{self.session.partition('-')[2]}0"
        self.epoch, self.last = 0, {}
        self.do(self.store.open(self.session, 0, self.raised()))
        self.held = self.epoch

    @precondition(lambda self: self.store_kind != "kv-memory")
    @rule()
    def restart(self) -> None:
        self.do(self.store.adapter.stop())
        self.do(self.store.start())
        self.do(self.store.subscribe(ALL))

    @rule()
    def read(self) -> None:
        assert self.do(self.store.get("s", "k")) == self.document()

    def teardown(self) -> None:
        assert self.do(self.store.get("s", "k")) == self.document()
        assert len(self.do(drain(self.store, ALL))) == self.events
        self.do(self.store.adapter.stop())
        self.loop.close()
        self.folder.cleanup()


def test_everything_happens_once(kind: str, new_loop: LoopFactory) -> None:
    machine = type("Machine", (Sessions,), {"store_kind": kind, "new_loop": staticmethod(new_loop)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15 if kind.endswith(("redis", "cluster", "valkey")) else 40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
