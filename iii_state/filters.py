"""Which events of its scope and key a trigger wants: those of some types, that change some members, whose values meet conditions.

Every adapter judges it where the old and the new text of a write are known, so that what does not match makes no queue entry; the
dispatcher judges it again before it calls a handler. `lua/lib/queues/judge.lua` is the same for Redis.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
from msgspec import Raw

from iii_state import values
from iii_state.values.conditions import Conditions, parse

LEFT_OUT = b"null "
"""Stands in a queue entry for a value that its trigger's `payload` leaves out. No text in normal form has a blank at its end; to an
engine of 0.2.0 it is a null."""

Path = tuple[str, ...]
"""Member names, one level each; none for the root."""


class Filter(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """What a trigger's config narrows its events to; empty members do not narrow. All of it belongs to the subscription's identity,
    so it is in one canonical form: sorted, each once.

    `event_types` are full names (`state:created`). An event matches `changed` where the text of one of the paths differs between
    old and new; appearing and going is differing. `when_old` and `when_new` are JSON arrays of conditions
    (`iii_state.values.conditions`) that all have to hold for the old, and the new text.
    """

    event_types: tuple[str, ...] = ()
    changed: tuple[Path, ...] = ()
    when_old: str = ""
    when_new: str = ""

    @cached_property
    def lines(self) -> list[tuple[bytes, Path]]:
        """Of each path of `changed`: how the line of its first name begins in a framed object (LF, the name, a colon; empty for the
        root), and the other names."""
        return [(b"\n%b:" % values.encode_string(path[0]) if path else b"", path[1:]) for path in self.changed]

    @cached_property
    def tokens(self) -> list[tuple[bytes, tuple[bytes, ...]]]:
        """The same with the other names as JSON strings in normal form."""
        return [(line, tuple(values.encode_string(name) for name in names)) for line, names in self.lines]

    def config(self) -> dict[str, Any]:
        """It as members of a trigger's config."""
        when = [{**each, "of": of} for of in ("old", "new") for each in values.decode(self._when(of) or b"[]")]
        members: dict[str, Any] = {"event_types": self.event_types, "changed": self.changed, "when": when}
        return {name: list(value) for name, value in members.items() if value}

    def _when(self, of: str) -> bytes:
        return (self.when_old if of == "old" else self.when_new).encode()

    @cached_property
    def conditions(self) -> list[tuple[bool, Conditions]]:
        """The conditions on the old text (True), and those on the new one, where there are any."""
        return [(of == "old", parse(text)) for of in ("old", "new") if (text := self._when(of))]

    def condition_words(self, *, of_old: bool) -> list[bytes]:
        """Those of one text as arguments of a script."""
        of_one = [conditions for is_old, conditions in self.conditions if is_old == of_old]
        return [word for conditions in of_one for condition in conditions.all for word in condition.words()]

    def wants(self, event_type: str, old: bytes | None, new: bytes | None) -> bool:
        """Whether an event matches; `old` and `new` are stored texts, None for none."""
        if self.event_types and event_type not in self.event_types:
            return False
        if self.changed and not self._has_changed(old, new):
            return False
        return all(conditions.failing(old if of_old else new) is None for of_old, conditions in self.conditions)

    def may_want(self, event_type: str, old: bytes | None, new: bytes | None) -> bool:
        """Whether an event that has been queued may match. What was left out of it has been judged before."""
        if old == LEFT_OUT or new == LEFT_OUT:
            return not self.event_types or event_type in self.event_types
        if self.wants(event_type, old, new):
            return True
        # Over a bridge, the end of a stored null looks like the deletion of a missing key: the store, which knew, has let it pass.
        return old is None and event_type == "state:deleted" and self.wants(event_type, b"null", new)

    def _has_changed(self, old: bytes | None, new: bytes | None) -> bool:
        if old == new:
            return False
        return any(_text_at(old, line, names) != _text_at(new, line, names) for line, names in self.lines)


def _text_at(stored: bytes | None, line: bytes, names: Path) -> bytes | None:
    """The text of what a path leads to, None where there is nothing."""
    if not line or stored is None:
        return stored
    if not stored.startswith(values.FRAME_START):
        return None
    begin = stored.find(line)
    if begin < 0:
        return None
    begin += len(line)
    end = stored.index(b"\n", begin)
    text = stored[begin : end - 1 if stored[end - 1] == 44 else end]
    for name in names:
        if not text.startswith(b"{"):
            return None
        found: Raw | None = values.members(text).get(name)
        if found is None:
            return None
        text = bytes(found)
    return text
