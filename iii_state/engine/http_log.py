"""What aiohttp logs of requests, without what may be secret in them.

Of a request that cannot be read, its own lines quote the header that is to blame, which may be the one with the token. And any peer
can cause as many of them as it likes.
"""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

from iii_state.wire.quiet_log import QuietLog

_quiet = QuietLog(logging.getLogger(__name__))

logger = logging.getLogger(f"{__name__}.aiohttp")
"""The logger for aiohttp's server."""


def _pass(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        _quiet.warning("a request could not be read, and was refused with HTTP status %d", error.code)
        return False
    return True


logger.addFilter(_pass)
