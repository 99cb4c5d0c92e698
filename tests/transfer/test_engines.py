"""Through an engine: what comes in none of its pages, and what an engine cannot do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from iii_state.cli.calls import request
from iii_state.client.address import EngineAddress
from iii_state.client.client import Client
from iii_state.engine import Engine
from iii_state.errors import FunctionError, TransferError
from iii_state.transfer import stores
from iii_state.transfer.rows import ValueRow
from iii_state.transfer.stores import StorePlace
from tests.support.stores import engine_over, stored
from tests.transfer.places import fill, held_in, many_rows


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[StorePlace]:
    async with engine_over("kv", tmp_path, None) as (url, _):
        yield StorePlace(engine=EngineAddress(url))


async def open_cursors(reader: Client) -> None:
    """Begin to read a scope again and again; ends where the engine has kept all it can."""
    while True:
        await reader.call("state::list_entries", request(scope="many-0", limit=1))


async def test_where_others_read_all_that_an_engine_can_keep_scopes_are_read_key_by_key(place: StorePlace) -> None:
    rows = [*many_rows(1500, 1), ValueRow("large", "text", b'"%b"' % (b"x" * 9_000_000)), ValueRow("large", "null", b"null")]
    await fill(place, rows)
    assert place.engine is not None
    async with Client(place.engine) as reader:
        with pytest.raises(FunctionError, match="SNAPSHOT_CAPACITY"):
            await open_cursors(reader)
        assert await held_in(place) == sorted(rows)


async def test_values_that_are_too_large_for_a_page_come_with_the_others(place: StorePlace) -> None:
    rows = [ValueRow("s", f"large-{number}", b'"%b"' % (b"x" * 9_000_000)) for number in range(3)]
    rows += [ValueRow("s", f"small-{number}", stored(number)) for number in range(1200)]
    await fill(place, rows)
    assert await held_in(place) == sorted(rows)


async def test_an_engine_without_state_is_told_of(tmp_path: Path) -> None:
    async with Engine() as engine:
        host, port = await engine.serve("127.0.0.1", 0)
        nowhere = StorePlace(engine=EngineAddress(f"ws://{host}:{port}"))
        with pytest.raises(TransferError, match="has no state"):
            await held_in(nowhere)
        with pytest.raises(TransferError, match="has no state"):
            async with stores.target(nowhere, "overwrite", events=True, is_dry=False):
                pass
