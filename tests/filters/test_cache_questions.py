"""Questions that come again in the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.metadata import Signature
from gateway.dialects.tensors import InferRequest
from gateway.filters import cache_questions
from gateway.filters.cache_questions import LONGEST, Question, Questions
from gateway.http.message import Headers, Request

INFER = InferRequest(None, "m", None, None, "", (), None, {}, "named")
JSON = (b"content-type", b"application/json")


def asked(
    body: bytes = b"{}", path: bytes = b"/v2/models/m/infer", headers: Headers | None = None
) -> Request:
    return Request(b"POST", path, [JSON] if headers is None else headers, length=len(body), body=body)


def test_the_same_bytes_are_the_same_question() -> None:
    questions = Questions()
    other_caller = [(b"x-api-key", b"1"), JSON, (b"x-request-id", b"2"), (b"traceparent", b"3")]
    assert questions.digest(asked(), b"") == questions.digest(asked(headers=other_caller), b"")


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
    assert questions.digest(asked(), b"") != questions.digest(other, b"")
    assert questions.digest(asked(), b"") != questions.digest(asked(), b"another pool")


@given(
    st.lists(st.binary(max_size=3), min_size=2, max_size=2),
    st.lists(st.binary(max_size=3), min_size=2, max_size=2),
)
def test_no_two_questions_run_into_each_other(one: list[bytes], other: list[bytes]) -> None:
    questions = Questions()
    digests = [questions.digest(asked(b"x" + body, b"/" + path), b"") for path, body in (one, other)]
    assert (digests[0] == digests[1]) is (one == other)


def test_a_long_body_is_not_remembered() -> None:
    assert Questions().digest(asked(bytes(LONGEST + 1)), b"") == b""
    assert Questions().digest(asked(b""), b"") == b""


def test_a_question_holds_while_its_signature_does() -> None:
    questions, signature = Questions(), Signature((), ())
    digest = questions.digest(asked(), b"")
    question = Question(signature, INFER, b"key")
    questions.keep(digest, question)
    assert questions.find(digest, signature) is question
    assert questions.find(digest, Signature((), ())) is None
    assert questions.find(digest, None) is None


def test_the_questions_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_questions, "KEPT", 3)
    questions = Questions()
    for number in range(8):
        questions.keep(b"%d" % number, Question(None, INFER, b""))
    assert repr(questions) == "<Questions | 2>"
