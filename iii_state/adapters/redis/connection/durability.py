"""What a Redis may forget by its own settings: looked at when it is connected to, and told once for each server."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.carrier import Carrier, Reply

logger = logging.getLogger(__name__)

SETTINGS = (b"maxmemory-policy", b"maxmemory", b"appendonly", b"save")

_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_LINE = re.compile(rb"^(\w+):(.*?)\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Findings:
    """What is known of a server; None where it could not be looked at. `run_id` is empty then."""

    run_id: str = ""
    policy: str | None = None
    max_memory: int | None = None
    has_aof: bool | None = None
    has_snapshots: bool | None = None
    is_replica: bool | None = None
    is_read_only: bool = False

    @classmethod
    def read(cls, info: Reply, settings: list[Reply]) -> Findings:
        """From the replies to INFO and to CONFIG GET of each of `SETTINGS`; errors, where that is not allowed."""
        found = {name.decode(): value.decode("utf-8", "replace") for name, value in _LINE.findall(_text(info))}
        pairs = zip(SETTINGS, settings, strict=True)
        set_to = {name: value for name, reply in pairs if (value := _setting(reply)) is not None}
        policy = set_to.get(b"maxmemory-policy", found.get("maxmemory_policy"))
        max_memory = set_to.get(b"maxmemory", found.get("maxmemory", ""))
        aof = set_to.get(b"appendonly", {"0": "no", "1": "yes"}.get(found.get("aof_enabled", "")))
        save = set_to.get(b"save")
        role = found.get("role")
        return cls(
            run_id=found.get("run_id", ""),
            policy=policy,
            max_memory=int(max_memory) if max_memory.isdigit() else None,
            has_aof=None if aof is None else aof == "yes",
            has_snapshots=None if save is None else bool(save.strip().strip('"')),
            is_replica=None if role is None else role != "master",
            is_read_only=found.get("slave_read_only") == "1",
        )

    def warnings(self) -> list[str]:
        """What may be lost, and what to set; then what could not be looked at. Each follows the words `Redis at …`."""
        told: list[str] = []
        if self.policy is not None and self.policy != "noeviction":
            full = f"when it is full (maxmemory {self.max_memory})" if self.max_memory else "if it gets a limit (maxmemory)"
            lost = (
                "heartbeats and records of calls, so that engines that live are taken for dead, and calls fail with OUTCOME_UNKNOWN"
                if self.policy.startswith("volatile")
                else "values, triggers, and events that wait, and nobody is told"
            )
            told.append(f"has maxmemory-policy {self.policy}: {full} it removes {lost}. Set maxmemory-policy noeviction")
        if self.has_aof is False and self.has_snapshots is False:
            told.append(
                'keeps nothing on disk (appendonly no, save ""): when it restarts, all values, triggers and events that wait are '
                "gone. Set appendonly yes"
            )
        if self.is_replica and not self.is_read_only:  # one that is read-only refuses the session, in words
            told.append(
                "is a replica that takes writes: all that is written there is gone when it next synchronises with its primary. "
                "redis_url has to name the primary"
            )
        unseen = [
            what
            for what, is_unseen in (
                ("whether it removes keys when it is full (maxmemory-policy)", self.policy is None),
                ("whether it keeps its data on disk (appendonly, save)", not self.has_aof and self._may_keep_nothing()),
                ("whether it is a replica", self.is_replica is None),
            )
            if is_unseen
        ]
        if unseen:
            told.append(f"does not let this user see {', '.join(unseen)}: CONFIG GET or INFO is refused")
        return told

    def _may_keep_nothing(self) -> bool:
        return self.has_aof is None or self.has_snapshots is None


class Durability:
    """Looks at servers. The same is told again only of another server, or of one that was started anew."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._run_id = ""
        self._info: Reply = None
        self.warnings: list[str] = []
        """Of the server that was looked at last, in words."""

    async def look_at(self, socket: Carrier) -> None:
        """Look, and warn. Refusals are no errors; raises `StoreError` when the connection breaks.

        Calls wait for it where a connection is made anew, so what is long, and does not change while a server runs, is asked for
        once.
        """
        about, *settings = await socket.ask((b"INFO", b"server"), *((b"CONFIG", b"GET", name) for name in SETTINGS))
        run_id = _RUN_ID.search(_text(about))
        if run_id is None or run_id[1].decode() != self._run_id:
            (self._info,) = await socket.ask((b"INFO",))
        info = self._info
        server = Findings.read(info, settings)
        before = self.warnings if server.run_id == self._run_id else []
        self._run_id = server.run_id
        self.warnings = [f"Redis at {self._address} {warning}" for warning in server.warnings()]
        for warning in self.warnings:
            if warning not in before:
                logger.warning("%s", warning)


def _text(reply: Reply) -> bytes:
    return reply if isinstance(reply, bytes) else b""


def _setting(reply: Reply) -> str | None:
    """The value that CONFIG GET of one name answers, None where it is refused or unknown."""
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], bytes):
        return reply[1].decode("utf-8", "replace")
    return None
