"""What is to be known of the file of a kv store that no engine has open."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from iii_state import values
from iii_state.adapters.kv.journal.stopped import StoppedFile, stopped_file
from iii_state.errors import InvalidValue, StoreError
from iii_state.observe.doctor.findings import Finding, Progress, counted, named, size
from iii_state.observe.doctor.subscriptions import of_dead_letters

LARGE_BYTES = 1024 * 1024
LITTLE_BYTES = 256 * 1024 * 1024
"""A disk that has no more room than this, or than the file itself takes, is nearly full."""

AHEAD_MS = 1000

_raw = msgspec.json.Decoder(msgspec.Raw)


def examine(directory: Path, progress: Progress) -> list[Finding]:
    """What is to be known of the file in a directory, which stays as it is. Raises `StoreError` where it cannot be read."""
    found = list(_beside(directory))
    try:
        with stopped_file(directory, is_written=False) as file:
            progress("the file")
            if damage := file.damage():
                return [*found, _damaged(damage)]
            found += [*_room(file), *_clock(file), *_subscriptions(file)]
            found += _values(file, progress)
    except StoreError as error:
        if "is damaged" not in str(error):
            raise
        return [*found, _damaged([str(error)])]
    return found


def _beside(directory: Path) -> Iterator[Finding]:
    others = sorted(path.name for path in directory.glob("*.bin")) if directory.is_dir() else []
    if others:
        yield Finding(
            "note",
            "stock-files",
            f"{directory} also holds files of a stock iii engine: {named(others)}",
            "Their values are not read.",
            "iii-state import --from-iii DIR takes them over; then move the files away",
        )


def _damaged(damage: list[str]) -> Finding:
    return Finding(
        "fault",
        "file-damaged",
        f"the file is damaged: {named(damage)}",
        "The disk, or another program, has changed it: what it holds cannot be relied on.",
        "Put a backup in its place (iii-state docs moving-data); sqlite3 FILE .recover may save more",
    )


def _room(file: StoppedFile) -> Iterator[Finding]:
    taken = file.path.stat().st_size
    free = shutil.disk_usage(file.path.parent).free
    if free < max(LITTLE_BYTES, taken):
        yield Finding(
            "warning",
            "disk-nearly-full",
            f"the disk of {file.path.parent} has {size(free)} left; the file takes {size(taken)}",
            "When it is full, writes fail; rewriting or backing up the file takes as much again.",
            "Make room, or move the directory",
        )


def _clock(file: StoppedFile) -> Iterator[Finding]:
    if file.ahead_ms > AHEAD_MS:
        yield Finding(
            "warning",
            "clock-skew",
            f"the clock shows {file.ahead_ms / 1000:.0f} s less than when the file was written last",
            "Deadlines and planned attempts are moved back by that at the next start.",
            "Have the machine keep time (NTP)",
        )


def _subscriptions(file: StoppedFile) -> Iterator[Finding]:
    waiting = file.waiting()
    if waiting:
        shown = [f"{name} ({count:,})" for name, count in waiting.most_common()]
        yield Finding(
            "note",
            "backlog",
            f"{counted(waiting.total(), 'event waits', 'events wait')} to be handled: {named(shown)}",
            "They are handled when an engine is started, and the workers of these functions come.",
            "If a worker does not come back: iii-state triggers remove FUNCTION, when an engine runs",
        )
    dead: Counter[str] = file.dead_letters()
    if dead:
        yield of_dead_letters(dead)
    paused = file.paused()
    if paused:
        yield Finding(
            "note",
            "subscription-paused",
            f"{counted(len(paused), 'subscription is', 'subscriptions are')} paused: {named(paused)}",
            "Their events wait until an operator lets them go on.",
            "iii-state triggers resume FUNCTION",
        )


def _values(file: StoppedFile, progress: Progress) -> list[Finding]:
    unreadable: list[str] = []
    large: list[tuple[int, str]] = []
    count = 0
    for number, scope in enumerate(file.scopes(), 1):
        for part in file.values(scope):
            count += len(part)
            for value in part:
                place = f"{scope!r} {value.key!r}"
                if len(value.text) > LARGE_BYTES:
                    large.append((len(value.text), f"{place} ({size(len(value.text))})"))
                try:
                    _check(value.text)
                except InvalidValue as error:
                    unreadable.append(f"{place}: {error}")
        progress(f"{count:,} values in {number:,} scopes")
    found = []
    if unreadable:
        found.append(
            Finding(
                "fault",
                "values-unreadable",
                f"{counted(len(unreadable), 'value is', 'values are')} no JSON: {named(unreadable)}",
                "Another program has written them, or the disk has damaged them.",
                "Set or delete them when an engine runs; or put a backup in the file's place",
            )
        )
    if large:
        large.sort(reverse=True)
        found.append(
            Finding(
                "warning",
                "values-large",
                f"{counted(len(large), 'value is', 'values are')} larger than {size(LARGE_BYTES)}: "
                f"{named([name for _, name in large])}",
                "Each update writes the whole value, and its event holds it twice.",
                "Split them into several keys; max_value_bytes bounds them",
            )
        )
    return found


def _check(text: bytes) -> None:
    """Raise `InvalidValue` for what is no JSON, or no UTF-8."""
    try:
        text.decode()
        values.to_stored(_raw.decode(text))
    except (UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise values.unreadable(error) from None
