from __future__ import annotations

import math
import re

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.governance.flights import Role
from gateway.pipeline.answers import MOST_PURGED, AnswerStore, Kept, Landed, Waiter, Windows, tag
from gateway.pipeline.promise import Promise
from gateway.stores.memory import MemoryBlobs
from tests.fakes.clock import ManualClock

WALL = 1_790_000_000.0


def kept(
    body: bytes = b"{}", *, stored: float = 1000.0, tags: tuple[str, ...] = (), ttl: float = 30.0
) -> Kept:
    return Kept(
        stored,
        Windows(ttl, 10.0, 60.0),
        [(b"content-type", b"application/json")],
        body,
        dialect="kserve-v2",
        style="named",
        id="a",
        tags=tags,
    )


def test_what_is_kept_is_found_until_it_is_of_no_use() -> None:
    answers = AnswerStore(10_000)
    one = kept()
    assert answers.keep(b"k", one, WALL, WALL)
    assert answers.find(b"k", 1000.0 + 89, WALL) is one
    assert answers.find(b"k", 1000.0 + 90, WALL) is None
    assert len(answers) == 0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000)), max_size=60))
def test_memory_never_holds_more_than_its_bound(puts: list[tuple[int, int]]) -> None:
    answers = AnswerStore(8_000)
    for key, size in puts:
        answers.keep(b"%d" % key, kept(b"x" * size), WALL, WALL)
        assert answers.size <= 8_000


def test_what_is_larger_than_the_store_is_not_kept() -> None:
    answers = AnswerStore(1_000)
    assert not answers.keep(b"k", kept(b"x" * 1_000), WALL, WALL)


# The shared store


def test_another_gateway_finds_it_in_the_shared_store_with_its_age() -> None:
    clock = ManualClock(now=1000.0)
    blobs = MemoryBlobs(100_000, clock)
    AnswerStore(10_000, blobs).keep(b"k", kept(b"body\n2"), WALL, WALL)
    other = AnswerStore(10_000, blobs)
    found = other.find(b"k", 5000.0, WALL + 12)
    assert isinstance(found, Kept)
    assert (found.body, found.headers, found.dialect, found.style, found.id) == (
        b"body\n2",
        [(b"content-type", b"application/json")],
        "kserve-v2",
        "named",
        "a",
    )
    assert found.freshness.age(5000.0) == pytest.approx(12)
    assert other.find(b"k", 5000.0, WALL + 12) is found


class Away:
    """A BlobStore that answers when told to, or never well."""

    def __init__(self) -> None:
        self.asked: list[Promise[bytes | None]] = []

    def get(self, key: bytes) -> Promise[bytes | None]:
        self.asked.append(Promise())
        return self.asked[-1]

    def set(self, key: bytes, value: bytes, ttl: float) -> None: ...

    def delete(self, keys: object) -> None: ...


def test_a_shared_store_that_fails_is_a_miss() -> None:
    away = Away()
    found = AnswerStore(10_000, away).find(b"k", 0.0, WALL)
    assert isinstance(found, Promise)
    told: list[Kept | None] = []
    found.then(told.append, pytest.fail)
    away.asked[0].reject(ConnectionError())
    assert told == [None]


@pytest.mark.parametrize(
    "blob",
    [b"", b"nonsense", b"{}\n", b"[]\n", b'{"format": 99}\nx', b'{"format": 1, "stored": "x"}\n', b"\xff\n"],
)
def test_what_is_no_answer_of_ours_is_a_miss(blob: bytes) -> None:
    clock = ManualClock()
    blobs = MemoryBlobs(100_000, clock)
    blobs.set(b"k", blob, 60.0)
    assert AnswerStore(10_000, blobs).find(b"k", 0.0, WALL) is None


def written(**fields: object) -> bytes:
    """What a gateway writes of an answer, with other fields."""
    clock = ManualClock()
    blobs = MemoryBlobs(100_000, clock)
    AnswerStore(10_000, blobs).keep(b"k", kept(), WALL, WALL)
    line, _, body = (blobs.get(b"k") or b"").partition(b"\n")
    return orjson.dumps({**orjson.loads(line), **fields}) + b"\n" + body


def found_of(blob: bytes, capacity: int = 10_000) -> Kept | None:
    """What becomes of a blob that somebody put there."""
    blobs = MemoryBlobs(1_000_000, ManualClock())
    blobs.set(b"k", blob, 60.0)
    found = AnswerStore(capacity, blobs).find(b"k", 1000.0, WALL)
    assert not isinstance(found, Promise)
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 99},
        {"status": 600},
        {"status": 101},
        {"status": "x"},
        {"stored": "nan"},
        {"stored": "inf"},
        {"stored": None},
        {"windows": ["inf", 0, 0]},
        {"windows": ["nan", 0, 0]},
        {"windows": [-1, 0, 0]},
        {"windows": [1, 2, 3, 4]},
        {"windows": 30},
        {"headers": [["x-a", "b\r\nset-cookie: c"]]},
        {"headers": [["x-a", "b\x00"]]},
        {"headers": [["x-a: b\r\nx", "c"]]},
        {"headers": [["X-A", "b"]]},
        {"headers": [["", "b"]]},
        {"headers": [["x-a", "\u20ac"]]},
        {"headers": [["content-length", "1"]]},
        {"headers": [["transfer-encoding", "chunked"]]},
        {"headers": [["x-a"]]},
        {"headers": {"x-a": "b"}},
        {"id": 7},
        {"id": ["a"]},
        {"tags": "endpoint:m"},
        {"tags": [1]},
        {"dialect": None},
    ],
    ids=str,
)
def test_a_blob_that_no_gateway_wrote_so_is_a_miss(fields: dict[str, object]) -> None:
    assert found_of(written()) is not None
    assert found_of(written(**fields)) is None


def test_a_blob_larger_than_the_store_is_a_miss() -> None:
    assert found_of(written() + b"x" * 9_000) is not None
    assert found_of(written() + b"x" * 11_000) is None


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(sorted(orjson.loads(written().partition(b"\n")[0]))), _ODD, max_size=3)
)
def test_whatever_is_in_the_shared_store_nothing_breaks_or_leaks_into_the_head(
    fields: dict[str, object],
) -> None:
    found = found_of(written(**fields))
    if found is None:
        return
    assert 200 <= found.status < 600
    assert found.id is None or isinstance(found.id, str)
    assert math.isfinite(found.freshness.gone_at)
    for name, value in found.headers:
        assert re.fullmatch(rb"[!#-'*+.^_`|~0-9a-z-]+", name)
        assert not re.search(rb"[\r\n\0]", value)


# Purging


def test_a_purge_forgets_by_endpoint_by_model_or_everything() -> None:
    answers = AnswerStore(100_000)

    def fill() -> None:
        for name in ("a", "b"):
            for model in ("m", "n"):
                tags = (tag("endpoint", name), tag("model", model))
                answers.keep(f"{name}{model}".encode(), kept(tags=tags), WALL + 100, WALL + 100)

    fill()
    assert answers.purge(WALL, endpoint="a") == 2
    assert len(answers) == 2
    assert answers.purge(WALL, model="m") == 1
    fill()
    assert answers.purge(WALL) == 4


def test_a_purge_reaches_the_shared_store_and_answers_that_were_under_way() -> None:
    clock = ManualClock()
    blobs = MemoryBlobs(100_000, clock)
    tags = (tag("endpoint", "digits"),)
    one, other = AnswerStore(10_000, blobs), AnswerStore(10_000, blobs)
    one.keep(b"k", kept(tags=tags), WALL, WALL)
    other.purge(WALL + 1, endpoint="digits")  # it never saw the answer, so can't delete it
    assert other.find(b"k", 1000.0, WALL + 2) is None
    assert not other.keep(b"j", kept(tags=tags), began=WALL + 0.5, wall=WALL + 2)
    assert other.keep(b"j", kept(tags=tags), began=WALL + 1.5, wall=WALL + 2)
    one.purge(WALL + 3)
    assert blobs.get(b"k") is None


@pytest.mark.parametrize("what", [None, "key:" + b"k".hex(), "tag:a", "endpoint:e"], ids=str)
def test_a_purge_by_anything_forgets_what_is_here_and_what_is_under_way(what: str | None) -> None:
    answers = AnswerStore(10_000)
    tags = ("tag:a", "endpoint:e")
    answers.keep(b"k", kept(tags=tags), WALL, WALL)
    answers.keep(b"other", kept(), WALL, WALL)
    assert answers.purge_tag(what, WALL + 1) == (2 if what is None else 1)
    assert answers.find(b"k", 1000.0, WALL + 1) is None
    assert not answers.keep(b"k", kept(tags=tags), began=WALL + 0.5, wall=WALL + 2)
    assert answers.keep(b"k", kept(tags=tags), began=WALL + 1.5, wall=WALL + 2)


def test_purges_are_remembered_up_to_a_bound() -> None:
    answers = AnswerStore(10_000)
    for number in range(MOST_PURGED + 5):
        answers.purge_tag(f"tag:{number}", WALL)
    assert answers.keep(b"k", kept(tags=("tag:4",)), began=WALL - 1, wall=WALL), "forgotten"
    assert not answers.keep(b"j", kept(tags=("tag:5",)), began=WALL - 1, wall=WALL)


# Flights


def joined(answers: AnswerStore, count: int) -> list[tuple[Waiter, list[Landed]]]:
    flight: list[tuple[Waiter, list[Landed]]] = []
    for _ in range(count):
        waiter, heard = Waiter(), list[Landed]()
        answers.join(b"k", waiter)
        waiter.landed.then(heard.append, pytest.fail)
        flight.append((waiter, heard))
    return flight


def test_everybody_gets_what_the_leader_brings() -> None:
    answers = AnswerStore(10_000)
    (leader, _), *others = joined(answers, 4)
    one = kept()
    answers.land(b"k", leader, one)
    assert [heard for _, heard in others] == [[one]] * 3
    assert not answers.is_flying(b"k")
    assert answers.collapsed == 3


def test_a_leader_who_leaves_hands_over_to_one() -> None:
    answers = AnswerStore(10_000)
    (leader, _), (second, to_second), (_, to_third) = joined(answers, 3)
    answers.leave(b"k", leader)
    assert (to_second, to_third) == ([Role.LEADER], [])
    answers.land(b"k", second, kept())
    assert len(to_third) == 1


def test_an_answer_that_cant_be_shared_sends_everybody_on() -> None:
    answers = AnswerStore(10_000)
    (leader, _), *others = joined(answers, 3)
    answers.dissolve(b"k", leader)
    assert [heard for _, heard in others] == [[Role.ALONE]] * 2


def test_who_leads_no_flight_ends_none() -> None:
    answers = AnswerStore(10_000)
    _, (joiner, heard) = joined(answers, 2)
    answers.land(b"k", joiner, kept())
    answers.dissolve(b"k", Waiter())
    assert answers.is_flying(b"k")
    assert heard == []


def test_a_thousand_who_fail_at_once_are_told_one_after_the_other() -> None:
    answers = AnswerStore(10_000)
    leader = Waiter()
    answers.join(b"k", leader)
    told = []
    for number in range(1000):
        waiter = Waiter()
        answers.join(b"k", waiter)

        def fails_at_once(_: Landed, waiter: Waiter = waiter, number: int = number) -> None:
            told.append(number)
            answers.leave(b"k", waiter)

        waiter.landed.then(fails_at_once, pytest.fail)
    answers.leave(b"k", leader)
    assert told == list(range(1000))
    assert not answers.is_flying(b"k")
