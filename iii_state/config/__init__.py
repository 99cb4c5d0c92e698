"""Configuration: the `iii-state` entry of an iii `config.yaml`, checked key by key."""

from iii_state.config.checks import integer, retention, section
from iii_state.config.document import expand, load
from iii_state.config.entry import RETRY_CHECKS, parse
from iii_state.config.named import named, need_restart
from iii_state.config.server import ServerLimits, ServerSettings, TlsFiles, file_path, host_name, list_of, origin, server
from iii_state.config.settings import BridgeSettings, KvSettings, RedisSettings, RedisTls, Settings

__all__ = [
    "RETRY_CHECKS",
    "BridgeSettings",
    "KvSettings",
    "RedisSettings",
    "RedisTls",
    "ServerLimits",
    "ServerSettings",
    "Settings",
    "TlsFiles",
    "expand",
    "file_path",
    "host_name",
    "integer",
    "list_of",
    "load",
    "named",
    "need_restart",
    "origin",
    "parse",
    "retention",
    "section",
    "server",
]
