"""Tokens: how they are made, kept as hashes in a file, read from one, and compared.

A token is 256 random bits, so a plain SHA-256 is a safe thing to keep of it, and no search through words finds it. Comparisons
take the same time whatever is wrong. No token, and nothing of one, is ever in an error's text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from iii_state.config.checks import Check, boolean, kind, section, string
from iii_state.config.server import list_of, token_limits
from iii_state.errors import ConfigError
from iii_state.rights import Identity, Rights

MIN_CHARACTERS = 16
"""A shorter one could be guessed."""

MAX_CHARACTERS = 4096
PLAIN_NAME = "token"
"""What a token without a name is called."""

_SHA256, _CERTIFICATE = "sha256:", "certificate:"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
_HASH = re.compile(r"sha256:[0-9a-f]{64}")


class Tokens:
    """The tokens that are good now."""

    def __init__(self, entries: Iterable[Identity] = ()) -> None:
        self._entries = {entry.credential: entry for entry in entries}
        self._by_hash = [
            (bytes.fromhex(credential.removeprefix(_SHA256)), entry)
            for credential, entry in self._entries.items()
            if credential.startswith(_SHA256)
        ]

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, token: str) -> Identity | None:
        """Whose token this is. It is compared with all, whichever it is."""
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, entry in self._by_hash:
            if hmac.compare_digest(digest, given):
                found = entry
        return found

    def find_certificate(self, names: Sequence[str]) -> Identity | None:
        """Whose certificate this is that has these names."""
        return next((entry for name in names if (entry := self.renewed(_CERTIFICATE + name)) is not None), None)

    def renewed(self, credential: str) -> Identity | None:
        """What an entry says now by which somebody was let in before; None if it is gone."""
        return self._entries.get(credential)


def make() -> str:
    """A new token."""
    return "iii_" + secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """What a tokens file keeps of a token."""
    return _SHA256 + hashlib.sha256(token.encode()).hexdigest()


def plain(token: str) -> Identity:
    """The entry of a token that is given as it is."""
    return Identity(PLAIN_NAME, None, hashed(token))


def checked(where: str, token: str) -> str:
    """A token as it can be sent. Raises `ConfigError`, which says what is wrong and quotes nothing."""
    if len(token) < MIN_CHARACTERS:
        raise ConfigError(
            f"{where}: a token has to have at least {MIN_CHARACTERS} characters, not {len(token)}; `iii-state token` makes one"
        )
    if len(token) > MAX_CHARACTERS or _TOKEN.fullmatch(token) is None:
        raise ConfigError(f"{where}: a token has to be one word of letters, digits and - . _ ~ + /; `iii-state token` makes one")
    return token


def read_token(path: Path) -> str:
    """The token that a file holds, alone. Raises `ConfigError`, which names the file and quotes nothing of it."""
    return checked(f"the token in {path}", _text(path).strip())


def read_tokens(path: Path) -> list[Identity]:
    """The entries of a tokens file. Raises `ConfigError`, which names the file and the key."""
    try:
        document = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # the error's own text quotes the line, which may hold a token
        raise ConfigError(f"{path} is no YAML" + ("" if mark is None else f" (line {mark.line + 1})")) from None
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path} has to be a mapping with a list `tokens`, not {kind(document)}")
    try:
        given = section("", document, {"tokens": list_of(_entry)})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if "tokens" not in given:
        raise ConfigError(f"{path} has to hold a mapping with a list `tokens`")
    entries: Sequence[Identity] = given["tokens"]
    seen: set[str] = set()
    for entry in entries:
        if entry.credential in seen:
            raise ConfigError(f"{path}: the {entry.credential.partition(':')[0]} of {entry.name} is there twice")
        seen.add(entry.credential)
    return list(entries)


_RIGHTS: Mapping[str, Check] = {
    "functions": list_of(string),
    "register": list_of(string),
    "scopes": list_of(lambda where, value: value if value == "" else string(where, value)),
    "read_only": boolean,
    "trigger_types": boolean,
    "operate": boolean,
}


def _rights(where: str, value: Any) -> Rights:
    return Rights(**section(f"{where}.", value, _RIGHTS))


def _hash(where: str, value: Any) -> str:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:  # not quoted: it may be the token itself
        raise ConfigError(f"{where} has to be sha256: and 64 hexadecimal digits, as `iii-state token` prints it")
    return value


_ENTRY: Mapping[str, Check] = {
    "name": string,
    "hash": _hash,
    "certificate": string,
    "rights": _rights,
    "limits": token_limits,
}


def _entry(where: str, value: Any) -> Identity:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} has to be a mapping with name and hash, not a {type(value).__name__}")
    given = section(
        f"{where}.", value, {"name": string, "hash": _hash, "certificate": string, "rights": _rights, "limits": token_limits}
    )
    if "name" not in given:
        raise ConfigError(f"{where}.name is missing")
    if ("hash" in given) == ("certificate" in given):
        raise ConfigError(f"{where} has to have either a hash (of a token) or a certificate (the name in one)")
    credential = given["hash"] if "hash" in given else _CERTIFICATE + given["certificate"]
    return Identity(given["name"], given.get("rights"), credential, given.get("limits"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8") from None
