"""Why an engine cannot be reached, in words: what was tried, what came, and what to do."""

from __future__ import annotations

import errno
import ssl

import aiohttp

from iii_state.errors import HandshakeRefused, words

_REFUSED = {
    401: "the engine at {} lets nobody in without a token that it knows: set III_TOKEN, or name a file with --token-file",
    403: "the engine at {} refuses connections under this name: its allow_hosts and allow_origins say which it takes",
    503: "the engine at {} takes no more connections now ({})",
}
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")
"""What OpenSSL says to bytes that are no TLS."""


_UNKNOWN_TOKEN = "the engine at {} lets nobody in without a token that it knows, and that from {} it does not know"


def refused(url: str, error: HandshakeRefused, token_from: str | None = None) -> str:
    """Why a handshake with the engine at `url` (as it is shown to people) was answered with no; a token was sent from there."""
    if error.status == 401 and token_from is not None:
        return _UNKNOWN_TOKEN.format(url, token_from)
    if error.status in _REFUSED:
        return _REFUSED[error.status].format(url, error)
    return f"no iii engine answers at {url}: {error}. Is it the port of an engine?"


def unreachable(url: str, error: Exception, seconds: float) -> str:
    """Why nobody answers at `url`, for which `seconds` were given."""
    return f"no iii engine answers at {url}: {_cause(url, error, seconds)}"


def _cause(url: str, error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:g} s. Is the address right?"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return f"its certificate is not trusted here ({_certificate_fault(error)}); --ca-file names another authority"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
        return f"it does not speak TLS. Is it {url.replace('wss:', 'ws:', 1).replace('https:', 'http:', 1)}?"
    if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
        return "nobody listens there. Is `iii-state serve` running, on that port?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.os_error.strerror or error.os_error}. Is the address right?"
    if url.startswith(("ws:", "http:")) and isinstance(error, aiohttp.ClientResponseError | aiohttp.ServerDisconnectedError):
        return f"it does not answer as a WebSocket ({_first_line(error)}). Is it the port of an engine, or one with TLS (wss://)?"
    return f"{_first_line(error)}. Is it the port of an engine?"


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else words(error)
    return str(text).strip().split("\n", 1)[0].rstrip(" .:") or type(error).__name__


def _certificate_fault(error: Exception) -> str:
    cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
    return getattr(cause, "verify_message", None) or type(cause).__name__
