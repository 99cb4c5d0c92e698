"""The parts of the two long runs, over all adapters in turn, and a table of what they have come to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from tests.torture.figures import figures_of
from tests.torture.parts import Part, Tell
from tests.torture.raw import raw
from tests.torture.run import run

PARTS = {"torture": 24, "calls": 20}
"""How many there are unless told."""


def torture_parts(parts: int, minutes: float, seed: int, adapters: Sequence[str]) -> list[Part]:
    """Runs of so many minutes each, one adapter after the other, each with a seed of its own."""

    def work(adapter: str, own_seed: int) -> Callable[[Path, Tell], dict[str, Any]]:
        def torture(directory: Path, tell: Tell) -> dict[str, Any]:
            outcome = uvloop.run(run(adapter, own_seed, minutes * 60, directory, lambda what: tell(f"{adapter}: {what}")))
            return {"adapter": adapter, "seed": own_seed, "minutes": minutes, **figures_of(outcome.history, outcome.verdict)}

        return torture

    names = [(adapters[number % len(adapters)], seed + number) for number in range(parts)]
    return [Part(f"torture-{number:02d}-{names[number][0]}", work(*names[number])) for number in range(parts)]


def call_parts(parts: int, count: int, seed: int, adapters: Sequence[str]) -> list[Part]:
    """So many calls of raw clients, in parts of the same size."""

    def work(adapter: str, own_seed: int) -> Callable[[Path, Tell], dict[str, Any]]:
        def call(directory: Path, tell: Tell) -> dict[str, Any]:
            each = -(-count // parts)
            return uvloop.run(raw(adapter, own_seed, each, directory, lambda what: tell(f"{adapter}: {what}")))

        return call

    names = [(adapters[number % len(adapters)], seed + number) for number in range(parts)]
    return [Part(f"calls-{number:02d}-{names[number][0]}", work(*names[number])) for number in range(parts)]


def table(directory: Path) -> str:
    """The figures of all parts in a directory, as Markdown."""
    results = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    tortured = [result for result in results if result["part"].startswith("torture")]
    called = [result for result in results if result["part"].startswith("calls")]
    return "\n\n".join(filter(None, (_tortured(tortured), _called(called), _memory(called))))


def _rows(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line) + " |" for line in lines
    )


def _by_adapter(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    by_adapter: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        by_adapter.setdefault(str(result.get("adapter", "broken off")), []).append(result)
    return by_adapter


def _sum(results: list[dict[str, Any]], *path: str) -> int:
    total = 0
    for result in results:
        found: Any = result
        for name in path:
            found = found.get(name, {}) if isinstance(found, dict) else {}
        total += sum(found.values()) if isinstance(found, dict) and found else found if isinstance(found, int) else 0
    return total


def _tortured(results: list[dict[str, Any]]) -> str:
    if not results:
        return ""
    head = ["torture", "minutes", "faults", "writes", "of unknown outcome", "deliveries", "repeated", "old, told by fence"]
    head += ["expired", "dead as they should", "lost and counted (damaged keys)", "lost", "problems"]
    rows = [
        [
            adapter,
            round(sum(part.get("minutes", 0) for part in parts)),
            sum(count for part in parts for name, count in part.get("faults", {}).items() if name != "noticed"),
            _sum(parts, "writes", "all"),
            _sum(parts, "writes", "unknown"),
            _sum(parts, "deliveries"),
            _sum(parts, "repeated"),
            _sum(parts, "out_of_order_told_by_fence"),
            _sum(parts, "expired"),
            _sum(parts, "dead_letters_of_poisonous_events"),
            _sum(parts, "lost_with_damaged_keys_and_counted"),
            _sum(parts, "lost"),
            sum(len(part["problems"]) for part in parts),
        ]
        for adapter, parts in _by_adapter(results).items()
    ]
    return _rows(head, rows)


def _called(results: list[dict[str, Any]]) -> str:
    if not results:
        return ""
    head = ["raw calls", "calls", "calls/s", "faults", "connections", "unknown, made", "unknown, not made", "problems"]
    rows = []
    for adapter, parts in _by_adapter(results).items():
        rates = [part.get("calls_per_second", 0) for part in parts]
        faults = Counter(name for part in parts for name, count in part.get("faults", {}).items() for _ in range(count))
        faults.pop("noticed", None)
        rows.append(
            [
                adapter,
                _sum(parts, "calls"),
                f"{min(rates):,} to {max(rates):,}",
                faults.total(),
                _sum(parts, "connections"),
                _sum(parts, "unknown_and_made"),
                _sum(parts, "unknown_and_not_made"),
                sum(len(part["problems"]) for part in parts),
            ]
        )
    return _rows(head, rows)


def _memory(results: list[dict[str, Any]]) -> str:
    if not results:
        return ""
    rows = []
    for adapter, parts in _by_adapter(results).items():
        for name in sorted({name for part in parts for name in part.get("memory_mb", {})}):
            held = [part["memory_mb"][name] for part in parts if name in part.get("memory_mb", {})]
            spans = [
                f"{min(each[when] for each in held)} to {max(each[when] for each in held)}"
                for when in ("first_quarter", "last_quarter", "most")
            ]
            rows.append([adapter, name, *spans])
    return _rows(["memory, MB", "of", "first quarter", "last quarter", "most"], rows)
