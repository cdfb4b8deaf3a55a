"""The daemon's log: one JSON object a line, rotated at 50 MB; never a token, never a picture."""

import json
import logging
import logging.handlers
from datetime import UTC, datetime
from pathlib import Path

MAX_BYTES = 50 * 1024 * 1024
_FIELDS = ("job", "stage", "client", "address", "boot")


class JsonFormatter(logging.Formatter):
    """time, level, text, and the job, stage and client where they are known."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "text": record.getMessage(),
        }
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, ""))}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def open_log(path: Path) -> logging.Logger:
    """The logger of the daemon, writing to `path`."""
    logger = logging.getLogger("orrery.daemon")
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(JsonFormatter())
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
