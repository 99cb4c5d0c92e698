"""The log as JSON: an object a line, whose fields have names that stay."""

from __future__ import annotations

import json
import logging
import time

IDS = (
    *("function_id", "event_id", "scope", "key", "attempt", "code"),
    *("worker_id", "worker", "trigger_id", "remote", "engine", "queue", "url"),
)
"""What a line may be about; those that are known are fields of their own. They come as `extra` of a log record."""


class JsonLines(logging.Formatter):
    """Fields: `time` (UTC, milliseconds), `level`, `logger`, `message`, those of `IDS`, and `exception`, which is a traceback.

    Texts are ASCII: whatever a name in them holds, it is one line, and does nothing to a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        held = record.__dict__
        for name in IDS:
            if (value := held.get(name)) is not None:
                fields[name] = value if isinstance(value, str | int) else str(value)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        return json.dumps(fields)
