"""`state::history`: the changes of a scope that has a change log, from a position on."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from iii_state import values
from iii_state.adapters.base import History
from iii_state.errors import Code
from iii_state.history import MOST_CHANGES, PAGE_CHANGES, LogPage
from iii_state.host import Caller
from iii_state.state.functions.declared import Declared, Registration, failing_with, reads_scope
from iii_state.state.functions.requests import HistoryRequest
from iii_state.tasks.results import Result
from iii_state.values.requests import within

_history = msgspec.json.Decoder(HistoryRequest)


class HistoryFunctions:
    """The function over any adapter."""

    def __init__(self, history: History) -> None:
        self._history = history

    def __iter__(self) -> Iterator[Registration]:
        failed = failing_with(Code.HISTORY_ERROR, "read the change log")
        handler = Declared("state::history", HistoryRequest, _history.decode, self._page, _listed, failed, reads_scope)
        yield "state::history", handler, "Read the change log of a scope: {scope, key?, after?, limit?}"

    def _page(self, request: HistoryRequest, caller: Caller) -> Result[LogPage]:
        limit = PAGE_CHANGES if request.limit is None else request.limit
        within("limit", limit, 0, MOST_CHANGES)
        return self._history.page(request.scope, request.key, request.after, limit)


def _listed(page: LogPage) -> bytes:
    changes = [b'{"revision":%d,"at_ms":%d,"event":%b}' % change for change in page.changes]
    return b'{"changes":[%b],"next_after":%b,"first":%d}' % (b",".join(changes), values.encode_string(page.next_after), page.first)
