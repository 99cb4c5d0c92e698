"""The file store of a stock iii engine: a file for each scope, `<scope>.bin`, the scope percent-encoded in its name.

A file holds the JSON text of an object of key to value, then up to three bytes of padding, and eight bytes: where the text begins,
as an offset from where these eight begin, and how long it is (both of four bytes, the lowest first). What does not check out to the
last byte is refused: half a scope is worse than none.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec

from iii_state import values
from iii_state.errors import MAX_VALUE_BYTES, InvalidValue, TransferError
from iii_state.transfer.rows import ValueRow

_TRAILER = struct.Struct("<iI")
_ALIGNMENT = 4
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class IiiFiles:
    """The rows of a directory of such files, in the order of their names."""

    can_be_read_again = True

    def __init__(self, directory: Path) -> None:
        self.name = str(directory)
        self.id: str | None = None
        self._directory = directory

    def read(self, told: Callable[[int, int | None], None]) -> Iterator[tuple[str, ValueRow]]:
        """Each value, and its file. Raises `TransferError`, which names the file."""
        files = self._files()
        size = sum(file.stat().st_size for file in files)
        position, digest = 0, hashlib.sha256()
        for file in files:
            try:
                data = file.read_bytes()
            except OSError as error:
                raise TransferError(f"{file} cannot be read: {error.strerror or error}") from None
            digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0" + hashlib.sha256(data).digest())
            try:
                scope = scope_of(file.name)
                found = members_of(data)
            except InvalidValue as error:
                raise TransferError(f"{file} is no file of a stock engine's store, or is damaged: {error}") from None
            for key, text in found.items():
                yield str(file), ValueRow(scope, key, text)
            position += len(data)
            told(position, size)
        self.id = digest.hexdigest()

    def _files(self) -> list[Path]:
        try:
            files = sorted(file for file in self._directory.iterdir() if file.suffix == ".bin" and file.is_file())
        except OSError as error:
            raise TransferError(f"{self._directory} cannot be read: {error.strerror or error}") from None
        if not files:
            raise TransferError(
                f"{self._directory} holds no files <scope>.bin: it has to be the file_path of a stock engine's kv store"
            )
        return files


def scope_of(file_name: str) -> str:
    """The scope whose values a file of this name holds. Raises `InvalidValue`."""
    name = file_name.removesuffix(".bin")
    if _PERCENT.search(name):
        raise InvalidValue("its name has a % that stands for nothing")
    try:
        return unquote_to_bytes(name).decode()
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise InvalidValue("its name stands for no UTF-8") from None


def members_of(data: bytes) -> dict[str, bytes]:
    """The keys and stored texts of a file's content. Raises `InvalidValue` where it does not check out."""
    place = len(data) - _TRAILER.size
    if place < 0:
        raise InvalidValue(f"it has {len(data)} bytes, and a trailer alone has {_TRAILER.size}")
    offset, length = _TRAILER.unpack_from(data, place)
    if offset != -place:
        raise InvalidValue(
            f"its trailer says that the text begins at {place + offset}, and it has to begin at 0: it is cut or no such file"
        )
    padding = data[length:place]
    if length > place or len(padding) >= _ALIGNMENT or place % _ALIGNMENT or padding.strip(b"\0"):
        raise InvalidValue(f"its trailer says that the text has {length} bytes, which does not fit {len(data)} bytes of file")
    text = data[:length]
    try:
        text.decode()
        if not text.startswith(b"{"):
            raise InvalidValue("its text is no JSON object")
        found = {key: values.to_stored(raw) for key, raw in values.members(text).items()}
    except (UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise values.unreadable(error) from None
    for key, stored in found.items():
        if len(stored) > MAX_VALUE_BYTES and values.compact_size(stored) > MAX_VALUE_BYTES:
            raise InvalidValue(f"the value of key {key[:200]!r} is larger than {MAX_VALUE_BYTES} bytes")
    return found
