"""Where a Redis is and how to get in: a URL, read the way redis-py reads it, and shown without its password.

Behind Sentinels the URL names these and what they call the Redis; which server that is, is asked at each connect (`sentinel.py`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from iii_state.config import RedisTls
from iii_state.config.tls import client_context
from iii_state.errors import ConfigError

logger = logging.getLogger(__name__)

_KNOWN = frozenset({"host", "port", "path", "username", "password", "db", "connection_class"})
_BEHIND_SENTINELS = re.compile(r"(rediss?)\+sentinel://", re.IGNORECASE)
_SEVERAL = re.compile(
    r"(?P<before>rediss?://(?:[^/?#]*@)?)(?P<hosts>[^/?#@]*,[^/?#@]*)(?P<behind>[/?#].*)?\Z", re.IGNORECASE | re.DOTALL
)
"""A URL with several hosts: what stands before these, the hosts, and what stands behind."""
SENTINEL_PORT = 26379


Place = tuple[str, int]
"""Host and port of a server."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """One Redis server. `path` is that of a Unix socket; without it host and port count. `tls` is None for plain TCP.

    `server_name` is what its certificate is for, where that is not `host`. With `sentinels` it is the server that these name as the
    primary of `name`, and with `seeds` a cluster: both have no host and port of their own.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    username: str | None = None
    password: str | None = None
    db: int = 0
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    name: str = ""
    """What Sentinels call it."""
    sentinels: tuple[Address, ...] = ()
    is_sentinel: bool = False
    seeds: tuple[Address, ...] = ()
    """Several nodes of a cluster, any of which tells of the others."""
    is_node: bool | None = False
    """Whether it is a node of a cluster; None where that is to be found out."""

    def __str__(self) -> str:
        if self.sentinels:
            return f"{self.name} (Sentinels: {', '.join(map(str, self.sentinels))})"
        if self.seeds:
            return ", ".join(map(str, self.seeds))
        if self.path is not None:
            return self.path
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{place} ({self.name})" if self.name else place

    @property
    def place(self) -> Place:
        """Host and port."""
        return self.host, self.port

    def __repr__(self) -> str:
        return f"<Redis at {self}>"

    @classmethod
    def parse(cls, url: str, settings: RedisTls | None = None) -> Address:
        """Read redis://, rediss:// (with redis-py's `ssl_…` options, or with `settings`), unix:// and, for Sentinels,
        redis+sentinel:// and rediss+sentinel:// URLs. Several hosts, `redis://h1:p1,h2:p2`, are nodes of a cluster.

        Raises `ConfigError`, which never quotes the URL: it may hold a password.
        """
        if found := _BEHIND_SENTINELS.match(url):
            return _behind_sentinels(found[1].lower(), url, settings)
        if found := _SEVERAL.match(url):
            return _of_cluster(found, url, settings)
        try:
            given: dict[str, Any] = dict(parse_url(url))
        except ValueError as error:
            raise ConfigError(f"redis_url cannot be read: {_without_quote(error)}") from None
        _refuse_what_would_be_ignored(url)
        options = {name: given.pop(name) for name in list(given) if name.startswith("ssl_")}
        tls = None
        if settings is not None:
            tls = _context(given, options, settings)
        elif given.get("connection_class") is SSLConnection:
            options.setdefault("ssl_check_hostname", True)  # of old versions of redis-py it is not the default
            try:
                tls = SSLConnection(**options).ssl_context.get()
            except (RedisError, OSError, ValueError, TypeError) as error:
                raise ConfigError(f"the TLS options of redis_url cannot be used: {error}") from None
        ignored = sorted(set(given) - _KNOWN)
        if ignored:
            logger.warning("redis_url: %s is not used here", ", ".join(ignored))
        server_name = None if settings is None else settings.server_name
        return cls(tls=tls, server_name=server_name, **{name: given[name] for name in _KNOWN & set(given) - {"connection_class"}})

    def at(self, host: str, port: int) -> Address:
        """The server that Sentinels or a node of a cluster have named."""
        return replace(self, host=host, port=port, path=None, sentinels=(), seeds=())

    def of_cluster(self, is_one: bool | None = True) -> Address:
        """The same as that of a cluster, or (None) of what may be one."""
        return replace(self, is_node=is_one, seeds=tuple(replace(seed, is_node=is_one) for seed in self.seeds))

    @property
    def nodes(self) -> tuple[Address, ...]:
        """The nodes of a cluster that it names."""
        return self.seeds or (self,)

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Open a transport for `protocol`. Raises what the system raises."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(lambda: protocol, self.path)
            return
        name = self.server_name if self.tls is not None else None
        transport, _ = await loop.create_connection(lambda: protocol, self.host, self.port, ssl=self.tls, server_hostname=name)
        connected = transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _of_cluster(found: re.Match[str], url: str, settings: RedisTls | None) -> Address:
    """Read `redis://[user:password@]host:port,host:port[?options]`: all of it goes for every node."""
    _refuse_fragment(url)
    hosts, behind = found["hosts"].split(","), found["behind"] or ""
    if not all(hosts):
        raise ConfigError(
            "redis_url cannot be read: it lacks the host of a node; redis://HOST:PORT,HOST:PORT names nodes of a cluster"
        )
    seeds = tuple(Address.parse(f"{found['before']}{host}{behind}", settings) for host in hosts)
    return replace(seeds[0], seeds=seeds)


def _behind_sentinels(scheme: str, url: str, settings: RedisTls | None) -> Address:
    """Read `redis+sentinel://[user:password@]host:port,host:port/name/db?sentinel_username=&sentinel_password=&sentinel_tls=`.

    User and database are those of the Redis; its Sentinels speak TLS as it does, unless `sentinel_tls` is given, and with the same
    files. Their certificates are for their own hosts.
    """
    _refuse_fragment(url)
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"redis_url cannot be read: {_without_quote(error)}") from None
    user, at, hosts = parts.netloc.rpartition("@")
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ConfigError(f"redis_url cannot be read: it lacks the primary's name; {_FORM}")
    if not all(hosts.split(",")):
        raise ConfigError(f"redis_url cannot be read: it lacks a Sentinel's host; {_FORM}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    sentinel = {option: options.pop(option, "") for option in ("sentinel_username", "sentinel_password", "sentinel_tls")}
    if sentinel["sentinel_tls"].lower() not in ("", "true", "false"):
        raise ConfigError("redis_url cannot be read: sentinel_tls has to be true or false")
    sentinel_scheme = {"true": "rediss", "false": "redis"}.get(sentinel["sentinel_tls"].lower(), scheme)
    redis = Address.parse(
        f"{scheme}://{user}{at}localhost/{database}?{urlencode(options)}",
        None if (scheme, sentinel_scheme) == ("redis", "rediss") else settings,
    )
    login = ":".join(quote(sentinel[option], safe="") for option in ("sentinel_username", "sentinel_password"))
    login = f"{login}@" if login != ":" else ""
    tls = settings if sentinel_scheme == "rediss" else None
    tls_options = urlencode(
        {key: value for key, value in options.items() if key.startswith("ssl_") and sentinel_scheme == "rediss"}
    )
    sentinels = []
    for host in hosts.split(","):
        one = Address.parse(f"{sentinel_scheme}://{login}{host}/?{tls_options}", tls)
        port = one.port if re.search(r":\d+$", host) else SENTINEL_PORT
        sentinels.append(replace(one, port=port, server_name=None, is_sentinel=True))
    return replace(redis, name=unquote(name), sentinels=tuple(sentinels))


_FORM = "redis+sentinel:// is followed by HOST:PORT,HOST:PORT/NAME"


def _refuse_fragment(url: str) -> None:
    if "#" in url:
        raise ConfigError("redis_url cannot be read: it holds a # (special characters have to be percent-encoded)")


def _context(given: dict[str, Any], options: dict[str, Any], settings: RedisTls) -> ssl.SSLContext:
    """The TLS of `adapter.config.tls`. Raises `ConfigError`, which names the file that cannot be used."""
    if given.get("connection_class") is not SSLConnection:
        raise ConfigError("adapter.config.tls is given, but redis_url speaks no TLS: it has to begin with rediss://")
    if options:
        raise ConfigError(f"redis_url has {', '.join(sorted(options))}, and adapter.config.tls is given: keep one of the two")
    return client_context(settings.ca, settings.cert, settings.key, "adapter.config.tls")


def _refuse_what_would_be_ignored(url: str) -> None:
    """redis-py drops a database that is no number, and what follows a `#`, and would connect to somewhere else. Never quotes it."""
    parts = urlsplit(url)
    _refuse_fragment(url)
    path = unquote(parts.path).strip("/")
    if parts.scheme == "unix":
        if not path:
            raise ConfigError("redis_url cannot be read: it names no socket; unix:// is followed by the path of one")
    elif path and not (path.isascii() and path.isdigit()):
        raise ConfigError(
            "redis_url cannot be read: the database, behind the /, is no number (special characters have to be percent-encoded)"
        )


def _without_quote(error: ValueError) -> str:
    """The cause without anything of the URL in it: urllib quotes a port that is no number, which may be half a password."""
    text = str(error)
    if "scheme" in text:
        return "it has to begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://"
    if text.startswith("Port"):
        return "its port is no number from 0 to 65535 (a password with special characters has to be percent-encoded)"
    return text if text.startswith("Invalid value for") else "it is no URL (special characters have to be percent-encoded)"
