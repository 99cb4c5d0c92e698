"""The succession of those that serve the store of a remote engine, which keeps it."""

from __future__ import annotations

from iii_state import values
from iii_state.adapters.bridge.remote import results
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.errors import Code, FunctionError
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result


class BridgeSuccession:
    """See `base.Succession`."""

    def __init__(self, remote: Remote, tasks: Background) -> None:
        self._call = remote.call
        self._tasks = tasks
        self._function = results.function(remote.url, "iii-state::line_up", results.before)  # its name on the wire

    def enter(self, worker: str, ttl_ms: int) -> Result[list[str]]:
        return self._tasks.call(self._enter(worker, ttl_ms))

    def leave(self, worker: str) -> Result[None]:
        return self._tasks.call(self._leave(worker))

    async def _enter(self, worker: str, ttl_ms: int) -> list[str]:
        try:
            before: list[str] = await self._call(
                self._function, b'{"worker":%b,"ttl_ms":%d' % (values.encode_string(worker), ttl_ms)
            )
        except FunctionError as error:
            if error.code != Code.FUNCTION_NOT_FOUND:
                raise
            return []  # a stock engine, or an older one of this project
        return before

    async def _leave(self, worker: str) -> None:
        await self._enter(worker, 0)
