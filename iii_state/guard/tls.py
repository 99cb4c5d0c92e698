"""TLS of a server: its certificate and key, and the authority of its clients' certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from iii_state.config import TlsFiles
from iii_state.config.tls import unusable


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """A context of TLS 1.2 or later. Raises `ConfigError`, which names the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET  # a resumed session would outlive the authority that let it in
    context.num_tickets = 0
    for file in (files.cert, files.key):
        try:
            file.open("rb").close()
        except OSError as error:
            raise unusable(f"tls: {file}", error) from None
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise unusable(f"tls: {files.cert} and {files.key}", error) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise unusable(f"tls: {files.client_ca}", error) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The names of a certificate as `SSLObject.getpeercert` gives it: the alternative names, then the common name."""
    if not certificate:
        return ()
    found = [str(value) for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI", "email")]
    found += [str(value) for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return tuple(dict.fromkeys(found))


def _no_password() -> str:
    raise ValueError("the key has a password; a server needs one without")
