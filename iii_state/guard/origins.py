"""Whether the `Host` and the `Origin` of a request may be: what keeps web pages of others away from an engine.

Pure functions over the text of the headers. The page `guard` of the docs says what is defended, and how.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence

import msgspec

from iii_state.errors import AccessRefused

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PORTS = {"http": 80, "https": 443}

Place = tuple[str, int]
"""A host's name or address in one spelling, and a port."""


class Asked(msgspec.Struct, frozen=True):
    """What a request says, as far as it decides whether it is let in. Headers are as often as they came.

    `local` is the address at which it arrived, `remote` the one it comes from; `certificate_names` are the names of the
    certificate that was shown in the TLS handshake, whose authority has been checked.
    """

    target: str
    local: str
    remote: str
    is_tls: bool = False
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    authorizations: Sequence[str] = ()
    protocols: Sequence[str] = ()
    queried: Sequence[str] = ()
    certificate_names: Sequence[str] = ()


def check_host(asked: Asked, allow_hosts: Collection[str]) -> Place:
    """The host that a request is for. Raises `AccessRefused` (400, 403).

    On a loopback address it has to be a name of this machine's own, so that no page of a name which was made to lead here
    (DNS rebinding) is taken for our own.
    """
    if not asked.target.startswith("/"):
        raise AccessRefused(400, "the target of a request has to be a path")
    if len(asked.hosts) != 1:
        raise AccessRefused(400, "a request has to have one Host header")
    found = _HOST.fullmatch(asked.hosts[0])
    place = None if found is None else _place(found[1], found[2], 443 if asked.is_tls else 80)
    if place is None:
        raise AccessRefused(400, "the Host header cannot be read")
    name = place[0]
    if name in allow_hosts or is_loopback(name) or not is_loopback(asked.local):
        return place
    raise AccessRefused(403, "this Host is none of this machine's loopback names; allow_hosts lists others that are meant")


def check_origin(asked: Asked, place: Place, allow_origins: Collection[str], allow_hosts: Collection[str]) -> None:
    """Refuse (`AccessRefused`, 403) what another page than the server's own asks for; what no browser sends has no Origin.

    The own origin is that of `place`, the host asked for, where its name cannot have been made to lead here: an address, a
    loopback name, or one that is listed.
    """
    if not asked.origins:
        return
    if len(asked.origins) == 1:
        given = _origin(asked.origins[0])
        if given is not None:
            if any(given == _origin(allowed) for allowed in allow_origins):
                return
            name = place[0]
            is_own = given == ("https" if asked.is_tls else "http", *place)
            if is_own and (name in allow_hosts or is_loopback(name) or _address(name) is not None):
                return
    raise AccessRefused(403, "pages of this Origin are not let in; allow_origins lists those that are")


def is_loopback(name: str) -> bool:
    """Whether a name or an address leads to the machine itself, wherever it is looked up.

    `localhost` and what ends so (RFC 6761), 127.0.0.0/8, ::1, and 0.0.0.0 and ::, which a client that connects takes for these.
    """
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def is_for_this_machine_only(address: str) -> bool:
    """Whether what listens on this address can be reached by nobody else: 127.0.0.0/8 and ::1."""
    parsed = _address(address)
    return parsed is not None and parsed.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _place(host: str, port: str | None, usual: int) -> Place | None:
    name = host.lower()
    if name.startswith("["):
        try:
            name = str(ipaddress.IPv6Address(name[1:-1]))
        except ValueError:
            return None
    else:
        name = name.removesuffix(".")
    number = usual if port is None else int(port)
    return (name, number) if all(name.split(".")) and number <= 65535 else None


def _origin(text: str) -> tuple[str, str, int] | None:
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme = found[1].lower()
    place = _place(found[2], found[3], _PORTS.get(scheme, 0))
    return None if place is None else (scheme, *place)
