"""The Lua scripts: read from `lua/`, one file per command, with the parts they share joined in.

A command's name is its path, as in `script("queues/ack")`: what a call names is the file to open. `lua/lib/` holds parts, which
are no commands. A line `--- @include "queues/take"` stands for the text of `lua/lib/queues/take.lua`, which may include others.
Each part is joined once, where it is first asked for; with `again` behind its name, for functions that are only made inside of a
block, it and what it includes are joined there in any case.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from iii_state.errors import ScriptError

_INCLUDE = re.compile(r'^[ \t]*--- @include "([^"\n]*)"( again)?[ \t]*\n?', re.MULTILINE)
_PARTS = "lib"


class Script(NamedTuple):
    """One command's script: what EVAL takes, and the digest that EVALSHA takes (40 hex digits)."""

    name: str
    source: bytes
    sha1: bytes


def directory() -> Traversable:
    """Where the scripts lie: inside the installed package, beside it in a checkout."""
    package = files("iii_state")
    installed = package / "lua"
    if installed.is_dir():
        return installed
    checkout = Path(str(package)).parent / "lua"
    if checkout.is_dir():
        return checkout
    raise ScriptError(f"no Lua scripts in {installed} or {checkout}: the installation is incomplete")


def read(name: str, folder: Traversable) -> Script:
    """Read the script of a command and what it includes from `folder`.

    Raises `ScriptError` for a missing file and for parts that include each other.
    """
    return _of_source(name, _join(_file(folder, name), folder / _PARTS, (), set()).encode())


def _of_source(name: str, source: bytes) -> Script:
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


def _file(folder: Traversable, name: str) -> Traversable:
    return folder.joinpath(*f"{name}.lua".split("/"))


def _join(file: Traversable, library: Traversable, chain: tuple[str, ...], joined: set[str]) -> str:
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        asked = f', included by "{chain[-2]}"' if len(chain) > 1 else ", included by the command" if chain else ""
        raise ScriptError(f"no file {file}{asked}") from None

    def include(match: re.Match[str]) -> str:
        part = match[1]
        if part in chain:
            raise ScriptError(f"{file}: circular include {' -> '.join((*chain, part))}")
        if match[2]:
            return _join(_file(library, part), library, (*chain, part), set())
        if part in joined:
            return ""
        text = _join(_file(library, part), library, (*chain, part), joined)
        joined.add(part)
        return text

    return _INCLUDE.sub(include, text)


@cache
def script(name: str) -> Script:
    """The script of a command of this package as its file has it, e.g. `script("values/update")`."""
    return read(name, directory())


MUTATIONS = frozenset(
    (
        *("values/set", "values/delete", "values/update", "values/touch", "values/transact", "values/change_many"),
        *("deadlines/expire", "foreign/capture"),
    )
)
"""The scripts whose calls bear numbers that make them recognisable: they are made by `mutation`, `transaction` and `Packing`."""

_WITHOUT_GUARD = b"KEYS[#KEYS] = nil\n"


class Scripts:
    """The scripts of one store. Those of a single Redis have the text of the files.

    `sharded` ones publish with SPUBLISH, which only the nodes of a cluster hear that have the channel's slot; `publish` is the word
    for what is published without a script. In a cluster (`parted`) the mutations have a last key more, `Keys.guard`, which is there
    for the server alone.
    """

    def __init__(self, *, sharded: bool = False, parted: bool = False) -> None:
        self.is_sharded = sharded
        self._is_parted = parted
        self.publish = b"SPUBLISH" if sharded else b"PUBLISH"
        self._known: dict[str, Script] = {}
        self._loading: list[tuple[bytes, ...]] = []

    def of(self, name: str) -> Script:
        """The script of a command."""
        known = self._known.get(name)
        return self._known.setdefault(name, self._made(name)) if known is None else known

    def _made(self, name: str) -> Script:
        source = script(name).source
        if self.is_sharded:
            source = source.replace(b"'PUBLISH'", b"'SPUBLISH'")
        if self._is_parted and name in MUTATIONS:
            source = _WITHOUT_GUARD + source
        return _of_source(name, source) if source != script(name).source else script(name)

    def load_commands(self) -> list[tuple[bytes, ...]]:
        """What loads every script. They are small; a server that has them already compiles nothing."""
        if not self._loading:
            self._loading = [(b"SCRIPT", b"LOAD", self.of(name).source) for name in names()]
        return self._loading


PLAIN = Scripts()
"""Of a single Redis."""
PARTED, SHARDED = Scripts(parted=True), Scripts(sharded=True, parted=True)
"""Of a cluster."""


def names() -> list[str]:
    """The commands there are scripts of, sorted."""
    folder = directory()
    return sorted(name for name in _files(folder) if not name.startswith(f"{_PARTS}/"))


def parts() -> list[str]:
    """The parts that commands include, sorted."""
    return sorted(_files(directory() / _PARTS))


def _files(folder: Traversable, beginning: str = "") -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{beginning}{entry.name}/")
        elif entry.name.endswith(".lua"):
            yield beginning + entry.name.removesuffix(".lua")
