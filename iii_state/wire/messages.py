"""The messages of the iii worker protocol: one JSON object per frame, told apart by `type`; for a host and for a client.

A member that the other side may leave out has a default here. What is passed on unread stays JSON text (`Raw`); an empty `Raw`
means absent. Unknown members are ignored.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.errors import Code, FunctionError, NotCarriedOut, WorkerLost
from iii_state.values import Json

ABSENT = Raw()
NULL = Raw(b"null")

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""The largest message that any party of the protocol takes."""

OURS = "iii-state.v1"
"""The feature with which this project's client tells this project's engine that it knows what a stock one does not say."""

EXCLUSIVE = "iii-state.exclusive.v1"
"""The feature with which a worker tells this project's engine that it wants all of a function's calls, or none."""

MAX_FRAME_DEPTH = 520
"""How deep a frame may nest that this engine takes: what a value may, and the members around it."""

STOCK_FRAME_DEPTH = 127
"""How deep a frame may nest that a stock engine or a Rust SDK takes; it drops a deeper one without a word."""

OLD_PYTHON_FRAME_BYTES = 1024 * 1024
"""The largest message that a Python SDK below 0.24.5 can receive; a larger one makes it drop the connection."""

TELEMETRY = (b"OTLP", b"MTRC", b"LOGS")
"""First bytes of binary frames that carry telemetry, which this engine does not keep."""

FATES: dict[str, type[FunctionError]] = {"not_carried_out": NotCarriedOut, "worker_lost": WorkerLost}
"""What an error's member `fate` says of the call. Only parties of this project tell it to each other, and only from each other it
counts: a code would not do, since any function can answer with any code."""

STOPPED = frozenset({Code.INVOCATION_STOPPED, Code.CHANNEL_SEND_FAILED})
"""Codes with which an engine says that a call's worker has gone, or is going. Of a stock engine's errors they are all there is."""

WORKER_GONE = "worker_disconnected"
"""The event of `engine::workers-available` that says that a worker's connection has ended."""

RESULT_START = b'{"type":"invocationresult","invocation_id":'
"""How the frame of an outcome begins; the invocation's id follows."""


class InvokeFunction(msgspec.Struct, tag_field="type", tag="invokefunction", omit_defaults=True):
    """Call a function. Without an `invocation_id`, or with the action `void`, it gets no reply."""

    function_id: str
    data: Raw = NULL
    invocation_id: Raw = ABSENT
    traceparent: Raw = ABSENT
    baggage: Raw = ABSENT
    action: Raw = ABSENT
    metadata: Raw = ABSENT
    namespace: str | None = None


class InvocationResult(msgspec.Struct, tag_field="type", tag="invocationresult", omit_defaults=True):
    """The outcome of a call. An `error` that is there (and not null) is a failure, whatever `result` holds."""

    invocation_id: str
    function_id: Raw = ABSENT
    result: Raw = ABSENT
    error: Raw = ABSENT


class RegisterFunction(msgspec.Struct, tag_field="type", tag="registerfunction", omit_defaults=True):
    """A worker serves a function. `invocation` asks the engine to call a URL instead, which this engine does not do."""

    id: str
    description: str | None = None
    request_format: Raw = ABSENT
    response_format: Raw = ABSENT
    metadata: Raw = ABSENT
    invocation: Raw = ABSENT


class UnregisterFunction(msgspec.Struct, tag_field="type", tag="unregisterfunction", omit_defaults=True):
    """A worker does not serve a function any more."""

    id: str


class RegisterTriggerType(msgspec.Struct, tag_field="type", tag="registertriggertype", omit_defaults=True):
    """A worker provides a trigger type: it gets a `registertrigger` for each trigger of this type."""

    id: str
    description: str | None = None
    namespace: str | None = None


class UnregisterTriggerType(msgspec.Struct, tag_field="type", tag="unregistertriggertype", omit_defaults=True):
    """A worker does not provide a trigger type any more."""

    id: str
    namespace: str | None = None


class RegisterTrigger(msgspec.Struct, tag_field="type", tag="registertrigger", omit_defaults=True):
    """Call `function_id` when the provider of `trigger_type` has something for `config`."""

    id: str
    trigger_type: str
    function_id: str
    config: Raw = ABSENT
    metadata: Raw = ABSENT
    namespace: str | None = None
    trigger_namespace: str | None = None


class UnregisterTrigger(msgspec.Struct, tag_field="type", tag="unregistertrigger", omit_defaults=True):
    """Let a trigger go. To a provider with the feature `OURS`, this engine says whether its worker is away (`disconnected`)."""

    id: str
    trigger_type: str | None = None
    disconnected: bool | None = None


class TriggerRegistrationResult(msgspec.Struct, tag_field="type", tag="triggerregistrationresult", omit_defaults=True):
    """A provider's answer to `registertrigger`; passed on to the worker that asked only where it is an error."""

    id: str
    trigger_type: str = ""
    function_id: str = ""
    error: Raw = ABSENT


class RegisterService(msgspec.Struct, tag_field="type", tag="registerservice", omit_defaults=True):
    """Sent by SDKs up to 0.12; means nothing."""


class Ping(msgspec.Struct, tag_field="type", tag="ping"):
    """Answered with `Pong`."""


class Pong(msgspec.Struct, tag_field="type", tag="pong"):
    """The answer to `Ping`."""


class WorkerRegistered(msgspec.Struct, tag_field="type", tag="workerregistered", omit_defaults=True):
    """The first message of a host."""

    worker_id: str
    reattach_token: str | None = None


class Reattach(msgspec.Struct, tag_field="type", tag="reattach", omit_defaults=True):
    """The first message of a worker that has been connected before: its old connection is dead."""

    previous_worker_id: str
    reattach_token: str | None = None


class RegistrationRejected(msgspec.Struct, tag_field="type", tag="registrationrejected", omit_defaults=True):
    """A function (or a worker's name) belongs to somebody else."""

    code: str
    namespace: str
    function_id: str | None = None
    worker_name: str | None = None
    owner_worker_id: str = msgspec.field(default_factory=str)
    error: Raw = ABSENT
    """Why, where it is not that somebody else has it (**ext**): SDKs take every code but two for the end of the worker."""


class ConnectionRefused(msgspec.Struct, tag_field="type", tag="error", omit_defaults=True):
    """A host refuses the connection; it closes it next."""

    error: Raw = ABSENT


Message: TypeAlias = (
    InvokeFunction
    | InvocationResult
    | RegisterFunction
    | UnregisterFunction
    | RegisterTriggerType
    | UnregisterTriggerType
    | RegisterTrigger
    | UnregisterTrigger
    | TriggerRegistrationResult
    | RegisterService
    | Ping
    | Pong
    | WorkerRegistered
    | Reattach
    | RegistrationRejected
    | ConnectionRefused
)

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_encoder = msgspec.json.Encoder()
_members = msgspec.json.Decoder(dict[str, Raw])


def decode(frame: bytes | bytearray) -> Message:
    """The message of a frame.

    Raises `ValueError` (UnicodeDecodeError and msgspec's errors are such) or `RecursionError` for what is no message.
    """
    if not frame.isascii():
        frame.decode()  # raw members are passed on as they are, and msgspec does not check their UTF-8
    return _decoder.decode(frame)


def encode(message: Message) -> bytes:
    """The frame of a message."""
    return _encoder.encode(message)


def is_given(text: Raw) -> bool:
    """Whether a member is there and not null."""
    return text is not ABSENT and bytes(text) not in (b"null", b"")


def given(text: Raw) -> Raw | None:
    """A member's text, None where it is absent or null."""
    return text if is_given(text) else None


def kept(text: Raw) -> bytes | None:
    """A member to keep beyond its frame: a copy, None where it is absent or null."""
    return bytes(text) if is_given(text) else None


UNREADABLE = object()


def read(text: Raw) -> Any:
    """The Python object of a member, `UNREADABLE` where there is none: of a member that is passed on unread (`Raw`) only the syntax
    has been checked, and a number may be beyond a double."""
    try:
        return values.decode(text)
    except (ValueError, RecursionError):
        return UNREADABLE


class _Error(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    stacktrace: str | None = None
    final: bool = False
    fate: str | None = None
    begun: bool = False


def error_text(error: FunctionError, *, tells_fate: bool = False) -> bytes:
    """The JSON object that stands for an error on the wire; `tells_fate` for a peer to whom the fate of a call is told."""
    fate = next((word for word, kind in FATES.items() if isinstance(error, kind)), None) if tells_fate else None
    begun = fate is not None and isinstance(error, NotCarriedOut) and error.begun
    try:
        return _encoder.encode(_Error(error.code, error.message, error.stacktrace, error.final, fate, begun))
    except (UnicodeEncodeError, TypeError):  # lone surrogates, which a Python exception's text may hold; what is no text at all
        parts = (error.code, error.message, error.stacktrace or "")
        code, message, stacktrace = (str(part).encode(errors="replace").decode() for part in parts)
        return _encoder.encode(_Error(code, message, stacktrace or None, bool(error.final), fate, begun))


def read_error(text: Raw, *, tells_fate: bool = False) -> FunctionError | None:
    """The error of an `error` member; None where it is absent, null, false, 0 or "". All else is one: an empty object, too, and
    what cannot be read.

    `tells_fate` for a peer whose word counts for what became of the call, and for what is to become of an event (`final`).
    """
    if not text:
        return None
    value = read(text)
    if value is UNREADABLE:
        return FunctionError(Code.INVOCATION_FAILED, bytes(text).decode())
    if not value and not isinstance(value, dict | list):
        return None
    if not isinstance(value, dict):
        return FunctionError(Code.INVOCATION_FAILED, str(value))
    code = str(value.get("code") or Code.INVOCATION_FAILED)
    stacktrace = value.get("stacktrace")
    kind = FATES.get(str(value.get("fate")), FunctionError) if tells_fate else FunctionError
    error = kind(
        code,
        str(value.get("message") or ""),
        None if stacktrace is None else str(stacktrace),
        final=tells_fate and value.get("final") is True,
    )
    if isinstance(error, NotCarriedOut):
        error.begun = value.get("begun") is True
    return error


def invoke_frame(invocation_id: str, function_id: bytes, data: Json, *, metadata: Json | None = None, trace: bytes = b"") -> bytes:
    """A call on its way to the worker that serves the function.

    `function_id` is JSON text; `trace` is what `trace_members` made of the caller's frame.
    """
    return b'{"type":"invokefunction","invocation_id":"%b","function_id":%b,"data":%b%b%b}' % (
        invocation_id.encode(),
        function_id,
        data,
        b"" if metadata is None else b',"metadata":%b' % metadata,
        trace,
    )


def trace_members(message: InvokeFunction) -> bytes:
    """The members `traceparent` and `baggage` of a call as text to put into another frame."""
    text = b""
    if message.traceparent and is_given(message.traceparent):
        text += b',"traceparent":%b' % message.traceparent
    if message.baggage and is_given(message.baggage):
        text += b',"baggage":%b' % message.baggage
    return text


def result_frame(invocation_id: Json, function_id: bytes, result: Json | None) -> bytes:
    """A successful outcome; the ids are JSON texts; no result where there is None."""
    if result is None:
        return b'%b%b,"function_id":%b}' % (RESULT_START, invocation_id, function_id)
    return b'%b%b,"function_id":%b,"result":%b}' % (RESULT_START, invocation_id, function_id, result)


def error_frame(invocation_id: Json, function_id: bytes, error: FunctionError, *, tells_fate: bool = False) -> bytes:
    """A failed outcome; the ids are JSON texts."""
    text = error_text(error, tells_fate=tells_fate)
    return b'%b%b,"function_id":%b,"error":%b}' % (RESULT_START, invocation_id, function_id, text)


def with_caller(data: Json, worker_id: str) -> Json:
    """An object with the member `_caller_worker_id` behind its own, so that it counts over one of the caller's; else as it was."""
    text = bytes(data).strip()
    if not text.startswith(b"{"):
        return data
    before = text[:-1].rstrip()
    return b'%b%b"_caller_worker_id":"%b"}' % (before, b"" if before == b"{" else b",", worker_id.encode())


def max_frame_bytes(runtime: str, version: str) -> int:
    """The largest frame that a worker can receive, by what it says of itself; a version that cannot be read counts as new."""
    if runtime != "python":
        return MAX_FRAME_BYTES
    try:
        release = tuple(int(part) for part in version.split("+")[0].split("-")[0].split(".")[:3])
    except ValueError:
        return MAX_FRAME_BYTES
    return OLD_PYTHON_FRAME_BYTES if release < (0, 24, 5) else MAX_FRAME_BYTES
