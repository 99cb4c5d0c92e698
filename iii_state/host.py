"""What a module and an engine know of each other: the narrow protocol between them.

A module is anything that registers functions and trigger types with an engine: the state module is one, an engine's users can
bring their own. Data passes as JSON text. A call answers at once where it can: a `Result` is either the value itself or an
`asyncio.Future` of it, so that what needs no waiting costs no task.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from iii_state.access import Access, access_of
from iii_state.figures import Figure
from iii_state.rights import Identity
from iii_state.tasks.results import Result
from iii_state.values import Json

DEFAULT_NAMESPACE = "default"


class Caller(msgspec.Struct, frozen=True):
    """Who calls a function: a worker's id, empty for the engine's own process.

    `identity` is that of the token which its connection came with; None may do everything, as where no tokens are used.
    `access` follows from it: what a limited token may do, None for everything.
    """

    worker_id: str = ""
    namespace: str = DEFAULT_NAMESPACE
    identity: Identity | None = None
    access: Access | None = None

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "access", access_of(self.identity))


LOCAL = Caller()


def engine_name() -> str:
    """What people know this process by: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


Handler = Callable[[Json, Caller], Result[bytes | None]]
"""A function of a module: JSON text of the request and the caller in; JSON text of the result out, None for no result.

It raises (or sets in the Future) `FunctionError` for an error with a code; anything else reaches the caller as
`invocation_failed`."""


class Trigger(msgspec.Struct, frozen=True):
    """One registered trigger: call `function_id` when the trigger type's provider has something for `config`.

    `config` and `metadata` are JSON texts, None where absent. `id` is unique in the engine.
    """

    id: str
    trigger_type: str
    function_id: str
    config: bytes | None = None
    metadata: bytes | None = None
    namespace: str = DEFAULT_NAMESPACE


class TriggerProvider(Protocol):
    """The module's side of a trigger type."""

    def register(self, trigger: Trigger, replaces: Trigger | None = None) -> Result[None]:
        """Take a trigger on, in place of an earlier one of the same id if there is one, which is let go even if this fails.

        Once this has answered, nothing that happens later is missed.

        Raises `FunctionError` (code `trigger_registration_failed`) for a config that cannot be used.
        """
        ...

    def unregister(self, trigger: Trigger, *, disconnected: bool) -> Result[None]:
        """Let a trigger go: asked for, or because its worker's connection went away (`disconnected`)."""
        ...


class Runner(Protocol):
    """A worker's connection, as what runs functions: all that it runs goes with it. It equals only itself; `name` is for people.

    `may_crash` tells whether it may go away because of what it runs.
    """

    @property
    def id(self) -> str:
        """A worker's id, empty for the engine's own process, and where it is not known."""
        ...

    @property
    def may_crash(self) -> bool: ...

    @property
    def name(self) -> str: ...


class Host(Protocol):
    """The engine's side: what a module may do with it."""

    def register_function(
        self,
        function_id: str,
        handler: Handler,
        *,
        description: str | None = None,
        metadata: Callable[[], bytes] | None = None,
    ) -> None:
        """Register a built-in function in the namespace `default`; workers cannot take its id.

        `metadata` gives its metadata as it is now.
        """
        ...

    def register_trigger_type(
        self, trigger_type: str, provider: TriggerProvider, *, description: str, reads_scope_prefix: bool = False
    ) -> None:
        """Provide a trigger type; triggers that were waiting for it are handed over at once.

        `reads_scope_prefix` says that the provider goes by the member `scope_prefix` of a trigger's config: only then can one of a
        token that is limited to scopes have it.
        """
        ...

    def invoke(
        self,
        function_id: str,
        data: bytes,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        metadata: bytes | None = None,
        runner: Runner | None = None,
        trace: bytes = b"",
    ) -> Result[bytes | None]:
        """Call any function of the engine, a worker's too, by `runner` where that was picked. Cancelling the Future gives it up.

        `trace` is what the call is made within (`lineages.within`): a handler's own calls carry it on.

        Raises `NotCarriedOut` where it was not begun (code `payload_too_large` when its worker cannot receive it), `WorkerLost`
        when its worker goes away in mid-call, and `FunctionError` for whatever the function raised or a `TIMEOUT` of the engine's.
        """
        ...

    def takes_events(self, function_id: str, namespace: str, go_on: Callable[[], None]) -> bool:
        """Whether an event can be sent to a worker that serves this function now: it has read (nearly) all it was sent.

        If not, `go_on` is called once when it is time to ask again: all that wait for a worker are called one after another.
        What is sent all the same is accepted, and waits.
        """
        ...

    def is_on_its_way(self, answer: asyncio.Future[bytes | None]) -> bool:
        """Whether a large call that `invoke` has answered with this Future has not left in whole yet, since its worker is slow."""
        ...

    def pick(self, function_id: str, namespace: str = DEFAULT_NAMESPACE, avoid: Container[object] = ()) -> Runner | None:
        """The runner whose turn it is to serve a function; one to `avoid` only where there is no other. None for a built-in
        function, and for one that is not served."""
        ...

    def runners(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> Sequence[Runner]:
        """The runners that serve a function in turn and may go away because of what they run."""
        ...

    def has_function(self, function_id: str, namespace: str = DEFAULT_NAMESPACE) -> bool:
        """Whether this function is served now."""
        ...

    def watch_functions(self, changed: Callable[[str, str], None]) -> None:
        """Call `changed(namespace, function_id)` whenever a function comes or goes, after it has."""
        ...

    def watch_workers(self, gone: Callable[[str], None]) -> None:
        """Call `gone(worker_id)` whenever the connection of a worker has ended."""
        ...


class Module(Protocol):
    """What an engine hosts."""

    name: str

    async def start(self, host: Host) -> None:
        """Register functions and trigger types. Raises `ConfigError` or `StoreError` in words when it cannot."""
        ...

    async def stop(self) -> None:
        """Finish what runs (bounded) and let go of everything; called once, while the engine can still call functions."""
        ...

    async def health(self) -> str | None:
        """None when all is well, else the reason in words; answers within a second or two."""
        ...


@runtime_checkable
class Probed(Protocol):
    """A module that knows whether it can be given work, beside whether all is well."""

    async def readiness(self) -> str | None:
        """None where it can, else why not, in words; answers within a second or two."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A module that has something to tell in the metrics of its engine."""

    async def figures(self) -> Iterable[Figure]:
        """What it has counted; answers within a few seconds."""
        ...
