"""Calls to Redis: what is sent, and what the reply means. The connection keeps a call until it has been answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from iii_state.adapters.redis.scripts.loader import Script
from iii_state.adapters.redis.scripts.packing import pack

T = TypeVar("T")

Reply = Any
"""What hiredis makes of a reply: bytes, int, None, a list of these, or a `hiredis.ReplyError`."""


class Again:
    """Stands for the result of a call that has changed nothing, and is to be sent once more, before anything newer.

    `first` are calls that are sent ahead of it; one that stands here for several calls is sent once.
    """

    __slots__ = ("first",)

    def __init__(self, *first: RedisCall[Any]) -> None:
        self.first = first


AGAIN = Again()
HELD = Again()
"""The same for what is to be sent later: a node of a cluster does not take it at the moment."""


class RedisCall(Generic[T]):
    """One call, over all the times that it is sent.

    Kinds of calls say what is sent, each time anew (`command`), and what the reply means (`result`). The rest is for the pipeline.
    """

    __slots__ = (
        "deadline",
        "future",
        "in_session",
        "joint",
        "mutates",
        "scope",
        "sequence",
        "size",
        "slot",
        "tries",
        "was_carried",
    )

    future: asyncio.Future[T]
    deadline: float

    def __init__(self, size: int = 0, *, mutates: bool = False, in_session: bool = False, scope: str | None = None) -> None:
        self.size = size
        """About its bytes."""
        self.mutates = mutates
        self.in_session = in_session
        """Whether it is recognised by the connection's session; a mutation that is not bears a request id of its caller's."""
        self.scope = scope
        """Named in errors."""
        self.slot = -1
        self.sequence = 0
        self.tries = 0
        self.was_carried = False
        """Whether an earlier connection broke with this mutation on it."""
        self.joint = 0
        """How many calls it has been sent together with, as the first of them; the reply is for all of these."""

    def command(self, session: bytes, epoch: int) -> bytes:
        """The bytes to send; `slot` and `sequence` are set where the call is recognised by the session."""
        raise NotImplementedError

    def can_join(self) -> bool:
        """Whether it can be sent in one call with others that can (`joint_command`)."""
        return False

    def joint_command(self, calls: Sequence[RedisCall[Any]], session: bytes, epoch: int) -> bytes:
        """The bytes of one call that stands for all of these, of which it is one. The reply is an array: of each what is its reply,
        or `ERROR` and the text of an error reply. What begins with a word is the reply of each."""
        raise NotImplementedError

    def result(self, reply: Reply) -> T | Again:
        """What a reply means that is no error. Raises what the call is to fail with."""
        raise NotImplementedError


class Command(RedisCall[Any]):
    """A command in words, answered with its reply."""

    __slots__ = ("_words",)

    def __init__(self, words: tuple[bytes, ...], scope: str | None = None) -> None:
        super().__init__(scope=scope)
        self._words = words

    def command(self, session: bytes, epoch: int) -> bytes:
        return pack(self._words)

    def result(self, reply: Reply) -> Any:
        return reply


class SessionCommand(RedisCall[Any]):
    """A command about the session itself: the words before its key and those behind it."""

    __slots__ = ("_after", "_before", "_key")

    def __init__(self, before: bytes, key: Callable[[bytes], bytes], *after: bytes) -> None:
        super().__init__()
        self._before = before
        self._key = key
        self._after = after

    def command(self, session: bytes, epoch: int) -> bytes:
        return pack((self._before, self._key(session), *self._after))

    def result(self, reply: Reply) -> Any:
        return reply


Arguments = Sequence[bytes] | Callable[[], Sequence[bytes]]
"""Number of keys, keys and arguments of a script; or what gives them each time when they are sent."""


def as_it_is(reply: Reply) -> Any:
    """The reply itself."""
    return reply


class ScriptCall(RedisCall[T]):
    """A call of a script; `read` makes the result of its reply."""

    __slots__ = ("_arguments", "_read", "_script")

    def __init__(self, script: Script, arguments: Arguments, read: Callable[[Reply], T] = as_it_is) -> None:
        super().__init__(size=0 if callable(arguments) else sum(map(len, arguments)))
        self._script = script
        self._arguments = arguments
        self._read = read

    def command(self, session: bytes, epoch: int) -> bytes:
        arguments = self._arguments
        return pack((b"EVALSHA", self._script.sha1, *(arguments() if callable(arguments) else arguments)))

    def result(self, reply: Reply) -> T:
        return self._read(reply)
