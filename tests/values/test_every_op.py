"""An op is known everywhere or nowhere: a place that is forgotten fails here, by its name."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings

from iii_state.adapters.redis.scripts import mutations
from iii_state.state import ops
from iii_state.values.ops import Op, OpType
from tests.support import ROOT
from tests.support.strategies import OPS
from tests.support.vectors import VECTORS

KNOWN = set(get_args(OpType))
PAGES = ("iii_state/docs/functions.md", "iii_state/skills/how-to/update.md")


def test_the_vectors_have_every_op() -> None:
    assert {op["type"] for vector in VECTORS for op in vector["ops"]} & KNOWN == KNOWN


def test_the_builders_are_those_of_the_ops() -> None:
    built = {name for name, function in vars(ops).items() if callable(function) and function.__module__ == ops.__name__}
    assert {name for name in built if not name.startswith("_")} == KNOWN


def test_redis_is_told_every_compiled_op() -> None:
    assert set(mutations._KINDS) == set(get_args(get_type_hints(Op)["type"])) == KNOWN - {"decrement"}, "compiled into increment"


def test_hypothesis_makes_up_every_op() -> None:
    seen: set[str] = set()

    @settings(max_examples=500, deadline=None, database=None)
    @given(OPS)
    def see(op: dict[str, Any]) -> None:
        seen.add(op["type"])

    see()
    assert seen & KNOWN == KNOWN


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_the_pages_have_every_op(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    table = text[text.index("| op | fields | does |") :].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == KNOWN
