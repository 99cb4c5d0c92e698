"""Until when the certificate is good that a server shows."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator

from iii_state.observe.doctor.findings import Finding

SOON_DAYS = 14
CONNECT_SECONDS = 10.0


async def of_server(host: str, port: int, context: ssl.SSLContext) -> list[Finding]:
    """What is to be known of the certificate of the server there; nothing where it cannot be looked at."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLCertVerificationError as error:
        return [_refused(f"{host}:{port}", error.verify_message)]
    except (OSError, TimeoutError):
        return []
    try:
        shown = writer.get_extra_info("peercert") or {}
    finally:
        writer.close()
    return list(_of(f"{host}:{port}", str(shown.get("notAfter", ""))))


def _of(server: str, not_after: str) -> Iterator[Finding]:
    if not not_after:
        return
    days = (ssl.cert_time_to_seconds(not_after) - time.time()) / 86400
    if days < SOON_DAYS:
        yield Finding(
            "warning",
            "certificate-expires",
            f"the certificate of {server} ends on {not_after}",
            "From then on nobody gets in who checks it.",
            "Put a new one in its place: engines take it at once (iii-state docs guard)",
        )


def _refused(server: str, why: str) -> Finding:
    return Finding(
        "warning",
        "certificate-refused",
        f"the certificate of {server} is not accepted: {why}",
        "Nobody gets in who checks it.",
        "Put a new one in its place, or name its authority with --ca-file",
    )
