"""Sessions of callers of this engine, at a remote engine."""

from __future__ import annotations

from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result


class BridgeSessions:
    """See `base.Sessions`."""

    def __init__(self, remote: Remote, tasks: Background) -> None:
        self._remote = remote
        self._tasks = tasks

    def open(self, session: str, previous_epoch: int, epoch: int) -> Result[None]:
        return self._tasks.call(self._remote.open_session(session, previous_epoch, epoch))
