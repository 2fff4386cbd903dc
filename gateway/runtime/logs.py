"""How events of the gateway are written: one line each, the event's fields behind its name.

Rooms log `log.warning("lease_expired", extra={"service": …})`; logging's own formatters show no extra fields.
"""

from __future__ import annotations

import logging
import sys

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """`time LEVEL logger event name=value …`; a value with a space in it is quoted."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """Write the line, without a stack."""
        fields = [f"{name}={_text(value)}" for name, value in vars(record).items() if name not in _OWN]
        return " ".join([super().formatMessage(record), *fields])


def _text(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)


def start_logging(level: str) -> None:
    """Write events of this level and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldsFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
