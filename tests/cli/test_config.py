"""`iii-state config`: what is wrong with a file, and what a file comes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from iii_state import config as configuration
from iii_state.cli import main
from iii_state.guard.tokens import hashed, make


def written(path: Path, config: Any) -> str:
    path.write_text(yaml.safe_dump({"workers": [{"name": "iii-state", "config": config}]}))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


def test_a_good_file_can_be_used(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(yaml.safe_dump({"tokens": [{"name": "ci", "hash": hashed(make())}]}))
    file = written(tmp_path / "config.yaml", {"server": {"tokens_file": str(tokens)}, "log_level": "info"})
    done = run("check", file)
    assert (done.exit_code, done.stdout) == (0, f"{file} can be used\n")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"max_values": 1}, "unknown key max_values; did you mean max_value_bytes?"),
        ({"log_level": "loud"}, "log_level has to be one of debug, info, warning, error"),
        ({"server": {"tokens_file": "/nowhere/tokens.yaml"}}, "cannot read /nowhere/tokens.yaml"),
        ({"server": {"limits": {"calls_in_flight": 0}}}, "server.limits.calls_in_flight has to be a whole number of at least 1"),
        ({"server": {"tls": {"cert": "/nowhere/c.pem", "key": "/nowhere/k.pem"}}}, "/nowhere/c.pem"),
        ({"server": {"host": "0.0.0.0"}}, "0.0.0.0 can be reached by others: give a token"),
        (
            {"adapter": {"name": "redis", "config": {"redis_url": "http://:s3cret@x"}}},
            "redis_url cannot be read: it has to begin with",
        ),
        (
            {"adapter": {"name": "redis", "config": {"redis_url": "rediss://x", "tls": {"ca": "/nowhere/ca.pem"}}}},
            "/nowhere/ca.pem cannot be used: No such file or directory",
        ),
        (
            {"adapter": {"name": "bridge", "config": {"bridge_url": "wss://x", "ca_file": "/nowhere/ca.pem"}}},
            "/nowhere/ca.pem cannot be used: No such file or directory",
        ),
        ({"adapter": {"name": "bridge", "config": {"token_file": "/nowhere/token"}}}, "cannot read /nowhere/token"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_in_one_line(tmp_path: Path, config: Any, says: str) -> None:
    done = run("check", written(tmp_path / "config.yaml", config))
    assert done.exit_code == 1
    assert says in done.stderr
    assert done.stderr.startswith(f"Error: {tmp_path / 'config.yaml'}: ")
    assert "s3cret" not in done.output
    assert done.stderr.count("\n") == 1


def test_only_the_file_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("")
    (tmp_path / "empty.yaml").write_text("")
    tls = {"cert": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}
    said = run("check", written(tmp_path / "config.yaml", {"server": {"tls": tls}})).stderr
    assert said.endswith(f": tls: {tmp_path / 'k.pem'} cannot be used: No such file or directory\n")
    said = run("check", written(tmp_path / "config.yaml", {"server": {"tokens_file": str(tmp_path / "empty.yaml")}})).stderr
    assert said.endswith(f": {tmp_path / 'empty.yaml'} has to be a mapping with a list `tokens`, not null\n")


def test_no_file_is_an_error(tmp_path: Path) -> None:
    for command in ("check", "show"):
        assert "cannot read" in run(command, str(tmp_path / "nowhere.yaml")).stderr


def test_every_setting_is_shown_with_its_default_and_can_be_read_again(tmp_path: Path) -> None:
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": "data"}}, "max_value_bytes": 5}
    shown = yaml.safe_load(run("show", written(tmp_path / "config.yaml", config)).stdout)
    assert shown["max_value_bytes"] == 5
    assert shown["adapter"] == config["adapter"]
    assert shown["dispatch"]["max_attempts"] == 5
    assert shown["server"]["limits"]["registrations"] == 50_000
    assert configuration.parse(shown) == configuration.parse(config)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_secrets_are_stars(tmp_path: Path, options: list[str]) -> None:
    for adapter in (
        {"name": "bridge", "config": {"bridge_url": "ws://me:s3cret@there:1/?access_token=s3cret", "token": "s3crets3crets3cret"}},
        {"name": "redis", "config": {"redis_url": "redis://me:s3cret@there:6379/2"}},
    ):
        done = run("show", written(tmp_path / "config.yaml", {"adapter": adapter}), *options)
        assert done.exit_code == 0, done.output
        assert "s3cret" not in done.output
        assert "***" in done.output
        assert "there" in done.output
        if options:
            assert json.loads(done.stdout)["adapter"]["name"] == adapter["name"]
