"""The Lua scripts: read from `lua/`, one file per command, with the parts they share joined in.

A line `--- @include "name"` stands for the text of `lua/lib/name.lua`, which may include others. Each part is joined once, where
it is first asked for.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from iii_state.errors import ScriptError

_INCLUDE = re.compile(r'^[ \t]*--- @include "([^"\n]*)"[ \t]*\n?', re.MULTILINE)


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
    source = _join(folder / f"{name}.lua", folder / "lib", (), set()).encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


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
        if part in joined:
            return ""
        text = _join(library / f"{part}.lua", library, (*chain, part), joined)
        joined.add(part)
        return text

    return _INCLUDE.sub(include, text)


@cache
def script(name: str) -> Script:
    """The script of a command of this package, e.g. `script("update")`."""
    return read(name, directory())


def names() -> list[str]:
    """The commands there are scripts of, sorted."""
    return sorted(file.name.removesuffix(".lua") for file in directory().iterdir() if file.name.endswith(".lua"))
