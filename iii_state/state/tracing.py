"""What a tracer is told of calls and deliveries. Without one nothing of this is called: a state module costs what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

from iii_state.config import BridgeSettings, KvSettings, RedisSettings
from iii_state.events import Change, Delivery
from iii_state.host import Handler

P = ParamSpec("P")
T = TypeVar("T")


class TracedStore(NamedTuple):
    """Where values are stored, as spans say it: `system` is redis, sqlite or iii_state; the rest only where it is reached over a
    network. `namespace` is the number of a Redis database."""

    system: str
    host: str | None = None
    port: int | None = None
    namespace: str | None = None


class Span(Protocol):
    """The span of one attempt to deliver events, from its beginning to its end."""

    trace: bytes
    """What the attempt's calls are made within (`lineages.within`)."""
    remembered: tuple[str, int] | None
    """A trace that is remembered while this runs, and the hops of what is written within it (`lineages.begin`)."""

    def within(self, function: Callable[P, T]) -> Callable[P, T]:
        """A function as it is called within this span, which is the current one there and in the tasks that begin there."""
        ...

    def end(self, error: BaseException | None) -> None:
        """The attempt is over, or has failed with an error."""
        ...


class Tracing(Protocol):
    """A tracer, as a state module uses it (`iii_state.observe.traces` has one for OpenTelemetry)."""

    def traced(self, function_id: str, handler: Handler, place: TracedStore, is_wanted: Callable[[str, str], bool]) -> Handler:
        """What stands in place of a function's handler, and makes a span of each call.

        `is_wanted` says of a scope and key whether anybody wants the events of their changes, as far as is known here.
        """
        ...

    def begin(self, function_id: str, deliveries: Sequence[Delivery], event: Change) -> Span:
        """An attempt begins: `deliveries` are handed to this function. `event` is the one of them whose trace goes on in it."""
        ...


def place_of(settings: KvSettings | RedisSettings | BridgeSettings, adapter_name: str) -> TracedStore:
    """Where the adapter of a module stores values. One that the settings do not describe is in this process."""
    if isinstance(settings, RedisSettings) and adapter_name == "redis":
        host, port, path = _parts(settings.redis_url)
        return TracedStore("redis", host, 6379 if port is None else port, path.strip("/") or "0")
    if isinstance(settings, BridgeSettings) and adapter_name == "bridge":
        host, port, _ = _parts(settings.bridge_url)
        return TracedStore("iii_state", host, port)
    if isinstance(settings, KvSettings) and adapter_name == "kv" and settings.directory is not None:
        return TracedStore("sqlite")
    return TracedStore("iii_state")


def _parts(url: str) -> tuple[str | None, int | None, str]:
    """Host, port and path, without the credentials; of several hosts (Sentinels) the first."""
    there = urlsplit(url)
    first = there.netloc.rpartition("@")[2].split(",")[0]
    one = urlsplit(f"//{first}")
    try:
        return one.hostname, one.port, there.path
    except ValueError:
        return one.hostname, None, there.path
