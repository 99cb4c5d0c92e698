"""The change logs of a remote engine, by its function `state::history`."""

from __future__ import annotations

from iii_state import values
from iii_state.adapters.bridge.remote import results
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.errors import Code, FunctionError
from iii_state.history import LogPage
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result


class BridgeHistory:
    """See `base.History`. Positions are those of the remote, whose store it is."""

    def __init__(self, remote: Remote, tasks: Background) -> None:
        self._url = remote.url
        self._call = remote.call
        self._tasks = tasks
        self._history = results.function(remote.url, "state::history", results.log_page)

    def page(self, scope: str, key: str | None, after: str | None, limit: int) -> Result[LogPage]:
        given = {"key": key, "after": after}
        members = [b',"%b":%b' % (name.encode(), values.encode_string(text)) for name, text in given.items() if text is not None]
        data = b'{"scope":%b%b,"limit":%d' % (values.encode_string(scope), b"".join(members), limit)
        return self._tasks.call(self._page(data))

    async def _page(self, data: bytes) -> LogPage:
        try:
            page: LogPage = await self._call(self._history, data, feature="history")
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            raise FunctionError(
                Code.UNSUPPORTED, f"the engine at {self._url} has no change logs (feature `history`); nothing was read"
            ) from None
        return page
