"""One prediction that is answered row by row (cache_rows.py): its rows, and what became of each."""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from gateway.dialects.metadata import Signature
from gateway.dialects.rows import Row, unpack
from gateway.dialects.tensors import InferRequest
from gateway.http.message import Headers, Request
from gateway.pipeline.answers import Kept
from gateway.pipeline.claims import Claims
from gateway.pipeline.errand import Errand
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.pool import Pool
from gateway.pipeline.promise import Promise

FORM: Final = "rows"  # of a Kept that holds one row, where others have a dialect


class Batch:
    """One request, its rows, and what became of each."""

    __slots__ = (
        "age",
        "asking",
        "began",
        "claims",
        "decided",
        "errand",
        "failed",
        "headers",
        "infer",
        "keys",
        "known",
        "pool",
        "repeated",
        "request",
        "sent",
        "settled",
        "signature",
    )

    def __init__(
        self, infer: InferRequest, keys: list[bytes], signature: Signature, pool: Pool, began: float
    ) -> None:
        self.infer = infer
        self.keys = keys
        self.signature = signature
        self.pool = pool
        self.began = began  # s since the epoch
        self.known: dict[bytes, Row] = {}  # rows that are here, by key
        self.headers: Headers = []  # that came with them
        self.age = 0.0  # s, of the oldest
        self.claims: Claims | None = None  # on the rows that are not
        self.decided: Promise[None] = Promise()  # what is to be sent is known, or that nothing is
        self.settled: Promise[None] = Promise()  # of all rows it is known whether they came
        self.asking = False  # a call for some of them is under way
        self.errand: Errand | None = None  # the second call
        self.repeated = False  # and for all rows anew
        self.failed: GatewayError | Refusal | None = None  # what came of that
        self.sent: list[int] = []  # rows that go upstream with the request
        self.request: Request | None = None  # as the client sent it, where only a part goes upstream

    def take(self, key: bytes, kept: Kept, now: float) -> None:
        """Take a row that is here."""
        self.known[key] = unpack(kept.body)
        self.headers = kept.headers
        self.age = max(self.age, kept.freshness.age(now))

    def missing(self) -> list[bytes]:
        """Return every key that is not here, in order."""
        return [key for key in dict.fromkeys(self.keys) if key not in self.known]

    def first(self, keys: Container[bytes]) -> list[int]:
        """Return where each of these keys stands first, in order."""
        places = {key: index for index, key in reversed(list(enumerate(self.keys))) if key in keys}
        return sorted(places.values())

    def ours(self) -> list[int]:
        """Return the rows that are ours to fetch, in order; now they are being fetched."""
        assert self.claims is not None
        rows = self.first(self.claims.ours)
        self.claims.ours.clear()
        return rows
