"""How much each connection, and each token's name, has registered, and whether it may register more."""

from __future__ import annotations

from collections.abc import Callable

from iii_state.config import ServerLimits
from iii_state.errors import Code, FunctionError
from iii_state.host import Caller

MAX_BYTES = 64 * 1024 * 1024
"""What all that one connection has registered may hold: ids, descriptions, configs, metadata."""

FOR_EACH = 1000
"""What a registration takes beside its texts, about."""

Account = tuple[str, str]


class _Tally:
    __slots__ = ("bytes", "registrations", "subscriptions")

    def __init__(self) -> None:
        self.registrations = self.subscriptions = self.bytes = 0


_NOTHING = _Tally()


class Ledger:
    """Counts what is registered by whom. What outlives its connection counts for the token's name, as if it had one connection."""

    def __init__(self, limits: Callable[[], ServerLimits]) -> None:
        self._limits = limits
        self._tallies: dict[Account, _Tally] = {}

    def __len__(self) -> int:
        """Connections and names that have something registered."""
        return len(self._tallies)

    def check(self, by: Caller, size: int, *, is_new: bool = True, is_subscription: bool = False, outlives: bool = False) -> None:
        """Raises `FunctionError` (`LIMIT_EXCEEDED`) where one more registration, with texts of so many bytes, is too much."""
        limits = self._limits()
        held = self._tallies.get(_connection(by, outlives), _NOTHING)
        self._compare(held, limits.registrations, limits.subscriptions, is_new, is_subscription, "this connection")
        if held.bytes + size > MAX_BYTES:
            raise _exceeded(f"this connection has registered {held.bytes} bytes of texts; it may have {MAX_BYTES}")
        if by.identity is not None and (own := by.identity.limits) is not None:
            held = self._tallies.get(("name", by.identity.name), _NOTHING)
            whose = f"all connections of the token {by.identity.name!r} together"
            self._compare(held, own.registrations, own.subscriptions, is_new, is_subscription, whose)

    @staticmethod
    def _compare(
        held: _Tally, registrations: int | None, subscriptions: int | None, is_new: bool, is_subscription: bool, whose: str
    ) -> None:
        if is_new and registrations is not None and held.registrations >= registrations:
            raise _exceeded(f"{whose} may have {registrations} registrations")
        if is_new and is_subscription and subscriptions is not None and held.subscriptions >= subscriptions:
            raise _exceeded(f"{whose} may have {subscriptions} triggers")

    def add(self, by: Caller, size: int, *, is_subscription: bool = False, outlives: bool = False) -> None:
        """Something is registered."""
        self._count(by, 1, size + FOR_EACH, is_subscription, outlives)

    def remove(self, by: Caller, size: int, *, is_subscription: bool = False, outlives: bool = False) -> None:
        """Something is registered no more."""
        self._count(by, -1, -size - FOR_EACH, is_subscription, outlives)

    def _count(self, by: Caller, number: int, size: int, is_subscription: bool, outlives: bool) -> None:
        accounts = [_connection(by, outlives)]
        if by.identity is not None:
            accounts.append(("name", by.identity.name))
        for account in accounts:
            tally = self._tallies.setdefault(account, _Tally())
            tally.registrations += number
            tally.subscriptions += number * is_subscription
            tally.bytes += size
            if not tally.registrations:
                del self._tallies[account]


def _connection(by: Caller, outlives: bool) -> Account:
    if outlives:
        return ("outliving", "" if by.identity is None else by.identity.name)
    return ("connection", by.worker_id)


def _exceeded(message: str) -> FunctionError:
    return FunctionError(Code.LIMIT_EXCEEDED, message)
