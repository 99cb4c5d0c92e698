"""The lines of an export: a header, a line per value, and a trailer with counts and a checksum.

    {"iii_state_export":1,"version":"0.2.0","id":"…","from":"redis","store":"…","at":"2026-11-27T12:00:00Z","holds":["values"]}
    {"scope":"users","key":"ada","value":{"name":"Ada"}}
    {"scope":"leases","key":"printer","value":"ada","deadline_ms":1795780800000}
    {"end":{"scopes":2,"values":2,"sha256":"…"}}

A value is the text that is stored, without its frame: it is never parsed into objects and written out again. The checksum is the
SHA-256 of all lines before the trailer, with their newlines.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.errors import MAX_VALUE_BYTES, InvalidValue, TransferError
from iii_state.transfer.queues.lines import is_queue_line, item_of
from iii_state.transfer.queues.rows import BuriedEvent, QueuedEvent, QueueHead, QueueItem
from iii_state.transfer.rows import ValueRow

FORMAT = 1
QUEUES_FORMAT = 2
"""That of an export which holds queues, too: behind the values, as `queues/lines.py` has them."""
MAX_LINE_BYTES = 96 * 1024 * 1024
"""The longest line that is read: a value of 16 MiB, and a scope and a key that fit into a frame of 64 MiB."""


class Selection(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which scopes are meant: those that are named, or begin with one of the prefixes; all, where neither is given."""

    scopes: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def has(self, scope: str) -> bool:
        """Whether a scope is one of them."""
        return not (self.scopes or self.prefixes) or scope in self.scopes or scope.startswith(self.prefixes)


class Header(msgspec.Struct, omit_defaults=True):
    """The first line. `id` is of this export alone; `store` is the id of what was read."""

    iii_state_export: int
    version: str
    id: str
    origin: str = msgspec.field(name="from")
    at: str
    store: str | None = None
    holds: list[str] = msgspec.field(default_factory=lambda: ["values"])
    selection: Selection = Selection()


class End(msgspec.Struct, omit_defaults=True):
    """What the trailer says."""

    scopes: int
    values: int
    sha256: str
    queues: int = 0
    events: int = 0
    dead_letters: int = 0


class _Trailer(msgspec.Struct, forbid_unknown_fields=True):
    end: End


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    scope: str
    key: str
    value: Raw
    deadline_ms: int | None = None


_header = msgspec.json.Decoder(Header)
_line = msgspec.json.Decoder(_Line)
_trailer = msgspec.json.Decoder(_Trailer)


def line_of(row: ValueRow) -> bytes:
    """The line of a value."""
    text = row.text
    if text.startswith(values.FRAME_START):
        text = values.unframe(text)
    place = values.encode_string(row.scope), values.encode_string(row.key), text
    if row.deadline_ms is None:
        return b'{"scope":%b,"key":%b,"value":%b}\n' % place
    return b'{"scope":%b,"key":%b,"value":%b,"deadline_ms":%d}\n' % (*place, row.deadline_ms)


def header_line(header: Header) -> bytes:
    """The first line."""
    return values.encode(header) + b"\n"


def trailer_line(end: End) -> bytes:
    """The last line."""
    return values.encode(_Trailer(end)) + b"\n"


def read_header(line: bytes) -> Header:
    """The header. Raises `TransferError` for a first line that is none, or that of a newer version."""
    try:
        header = _header.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise TransferError("line 1 is no header of an export of iii-state; look whether this is the right file") from None
    if header.iii_state_export > QUEUES_FORMAT:
        raise TransferError(
            f"line 1: the export has format {header.iii_state_export}, written by iii-state {header.version}; "
            f"this version reads up to {QUEUES_FORMAT}: use a newer one"
        )
    return header


class LineReader:
    """Reads lines in turn, and checks them, counts and checksum against the trailer.

    `take` gives the row or queue item of each line, None for header and trailer; `finish` makes sure that there was a trailer.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self.number = 0
        """Of the last line that was taken."""
        self.values = 0
        self.scopes = 0
        self.queues = Counter[type[QueueItem]]()
        """How many of each kind were taken."""
        self.end: End | None = None
        self._queue = ""
        self._is_ended = False
        self._scope: str | None = None
        self._sum = hashlib.sha256()

    def take(self, line: bytes) -> ValueRow | QueueItem | None:
        """Read the next line. Raises `TransferError`."""
        self.number += 1
        if self.end is not None:
            raise TransferError(f"line {self.number} stands behind the end of the export, which is line {self.number - 1}")
        if not line.endswith(b"\n"):
            what = f"is longer than {MAX_LINE_BYTES} bytes" if len(line) >= MAX_LINE_BYTES else "has no end: the file is cut off"
            raise TransferError(f"line {self.number} {what}")
        if self.header is None:
            self.header = read_header(line)
            self._sum.update(line)
            return None
        if line.startswith(b'{"end":'):
            self._end(line)
            return None
        if is_queue_line(line):
            item = self._item(line)
            self._sum.update(line)
            self.queues[type(item)] += 1
            return item
        row = self._row(line)
        if self._queue:
            raise TransferError(f"line {self.number}: a value stands behind the queues; the values of an export come before them")
        self._sum.update(line)
        self.values += 1
        if row.scope != self._scope:
            self._scope = row.scope
            self.scopes += 1
        return row

    def finish(self) -> End:
        """The trailer. Raises `TransferError` where the file ends without one."""
        if self.end is None:
            if not self.number:
                raise TransferError("the file is empty: it has to begin with the header of an export")
            raise TransferError(f"the file ends behind line {self.number}, without a trailer: it is cut off, or was never finished")
        return self.end

    def _row(self, line: bytes) -> ValueRow:
        try:
            line.decode()
            read = _line.decode(line)
            text = values.to_stored(read.value)
        except (msgspec.MsgspecError, UnicodeError, InvalidValue, RecursionError) as error:
            raise TransferError(f"line {self.number}: {self._why(line, error)}") from None
        if len(text) > MAX_VALUE_BYTES and (size := values.compact_size(text)) > MAX_VALUE_BYTES:
            raise TransferError(f"line {self.number}: the value has {size} bytes; no value is larger than {MAX_VALUE_BYTES}")
        if read.deadline_ms is not None and read.deadline_ms < 0:
            raise TransferError(f"line {self.number}: deadline_ms is {read.deadline_ms}; it has to be milliseconds since 1970")
        return ValueRow(read.scope, read.key, text, read.deadline_ms)

    def _item(self, line: bytes) -> QueueItem:
        try:
            line.decode()
            item = item_of(line)
        except (TransferError, msgspec.MsgspecError, UnicodeError, InvalidValue, RecursionError) as error:
            raise TransferError(f"line {self.number}: {self._why(line, error)}") from None
        if isinstance(item, QueueHead):
            if item.id <= self._queue:
                raise TransferError(f"line {self.number}: the queue {item.id!r} has been there, or stands in a wrong place")
            self._queue = item.id
            self._is_ended = item.subscription is None
        elif not self._queue or (self._is_ended and isinstance(item, QueuedEvent)):
            raise TransferError(f"line {self.number}: it stands behind no queue that it could be of")
        return item

    @staticmethod
    def _why(line: bytes, error: Exception) -> str:
        if isinstance(error, UnicodeDecodeError | RecursionError):
            return str(values.unreadable(error))
        if isinstance(error, msgspec.MsgspecError) and not isinstance(error, msgspec.ValidationError):
            return values.fault(line, error)
        return str(error)

    def _end(self, line: bytes) -> None:
        try:
            end = _trailer.decode(line).end
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise TransferError(f"line {self.number} begins as a trailer, and is none: {error}") from None
        found = self._sum.hexdigest()
        if (end.values, end.scopes) != (self.values, self.scopes):
            raise TransferError(
                f"line {self.number}: the trailer counts {end.values} values of {end.scopes} scopes, and the file has "
                f"{self.values} of {self.scopes}: lines are missing, or were added"
            )
        told = (end.queues, end.events, end.dead_letters)
        there = (self.queues[QueueHead], self.queues[QueuedEvent], self.queues[BuriedEvent])
        if told != there:
            raise TransferError(
                f"line {self.number}: it counts {told[0]} queues with {told[1]} events and {told[2]} dead letters, and the "
                f"file has {there[0]} with {there[1]} and {there[2]}: lines are missing, or were added"
            )
        if end.sha256 != found:
            raise TransferError(
                f"line {self.number}: the checksum is {end.sha256}, and that of the lines is {found}: the file was changed"
            )
        self.end = end
