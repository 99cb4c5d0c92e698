"""Where an engine is, and how to get in there: its URL, a token, and whose certificates are trusted."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from iii_state.config.tls import client_context
from iii_state.errors import ConfigError

TOKEN_VARIABLE = "III_TOKEN"

_SENDABLE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """An engine's address. The token is `token`, or what `token_file` holds, or the environment's `III_TOKEN`, as it is when a
    connection is made: one that is changed is good for the next.

    With `ca_file` that authority is trusted and no other; `cert_file` and `key_file` are shown to an engine that asks for them.
    `str` of it is for people: without what is secret in it.
    """

    url: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        return shown(self.url)

    def headers(self) -> dict[str, str]:
        """The headers of a handshake. Raises `ConfigError`, which never quotes a token."""
        token, where = self._token()
        if not token:
            return {}
        if _SENDABLE.fullmatch(token) is None:
            raise ConfigError(f"{where} holds no token: it has to be one word of ASCII characters")
        return {"Authorization": f"Bearer {token}"}

    def token_from(self) -> str | None:
        """Where the token comes from that is sent, for an error's text; None where none is."""
        token, where = self._token()
        return where if token else None

    def _token(self) -> tuple[str | None, str]:
        if self.token is not None:
            return self.token, "the setting token"
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"cannot read {self.token_file}: {error.strerror}") from None
            except UnicodeDecodeError:
                raise ConfigError(f"{self.token_file} is no text in UTF-8") from None
            if not token:
                raise ConfigError(f"{self.token_file} is empty: it has to hold a token")
            return token, str(self.token_file)
        return os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE

    def tls(self) -> ssl.SSLContext | None:
        """What checks the engine's certificate, None where none is used. Raises `ConfigError` for files that cannot be used."""
        if urlsplit(self.url).scheme not in ("wss", "https"):
            return None
        return client_context(self.ca_file, self.cert_file, self.key_file)


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password, and the values of its query."""
    try:
        parts = urlsplit(url)
        _, at, place = parts.netloc.rpartition("@")
    except ValueError:
        return "(no URL)"
    query = re.sub(r"=[^&]*", "=***", parts.query) if "=" in parts.query else "***" * bool(parts.query)
    return SplitResult(parts.scheme, f"***@{place}" if at else place, parts.path, query, "").geturl()
