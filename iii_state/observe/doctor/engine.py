"""What is to be known of an engine that runs, as it says itself: store, subscriptions, dead letters, certificate."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from iii_state import values
from iii_state.client.address import EngineAddress
from iii_state.client.client import Client
from iii_state.errors import Code, FunctionError
from iii_state.events import QueueStats, Subscription
from iii_state.observe.doctor import certificates
from iii_state.observe.doctor.findings import Finding, Progress, counted
from iii_state.observe.doctor.subscriptions import of_queues
from iii_state.state.features import FEATURES, announced

LOST, UP = "iii_state_events_lost_total", "iii_state_store_up"

_PORTS = {"wss": 443, "https": 443}


class _Row(msgspec.Struct):
    """A row of `iii-state::triggers`, as far as it is judged."""

    function_id: str
    waiting: int
    pending: int
    retrying: int
    dead: int
    dropped: int
    hosts: list[str]
    oldest_at_ms: int | None = None
    looping: bool = False
    paused_at_ms: int | None = None
    max_queue_length: int | None = None

    def stats(self) -> QueueStats:
        """The same as the store has it."""
        return QueueStats(
            Subscription(self.function_id, max_queue_length=self.max_queue_length),
            *(self.waiting, self.pending, self.retrying, self.dead, self.dropped, self.hosts, self.oldest_at_ms, self.looping),
            paused_at_ms=self.paused_at_ms,
        )


class _Triggers(msgspec.Struct):
    triggers: list[_Row]


async def examine(address: EngineAddress, progress: Progress) -> list[Finding]:
    """What is to be known. Raises `ConnectionLost` where no engine answers, and `FunctionError` for what it refuses."""
    parts = urlsplit(address.url)
    context = address.tls()
    found: list[Finding] = []
    if context is not None and parts.hostname:
        progress("the certificate")
        found += await certificates.of_server(parts.hostname, parts.port or _PORTS[parts.scheme], context)
    if any(finding.id == "certificate-refused" for finding in found):
        return found  # nor would it be accepted by what asks the engine
    progress(str(address))
    async with Client(address) as client:
        found += await _features(client)
        try:
            text = await client.call("iii-state::triggers", b"{}")
        except FunctionError as error:
            if error.code != Code.STORE_ERROR:
                raise
            return [*found, _store_away(error.message)]
        rows = msgspec.json.decode(text or b"{}", type=_Triggers).triggers
        return [*found, *of_queues([row.stats() for row in rows]), *await _figures(client)]


async def _features(client: Client) -> list[Finding]:
    about = await client.call("engine::functions::info", b'{"function_id":"state::set"}')
    missing = [feature for feature in FEATURES if feature not in announced(values.decode(about or b"null"))]
    if not missing:
        return []
    return [
        Finding(
            "note",
            "features-missing",
            f"the engine lacks {', '.join(missing)}",
            "It is of an earlier version, or its bridge leads to one: what needs these is refused (UNSUPPORTED).",
            "Upgrade it",
        )
    ]


async def _figures(client: Client) -> list[Finding]:
    """What the engine has counted, where it tells."""
    try:
        told: dict[str, Any] = values.decode(await client.call("iii-state::figures", b"{}") or b"{}")
    except FunctionError as error:
        if error.code in (Code.FUNCTION_NOT_FOUND, Code.NOT_FOUND):
            return []
        raise
    figures = {figure["name"]: figure["value"] for figure in told.get("figures", ()) if figure["name"] in (LOST, UP)}
    found = [_store_away("its last write or connection failed")] if figures.get(UP, 1) == 0 else []
    if lost := figures.get(LOST, 0):
        found.append(
            Finding(
                "fault",
                "events-lost",
                f"{counted(int(lost), 'event has', 'events have')} been lost since the engine was started",
                "Another program has removed them from the store before they were handled.",
                "iii-state doctor --redis-url says of which queues; find the program, and bring in line what the handlers keep",
            )
        )
    return found


def _store_away(why: str) -> Finding:
    return Finding(
        "warning",
        "store-away",
        f"the store of the engine does not answer: {why}",
        "Calls fail, and events wait.",
        "Look at the store; iii-state doctor --redis-url or --file-path says more",
    )
