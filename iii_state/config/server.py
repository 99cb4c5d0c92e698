"""The block `server:` of an `iii-state` entry: where an engine listens, and whom it lets in."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from iii_state.config.checks import Check, boolean, integer, optional, section, shown, string
from iii_state.errors import ConfigError
from iii_state.rights import TokenLimits

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

MOST_SCOPES = 100
"""So many scopes may have figures of their own."""


class TlsFiles(msgspec.Struct, frozen=True):
    """The files of a server's TLS, in PEM. With `client_ca` a client has to show a certificate of that authority."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class ServerLimits(msgspec.Struct, frozen=True):
    """What an engine takes on: `connections` and `handshakes` are of all peers together, the others of each connection.

    `bytes_in_flight` counts calls that the engine itself carries out, with what they are likely to bring; `registrations` are
    functions, trigger types and triggers, `subscriptions` the triggers among them.
    """

    connections: int = 10_000
    handshakes: int = 512
    message_bytes: int = MAX_MESSAGE_BYTES
    calls_in_flight: int = 10_000
    bytes_in_flight: int = 32 * 1024 * 1024
    frames_per_second: int | None = None
    registrations: int = 50_000
    subscriptions: int = 20_000


class ServerSettings(msgspec.Struct, frozen=True):
    """Where an engine listens, and whom it lets in. `token_file` holds one plain token, `tokens_file` hashed ones with rights.

    `metrics_scopes` are those that have figures of their own.
    """

    host: str = "127.0.0.1"
    port: int = 49134
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    token_file: Path | None = None
    tokens_file: Path | None = None
    tls: TlsFiles | None = None
    limits: ServerLimits = ServerLimits()
    insecure: bool = False
    metrics: bool = True
    metrics_scopes: tuple[str, ...] = ()


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def origin(where: str, value: Any) -> str:
    """An origin as browsers spell it: a scheme and a host, and a port unless it is the scheme's own."""
    text = string(where, value)
    if _ORIGIN.fullmatch(text.lower()) is None:
        raise ConfigError(f"{where} has to be an origin such as https://app.example.com or http://localhost:3000, not {text!r}")
    return text.lower()


def host_name(where: str, value: Any) -> str:
    """The name or address of a host, without a port."""
    text = string(where, value).lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    if _NAME.fullmatch(text) is None:
        raise ConfigError(f"{where} has to be the name of a host, without scheme and port, not {value!r}")
    return text


def list_of(check: Check) -> Check:
    """A list, each item checked."""

    def check_all(where: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} has to be a list, not {shown(value)}")
        return tuple(check(f"{where}[{index}]", item) for index, item in enumerate(value))

    return check_all


def scopes(where: str, value: Any) -> tuple[str, ...]:
    """Scopes, each once; so many that a scrape stays small."""
    found: tuple[str, ...] = tuple(dict.fromkeys(list_of(string)(where, value)))
    if len(found) > MOST_SCOPES:
        raise ConfigError(f"{where} has {len(found)} scopes, and may have {MOST_SCOPES}: each has lines of its own in every scrape")
    return found


def file_path(where: str, value: Any) -> Path:
    """The path of a file, which is read later."""
    return value if isinstance(value, Path) else Path(string(where, value))


def _tls(where: str, value: Any) -> TlsFiles:
    given = section(f"{where}.", value, {"cert": file_path, "key": file_path, "client_ca": file_path})
    for needed in ("cert", "key"):
        if needed not in given:
            raise ConfigError(f"{where}.{needed} is missing: TLS needs a certificate (cert) and its key (key)")
    return TlsFiles(**given)


PEER_LIMITS: Mapping[str, Check] = {
    "message_bytes": integer(1024, MAX_MESSAGE_BYTES),
    "calls_in_flight": integer(1),
    "bytes_in_flight": integer(1024),
    "frames_per_second": optional(integer(1)),
    "registrations": integer(0),
    "subscriptions": integer(0),
}


def token_limits(where: str, value: Any) -> TokenLimits:
    """The limits of all connections with a token's name together."""
    return TokenLimits(**section(f"{where}.", value, PEER_LIMITS))


def _limits(where: str, value: Any) -> ServerLimits:
    checks: Mapping[str, Check] = {
        "connections": integer(1),
        "handshakes": integer(1),
        **PEER_LIMITS,
    }
    return ServerLimits(**section(f"{where}.", value, checks))


CHECKS: Mapping[str, Check] = {
    "host": string,
    "port": integer(0, 65535),
    "allow_origins": list_of(origin),
    "allow_hosts": list_of(host_name),
    "token_file": file_path,
    "tokens_file": file_path,
    "tls": _tls,
    "limits": _limits,
    "insecure": boolean,
    "metrics": boolean,
    "metrics_scopes": scopes,
}


def server(where: str, value: Any) -> ServerSettings:
    """The settings of a block `server`. Raises `ConfigError`, which names the key."""
    return ServerSettings(**section(f"{where}.", value, CHECKS))
