"""What a chunk of Lua 5.1 uses that is not its own, and what it leaves behind: read from its bytecode, as `luac -l` shows it."""

from __future__ import annotations

import struct
from typing import NamedTuple

from lupa import lua51

_GET_GLOBAL, _SET_GLOBAL = 5, 7
_NIL, _BOOLEAN, _NUMBER, _STRING = 0, 1, 3, 4


class Chunk(NamedTuple):
    """The globals that a chunk reads and writes, and the locals that are there until its end."""

    reads: set[str]
    writes: set[str]
    locals: set[str]


def inspect(source: bytes) -> Chunk:
    """Compile a chunk, and tell what it uses. Raises `lua51.LuaError` for what is no Lua."""
    runtime = lua51.LuaRuntime(encoding=None)
    compiled = runtime.eval(b"function(text) return string.dump(assert(loadstring(text))) end")(source)
    reader = _Reader(compiled)
    reader.skip(12)
    return reader.function()


def left_by(source: bytes) -> set[str]:
    """The locals that a chunk leaves to what is joined behind it."""
    # Without a last statement, the locals of a block at the end of the chunk would end where the chunk's do.
    return inspect(source + b"\nlocal _ = 0\n").locals - {"_"}


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def skip(self, count: int) -> None:
        self._at += count

    def _unpack(self, form: str) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return found

    def _text(self) -> str:
        (length,) = self._unpack("Q")
        text = self._data[self._at : self._at + max(0, length - 1)]
        self._at += length
        return text.decode("utf-8", "replace")

    def function(self) -> Chunk:
        """A function, with those inside it."""
        self._text()
        self.skip(4 + 4 + 4)
        (size,) = self._unpack("i")
        code = self._unpack(f"{size}I")
        constants = [self._constant() for _ in range(self._unpack("i")[0])]
        inside = [self.function() for _ in range(self._unpack("i")[0])]
        self.skip(4 * self._unpack("i")[0])
        ends: list[tuple[str, int]] = []
        for _ in range(self._unpack("i")[0]):
            name = self._text()
            _, end = self._unpack("ii")
            ends.append((name, end))
        for _ in range(self._unpack("i")[0]):
            self._text()
        used: dict[int, set[str]] = {_GET_GLOBAL: set(), _SET_GLOBAL: set()}
        for word in code:
            if word & 63 in used:
                used[word & 63].add(str(constants[word >> 14]))
        reads, writes = used[_GET_GLOBAL], used[_SET_GLOBAL]
        for other in inside:
            reads, writes = reads | other.reads, writes | other.writes
        return Chunk(reads, writes, {name for name, end in ends if end == size - 1})

    def _constant(self) -> object:
        (kind,) = self._unpack("B")
        if kind == _NIL:
            return None
        if kind == _BOOLEAN:
            return bool(self._unpack("B")[0])
        if kind == _NUMBER:
            return self._unpack("d")[0]
        assert kind == _STRING
        return self._text()
