"""Log formats of the server: text, or one JSON object per line."""

from __future__ import annotations

import datetime as dt
import logging
import sys

import orjson

FORMATS = ("text", "json")
_FIELDS = ("trace", "model", "version")  # of `logging`'s `extra`, where a line is about a request or a version


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message; trace, model and version where they are known."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; what a message holds, line breaks included, stays inside it."""
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
    """Set up the log of this process, on standard error.

    Args:
        form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
