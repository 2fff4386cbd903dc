"""Predictions that were read before, found again by the bytes they were written in.

The cache's key is taken from the tensors, because one question can be written in many ways. But most clients
write the same question in the same bytes, and then neither reading it nor hashing its tensors tells anything
new: its key is remembered here under a digest of path, body fields, body and of whatever else the key depends
on. A model's signature says how a body is to be read, so a question holds only while the signature is the
very same object. Bounded: short bodies, and as many as `KEPT`; all are forgotten when there are too many.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from gateway.dialects.metadata import Signature
from gateway.dialects.tensors import InferRequest
from gateway.http.message import Request

KEPT: Final = 2048
LONGEST: Final = 4096  # bytes of body
_READ: Final = (b"content-", b"inference-", b"accept")  # what dialects look at begins so


class Question:
    """One prediction: how it was read, by which signature, and its key."""

    __slots__ = ("infer", "key", "signature")

    def __init__(self, signature: Signature | None, infer: InferRequest, key: bytes) -> None:
        self.signature = signature
        self.infer = infer
        self.key = key


class Questions:
    """The questions of one cache."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Question] = {}

    def digest(self, request: Request, context: bytes) -> bytes:
        """Return what a question is found by, b"" where it is not to be remembered.

        context: what else its key depends on.
        """
        body = request.body
        if not body or len(body) > LONGEST:
            return b""
        parts = [context, request.path, body]
        for field in request.headers:
            if field[0].startswith(_READ):
                parts += field
        return blake2b(b"".join([b"%d:%b" % (len(part), part) for part in parts]), digest_size=16).digest()

    def find(self, digest: bytes, signature: Signature | None) -> Question | None:
        """Return the question, if it was read by this signature."""
        known = self._known.get(digest)
        return None if known is None or known.signature is not signature else known

    def keep(self, digest: bytes, question: Question) -> None:
        """Remember it."""
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[digest] = question

    def __repr__(self) -> str:
        return f"<Questions | {len(self._known)}>"
