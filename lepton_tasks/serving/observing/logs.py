"""Log formats of the server: text, or one JSON object per line."""

from __future__ import annotations

import datetime as dt
import logging
import sys

import orjson

FORMATS = ("text", "json")
_FIELDS = ("trace", "model", "version")  # passed as `extra` by messages about a request or a version


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message; trace, model and version if known."""

    def format(self, record: logging.LogRecord) -> str:
        """Format as a single line; line breaks in the message are escaped."""
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(value) for name in _FIELDS if (value := getattr(record, name, ""))}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


def configure(form: str) -> None:
    """Configure this process's logging to standard error.

    Args:
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
