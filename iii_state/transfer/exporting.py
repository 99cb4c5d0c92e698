"""An export: the values of a store as lines of a file, scope by scope. One that was cut off is gone on with."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec

from iii_state.errors import StateError, TransferError
from iii_state.transfer.files import Output, blocks, compression_of
from iii_state.transfer.lines import (
    FORMAT,
    QUEUES_FORMAT,
    End,
    Header,
    Selection,
    header_line,
    line_of,
    read_header,
    trailer_line,
)
from iii_state.transfer.queues.lines import queue_line
from iii_state.transfer.queues.rows import BuriedEvent, QueuedEvent, QueueHead, QueueItem, QueueSource
from iii_state.transfer.rows import Source


@dataclass(slots=True)
class Exported:
    """What an export has come to so far; `resumed` of the values were in the file already."""

    values: int = 0
    scopes: int = 0
    bytes: int = 0
    resumed: int = 0
    all_scopes: int = 0
    all_values: int | None = None
    queues: Counter[type[QueueItem]] = field(default_factory=Counter)


Progress = Callable[[Exported], None]


@dataclass(slots=True)
class _Written:
    """What stands in a file so far, up to where it can be gone on with."""

    header: Header
    sum: hashlib._Hash
    values: int = 0
    scopes: int = 0
    last_scope: str | None = None
    offset: int = 0


class _ScopeOnly(msgspec.Struct):
    scope: str


_place = msgspec.json.Decoder(_ScopeOnly)


@dataclass(slots=True)
class Export:
    """An export of `source` into the file `name`, or standard output. `progress` hears of it after every part.

    `queues` are those of the same store, where they are to be in it.
    """

    source: Source
    name: str
    selection: Selection = field(default_factory=Selection)
    progress: Progress = lambda exported: None
    queues: QueueSource | None = None

    async def dry_run(self) -> Exported:
        """What would be exported, about."""
        scopes = await self._scopes()
        return Exported(all_scopes=len(scopes), all_values=await self.source.count(scopes))

    async def run(self) -> Exported:
        """Export. Raises `StateError`; what has been written is gone on with by the next `run`, but for the last scope."""
        output = Output(self.name)
        if output.path is not None and output.path.exists():
            raise TransferError(f"{output.path} is there already; remove it, or name another file")
        written = self._written(output)
        scopes = [scope for scope in await self._scopes() if written.last_scope is None or scope > written.last_scope]
        done = Exported(values=written.values, scopes=written.scopes, resumed=written.values)
        done.all_scopes = len(scopes) + written.scopes
        count = await self.source.count(scopes)
        done.all_values = None if count is None else count + written.values
        output.open(written.offset)
        try:
            await self._export_all(scopes, output, written, done)
        except StateError as error:
            goes_on = "; the same command goes on from there" if output.path is not None else ""
            raise TransferError(f"{error}; {written.values} values were exported before that{goes_on}") from None
        finally:
            output.close()
        return done

    async def _export_all(self, scopes: list[str], output: Output, written: _Written, done: Exported) -> None:
        if not written.offset:
            self._write(output, written, header_line(written.header))
        for scope in scopes:
            await self._export(scope, output, written, done)
        if self.queues is not None:
            await self._export_queues(self.queues, output, written, done)
        end = End(
            scopes=written.scopes,
            values=written.values,
            sha256=written.sum.hexdigest(),
            queues=done.queues[QueueHead],
            events=done.queues[QueuedEvent],
            dead_letters=done.queues[BuriedEvent],
        )
        output.write(trailer_line(end))
        output.finish()
        done.bytes = output.bytes

    async def _scopes(self) -> list[str]:
        return sorted(scope for scope in await self.source.scopes() if self.selection.has(scope))

    async def _export(self, scope: str, output: Output, written: _Written, done: Exported) -> None:
        before = written.values
        async for rows in self.source.rows(scope):
            if rows:
                self._write(output, written, b"".join(map(line_of, rows)))
                written.values += len(rows)
                done.values, done.bytes = written.values, output.bytes
                self.progress(done)
        if written.values > before:
            written.scopes += 1
            output.end_block()
        done.scopes += 1
        self.progress(done)

    async def _export_queues(self, queues: QueueSource, output: Output, written: _Written, done: Exported) -> None:
        """All of them, in an export that is gone on with, too."""
        async for item in queues.items():
            self._write(output, written, queue_line(item))
            done.queues[type(item)] += 1
            done.bytes = output.bytes

    @staticmethod
    def _write(output: Output, written: _Written, text: bytes) -> None:
        written.sum.update(text)
        output.write(text)

    def _header(self) -> Header:
        return Header(
            iii_state_export=FORMAT if self.queues is None else QUEUES_FORMAT,
            version=version("iii-state"),
            id=secrets.token_hex(8),
            origin=self.source.name,
            at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            store=self.source.store,
            selection=self.selection,
            holds=["values"] if self.queues is None else ["values", "queues"],
        )

    def _written(self, output: Output) -> _Written:
        """What an export into this file that was cut off has written. Raises `TransferError` for one of anything else."""
        if output.part is None or not output.part.exists():
            return _Written(self._header(), hashlib.sha256())
        found = _recovered(output)
        if found is None:
            return _Written(self._header(), hashlib.sha256())
        header, source = found.header, self.source
        is_same = header.store == source.store and (source.store is not None or header.origin == source.name)
        has_queues = "queues" in header.holds
        if not is_same or header.selection != self.selection or has_queues != (self.queues is not None):
            raise TransferError(
                f"{output.part} is what is left of an export of {header.origin} that was cut off, of another store or other "
                f"scopes, or {'with' if has_queues else 'without'} --queues: "
                "give the options that it was begun with, or remove it to begin anew"
            )
        return found


def _recovered(output: Output) -> _Written | None:
    """What can be gone on with: all but the last scope, which may be cut, and what is behind the last end of a block."""
    assert output.part is not None
    assert output.path is not None
    compression = compression_of(output.path.name)
    written: _Written | None = None
    kept: _Written | None = None
    for line, offset in blocks(output.part, compression):
        try:
            scope = None if written is None or line.startswith(b'{"end":') else _place.decode(line).scope
        except (msgspec.MsgspecError, UnicodeError):
            break
        if written is None:
            try:
                written = _Written(read_header(line), hashlib.sha256(line))
            except TransferError as error:
                raise TransferError(f"{output.part}: {error} Remove it to begin anew") from None
        elif scope is None:
            break
        else:
            if scope != written.last_scope:
                if not compression:
                    kept = _copy(written)
                written.scopes += 1
                written.last_scope = scope
            written.values += 1
            written.sum.update(line)
        if offset is not None:
            written.offset = offset
            if compression:
                kept = _copy(written)
    return kept


def _copy(written: _Written) -> _Written:
    return _Written(written.header, written.sum.copy(), written.values, written.scopes, written.last_scope, written.offset)
