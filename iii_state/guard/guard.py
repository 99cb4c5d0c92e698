"""Whom an engine lets in: the checks of a request, in their order, and the addresses that may be listened on."""

from __future__ import annotations

import base64
import binascii
import logging
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from iii_state import config
from iii_state.config import ServerSettings
from iii_state.errors import AccessRefused, ConfigError
from iii_state.guard import tokens
from iii_state.guard.failures import Failures
from iii_state.guard.origins import Asked, check_host, check_origin, is_for_this_machine_only
from iii_state.guard.tls import server_context
from iii_state.guard.tokens import Tokens
from iii_state.rights import Identity
from iii_state.wire.quiet_log import QuietLog

logger = logging.getLogger(__name__)

BEARER_PROTOCOL = "bearer."
"""A sub-protocol that begins so carries a token, in base64url: browsers cannot set headers."""


class Guard:
    """Decides who may come in. `token` is one more token that is good, beside those of the files.

    Raises `ConfigError` for a file that cannot be read, or holds what cannot be used.
    """

    def __init__(self, settings: ServerSettings | None = None, token: str | None = None) -> None:
        self.settings = settings or ServerSettings()
        self.failures = Failures()
        self._quiet = QuietLog(logger)
        self._without_token = QuietLog(logger, burst=3)  # SDKs try again and again
        self._token = None if token is None else tokens.checked("III_STATE_TOKEN", token)
        self.tokens = Tokens()
        self._addresses: list[str] = []
        self.tls: ssl.SSLContext | None = None
        self.reload()

    @classmethod
    def of(cls, server: Mapping[str, Any]) -> Self:
        """A guard with the settings of a block `server:`. Raises `ConfigError`, which names the key."""
        return cls(config.server("server", server))

    @property
    def wants_tokens(self) -> bool:
        """Whether a handshake has to bring a token."""
        return self._wants_tokens(self.settings)

    def _wants_tokens(self, settings: ServerSettings) -> bool:
        return self._token is not None or settings.token_file is not None or settings.tokens_file is not None

    def reload(self, settings: ServerSettings | None = None) -> None:
        """Read the files again, or those of other settings. Raises `ConfigError`, and everything is as it was."""
        settings = settings or self.settings
        found: list[Identity] = [] if self._token is None else [tokens.plain(self._token)]
        if settings.token_file is not None:
            found.append(tokens.plain(tokens.read_token(settings.token_file)))
            _warn_if_readable(settings.token_file)
        if settings.tokens_file is not None:
            found += tokens.read_tokens(settings.tokens_file)
        tls = None if settings.tls is None else server_context(settings.tls)
        if settings.tls is not None:
            _warn_if_readable(settings.tls.key)
        self._refuse_open(settings, self._addresses)
        self.settings, self.tokens, self.tls = settings, Tokens(found), tls

    def check_addresses(self, addresses: Iterable[str]) -> None:
        """Refuse (`ConfigError`) to listen where others can reach it and nothing says who may; what passes is kept in mind."""
        addresses = list(addresses)
        self._refuse_open(self.settings, addresses)
        self._addresses += addresses

    def _refuse_open(self, settings: ServerSettings, addresses: Iterable[str]) -> None:
        if self._wants_tokens(settings) or _is_mutual(settings):
            return
        for address in addresses:
            if is_for_this_machine_only(address):
                continue
            if not settings.insecure:
                raise ConfigError(
                    f"{address} can be reached by others: give a token (--token-file, tokens_file, III_STATE_TOKEN; "
                    "`iii-state token` makes one), or --insecure to let everybody in"
                )
            logger.warning("insecure: whoever can reach %s reads and changes everything here, without a token", address)
            return

    def check_place(self, asked: Asked) -> None:
        """Whether a request may come from where it comes from, by its Host and Origin. Raises `AccessRefused`."""
        try:
            place = check_host(asked, self.settings.allow_hosts)
            check_origin(asked, place, self.settings.allow_origins, self.settings.allow_hosts)
        except AccessRefused as error:
            self._quiet.warning("a request from %s was refused: %s", asked.remote, error, ids={"remote": asked.remote})
            raise

    def admit(self, asked: Asked) -> Identity | None:
        """Whose request this is, by its token or certificate; None where no tokens are used. Raises `AccessRefused` (401).

        `AccessRefused.seconds` says for how long that answer is to be held back.
        """
        mutual = _is_mutual(self.settings)
        if not self.wants_tokens and not mutual:
            return None
        given = _given_tokens(asked)
        if not given:
            if (known := self.tokens.find_certificate(asked.certificate_names)) is not None:
                return known
            if mutual and not self.wants_tokens and asked.certificate_names:
                return None
            self._without_token.warning(
                "a request from %s was refused: it brings no token", asked.remote, ids={"remote": asked.remote}
            )
            raise AccessRefused(401, "a token is needed: Authorization: Bearer, III_TOKEN or --token-file")
        if len(given) == 1 and (found := self.tokens.find(given[0])) is not None:
            return found
        seconds = self.failures.note(asked.remote, time.monotonic())
        self._quiet.warning("a request from %s was refused: its token is not known", asked.remote, ids={"remote": asked.remote})
        raise AccessRefused(401, "this token is not known here", seconds=seconds)

    def still_admits(self, identity: Identity | None) -> bool:
        """Whether somebody who was let in as this one before would be let in now."""
        return not self.wants_tokens if identity is None else self.renewed(identity) is not None

    def renewed(self, identity: Identity) -> Identity | None:
        """What holds now for somebody who was let in before, None if his token or certificate is good no more."""
        return self.tokens.renewed(identity.credential)


def _is_mutual(settings: ServerSettings) -> bool:
    return settings.tls is not None and settings.tls.client_ca is not None


def _given_tokens(asked: Asked) -> list[str]:
    """The different tokens of a request; an empty text stands for one that cannot be read."""
    found = []
    for authorization in asked.authorizations:
        scheme, _, token = authorization.strip().partition(" ")
        found.append(token.strip() if scheme.lower() == "bearer" else "")
    found += [_decoded(protocol.removeprefix(BEARER_PROTOCOL)) for protocol in bearer_protocols(asked.protocols)]
    found += asked.queried
    return list(dict.fromkeys(found))


def bearer_protocols(headers: Sequence[str]) -> list[str]:
    """The sub-protocols that carry a token, as they were offered."""
    offered = [protocol.strip() for header in headers for protocol in header.split(",")]
    return [protocol for protocol in offered if protocol.startswith(BEARER_PROTOCOL)]


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _warn_if_readable(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & 0o004:
        logger.warning("%s can be read by every user of this machine: chmod 600 %s", path, path)
