"""Reason phrases of status codes (RFC 9110 §15, RFC 6585)."""

from __future__ import annotations

from http import HTTPStatus

REASONS = {status.value: status.phrase for status in HTTPStatus}


def reason(status: int) -> str:
    """Return the phrase of a status code; of an unknown one, that of its class."""
    return REASONS.get(status) or REASONS.get(status // 100 * 100) or "Unknown"
