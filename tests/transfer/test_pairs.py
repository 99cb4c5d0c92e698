"""From any store to any other: every name and value comes out as it went in, over a file of each compression."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import redis

from iii_state.adapters.wall_clock import now_ms
from iii_state.errors import TransferError
from iii_state.transfer import stores
from iii_state.transfer.exporting import Export
from iii_state.transfer.importing import ExportFile, Import, Imported, check
from iii_state.transfer.lines import Selection
from iii_state.transfer.rows import OnConflict, RowOutcome, ValueRow
from iii_state.transfer.stores import StorePlace
from tests.support.stores import stored
from tests.transfer.places import HOUR_MS, KINDS, assert_same, fill, held_in, hostile_rows, many_rows, place_of

SUFFIXES = {"file": "", "redis": ".gz", "engine": ".zst", "bridge": ".gz"}

every_kind = pytest.mark.parametrize("kind", KINDS)


async def exported(place: StorePlace, file: Path, selection: Selection | None = None) -> Path:
    async with stores.source(place) as source:
        await Export(source, str(file), selection or Selection()).run()
    return file


async def imported(
    place: StorePlace,
    file: Path,
    on_conflict: OnConflict = "overwrite",
    *,
    is_dry: bool = False,
    selection: Selection | None = None,
) -> Imported:
    source = ExportFile(str(file))
    all_values = check(source, lambda done: None)
    async with stores.target(place, on_conflict, events=True, is_dry=is_dry) as target:
        job = Import(source, target, on_conflict, selection or Selection(), all_values=all_values)
        return await job.run(is_dry=is_dry)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("origin", KINDS)
async def test_every_name_and_value_survives(origin: str, to: str, tmp_path: Path) -> None:
    wanted = [*hostile_rows(), *many_rows(2100)]
    async with place_of(origin, tmp_path / "a", 5) as first, place_of(to, tmp_path / "b", 6) as second:
        await fill(first, wanted)
        file = await exported(first, tmp_path / f"export.jsonl{SUFFIXES[origin]}")
        done = await imported(second, file)
        assert (done.outcomes[RowOutcome.STORED], done.all_values) == (len(wanted), len(wanted))
        assert_same(await held_in(second), wanted)


@every_kind
async def test_a_value_of_16_mib(kind: str, tmp_path: Path) -> None:
    large = ValueRow("large", "value", b'"%b"' % (b"x" * (16 * 1024 * 1024 - 2)), now_ms() + HOUR_MS)
    wanted = [large, *many_rows(2100, 1), ValueRow("large", "other", stored(1))]
    async with place_of(kind, tmp_path, 5) as place, place_of("file", tmp_path, 6) as other:
        await fill(place, wanted)
        await imported(other, await exported(place, tmp_path / "export.jsonl"))
        found = await held_in(other)
    assert [row[:3] for row in found] == [row[:3] for row in sorted(wanted)]


@every_kind
async def test_scopes_are_chosen_by_name_and_prefix(kind: str, tmp_path: Path) -> None:
    rows = [ValueRow(scope, "k", stored(scope)) for scope in ("users", "users:1", "users:2", "orders", "")]
    async with place_of(kind, tmp_path, 5) as place, place_of("file", tmp_path, 6) as other:
        await fill(place, rows)
        file = await exported(place, tmp_path / "some.jsonl", Selection(("orders",), ("users:",)))
        done = await imported(other, file, selection=Selection(prefixes=("users",)))
        assert (done.outcomes[RowOutcome.STORED], done.left_out) == (2, 1)
        assert [row.scope for row in await held_in(other)] == ["users:1", "users:2"]


@every_kind
async def test_another_value_that_is_there_is_a_conflict(kind: str, tmp_path: Path) -> None:
    async with place_of("file", tmp_path, 5) as origin, place_of(kind, tmp_path, 6) as place:
        await fill(origin, [ValueRow("s", key, stored({"key": key})) for key in "abc"])
        file = await exported(origin, tmp_path / "export.jsonl")
        await fill(place, [ValueRow("s", "a", stored({"key": "a"})), ValueRow("s", "b", stored(None))])
        dry = await imported(place, file, "error", is_dry=True)
        assert (dry.outcomes[RowOutcome.SAME], dry.outcomes[RowOutcome.TAKEN], dry.outcomes[RowOutcome.STORED]) == (1, 1, 1)
        with pytest.raises(Exception, match="scope 's', key 'b' has another value") as caught:
            await imported(place, file, "error")
        assert "--on-conflict skip or overwrite" in str(caught.value)
        skipped = await imported(place, file, "skip")
        assert skipped.outcomes[RowOutcome.TAKEN] == 1
        assert [row.text for row in await held_in(place)] == [stored({"key": "a"}), b"null", stored({"key": "c"})]
        await imported(place, file, "overwrite")
        assert [row.text for row in await held_in(place)] == [stored({"key": key}) for key in "abc"]


@every_kind
async def test_what_has_expired_meanwhile_is_left_out(kind: str, tmp_path: Path) -> None:
    header = b'{"iii_state_export":1,"version":"0","id":"x","from":"here","at":"now"}\n'
    text = header + b'{"scope":"s","key":"k","value":1,"deadline_ms":1000}\n'
    file = tmp_path / "old.jsonl"
    file.write_bytes(b'%b{"end":{"scopes":1,"values":1,"sha256":"%b"}}\n' % (text, hashlib.sha256(text).hexdigest().encode()))
    async with place_of(kind, tmp_path, 5) as place:
        done = await imported(place, file)
        assert done.outcomes[RowOutcome.EXPIRED] == 1
        if kind != "file":
            assert await held_in(place) == []


async def test_a_stock_engines_redis_is_read_as_ours(tmp_path: Path) -> None:
    async with place_of("redis", tmp_path, 5) as place:
        assert place.redis is not None
        client = redis.Redis.from_url(place.redis.redis_url)
        client.hset("state:users", mapping={"ada": '{ "name": "Ada",\n "tags": [ ] }', "n": " 1.0"})
        client.close()
        file = await exported(place, tmp_path / "export.jsonl")
        done = await imported(place, file, "error")
        assert done.outcomes[RowOutcome.SAME] == 2, "the spelling is another program's, and the values are those"
        client = redis.Redis.from_url(place.redis.redis_url)
        client.hset("state:zz", "broken", "{no JSON")
        client.close()
        with pytest.raises(
            TransferError, match=r"scope 'zz', key 'broken' is not ours, and no JSON.*; 2 values .*goes on from there"
        ):
            await exported(place, tmp_path / "broken.jsonl")
    lines = file.read_bytes().splitlines()[1:-1]
    assert sorted(lines) == [
        b'{"scope":"users","key":"ada","value":{"name":"Ada","tags":[]}}',
        b'{"scope":"users","key":"n","value":1.0}',
    ]
