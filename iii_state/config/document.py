"""The `iii-state` entry of an iii `config.yaml`, its placeholders expanded."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from iii_state.config.checks import kind
from iii_state.config.entry import KEYS
from iii_state.errors import ConfigError

ENTRY_NAMES = ("iii-state", "state")

ENTRY_CLASS = "modules::state::StateModule"

logger = logging.getLogger(__name__)

_PLACEHOLDER = re.compile(r"\$\{([^}:]+)(?::([^}]*))?\}")


def load(path: Path) -> dict[str, Any]:
    """The `config` of the state module's entry in an iii `config.yaml`, placeholders expanded; empty if there is no entry.

    Raises `ConfigError` for a file that cannot be read or is no configuration.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no YAML: it is no text in UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {_fault(error)}") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path} has to hold a mapping with a list `workers`, not {kind(document)}")
    if misplaced := KEYS.intersection(document):
        raise ConfigError(
            f"{path}: {', '.join(sorted(misplaced))} at the top of the file would not be read; settings belong "
            "in `config` of the item `- name: iii-state` of the list `workers`"
        )
    found: list[dict[str, Any]] = []
    others: list[str] = []
    for list_name, is_ours in (("workers", _is_our_worker), ("modules", _is_our_class)):
        entries = document.get(list_name)
        if entries is None:
            continue
        if not isinstance(entries, list):
            raise ConfigError(f"{path}: {list_name} has to be a list, not {kind(entries)}")
        for entry in entries:
            if not isinstance(entry, dict):
                raise ConfigError(f"{path}: an item of {list_name} has to be a mapping, not {kind(entry)}")
            if is_ours(entry):
                found.append(entry)
            else:
                others.append(str(entry.get("name")))
                logger.info("%s: %s is not ours, and is ignored", path, entry.get("name") or entry.get("class") or "an entry")
    if len(found) > 1:
        raise ConfigError(f"{path} has {len(found)} entries for the state module (iii-state and state are one); keep one")
    if not found:
        if near := difflib.get_close_matches(ENTRY_NAMES[0], others, 1, 0.85):
            raise ConfigError(f"{path} has no entry iii-state under workers, but {near[0]!r}; did you mean iii-state?")
        logger.warning("%s has no entry iii-state under workers; running with the defaults", path)
        return {}
    if misplaced := KEYS.intersection(found[0]):
        raise ConfigError(f"{path}: {', '.join(sorted(misplaced))} beside `config` would not be read; settings belong in it")
    config = expand(found[0].get("config"), os.environ)
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: the config of iii-state has to be a mapping, not {kind(config)}")
    if _has_unused_path(config):
        logger.warning("%s: file_path is not used without store_method: file_based; values are kept in memory", path)
    return config


def _has_unused_path(config: Mapping[str, Any]) -> bool:
    """Whether kv is told where its file is to lie, and not that it is to have one: it has none then."""
    adapter = config.get("adapter")
    given = adapter.get("config") if isinstance(adapter, dict) and adapter.get("name", "kv") == "kv" else None
    return isinstance(given, dict) and "file_path" in given and "store_method" not in given


def _fault(error: yaml.YAMLError) -> str:
    """What is wrong, and where; the error's own text quotes the file, which may hold secrets."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return (problem or "it cannot be read") + ("" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})")


def _is_our_worker(entry: dict[str, Any]) -> bool:
    return entry.get("name") in ENTRY_NAMES


def _is_our_class(entry: dict[str, Any]) -> bool:
    return entry.get("class") == ENTRY_CLASS


def expand(value: Any, environment: Mapping[str, str]) -> Any:
    """Replace `${VAR}` and `${VAR:default}` in every string; a value that is nothing but a placeholder is typed anew."""
    if isinstance(value, dict):
        return {key: expand(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, environment) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = environment.get(name, default)
        if found is None:
            raise ConfigError(f"the environment variable {name} is not set, and {match.group()} has no default")
        return found

    expanded = _PLACEHOLDER.sub(replace, value)
    if _PLACEHOLDER.fullmatch(value) is None:
        return expanded
    try:
        typed = yaml.safe_load(expanded)
    except yaml.YAMLError:
        return expanded
    return typed if isinstance(typed, bool | int | float | None) else expanded
