"""The loader, and what holds for every script."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import redis

from iii_state.adapters.redis.scripts.loader import MUTATIONS, PLAIN, SHARDED, names, read, script
from iii_state.errors import ScriptError
from tests.support import ROOT


def write(folder: Path, **files: str) -> Path:
    (folder / "lib").mkdir()
    for name, text in files.items():
        target = folder / f"{name}.lua" if name == "command" else folder / "lib" / f"{name}.lua"
        target.write_text(text)
    return folder


def test_parts_are_joined_once_where_they_are_first_asked_for(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        command='--- @include "b"\n--- @include "a"\nreturn a\n',
        a="local a\n",
        b='--- @include "a"\nlocal b\n',
    )
    joined = read("command", folder)
    assert joined.source == b"local a\nlocal b\nreturn a\n"
    assert joined.sha1 == hashlib.sha1(joined.source).hexdigest().encode()
    assert joined.name == "command"


def test_a_missing_part_is_named_with_who_asked_for_it(tmp_path: Path) -> None:
    folder = write(tmp_path, command='--- @include "a"\n', a='--- @include "b"\n')
    with pytest.raises(ScriptError, match=r'b\.lua, included by "a"'):
        read("command", folder)
    with pytest.raises(ScriptError, match=r"other\.lua"):
        read("other", folder)


def test_a_circular_include_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, command='--- @include "a"\n', a='--- @include "b"\n', b='--- @include "a"\n')
    with pytest.raises(ScriptError, match="circular include a -> b -> a"):
        read("command", folder)


def test_every_script_says_what_it_takes_and_answers() -> None:
    assert {"values/set", "queues/ack", "fleet/join"} <= set(names())
    for name in names():
        head = script(name).source.split(b"]]")[0]
        assert head.startswith(b"--[["), name
        for word in (b"KEYS", b"ARGV", b"eply"):
            assert word in head, name
        assert b"@include" not in script(name).source


def test_every_script_compiles_and_none_uses_what_some_servers_lack(client: redis.Redis) -> None:
    for name in names():
        source = script(name).source
        assert client.script_load(source) in (script(name).sha1, script(name).sha1.decode())
        code = re.sub(rb"--\[\[.*?\]\]|--[^\n]*", b"", source, flags=re.DOTALL)
        assert not re.search(rb"\b(cjson|cmsgpack|struct|bit)\b", code), name


def test_the_wheel_brings_the_scripts(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    loaded = "loader.directory(), loader.script('values/update').sha1.decode()"
    code = f"from iii_state.adapters.redis.scripts import loader; print({loaded})"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "installed", env={"PYTHONPATH": ""}, check=True, capture_output=True, text=True
    )
    where, digest = shown.stdout.split()
    assert where == str(tmp_path / "installed" / "iii_state" / "lua")
    assert digest.encode() == script("values/update").sha1


def test_the_sharded_scripts_publish_otherwise_and_are_the_same_in_all_else() -> None:
    assert PLAIN.of("values/set") is script("values/set")
    assert SHARDED.of("values/get") == script("values/get")
    for name in names():
        plain, sharded = PLAIN.of(name).source, SHARDED.of(name).source
        assert b"'PUBLISH'" not in sharded
        if name in MUTATIONS:
            sharded = sharded.removeprefix(b"KEYS[#KEYS] = nil\n")
        assert sharded.replace(b"'SPUBLISH'", b"'PUBLISH'") == plain
        assert re.findall(rb"\bPUBLISH\b", re.sub(rb"--.*|--\[\[.*?\]\]", b"", sharded)) == []
    assert [words[2] for words in SHARDED.load_commands()] == [SHARDED.of(name).source for name in names()]
