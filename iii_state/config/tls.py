"""The files of TLS that settings name, read into what makes connections."""

from __future__ import annotations

import ssl
from os import PathLike

from iii_state.errors import ConfigError

File = str | PathLike[str]


def client_context(ca: File | None, cert: File | None, key: File | None, name: str = "") -> ssl.SSLContext:
    """What checks a server by an authority's certificate (`ca`, the system's where None), and shows it `cert`.

    Raises `ConfigError`, which names the setting (beneath `name`) and the file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise unusable(f"{name}.ca: {ca}" if name else str(ca), error) from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ValueError) as error:
            raise unusable(f"{name}: {cert} and {key}" if name else f"{cert} and its key", error) from None
    return context


def unusable(what: str, error: Exception) -> ConfigError:
    """The error for files that cannot be used, with the reason in words."""
    reason = error.reason or "it is no PEM of that kind" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", None)
    return ConfigError(f"{what} cannot be used: {reason or error}")
