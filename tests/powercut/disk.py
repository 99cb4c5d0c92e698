"""A disk as a record of operations leaves it, and as it may look after its power was cut.

What is assumed of it, following "All File Systems Are Not Created Equal" (Pillai et al., OSDI 2014; ALICE) and "Atomic Commit In
SQLite":

- What a completed fsync or fdatasync of a file covers is on the disk: its bytes and its size. Its name is not, until its directory
  has been forced to disk, too; nor is the name of that directory. So POSIX; ext4 and XFS keep more.
- Of everything since, any subset may be there: any of the written ranges, of each of them any of its sectors of 512 bytes. A sector
  is whole, and nothing outside of a written range changes ("powersafe overwrite").
- A file's size is that of some moment since the last sync, whatever of its bytes has arrived; bytes that it gained and that were
  not written are zeros, or anything.
- Names that were made, removed or renamed in a directory: a part of them from the beginning, or any of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.powercut.record import Operation

SECTOR = 512

FORCED = "S"


class Piece(NamedTuple):
    """A range that was written, or (`data` None) a file that was cut to `offset` bytes."""

    offset: int
    data: bytes | None


@dataclass(eq=False)
class Inode:
    """A file or a directory: what is on the disk of it, and what was done since."""

    is_directory: bool = False
    kept: bytearray = field(default_factory=bytearray)
    since: list[Piece] = field(default_factory=list)
    kept_names: dict[str, Inode] = field(default_factory=dict)
    names: dict[str, Inode] = field(default_factory=dict)
    """As the process sees them."""
    names_since: list[dict[str, Inode | None]] = field(default_factory=list)
    """Names that came (with what they name), or went (None); both for a file that was renamed."""

    def force(self) -> None:
        """Everything so far is on the disk."""
        for piece in self.since:
            apply(self.kept, piece)
        self.since.clear()
        self.kept_names = dict(self.names)
        self.names_since.clear()


def apply(content: bytearray, piece: Piece) -> None:
    """Do to a file what was done."""
    offset, data = piece
    if data is None:
        if offset <= len(content):
            del content[offset:]
        else:
            content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """The files of a directory while operations are done to it one after the other. A disk that `lies` forces nothing."""

    def __init__(self, *, lies: bool = False) -> None:
        self.root = Inode(is_directory=True)
        self._lies = lies
        self._opened: dict[tuple[int, int], Inode] = {}

    def do(self, operation: Operation) -> None:
        """Do the next operation."""
        kind, path, handle = operation.kind, operation.path, (operation.process, operation.file)
        if kind == "C" or kind == "K":
            inode = Inode(is_directory=kind == "K")
            self._rename({path: inode})
            if kind == "C":
                self._opened[handle] = inode
        elif kind == "O":
            self._opened[handle] = self._find(path)
        elif kind == "X":
            del self._opened[handle]
        elif kind == "W":
            self._opened[handle].since.append(Piece(operation.offset, operation.data))
        elif kind == "T":
            self._opened[handle].since.append(Piece(operation.offset, None))
        elif kind == FORCED:
            if not self._lies:
                self._opened[handle].force()
        elif kind == "D":
            self._rename({path: None})
        elif kind == "R":
            self._rename({path: None, operation.data.decode(): self._find(path)})

    def _find(self, path: str) -> Inode:
        inode = self.root
        for name in filter(None, path.split("/")):
            inode = inode.names[name]
        return inode

    def _rename(self, changes: dict[str, Inode | None]) -> None:
        """Names come and go in one directory, in one step."""
        (parent,) = {path.rpartition("/")[0] for path in changes}
        directory = self._find(parent)
        named = {path.rpartition("/")[2]: inode for path, inode in changes.items()}
        directory.names_since.append(named)
        _name(directory.names, named)

    def put(self, target: Path, cut: Cut) -> None:
        """Write the files as they are after a cut into an empty directory."""
        _put(self.root, target, cut)


class Cut:
    """What arrived of what had not been forced to disk: decided by `luck`, which begins with a seed."""

    def __init__(self, seed: int | str) -> None:
        self._luck = luck = random.Random(seed)
        self.manner = luck.choice(("nothing", "everything", "subset", "subset", "subset", "prefix", "torn prefix", "last first"))
        self._share = luck.choice((0.1, 0.5, 0.9, 0.98))
        self._torn = luck.choice((0.0, 0.1, 0.5))
        self._fills_with_zeros = luck.random() < 0.6
        self._names_in_order = luck.random() < 0.6

    def content(self, inode: Inode) -> bytearray:
        """What is in a file."""
        content = bytearray(inode.kept)
        since = inode.since
        if not since or self.manner == "nothing":
            return content
        if self.manner == "everything":
            for piece in since:
                apply(content, piece)
            return content
        luck, count = self._luck, len(since)
        end = luck.randint(0, count)
        sizes = [len(content)]
        for offset, data in since:
            sizes.append(offset if data is None else max(sizes[-1], offset + len(data)))
        if self.manner == "prefix" or self.manner == "torn prefix":
            for piece in since[:end]:
                apply(content, piece)
            if self.manner == "torn prefix" and end < count:
                self._tear(content, since[end])
                return content
            return content
        for index, piece in enumerate(since):
            arrives = index >= end if self.manner == "last first" else luck.random() < self._share
            if arrives and luck.random() < self._torn:
                self._tear(content, piece)
            elif arrives:
                apply(content, piece)
        size = luck.choice((sizes[-1], sizes[luck.randint(0, count)]))
        if size <= len(content):
            del content[size:]
        else:
            gained = size - len(content)
            content.extend(bytes(gained) if self._fills_with_zeros else luck.randbytes(gained))
        return content

    def _tear(self, content: bytearray, piece: Piece) -> None:
        """Some of the sectors of a range arrive."""
        offset, data = piece
        if data is None:
            return
        at = 0
        while at < len(data):
            size = min(SECTOR - (offset + at) % SECTOR, len(data) - at)
            if self._luck.random() < 0.5:
                apply(content, Piece(offset + at, data[at : at + size]))
            at += size

    def names(self, directory: Inode) -> dict[str, Inode]:
        """What a directory names."""
        names = dict(directory.kept_names)
        since = directory.names_since
        if not since or self.manner == "nothing":
            return names
        if self.manner == "everything":
            return directory.names
        luck = self._luck
        end = luck.randint(0, len(since))
        for index, changes in enumerate(since):
            if (index < end) if self._names_in_order else (luck.random() < self._share):
                _name(names, changes)
        return names


def _name(names: dict[str, Inode], changes: dict[str, Inode | None]) -> None:
    for name, inode in changes.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _put(directory: Inode, target: Path, cut: Cut) -> None:
    for name, inode in cut.names(directory).items():
        place = target / name
        if inode.is_directory:
            place.mkdir()
            _put(inode, place, cut)
        else:
            place.write_bytes(cut.content(inode))
