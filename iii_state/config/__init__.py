"""Configuration: the `iii-state` entry of an iii `config.yaml`, checked key by key."""

from iii_state.config.checks import integer, retention, section
from iii_state.config.document import expand, load
from iii_state.config.entry import RETRY_CHECKS, parse
from iii_state.config.settings import BridgeSettings, KvSettings, RedisSettings, Settings

__all__ = [
    "RETRY_CHECKS",
    "BridgeSettings",
    "KvSettings",
    "RedisSettings",
    "Settings",
    "expand",
    "integer",
    "load",
    "parse",
    "retention",
    "section",
]
