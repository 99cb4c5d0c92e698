"""`iii-state export`, `import` and `backup`, as they are typed."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from iii_state.cli import main
from iii_state.transfer.rows import ValueRow
from iii_state.transfer.stores import StorePlace
from tests.support.engines.processes import running_engine
from tests.support.stores import stored
from tests.transfer.places import fill, held_in

ROWS = [
    ValueRow("orders", "o1", stored({"n": 1})),
    ValueRow("users", "ada", stored({"name": "Ada"})),
    ValueRow("users", "bob", stored([])),
]


def typed(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), input=text)


async def typed_meanwhile(*arguments: str | Path) -> Result:
    """The same, where a loop runs already."""
    return await asyncio.to_thread(typed, *arguments)


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    await fill(StorePlace(directory=tmp_path / "store"), ROWS)
    return tmp_path / "store"


def test_from_a_file_to_another_and_what_is_told(store: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "all.jsonl.gz", tmp_path / "other"
    dry = typed("export", file, "--file-path", store, "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "3 values of 2 scopes would be exported\n")
    assert not file.exists()
    done = typed("export", file, "--file-path", store)
    assert done.stdout.startswith("exported 3 values of 2 scopes: ")
    dry = typed("import", file, "--file-path", other, "--dry-run")
    assert dry.stdout.startswith("3 values would be imported: ")
    assert not other.exists()
    assert typed("import", file, "--file-path", other).stdout.startswith("3 values imported: ")
    again = json.loads(typed("import", file, "--file-path", other, "--json").stdout)
    assert {name: again[name] for name in ("stored", "same", "taken", "expired", "resumed")} == {
        "stored": 0,
        "same": 3,
        "taken": 0,
        "expired": 0,
        "resumed": 0,
    }


def test_from_standard_output_to_standard_input(store: Path, tmp_path: Path) -> None:
    done = typed("export", "-", "--file-path", store, "--scope", "users")
    assert done.stderr.startswith("exported 2 values of 1 scope: ")
    head, *lines, _ = done.stdout.splitlines()
    assert json.loads(head)["iii_state_export"] == 1
    assert lines == ['{"scope":"users","key":"ada","value":{"name":"Ada"}}', '{"scope":"users","key":"bob","value":[]}']
    put = typed("import", "-", "--file-path", tmp_path / "other", text=done.stdout)
    assert (put.exit_code, put.stdout.split(":")[0]) == (0, "2 values imported")
    cut = typed("import", "-", "--file-path", tmp_path / "third", text="\n".join([head, *lines]) + "\n")
    assert cut.exit_code == 1
    assert "standard input: the file ends behind line 3, without a trailer" in cut.stderr
    assert "nothing was imported before that" in cut.stderr
    assert len(cut.stderr.splitlines()) == 1
    assert "\\n" not in cut.stderr


def test_a_pipe_is_read_once(store: Path, tmp_path: Path) -> None:
    text = typed("export", "-", "--file-path", store).stdout_bytes
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    done = typed("import", pipe, "--file-path", tmp_path / "other")
    writer.join()
    assert (done.exit_code, done.stdout.split(":")[0]) == (0, "3 values imported")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "pipe", "store"]


async def test_an_import_that_fails_says_how_far_it_came(store: Path, tmp_path: Path) -> None:
    other = StorePlace(directory=tmp_path / "other")
    await fill(other, [ValueRow("users", "bob", stored(7))])
    file = tmp_path / "all.jsonl"
    assert (await typed_meanwhile("export", file, "--file-path", store)).exit_code == 0
    done = await typed_meanwhile("import", file, "--file-path", tmp_path / "other")
    assert done.exit_code == 1
    assert "scope 'users', key 'bob' has another value in " in done.stderr
    assert "2 values were imported before that; the same command goes on from there" in done.stderr
    assert [row.text for row in await held_in(other)] == [ROWS[0].text, ROWS[1].text, b"7"]
    skipping = await typed_meanwhile("import", file, "--file-path", tmp_path / "other", "--on-conflict", "skip")
    assert "1 left alone" in skipping.stdout


def test_a_configuration_names_the_store(store: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    kv = {"store_method": "file_based", "file_path": str(store)}
    config.write_text(json.dumps({"workers": [{"name": "iii-state", "config": {"adapter": {"name": "kv", "config": kv}}}]}))
    assert typed("export", tmp_path / "all.jsonl", "--config", config).exit_code == 0
    config.write_text(json.dumps({"workers": [{"name": "iii-state", "config": {}}]}))
    done = typed("export", tmp_path / "all.jsonl", "--config", config)
    assert (done.exit_code, "lives in the memory of its engine: give --url" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read "),
        ("workers: [", " is no YAML: "),
        ("workers: [{name: iii-state, config: {histroy: []}}]", "unknown key histroy; did you mean history?"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_line(text: str | None, words: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    if text is not None:
        config.write_text(text)
    for command in ("export", "import"):
        done = typed(command, tmp_path / "all.jsonl", "--config", config)
        assert (done.exit_code, words in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr


def test_a_directory_that_is_missing_is_named(store: Path, tmp_path: Path) -> None:
    for command in ("export", "import"):
        done = typed(command, tmp_path / "nodir" / "all.jsonl", "--file-path", store)
        assert (done.exit_code, f"there is no directory {tmp_path / 'nodir'}" in done.stderr) == (1, True), done.stderr


def test_an_export_tells_the_size_of_all_that_it_has_written(store: Path, tmp_path: Path) -> None:
    for chosen in ((), ("--scope", "nosuch")):
        file = tmp_path / f"{len(chosen)}.jsonl"
        done = typed("export", file, "--file-path", store, *chosen, "--json")
        assert json.loads(done.stdout)["bytes"] == file.stat().st_size
    done = typed("export", tmp_path / "all.jsonl.gz", "--file-path", store)
    assert " bytes before compression in " in done.stdout


def test_a_file_that_is_not_compressed_as_its_name_says_is_no_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl.gz").write_text("# notes\n")
    done = typed("import", tmp_path / "all.jsonl.gz", "--file-path", tmp_path / "new")
    assert done.exit_code == 1
    assert "cannot be read: Not a gzipped file" in done.stderr
    assert "is it what its name ends with?" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export",), "Missing argument 'FILE'"),
        (("import",), "give FILE, or --from-iii DIR"),
        (("import", "a", "--from-iii", "."), "give FILE, or --from-iii DIR"),
        (("export", "a", "--redis-url", "redis://x", "--file-path", "y"), "--redis-url and --file-path were given"),
        (("export", "a", "--url", "ws://x", "--file-path", "y"), "--file-path and --url were given"),
        (("export", "a", "--redis-prefix", "y"), "give --redis-url with it"),
        (("import", "a", "--on-conflict", "maybe"), "'maybe' is not one of 'error', 'skip', 'overwrite'"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], words: str) -> None:
    done = typed(*arguments)
    assert (done.exit_code, words in done.stderr) == (2, True), done.stderr


def test_a_store_that_is_not_there_or_in_use(tmp_path: Path, store: Path) -> None:
    done = typed("export", tmp_path / "a", "--file-path", tmp_path / "none")
    assert (done.exit_code, "there is no store in" in done.stderr) == (1, True)
    assert not (tmp_path / "none").exists()
    with running_engine(["--file-path", str(store)]) as engine:
        for command in (("export", tmp_path / "a"), ("import", tmp_path / "b")):
            (tmp_path / "b").write_bytes(b"")
            done = typed(*command, "--file-path", store)
            assert done.exit_code == 1
        assert (
            "is in use by a process: stop its engine first, or go through it with --url"
            in typed("export", tmp_path / "a", "--file-path", store).stderr
        )
        assert typed("export", tmp_path / "a", "--url", engine.url).exit_code == 0


def test_a_backup_is_a_store_of_its_own(tmp_path: Path, store: Path) -> None:
    with running_engine(["--file-path", str(store)]) as engine:
        made = json.loads(typed("backup", "monday", "--url", engine.url, "--json").stdout)
        assert (made["path"], made["bytes"]) == (str(store / "backups" / "monday"), (store / "backups" / "monday").stat().st_size)
        again = typed("backup", "monday", "--url", engine.url)
        assert (again.exit_code, "is there already: give another name, or remove it" in again.stderr) == (1, True)
        named = typed("backup", "../monday", "--url", engine.url)
        assert (named.exit_code, "name: it has to be the name of a file" in named.stderr) == (1, True)
        assert "state-" in typed("backup", "--url", engine.url).stdout
        assert typed("set", "users", "ada", "2", "--url", engine.url).exit_code == 0
    restored = tmp_path / "restored"
    restored.mkdir()
    (store / "backups" / "monday").rename(restored / "state.sqlite3")
    with running_engine(["--file-path", str(restored)]) as engine:
        assert typed("get", "users", "ada", "--url", engine.url).stdout == '{"name":"Ada"}\n'


def test_a_store_in_memory_has_no_file_to_copy() -> None:
    with running_engine() as engine:
        done = typed("backup", "--url", engine.url)
    assert (done.exit_code, "this store lives in memory" in done.stderr) == (1, True)


def test_on_a_terminal_there_is_a_bar(store: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "iii_state", "export", str(tmp_path / "all.jsonl"), "--file-path", str(store)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110"}
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the terminal's other side is gone
            break
        if not more:
            break
        shown += more
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"exporting" in shown
    assert b"3 values" in shown
    assert out.startswith(b"exported 3 values of 2 scopes")
