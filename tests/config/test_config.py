"""The configuration: an iii config.yaml works unchanged, and what is not known is an error that names it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from iii_state import config
from iii_state.errors import ConfigError
from iii_state.events import DispatchLimits, QueueLimits, RetryPolicy


def test_defaults() -> None:
    settings = config.parse(None)
    assert settings.adapter == config.KvSettings(None, 5000)
    assert (settings.triggers_enabled, settings.max_value_bytes, settings.retention_ms) == (True, None, 300_000)
    assert (settings.dispatch, settings.retry, settings.queue) == (DispatchLimits(), RetryPolicy(), QueueLimits())


def test_every_key() -> None:
    settings = config.parse(
        {
            "adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": "/data", "save_interval_ms": 100}},
            "triggers_enabled": False,
            "max_value_bytes": 1,
            "dispatch": {
                "concurrency": 1,
                "prefetch": 0,
                "max_attempts": 2,
                "backoff_ms": 3,
                "max_backoff_ms": 4,
                "timeout_ms": 5,
                "retention_ms": "forever",
                "max_queue_length": 6,
                "max_queue_bytes": 7,
                "on_full": "drop_oldest",
            },
        }
    )
    assert settings.adapter == config.KvSettings(Path("/data"), 100)
    assert settings.dispatch == DispatchLimits(1, 0)
    assert settings.retry == RetryPolicy(2, 3, 4, 5)
    assert settings.queue == QueueLimits(6, 7, "drop_oldest")
    assert settings.retention_ms == "forever"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trigers_enabled": True}, "unknown key trigers_enabled; did you mean triggers_enabled?"),
        (
            {"zzz": 1},
            "unknown key zzz; known here: adapter, dispatch, history, log_level, max_value_bytes, save_interval_ms, "
            "server, triggers_enabled",
        ),
        ({"adapter": {"name": "redys"}}, "adapter.name has to be one of kv, redis, bridge, not 'redys'; did you mean redis?"),
        (
            {"adapter": {"name": "kv", "config": {"file": "x"}}},
            "unknown key adapter.config.file; did you mean adapter.config.file_path?",
        ),
        ({"adapter": {"name": "kv", "config": {"zzz": "x"}}}, "unknown key adapter.config.zzz; known here: "),
        ({"adapter": "kv"}, "adapter has to be a mapping, not str 'kv'"),
        ({"max_value_bytes": 0}, "max_value_bytes has to be a whole number of at least 1, not int 0"),
        ({"max_value_bytes": True}, "max_value_bytes has to be a whole number of at least 1, not bool True"),
        ({"save_interval_ms": 99}, "save_interval_ms has to be a whole number from 100 to 3600000, not int 99"),
        ({"triggers_enabled": "yes"}, "triggers_enabled has to be true or false, not str 'yes'"),
        (
            {"adapter": {"name": "redis", "config": {"cluster": "yes"}}},
            "adapter.config.cluster has to be auto, true or false, not str 'yes'",
        ),
        (
            {"adapter": {"name": "redis", "config": {"partitions": 0}}},
            "adapter.config.partitions has to be a whole number from 1 to 1024, not int 0",
        ),
        (
            {"adapter": {"name": "redis", "config": {"cluster": False, "partitions": 64}}},
            "adapter.config.partitions is given, but adapter.config.cluster is false",
        ),
        ({"dispatch": {"on_full": "wait"}}, "dispatch.on_full has to be one of reject, drop_oldest, not 'wait'"),
        ({"dispatch": {"retention_ms": "ever"}}, 'dispatch.retention_ms has to be a number of milliseconds or "forever"'),
        ({"dispatch": {}, "adapter": {"config": {"dispatch": {"prefetch": 1}}}}, None),
        ({"dispatch": {"prefetch": 1}, "adapter": {"config": {"dispatch": {"prefetch": 1}}}}, "dispatch is given twice"),
    ],
)
def test_what_is_not_known_is_named(given: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert config.parse(given).dispatch.prefetch == 1
        return
    with pytest.raises(ConfigError) as raised:
        config.parse(given)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("given", ["auto", True, False])
def test_whether_a_redis_is_a_cluster(given: Any) -> None:
    adapter = config.parse({"adapter": {"name": "redis", "config": {"cluster": given}}}).adapter
    assert adapter == config.RedisSettings(cluster=given)


YAML = """
workers:
  - name: iii-worker-manager
    config: {port: 49134}
  - name: NAME
    config:
      adapter:
        name: kv
        config:
          store_method: ${III_TEST_METHOD:file_based}
          file_path: ${III_TEST_DIR}/state
      max_value_bytes: ${III_TEST_LIMIT:5000}
      triggers_enabled: ${III_TEST_TRIGGERS:false}
"""


@pytest.mark.parametrize("name", ["iii-state", "state"])
def test_an_iii_config_works_unchanged(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("III_TEST_DIR", "/data")
    caplog.set_level(logging.INFO)
    file = tmp_path / "config.yaml"
    file.write_text(YAML.replace("NAME", name))
    settings = config.parse(config.load(file))
    assert settings.adapter == config.KvSettings(Path("/data/state"), 5000)
    assert (settings.max_value_bytes, settings.triggers_enabled) == (5000, False)
    assert "iii-worker-manager is not ours" in caplog.text


def test_the_entry_of_engines_before_0_11(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("modules:\n  - class: modules::state::StateModule\n    config: {max_value_bytes: 7}\n  - class: other\n")
    assert config.load(file) == {"max_value_bytes": 7}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers:\n  - name: iii-state\n  - name: state\n", "2 entries for the state module"),
        ("adapter: {name: redis}\n", r"adapter at the top of the file would not be read; settings belong .*`- name: iii-state`"),
        ("workers:\n  - name: iii-state\nserver: {port: 1}\n", "server at the top of the file would not be read"),
        ("server: {}\ndispatch: {}\n", "dispatch, server at the top of the file"),
        ("workers:\n  - name: iii-state\n    adapter: {name: redis}\n", "adapter beside `config` would not be read"),
        ("modules:\n  - class: modules::state::StateModule\n    adapter: {}\n", "adapter beside `config` would not be read"),
        ("workers:\n  - name: iii_state\n", "but 'iii_state'; did you mean iii-state?"),
        ("workers: 5\n", "workers has to be a list"),
        ("workers:\n  - 5\n", "an item of workers has to be a mapping"),
        ("- 5\n", "has to hold a mapping"),
        ("a: [", "is no YAML"),
        ("server: {tokens_file: t}\n", "server at the top of the file would not be read"),
        ("workers:\n  - name: iii-state\nserver: {tokens_file: t}\n", "server at the top of the file would not be read"),
        ("workers:\n  - name: iii-state\n    config: 5\n", "the config of iii-state has to be a mapping"),
        ("workers:\n  - name: iii-state\n    config: {file_path: '${III_TEST_UNSET}'}\n", "variable III_TEST_UNSET is not set"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(file)


@pytest.mark.parametrize(
    "text", ["", "workers: []\n", "port: 1\nworkers:\n  - name: iii-stream\n    adapter: {}\n  - name: stats\n"]
)
def test_a_file_without_the_entry_is_a_warning(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert config.load(file) == {}
    assert "has no entry iii-state" in caplog.text


def test_a_path_of_a_store_in_memory_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "config.yaml"
    for settings in ("file_path: x, store_method: in_memory", "file_path: x, store_method: file_based"):
        file.write_text(f"workers:\n  - name: iii-state\n    config: {{adapter: {{config: {{{settings}}}}}}}\n")
        config.load(file)
        assert not caplog.text
    file.write_text("workers:\n  - name: iii-state\n    config: {adapter: {config: {file_path: x}}}\n")
    config.load(file)
    assert "file_path is not used without store_method: file_based; values are kept in memory" in caplog.text


@pytest.mark.parametrize(
    ("name", "key", "other"), [("kv", "redis_url", "redis"), ("redis", "file_path", "kv"), ("kv", "token", "bridge")]
)
def test_a_setting_of_another_adapter_is_told_as_one(name: str, key: str, other: str) -> None:
    said = f"unknown key adapter.config.{key}; it is one of the {other} adapter, and adapter.name is {name}$"
    with pytest.raises(ConfigError, match=said):
        config.parse({"adapter": {"name": name, "config": {key: "x"}}})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "config.yaml")


def test_placeholders() -> None:
    environment = {"N": "5", "S": "text", "EMPTY": "", "QUOTED": "'5'", "NESTED": "${N}"}
    assert config.expand("${N}", environment) == 5
    assert config.expand("${N}ms", environment) == "5ms"
    assert config.expand("${S}:${N}", environment) == "text:5"
    assert config.expand("${MISSING:}", environment) is None
    assert config.expand("x${MISSING:}y", environment) == "xy"
    assert config.expand("${MISSING:redis://h:1/0}", environment) == "redis://h:1/0"
    assert config.expand("${MISSING:1.5}", environment) == 1.5
    assert config.expand("${NESTED}", environment) == "${N}"
    assert config.expand({"a": ["${N}", {"b": "${S}"}]}, environment) == {"a": [5, {"b": "text"}]}
    assert config.expand("no placeholder $N {N}", environment) == "no placeholder $N {N}"


def test_no_password_of_a_url_stands_in_an_error() -> None:
    url = "redis+sentinel://:hush@h/m?sentinel_password=hush&x=hush"
    with pytest.raises(ConfigError) as raised:
        config.parse({"triggers_enabled": url})
    assert "redis+sentinel://***@h/m?sentinel_password=***&x=***" in str(raised.value)
    assert "hush" not in str(raised.value)
