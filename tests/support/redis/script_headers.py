"""Reads what commands say of themselves: the first comment of each script."""

from __future__ import annotations

import re
from typing import NamedTuple

from iii_state.adapters.redis.scripts.loader import directory

ALIASES = {"heartbeat": "engine", "succession": "line", "scope_deadlines": "deadlines_of"}
"""Keys that scripts call by another name than `Keys` does."""

ANY_KEY = {
    ("deadlines/due", "times"),
    ("repair/move_aside", "key"),
    ("repair/move_aside", "aside"),
    ("repair/check_fleet", "scanning"),
}
"""Keys that are none of `Keys`, or any of them: a set of times, what was found in the way, the lock of the scan for scopes."""

TYPED = re.compile(r"\b([a-z_]+) \((hash|set|sorted set|stream|list|string|channel)\b")


def text_of(path: str) -> str:
    """The text of a command, or of a part as `lib/…`, without what it includes."""
    return directory().joinpath(*f"{path}.lua".split("/")).read_text("utf-8")


class Header(NamedTuple):
    """The first comment of a command, in its sections."""

    command: str
    text: str

    def section(self, word: str) -> str:
        """KEYS or ARGV, with the lines that go on."""
        found = re.search(rf"^{word}  (.*(?:\n      .*)*)", self.text, re.MULTILINE)
        return found[1].replace("\n", "   ") if found else ""

    def numbered(self, word: str) -> dict[int, str]:
        """The names of the arguments that have a place of their own."""
        return {int(number): name for number, name in re.findall(r"(?:^|\s{2,})(\d+) ([a-z_]+)", self.section(word))}

    @property
    def types(self) -> dict[str, str]:
        """Of each key, what Redis has there."""
        return dict(TYPED.findall(self.section("KEYS")))

    @property
    def replies(self) -> set[str]:
        """The words with which replies begin."""
        _, _, reply = self.text.partition("\nReply")
        return set(re.findall(r"^  ([A-Z_]{2,})\b", reply, re.MULTILINE))

    @property
    def refers(self) -> bool:
        """Whether its keys and arguments are those of values/set.lua."""
        return "values/set.lua" in self.text and "KEYS  " not in self.text

    @property
    def keys(self) -> re.Pattern[str]:
        """What the names of the keys of a call are, each with a blank before it."""
        if self.refers:
            return header("values/set").keys
        section = re.sub(r"\s+", " ", self.section("KEYS"))
        numbered = [r" \S+" if (self.command, name) in ANY_KEY else f" {name}" for name in self.numbered("KEYS").values()]
        if "the last three where it has" in section:
            numbered = [*numbered[:-3], f"(?:{''.join(numbered[-3:])})?"]
        pattern = "".join(numbered)
        for clause in re.split(r"(?=\bthen\b|\blast: )", section)[1:]:
            names = [name for name, _ in TYPED.findall(clause)]
            if clause.startswith("last: "):
                pattern += "".join(f" {name}" for name in names)
            elif clause.startswith("then of each"):
                pattern += f"(?:{''.join(f' {name}' for name in names)})*"
            elif clause.startswith("then, where"):
                pattern += f"(?:{''.join(f' (?:{name}|routes_version)' for name in names)})?"
            elif clause.startswith("then more keys"):
                pattern += r"(?: \S+)*"
        return re.compile(pattern)


def header(command: str) -> Header:
    """The header of a command."""
    text = text_of(command)
    assert text.startswith("--[[\n"), command
    return Header(command, text[5 : text.index("\n]]\n")])
