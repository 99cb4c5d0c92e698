"""`iii-state lua-load`: the scripts are put on servers, or found missing, and nothing else happens."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result

from iii_state.adapters.redis.cluster.layout import Layout
from iii_state.adapters.redis.scripts.loader import PARTED, SHARDED, names, script
from iii_state.cli import main
from tests.support.engines.processes import free_port
from tests.support.redis.nodes import shared_nodes
from tests.support.redis.server import shared_server


def lua_load(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["lua-load", *arguments])


def test_it_loads_what_is_missing_and_says_what_was_there() -> None:
    server = shared_server()
    server.client.script_flush()
    server.client.script_load(script("values/set").source)
    result = lua_load("--redis-url", server.url)
    assert result.exit_code == 0, result.output
    for name in names():
        assert script(name).sha1.decode() in result.output
    assert result.output.count("loaded") == len(names()) - 1
    assert all(server.client.script_exists(*(script(name).sha1.decode() for name in names())))


def test_check_changes_nothing_and_fails_for_a_missing_script() -> None:
    server = shared_server()
    server.client.script_flush()
    result = lua_load("--redis-url", server.url, "--check")
    assert result.exit_code == 1
    assert "missing" in result.output
    assert not any(server.client.script_exists(*(script(name).sha1.decode() for name in names())))
    lua_load("--redis-url", server.url)
    assert lua_load("--redis-url", server.url, "--check").exit_code == 0


def test_several_servers_as_json_and_one_that_is_down() -> None:
    server, port = shared_server(), free_port()
    server.client.script_flush()
    result = lua_load("--redis-url", f"redis://:secret@127.0.0.1:{port}", "--redis-url", server.url, "--json")
    assert result.exit_code == 1
    assert f"Connection to Redis at 127.0.0.1:{port} refused" in result.stderr
    assert "secret" not in result.output
    (told,) = json.loads(result.stdout)
    assert told["redis"] == f"127.0.0.1:{server.port}"
    assert {row["name"]: row["was"] for row in told["scripts"]} == dict.fromkeys(names(), "loaded")


def test_a_url_that_is_none_is_an_error_without_its_password() -> None:
    result = lua_load("--redis-url", "http://me:secret@example.org")
    assert result.exit_code == 1
    assert "redis_url" in result.stderr
    assert "secret" not in result.output


def test_every_master_of_a_cluster_gets_the_scripts() -> None:
    nodes = shared_nodes()
    for master in nodes.masters():
        master.client.script_flush()
    assert lua_load("--redis-url", nodes.url, "--check").exit_code == 1
    result = lua_load("--redis-url", nodes.seeds)
    assert result.exit_code == 0, result.output
    for master in nodes.masters():
        assert f"127.0.0.1:{master.port}\n" in result.output
        assert all(master.client.script_exists(*(SHARDED.of(name).sha1.decode() for name in names())))
    assert lua_load("--redis-url", nodes.url, "--check").exit_code == 0


def test_a_fleet_gets_the_scripts_of_its_kind_of_wake_ups() -> None:
    nodes = shared_nodes()
    client = nodes.client()
    client.set("other:format", str(Layout(16, is_sharded=False)))
    try:
        for prefix, scripts in (("other", PARTED), ("iii-state", SHARDED)):
            for master in nodes.masters():
                master.client.script_flush()
            assert lua_load("--redis-url", nodes.url, "--prefix", prefix).exit_code == 0
            for master in nodes.masters():
                assert all(master.client.script_exists(*(scripts.of(name).sha1.decode() for name in names())))
    finally:
        client.delete("other:format")
