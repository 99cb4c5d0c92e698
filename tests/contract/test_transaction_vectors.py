"""The vectors of `state::transact`, as callers have it, on every adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.functions import caller_of
from tests.support.stores import ALL, Store, drain
from tests.support.vectors import exact

_FILE = Path(__file__).parents[1] / "support" / "transaction-vectors.json"
VECTORS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))
"""`before` and `after` are values by key; `results`, `error` (code, message or null) or `refusal` what is answered."""


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
async def test_transaction_vectors(store: Store, vector: dict[str, Any]) -> None:
    call = caller_of(store)
    for key, value in vector["before"].items():
        await call("set", {"scope": "s", "key": key, "value": value})
    await store.subscribe(ALL)
    more = {"if_failed": vector["if_failed"]} if "if_failed" in vector else {}
    answer = await call("transact", {"scope": "s", "steps": vector["steps"], **more})
    if "error" in vector:
        code, message = vector["error"]
        assert answer[0] == code
        assert message in (None, answer[1])
    else:
        assert isinstance(answer, bytes), answer
        told = json.loads(answer)
        if "refusal" in vector:
            assert told.pop("etag")
            assert exact(dict(sorted(told.items()))) == exact(dict(sorted({"applied": False, **vector["refusal"]}.items())))
        else:
            assert exact(told) == exact({"results": vector["results"]})
    for key in {*vector["before"], *vector["after"], *(step["key"] for step in vector["steps"])}:
        found = await call("get_many", {"scope": "s", "keys": [key]})
        is_there, value = key in vector["after"], vector["after"].get(key)
        assert isinstance(found, bytes)
        assert exact(json.loads(found)) == exact({"values": [{"found": is_there, "value": value}]})
    assert len(await drain(store, ALL)) == (len(vector["steps"]) if "results" in vector else 0)
