"""Questions that come again in the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.metadata import Signature
from gateway.dialects.tensors import InferRequest
from gateway.filters.cache_questions import KEPT, LONGEST, ROOM, Question, Questions
from gateway.http.message import Headers, Request
from gateway.pipeline.pool import Pool
from gateway.pipeline.pool_verbs import PoolSettings
from tests.fakes.traffic import SeededIds

POOL = Pool("stable", PoolSettings(), SeededIds())
INFER = InferRequest(None, "m", None, None, "", (), None, {}, "named")
JSON = (b"content-type", b"application/json")


def asked(
    body: bytes = b"{}", path: bytes = b"/v2/models/m/infer", headers: Headers | None = None
) -> Request:
    return Request(b"POST", path, [JSON] if headers is None else headers, length=len(body), body=body)


def test_the_same_bytes_are_the_same_question() -> None:
    questions = Questions()
    other_caller = [(b"x-api-key", b"1"), JSON, (b"x-request-id", b"2"), (b"traceparent", b"3")]
    assert questions.asked(asked(), POOL, "", b"") == questions.asked(
        asked(headers=other_caller), POOL, "", b""
    )


@pytest.mark.parametrize(
    "other",
    [
        asked(b"{} "),
        asked(path=b"/v2/models/n/infer"),
        asked(headers=[(b"content-type", b"text/plain")]),
        asked(headers=[JSON, (b"content-encoding", b"gzip")]),
        asked(headers=[JSON, (b"inference-header-content-length", b"2")]),
    ],
    ids=["body", "path", "content type", "coding", "binary part"],
)
def test_whatever_a_dialect_reads_makes_another_question(other: Request) -> None:
    questions = Questions()
    assert questions.asked(asked(), POOL, "", b"") != questions.asked(other, POOL, "", b"")


@pytest.mark.parametrize(
    ("pool", "version", "subject"),
    [
        (Pool("canary", PoolSettings(), SeededIds()), "", b""),
        (Pool("stable", PoolSettings(), SeededIds(), version="2"), "", b""),
        (Pool("stable", PoolSettings(), SeededIds(), model="n"), "", b""),
        (POOL, "2", b""),
        (POOL, "", b"principal ann"),
    ],
    ids=["pool", "its version", "its model", "version", "subject"],
)
def test_whatever_else_the_key_depends_on_makes_another_question(
    pool: Pool, version: str, subject: bytes
) -> None:
    questions = Questions()
    assert questions.asked(asked(), POOL, "", b"") != questions.asked(asked(), pool, version, subject)


@given(
    st.lists(st.binary(max_size=3), min_size=2, max_size=2),
    st.lists(st.binary(max_size=3), min_size=2, max_size=2),
)
def test_no_two_questions_run_into_each_other(one: list[bytes], other: list[bytes]) -> None:
    questions = Questions()
    first, second = [
        questions.asked(asked(b"x" + body, b"/" + path), POOL, "", b"") for path, body in (one, other)
    ]
    assert (first == second) is (one == other)


def test_a_long_body_is_not_remembered() -> None:
    assert Questions().asked(asked(bytes(LONGEST + 1)), POOL, "", b"") is None
    assert Questions().asked(asked(b""), POOL, "", b"") is None


def test_a_question_holds_while_its_signature_does() -> None:
    questions, signature = Questions(), Signature((), ())
    sent = questions.asked(asked(), POOL, "", b"")
    assert sent is not None
    question = Question(signature, INFER, b"key")
    questions.keep(sent, 2, question)
    assert questions.find(sent, signature) is question
    assert questions.find(sent, Signature((), ())) is None
    assert questions.find(sent, None) is None


@pytest.mark.parametrize(("size", "most"), [(1, KEPT), (LONGEST, ROOM // LONGEST)], ids=["many", "long"])
def test_the_questions_kept_are_bounded(size: int, most: int) -> None:
    questions = Questions()
    for number in range(most):
        questions.keep((number,), size, Question(None, INFER, b""))
    assert repr(questions) == f"<Questions | {most}>"
    questions.keep(("one more",), size, Question(None, INFER, b""))
    assert repr(questions) == "<Questions | 1>"
