"""A change as a line for people."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from iii_state import values
from iii_state.cli.terminal import name, printable
from iii_state.events import known_cause


def change_line(event: dict[str, Any], at: datetime) -> str:
    """The line of an event that was, or has come, at a time: with the day where that is another one than today."""
    kind = event["event_type"].removeprefix("state:")
    colour = {"created": "green", "updated": "yellow", "deleted": "red"}.get(kind)
    old, new = (_short(event[name]) for name in ("old_value", "new_value"))
    change = {"created": new, "deleted": old}.get(kind, f"{old} → {new}")
    day = "" if at.date() == datetime.now(at.tzinfo).date() else f"{at:%Y-%m-%d} "
    time = click.style(f"{day}{at:%H:%M:%S}", dim=True)
    place = click.style(f"{name(event['scope'])} {name(event['key'])}", bold=True)
    cause = known_cause(event.get("cause"))
    why = "" if cause is None else click.style(f"  ({cause})", dim=True)
    return f"{time} {click.style(f'{kind:<8}', fg=colour)} {place}  {change}{why}"


def _short(value: Any) -> str:
    text = values.encode(value).decode()
    return printable(text if len(text) <= 100 else f"{text[:97]}…")
