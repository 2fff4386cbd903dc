"""One answer, one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.users.record import Answer, Recorder, read

HEADERS = {
    "x-headgate-version": "2",
    "x-headgate-pool": "digits-v2",
    "cache-status": "headgate; fwd=miss; stored",
    "ratelimit-policy": ['"endpoints.digits";q=200;w=1', '"free-tier";q=5;w=1'],
}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    answers = [
        Answer.of(1.5, 0.25, "tensorflow-serving", 200, HEADERS, ""),
        Answer.of(2.0, 0.5, "kserve-v2", 0, {}, "no answer"),
    ]
    recorder = Recorder(tmp_path / "answers.jsonl")
    for answer in answers:
        recorder.write(answer)
    recorder.close()
    assert list(read(tmp_path / "answers.jsonl")) == answers


def test_header_fields_are_gathered() -> None:
    answer = Answer.of(1.5, 0.25, "tensorflow-serving", 200, HEADERS, "")
    assert (answer.version, answer.pool, answer.received) == ("2", "digits-v2", 1.75)
    assert answer.quota("free-tier") == 5
    assert answer.quota("endpoints.digits") == 200
    assert answer.quota("another") is None


@pytest.mark.parametrize(
    ("cache", "hit", "missed"),
    [
        ("headgate; hit", True, False),
        ("headgate; hit; ttl=-3", True, False),
        ("headgate; fwd=miss; stored", False, True),
        ("headgate; fwd=miss; collapsed", False, False),
        ("headgate; fwd=request", False, False),
        ("", False, False),
    ],
)
def test_what_the_cache_said(cache: str, hit: bool, missed: bool) -> None:
    answer = Answer(0.0, 0.0, "user", 200, cache=cache)
    assert (answer.hit, answer.missed) == (hit, missed)
