from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.units import Ratio
from gateway.filters import send
from gateway.filters.release import KIND, ReleaseFilter
from gateway.filters.release_terms import Release
from gateway.http.message import Response
from gateway.pipeline.choice import Explicit
from gateway.pipeline.ports import Principal
from tests.fakes.traffic import V1, V2, Traffic, inputs, instances

OLGA = Principal("olga", may_override=True)


def digits(seed: int = 7) -> Traffic:
    return Traffic(
        {"digits-v1": 1, "digits-v2": 1},
        versions={"1": "digits-v1", "2": "digits-v2"},
        labels={"stable": "1", "canary": "2"},
        seed=seed,
    )


def arms(traffic: Traffic, release: Release, count: int, *names: str) -> list[str]:
    (filter,) = traffic.use(KIND, release, policy="release-v2")
    chosen = []
    for number in range(count):
        name = names[number % len(names)] if names else ""
        ctx = traffic.context(principal=Principal(name) if name else None)
        assert filter.on_request(ctx) is None
        assert (ctx.pool, ctx.arm) in (
            (traffic.pools["digits-v1"], "stable"),
            (traffic.pools["digits-v2"], "candidate"),
        )
        chosen.append(ctx.arm)
    return chosen


@settings(max_examples=25, deadline=None)
@given(weight=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_the_candidates_share_stays_within_binomial_bounds(weight: float, seed: int) -> None:
    count = 1500
    share = arms(digits(seed), Release(weight=Ratio(weight)), count).count("candidate")
    assert abs(share - count * weight) <= 5 * (count * weight * (1 - weight)) ** 0.5 + 1


@pytest.mark.parametrize(("weight", "arm"), [(0.0, "stable"), (1.0, "candidate")])
def test_nobody_and_everybody_are_shares_too(weight: float, arm: str) -> None:
    assert set(arms(digits(), Release(weight=Ratio(weight)), 200)) == {arm}


def test_a_sticky_principal_meets_the_same_arm_on_every_gateway() -> None:
    release = Release(weight=Ratio(0.5), sticky="principal")
    names = [f"user-{n}" for n in range(300)]
    first = arms(digits(seed=1), release, 300, *names)
    assert first == arms(digits(seed=2), release, 300, *names)
    assert 100 < first.count("candidate") < 200


def test_who_is_in_the_candidates_arm_stays_there_while_it_grows() -> None:
    names = [f"user-{n}" for n in range(300)]
    few = arms(digits(), Release(weight=Ratio(0.1), sticky="principal"), 300, *names)
    many = arms(digits(), Release(weight=Ratio(0.4), sticky="principal"), 300, *names)
    assert all(late == "candidate" for early, late in zip(few, many, strict=True) if early == "candidate")
    assert many.count("candidate") > few.count("candidate")


def test_a_sticky_client_is_known_by_its_address() -> None:
    traffic = digits()
    (release,) = traffic.use(KIND, Release(weight=Ratio(0.5), sticky="client"))
    by_address: dict[str, set[str]] = {}
    for number in range(200):
        ctx = traffic.context(address=f"10.0.0.{number % 20}")
        release.on_request(ctx)
        by_address.setdefault(ctx.client, set()).add(ctx.arm)
    assert all(len(met) == 1 for met in by_address.values())
    assert len({arm for met in by_address.values() for arm in met}) == 2


def test_the_same_prediction_meets_the_same_arm_however_it_is_written() -> None:
    traffic = digits()
    (release,) = traffic.use(KIND, Release(weight=Ratio(0.3), sticky="prediction"))
    assert release.needs_body
    met = []
    for number in range(400):
        arms_of_it = set()
        for path, body in (
            (V1, instances([[number, 2]])),
            (V1, instances([[number + 0.0, 2e0]])),
            (V2, inputs([[number, 2]])),
        ):
            ctx = traffic.context(path, body)
            assert release.on_request(ctx) is None
            arms_of_it.add(ctx.arm)
        (arm,) = arms_of_it
        met.append(arm)
    assert abs(met.count("candidate") - 120) < 4 * (400 * 0.3 * 0.7) ** 0.5


def test_what_cant_be_read_as_a_prediction_takes_its_chance() -> None:
    traffic = digits()
    (release,) = traffic.use(KIND, Release(weight=Ratio(0.5), sticky="prediction"))
    met = set()
    for path in (V1, b"/v1/models/digits/metadata"):
        for _ in range(50):
            ctx = traffic.context(path, b"{")
            release.on_request(ctx)
            met.add((path, ctx.arm))
    assert len(met) == 4


def test_what_is_asked_about_a_model_is_asked_of_stable() -> None:
    traffic = digits()
    (filter,) = traffic.use(KIND, Release(weight=Ratio(0.9)))
    for _ in range(50):
        ctx = traffic.context(b"/v1/models/digits/metadata", method=b"GET")
        assert filter.on_request(ctx) is None
        assert (ctx.pool, ctx.arm) == (traffic.pools["digits-v1"], "stable")


def test_a_dead_candidate_falls_back_to_stable() -> None:
    traffic = digits()
    traffic.kill("digits-v2")
    (release,) = traffic.use(KIND, Release(weight=Ratio(1.0)))
    assert isinstance(release, ReleaseFilter)
    ctx = traffic.context()
    release.on_request(ctx)
    assert (ctx.pool, ctx.arm, release.fallbacks) == (traffic.pools["digits-v1"], "stable", 1)


def test_a_dead_stable_does_not_fall_back_to_the_candidate() -> None:
    traffic = digits()
    traffic.kill("digits-v1")
    (release,) = traffic.use(KIND, Release(weight=Ratio(0.0)))
    ctx = traffic.context()
    release.on_request(ctx)
    assert (ctx.pool, ctx.arm) == (traffic.pools["digits-v1"], "stable")


def test_a_candidate_that_is_the_stable_one_releases_nothing() -> None:
    traffic = digits()
    traffic.populate("digits-v2", 0)
    (release,) = traffic.use(KIND, Release(weight=Ratio(1.0), candidate="newest"))
    ctx = traffic.context()
    release.on_request(ctx)
    assert ctx.arm == "stable"


@pytest.mark.parametrize(
    ("override", "arm", "version"), [(True, "", "2"), (False, "stable", "1")], ids=["allowed", "forbidden"]
)
def test_who_overrides_takes_no_part_unless_the_release_forbids_it(
    override: bool, arm: str, version: str
) -> None:
    traffic = digits()
    traffic.add(Explicit(traffic.parts))
    traffic.use(KIND, Release(weight=Ratio(0.0), override=override))
    traffic.use(send.KIND, send.Send.from_text("stable"))
    sent = traffic.send(headers=[(b"x-headgate-send", b"canary")], principal=OLGA)
    assert (sent.ctx.arm, sent.ctx.version) == (arm, version)
    assert all(name != b"x-headgate-send" for name, _ in traffic.upstream.calls[0].request.headers)


def test_a_version_in_the_url_takes_no_part() -> None:
    traffic = digits()
    traffic.add(Explicit(traffic.parts))
    traffic.use(KIND, Release(weight=Ratio(1.0), override=False))
    sent = traffic.send(b"/v1/models/digits/versions/1:predict")
    assert (sent.ctx.arm, sent.ctx.version, sent.ctx.chosen_by) == ("", "1", "url")


def test_a_release_goes_before_send() -> None:
    traffic = digits()
    traffic.use(send.KIND, send.Send.from_text("stable"))
    traffic.use(KIND, Release(weight=Ratio(1.0)))
    assert traffic.send().ctx.version == "2"


def test_two_arms_are_two() -> None:
    assert list(Release(stable="1", candidate="1").check())
    assert [reference.name for reference in Release().names()] == ["stable", "newest"]


# By cookie and by header


def answered(traffic: Traffic, release: ReleaseFilter, *headers: tuple[bytes, bytes]) -> tuple[str, bytes]:
    """A request's arm, and the cookie that its answer sets."""
    ctx = traffic.context(headers=list(headers))
    assert release.on_request(ctx) is None
    response = Response(200, [], b"")
    assert release.on_response(ctx, response) is response
    return ctx.arm, (response.header(b"set-cookie") or b"").partition(b";")[0]


def test_a_browser_that_sends_its_cookie_meets_the_same_arm_on_every_gateway() -> None:
    asked = Release(weight=Ratio(0.4), sticky="cookie")
    traffic, elsewhere = digits(seed=1), digits(seed=2)
    (release,) = traffic.use(KIND, asked, policy="release-v2")
    (other,) = elsewhere.use(KIND, asked, policy="release-v2")
    assert isinstance(release, ReleaseFilter)
    assert isinstance(other, ReleaseFilter)
    first = [answered(traffic, release) for _ in range(100)]
    assert len({drawn for _, drawn in first}) == 100
    assert 20 < [arm for arm, _ in first].count("candidate") < 60
    for arm, drawn in first:
        assert answered(traffic, release, (b"cookie", b"a=b; " + drawn)) == (arm, b"")
        assert answered(elsewhere, other, (b"cookie", drawn)) == (arm, b"")


def test_a_cookie_that_nobody_of_us_set_is_drawn_anew() -> None:
    traffic = digits()
    (release,) = traffic.use(KIND, Release(weight=Ratio(0.4), sticky="cookie"))
    assert isinstance(release, ReleaseFilter)
    assert answered(traffic, release, (b"cookie", b"headgate-arm=" + b"x" * 65))[1] != b""


@pytest.mark.parametrize(
    ("header", "arm"),
    [
        pytest.param((b"x-canary", b"always"), "candidate", id="the header"),
        pytest.param((b"cookie", b"beta=on"), "candidate", id="the cookie"),
        pytest.param((b"x-canary", b"never"), "stable", id="another value"),
        pytest.param((b"cookie", b"beta=off"), "stable", id="another cookie"),
    ],
)
def test_a_header_or_a_cookie_leads_to_the_candidate_at_any_weight(
    header: tuple[bytes, bytes], arm: str
) -> None:
    traffic = digits()
    asked = Release(weight=Ratio(0.0), headers={"X-Canary": "always"}, cookies={"beta": "on"})
    (release,) = traffic.use(KIND, asked)
    assert isinstance(release, ReleaseFilter)
    ctx = traffic.context(headers=[header])
    release.on_request(ctx)
    assert (ctx.arm, ctx.pool) == (arm, traffic.pools["digits-v2" if arm == "candidate" else "digits-v1"])


def test_nothing_leads_to_a_candidate_that_was_taken_back_or_is_away() -> None:
    traffic = digits()
    (release,) = traffic.use(KIND, Release(weight=Ratio(0.5), headers={"x-canary": "always"}))
    assert isinstance(release, ReleaseFilter)
    always = (b"x-canary", b"always")
    release.live.heed(release.live.told._replace(weight=0.0, over=True))
    assert answered(traffic, release, always)[0] == "stable"
    release.live.heed(release.live.told._replace(weight=0.5, over=False))
    assert answered(traffic, release, always)[0] == "candidate"
    for instance in traffic.pools["digits-v2"].members.instances:
        instance.healthy = False
    assert answered(traffic, release, always)[0] == "stable"
    assert release.live.take() is None  # what chose itself is in neither arm
