"""Files that are compressed by their names: read line by line, and written so that one that was cut off can be gone on with."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from iii_state.errors import TransferError
from iii_state.transfer.lines import MAX_LINE_BYTES

STANDARD = "-"
"""The name of standard input and output."""

BLOCK_BYTES = 1_000_000
"""After so much text a compressed file gets an end that can be gone on behind, where a scope ends."""

READ_BYTES = 65_536

Compression = Literal["", "gz", "zst"]


class Compressor(Protocol):
    """One member of a compressed file."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def compression_of(name: str) -> Compression:
    """How a file of this name is compressed."""
    return "gz" if name.endswith(".gz") else "zst" if name.endswith(".zst") else ""


def zstandard() -> Any:
    """The module `compression.zstd` of Python 3.14, or what brings it to older ones. Raises `TransferError`."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise TransferError("a name that ends with .zst needs Zstandard: pip install 'iii-state[zstd]', or use .gz") from None
    return zstd


class Output:
    """A file that is being written: under another name, `….part`, until it is whole. Raises `TransferError`."""

    def __init__(self, name: str) -> None:
        self._compression = compression_of(name)
        if self._compression == "zst":
            zstandard()
        self.path = None if name == STANDARD else Path(name)
        self.part = None if self.path is None else self.path.with_name(self.path.name + ".part")
        self._file: BinaryIO | None = None
        self._member: Compressor | None = None
        self._in_block = 0
        self.bytes = 0
        """Of the text that was written now, before it was compressed."""

    def open(self, offset: int = 0) -> None:
        """Open it for writing; of what is there already so many bytes are kept."""
        with _in_words(self.part, "write"):
            if self.part is None:
                self._file = sys.stdout.buffer
            else:
                self._file = self.part.open("r+b" if offset else "wb")
                self._file.truncate(offset)
                self._file.seek(offset)

    def write(self, text: bytes) -> None:
        """Write some lines."""
        self.bytes += len(text)
        self._in_block += len(text)
        if self._compression:
            if self._member is None:
                self._member = self._compressor()
            text = self._member.compress(text)
        if text:
            self._put(text)

    def end_block(self) -> None:
        """Here what is written can be gone on with, if there is enough of it."""
        if self._in_block >= BLOCK_BYTES:
            self._end_block()

    def _end_block(self) -> None:
        self._in_block = 0
        if self._member is not None:
            member, self._member = self._member, None
            self._put(member.flush())
        with _in_words(self.part, "write"):
            assert self._file is not None
            self._file.flush()

    def finish(self) -> None:
        """It is whole: on disk, and under its name."""
        self._end_block()
        if self.part is None or self.path is None or self._file is None:
            return
        with _in_words(self.part, "write"):
            os.fsync(self._file.fileno())
            self._file.close()
            self.part.rename(self.path)

    def close(self) -> None:
        """Leave it as it is, to be gone on with."""
        if self._file is not None and self.part is not None and not self._file.closed:
            with _in_words(self.part, "write"):
                self._file.close()

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        with _in_words(self.part, "write"):
            self._file.write(data)

    def _compressor(self) -> Compressor:
        if self._compression == "gz":
            return zlib.compressobj(6, zlib.DEFLATED, 31)
        made: Compressor = zstandard().ZstdCompressor()
        return made


class Lines:
    """The lines of a file, or of standard input. Raises `TransferError`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size: int | None = None
        """Bytes of the file, None where that is not known."""
        self._raw: BinaryIO = sys.stdin.buffer
        self._file: BinaryIO = self._raw
        compression = compression_of(name)
        if name == STANDARD:
            return
        with _in_words(Path(name), "read"):
            self._file = self._raw = Path(name).open("rb")  # noqa: SIM115  # `close` closes it
            about = os.fstat(self._raw.fileno())
            self.size = about.st_size if stat.S_ISREG(about.st_mode) else None
        if compression == "gz":
            self._file = gzip.GzipFile(fileobj=self._raw)  # type: ignore[assignment]
        elif compression == "zst":
            self._file = zstandard().ZstdFile(self._raw)

    @property
    def position(self) -> int:
        """How many bytes of the file have been read."""
        return self._raw.tell()

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        read = self._file.readline
        while line := self._next(read, number):
            number += 1
            yield line

    def _next(self, read: Callable[[int], bytes], number: int) -> bytes:
        try:
            return read(MAX_LINE_BYTES)
        except OSError as error:  # gzip.BadGzipFile is one
            why = error.strerror or str(error)
        except Exception as error:  # EOFError, zlib.error, ZstdError
            why = str(error)
        if number == 0:  # a file of another kind under this name, most likely
            raise TransferError(f"{self.name} cannot be read: {why}; is this the right file, and is it what its name ends with?")
        raise TransferError(f"{self.name} cannot be read behind line {number}: {why}; it is damaged or cut off: copy it again")

    def close(self) -> None:
        """Read no more."""
        if self._raw is not sys.stdin.buffer:
            self._raw.close()


def blocks(path: Path, compression: Compression) -> Iterator[tuple[bytes, int | None]]:
    """What can be read of a file that was cut off: each line, and, where the file can be gone on with behind it, its length there.

    A file that is not compressed can be gone on with behind each of its lines.
    """
    with path.open("rb") as file:
        if not compression:
            offset = 0
            for line in file:
                offset += len(line)
                if line.endswith(b"\n"):
                    yield line, offset
            return
        yield from _members(file, compression)


def _members(file: BinaryIO, compression: Compression) -> Iterator[tuple[bytes, int | None]]:
    member: Any = _decompressor(compression)
    offset, rest, held = 0, b"", b""
    while data := file.read(READ_BYTES):
        offset += len(data)
        while data:
            try:
                text = member.decompress(data)
            except Exception:  # damaged from here on: what is behind is written anew
                return
            *lines, rest = (rest + text).split(b"\n")
            for line in lines:
                if held:
                    yield held, None
                held = line + b"\n"
            data = member.unused_data if member.eof else b""
            if member.eof:
                if held:
                    yield held, offset - len(data)
                held, rest, member = b"", b"", _decompressor(compression)


def _decompressor(compression: Compression) -> Any:
    return zlib.decompressobj(31) if compression == "gz" else zstandard().ZstdDecompressor()


@contextmanager
def _in_words(path: Path | None, what: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and path is not None and not path.parent.is_dir():
            why = f"there is no directory {path.parent}"
        raise TransferError(f"cannot {what} {path or 'standard output'}: {why}") from None
