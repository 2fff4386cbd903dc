"""Predictions that were read before, found again by the bytes they were written in.

The cache's key is taken from the tensors, because one question can be written in many ways. But most clients
write the same question in the same bytes, and then neither reading it nor hashing its tensors tells anything
new: its key is remembered here under path, body fields, body and whatever else the key depends on, as they
are (a keyed hash and a comparison cost a third of a digest). A model's signature says how a body is to be
read, so a question holds only while the signature is the very same object. Bounded: short bodies, as many
as `KEPT`, of `ROOM` bytes in all; all are forgotten when there are too many.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from gateway.dialects.metadata import Signature
from gateway.dialects.tensors import InferRequest
from gateway.http.message import Request
from gateway.pipeline.pool import Pool

KEPT: Final = 2048
ROOM: Final = 4 * 1024 * 1024  # bytes of bodies
LONGEST: Final = 4096  # bytes of body
_READ: Final = (b"content-", b"inference-", b"accept")  # what dialects look at begins so

Asked: TypeAlias = tuple[object, ...]
"""What was sent, as far as the key depends on it."""


class _Matters(dict[bytes, bool]):
    """Whether dialects look at fields of a name: found out once per name, for 1024 short ones."""

    __slots__ = ()

    def __missing__(self, name: bytes) -> bool:
        """Decide."""
        matters = name.startswith(_READ)
        if len(self) < 1024 and len(name) <= 64:
            self[name] = matters
        return matters


_MATTERS: Final = _Matters()


class Question:
    """One prediction: how it was read, by which signature, and its key."""

    __slots__ = ("infer", "key", "signature")

    def __init__(self, signature: Signature | None, infer: InferRequest, key: bytes) -> None:
        self.signature = signature
        self.infer = infer
        self.key = key


class Questions:
    """The questions of one cache."""

    __slots__ = ("_known", "_size")

    def __init__(self) -> None:
        self._known: dict[Asked, Question] = {}
        self._size = 0  # bytes of bodies

    def asked(self, request: Request, pool: Pool, version: str, subject: bytes) -> Asked | None:
        """Return what the question is found by, None where it is not to be remembered.

        pool, version, subject: what else its key depends on.
        """
        body = request.body
        if not body or len(body) > LONGEST:
            return None
        fields = [field for field in request.headers if _MATTERS[field[0]]]
        return (request.path, body, pool.name, pool.model, pool.version, version, subject, *fields)

    def find(self, asked: Asked, signature: Signature | None) -> Question | None:
        """Return the question, if it was read by this signature."""
        known = self._known.get(asked)
        return None if known is None or known.signature is not signature else known

    def keep(self, asked: Asked, body: int, question: Question) -> None:
        """Remember it. body: its bytes."""
        if len(self._known) >= KEPT or self._size + body > ROOM:
            self._known.clear()
            self._size = 0
        self._known[asked] = question
        self._size += body

    def __repr__(self) -> str:
        return f"<Questions | {len(self._known)}>"
