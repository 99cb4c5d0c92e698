"""An export or import that is killed, at any point, goes on when it is run again, and comes to the same."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from iii_state.client.address import EngineAddress
from iii_state.errors import TransferError
from iii_state.transfer import stores
from iii_state.transfer.importing import ExportFile, Import, Imported, check
from iii_state.transfer.rows import ValueRow
from iii_state.transfer.stores import StorePlace
from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.stores import stored
from tests.transfer.places import KINDS, assert_same, fill, held_in, many_rows, place_of
from tests.transfer.test_pairs import exported

ROWS = [ValueRow("first", "k", stored(1)), *many_rows(2100, 5), ValueRow("zz", "k", stored(2))]


def options_of(place: StorePlace) -> list[str]:
    """How the command line names a store."""
    if place.redis is not None:
        return ["--redis-url", place.redis.redis_url]
    if place.directory is not None:
        return ["--file-path", str(place.directory)]
    assert place.engine is not None
    return ["--url", place.engine.url]


async def run(*arguments: str, killed_after: int | None = None) -> str:
    """Run a command; what it printed. With `killed_after` it has to die of SIGKILL when so many values have been moved."""
    deadly = ["-m", "tests.transfer.killed", str(killed_after)]
    command = [sys.executable, *(["-m", "iii_state"] if killed_after is None else deadly), *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    expected = 0 if killed_after is None else -signal.SIGKILL
    assert process.returncode == expected, err.decode()
    return out.decode()


@pytest.mark.parametrize(("kind", "suffix"), [*((kind, "") for kind in KINDS), ("file", ".gz"), ("file", ".zst")])
async def test_an_export_that_is_killed_goes_on(kind: str, suffix: str, tmp_path: Path) -> None:
    # Lines of a block's size between them, so that there is something to go on with in a compressed file.
    rows = [*ROWS, ValueRow("middle", "large", b'"%b"' % (b"x" * 1_500_000))]
    file = tmp_path / f"export.jsonl{suffix}"
    async with place_of(kind, tmp_path / "a", 5) as place, place_of("file", tmp_path / "b", 6) as other:
        await fill(place, rows)
        await run("export", str(file), *options_of(place), killed_after=9000)
        assert not file.exists()
        assert file.with_name(file.name + ".part").exists()
        told = json.loads(await run("export", str(file), *options_of(place), "--json"))
        assert (told["values"], 0 < told["resumed"] < 9000) == (len(rows), not suffix or told["resumed"] > 0)
        assert not file.with_name(file.name + ".part").exists()
        await run("import", str(file), *options_of(other))
        assert_same(await held_in(other), rows)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_import_that_is_killed_goes_on(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl.gz"
    async with place_of("file", tmp_path / "a", 5) as origin, place_of(kind, tmp_path / "b", 6) as place:
        await fill(origin, ROWS)
        await run("export", str(file), *options_of(origin))
        await run("import", str(file), *options_of(place), killed_after=5000)
        note = tmp_path / "export.jsonl.gz.import"
        assert note.exists()
        assert len(await held_in(place)) >= 5000
        told = json.loads(await run("import", str(file), *options_of(place), "--json"))
        assert told["resumed"] >= 1000
        assert told["resumed"] + told["stored"] + told["same"] == len(ROWS)
        assert not note.exists()
        assert_same(await held_in(place), ROWS)


async def test_an_export_onto_a_full_disk_goes_on_when_there_is_room(tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    async with place_of("engine", tmp_path / "a", 5) as origin:
        await fill(origin, ROWS)
        limited = f"ulimit -f 300; exec {sys.executable} -m iii_state export {file} {' '.join(options_of(origin))}"
        done = await asyncio.to_thread(subprocess.run, ["bash", "-c", limited], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "export.jsonl.part: File too large" in done.stderr
        assert "values were exported before that; the same command goes on from there" in done.stderr
        told = json.loads(await run("export", str(file), *options_of(origin), "--json"))
        assert told["values"] == len(ROWS)
        assert told["resumed"] > 0


async def test_an_import_into_an_engine_that_dies_goes_on_when_it_is_back(tmp_path: Path) -> None:
    file, folder = tmp_path / "export.jsonl", tmp_path / "b"
    async with place_of("file", tmp_path / "a", 5) as origin:
        await fill(origin, ROWS)
        await exported(origin, file)
    source = ExportFile(str(file))
    all_values = check(source, lambda done: None)

    async def imported(engine: EngineProcess, progress: Callable[[Imported], None]) -> Imported:
        place = StorePlace(engine=EngineAddress(engine.url))
        async with stores.target(place, "error", events=False, is_dry=False) as target:
            job = Import(source, target, note=tmp_path / "note", all_values=all_values, progress=progress)
            return await job.run()

    words = r"was lost.*; [1-9]\d* values were imported before that; .* goes on from there"
    with running_engine(["--file-path", str(folder)]) as engine, pytest.raises(TransferError, match=words):
        await imported(engine, lambda done: engine.kill() if sum(done.outcomes.values()) > 4000 else None)
    with running_engine(["--file-path", str(folder)]) as engine:
        done = await imported(engine, lambda done: None)
        assert done.resumed >= 1000
        assert done.resumed + sum(done.outcomes.values()) == len(ROWS)
    assert_same(await held_in(StorePlace(directory=folder)), ROWS)


async def test_a_note_of_another_store_or_file_counts_for_nothing(tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    async with place_of("file", tmp_path / "a", 5) as origin, place_of("file", tmp_path / "b", 6) as place:
        await fill(origin, ROWS)
        await run("export", str(file), *options_of(origin))
        await run("import", str(file), *options_of(place), killed_after=5000)
        another = StorePlace(directory=tmp_path / "c")
        assert json.loads(await run("import", str(file), *options_of(another), "--json"))["resumed"] == 0
        assert_same(await held_in(another), ROWS)


async def test_what_is_left_of_another_export_is_not_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "export.jsonl"
    async with place_of("file", tmp_path / "a", 5) as origin:
        await fill(origin, ROWS)
        await run("export", str(file), *options_of(origin), killed_after=5000)
        before = (tmp_path / "export.jsonl.part").read_bytes()
        with pytest.raises(AssertionError, match=r"is what is left of an export of .* remove it to begin anew"):
            await run("export", str(file), *options_of(origin), "--prefix", "many")
        (tmp_path / "export.jsonl.part").write_bytes(b"something else\n")
        with pytest.raises(AssertionError, match=r"export\.jsonl\.part: line 1 is no header"):
            await run("export", str(file), *options_of(origin))
        (tmp_path / "export.jsonl.part").write_bytes(before)
        await run("export", str(file), *options_of(origin))
        with pytest.raises(AssertionError, match="is there already; remove it, or name another file"):
            await run("export", str(file), *options_of(origin))


async def test_an_export_cut_at_any_byte_goes_on(tmp_path: Path) -> None:
    rows = [ValueRow(f"s{scope}", f"k{key}", stored([scope, key])) for scope in range(4) for key in range(3)]
    file = tmp_path / "export.jsonl"
    part = tmp_path / "export.jsonl.part"
    async with place_of("file", tmp_path / "a", 5) as origin:
        await fill(origin, rows)
        await exported(origin, file)
        whole = file.read_bytes()
        file.unlink()
        for length in range(0, len(whole) + 1, 3):
            part.write_bytes(whole[:length])
            await exported(origin, file)
            if length > whole.index(b"\n", whole.index(b"\n") + 1):
                assert file.read_bytes() == whole, length
            else:
                assert file.read_bytes().splitlines()[1:-1] == whole.splitlines()[1:-1]
            file.unlink()
