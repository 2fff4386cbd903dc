from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.discovery.members import Member
from gateway.discovery.protection import Protection, ProtectionRules

RULES = ProtectionRules()
S = "digits"


def member(name: str, **fields: object) -> Member:
    return Member(name, ("10.0.0.1", 8000 + sum(name.encode())), **fields)  # type: ignore[arg-type]


def listed(*names: str) -> dict[str, dict[str, Member | None]]:
    return {S: {name: member(name) for name in names}} if names else {}


def shown(protection: Protection) -> set[str]:
    return {member.id for member in protection.members(S)}


@pytest.fixture
def protection() -> Protection:
    """Four members, listed at 0."""
    protection = Protection(RULES)
    assert protection.sync(listed("a", "b", "c", "d"), 0.0) == {S}
    return protection


# Lists


def test_the_first_list_is_shown_at_once() -> None:
    protection = Protection()
    assert protection.sync(listed("a", "b"), 0.0) == {S}
    assert shown(protection) == {"a", "b"}


def test_the_same_list_again_changes_nothing(protection: Protection) -> None:
    assert protection.sync(listed("a", "b", "c", "d"), 1.0) == set()


def test_a_list_that_lacks_half_is_believed(protection: Protection) -> None:
    assert protection.sync(listed("a", "b"), 1.0) == {S}
    assert shown(protection) == {"a", "b"}


def test_a_list_that_lacks_more_than_half_is_held(protection: Protection) -> None:
    assert protection.sync(listed("a"), 1.0) == set()
    assert shown(protection) == {"a", "b", "c", "d"}
    assert protection.held() == {S: 3}
    assert protection.confirm_at() == 1.0 + RULES.confirm_after


def test_an_empty_list_is_held_even_for_a_service_of_one() -> None:
    protection = Protection()
    protection.sync(listed("a"), 0.0)
    assert protection.sync({}, 1.0) == set()
    assert shown(protection) == {"a"}


def test_a_second_list_confirms_what_was_held(protection: Protection) -> None:
    protection.sync({}, 1.0)
    assert protection.sync({}, 1.0 + RULES.confirm_after) == {S}
    assert shown(protection) == set()
    assert protection.confirm_at() == inf


def test_a_second_list_that_comes_too_early_confirms_nothing(protection: Protection) -> None:
    protection.sync({}, 1.0)
    assert protection.sync({}, 2.0) == set()
    assert protection.confirm_at() == 1.0 + RULES.confirm_after
    assert shown(protection) == {"a", "b", "c", "d"}


def test_a_second_list_that_disagrees_frees_who_is_back(protection: Protection) -> None:
    protection.sync({}, 1.0)
    protection.sync(listed("a", "b"), 1.0 + RULES.confirm_after)
    assert shown(protection) == {"a", "b"}
    assert protection.held() == {}


def test_small_removals_by_lists_add_up_within_the_window(protection: Protection) -> None:
    assert protection.sync(listed("a", "b", "c"), 1.0) == {S}
    assert protection.sync(listed("a"), 2.0) == set()
    assert protection.held() == {S: 2}


def test_small_removals_far_apart_do_not_add_up(protection: Protection) -> None:
    assert protection.sync(listed("a", "b"), 1.0) == {S}
    assert protection.sync(listed("a"), 1.0 + RULES.window) == {S}


def test_members_replaced_one_for_one_while_away_are_no_empty_push(protection: Protection) -> None:
    assert protection.sync(listed("e", "f", "g", "h"), 1.0) == {S}
    assert shown(protection) == {"e", "f", "g", "h"}


def test_one_service_held_does_not_hold_another(protection: Protection) -> None:
    protection.sync({**listed("a", "b", "c", "d"), "faces": {"x": member("x"), "y": member("y")}}, 1.0)
    assert protection.sync({"faces": {"x": member("x")}}, 10.0) == {"faces"}
    assert protection.held() == {S: 4}


def test_an_unreadable_entry_keeps_its_last_value_and_counts_as_present(protection: Protection) -> None:
    assert protection.sync({S: {**listed("a", "b", "c")[S], "d": None, "new": None}}, 1.0) == set()
    assert shown(protection) == {"a", "b", "c", "d"}


def test_a_restored_snapshot_is_what_the_first_list_is_judged_by() -> None:
    protection = Protection()
    assert protection.restore({S: [member("a"), member("b")]}) == {S}
    assert protection.sync({}, 0.0) == set()
    assert shown(protection) == {"a", "b"}


# Events


def test_deleting_the_last_member_passes_at_once() -> None:
    protection = Protection()
    protection.sync(listed("a"), 0.0)
    assert protection.delete(S, "a", 1.0) == {S}
    assert shown(protection) == set()


def test_deleting_all_members_one_by_one_passes_at_once(protection: Protection) -> None:
    for name in "abcd":
        assert protection.delete(S, name, 1.0) == {S}
    assert shown(protection) == set()


def test_a_delete_ends_what_a_list_held(protection: Protection) -> None:
    protection.sync({}, 1.0)
    assert protection.delete(S, "a", 2.0) == {S}
    assert shown(protection) == {"b", "c", "d"}


def test_a_put_frees_what_a_list_held(protection: Protection) -> None:
    protection.sync({}, 1.0)
    protection.put(S, member("a"), 2.0)
    assert protection.held() == {S: 3}


def test_an_operator_may_let_go_what_is_held(protection: Protection) -> None:
    protection.sync({}, 1.0)
    assert protection.release(S) == {S}
    assert shown(protection) == set()


def test_the_first_member_of_a_service_is_shown_at_once() -> None:
    protection = Protection()
    assert protection.put(S, member("a"), 0.0) == {S}


def test_a_change_of_a_known_member_is_shown_at_once(protection: Protection) -> None:
    assert protection.put(S, member("a", weight=0), 1.0) == {S}
    assert {item.weight for item in protection.members(S)} == {0, 100}


def test_additions_wait_for_a_quiet_moment(protection: Protection) -> None:
    assert protection.put(S, member("e"), 1.00) == set()
    assert protection.put(S, member("f"), 1.05) == set()
    assert protection.wake_at() == pytest.approx(1.15)
    assert protection.tick(1.12) == set()
    assert protection.tick(1.16) == {S}
    assert shown(protection) == {"a", "b", "c", "d", "e", "f"}
    assert protection.wake_at() == inf


def test_additions_that_never_pause_are_shown_after_the_longest_wait(protection: Protection) -> None:
    for step in range(30):
        protection.put(S, member(f"n{step}"), 1.0 + step * 0.05)
        protection.tick(1.0 + step * 0.05)
    assert len(shown(protection)) > 4


def test_an_addition_deleted_while_it_waits_is_never_shown(protection: Protection) -> None:
    protection.put(S, member("e"), 1.0)
    assert protection.delete(S, "e", 1.05) == set()
    assert protection.tick(2.0) == set()
    assert shown(protection) == {"a", "b", "c", "d"}


def flap(protection: Protection, times: int, begin: float = 1.0) -> float:
    now = begin
    for _ in range(times):
        protection.delete(S, "a", now)
        protection.put(S, member("a"), now + 0.5)
        protection.tick(now + 1.0)
        now += 2.0
    return now


def test_an_id_that_comes_and_goes_stays_a_little_longer(protection: Protection) -> None:
    now = flap(protection, RULES.flaps - 1)
    assert protection.delete(S, "a", now) == set()
    assert "a" in shown(protection)
    assert protection.wake_at() == now + RULES.flap_hold
    assert protection.tick(now + RULES.flap_hold) == {S}
    assert "a" not in shown(protection)


def test_a_flapping_id_that_returns_within_the_hold_never_left(protection: Protection) -> None:
    now = flap(protection, RULES.flaps - 1)
    protection.delete(S, "a", now)
    assert protection.put(S, member("a"), now + 1.0) == set()
    assert protection.tick(now + 10.0) == set()
    assert "a" in shown(protection)


def test_an_id_that_left_long_ago_is_not_flapping(protection: Protection) -> None:
    flap(protection, RULES.flaps - 1)
    assert protection.delete(S, "a", 100.0) == {S}


def test_a_restarted_process_replaces_its_old_registration_at_the_same_address() -> None:
    protection = Protection(ProtectionRules(debounce=0.0))
    old = Member("h-80-old", ("10.0.0.1", 80), version="v1", started_at=1.0)
    new = Member("h-80-new", ("10.0.0.1", 80), version="v1", started_at=2.0)
    protection.sync({S: {new.id: new, old.id: old}}, 0.0)
    assert protection.members(S) == {new}
    assert protection.delete(S, old.id, 1.0) == {S}
    assert protection.members(S) == {new}


def test_two_versions_at_one_address_are_two_members() -> None:
    protection = Protection()
    pair = {name: Member(name, ("10.0.0.1", 80), version=name) for name in ("v1", "v2")}
    protection.sync({S: dict(pair)}, 0.0)
    assert protection.members(S) == set(pair.values())


def test_memory_of_services_that_are_gone_is_given_back(protection: Protection) -> None:
    for name in "abcd":
        protection.delete(S, name, 1.0)
    protection.tick(1.0 + RULES.flap_window + 1.0)
    assert repr(protection) == "<Protection | 0 services, 0 members held>"


# Laws


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.sets(st.sampled_from("abcdefgh")))
def test_one_list_never_takes_away_more_than_the_ratio(before: set[str], after: set[str]) -> None:
    protection = Protection(RULES)
    protection.sync(listed(*before), 0.0)
    protection.sync(listed(*after), 1.0)
    assert after <= shown(protection)
    assert len(shown(protection)) >= (1 - RULES.max_removal_ratio) * len(before)


@given(st.sets(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")))
def test_a_list_repeated_after_the_wait_is_always_believed(before: set[str], after: set[str]) -> None:
    protection = Protection(RULES)
    protection.sync(listed(*before), 0.0)
    protection.sync(listed(*after), 1.0)
    protection.sync(listed(*after), 1.0 + RULES.confirm_after)
    assert shown(protection) == after


class EventsAlone(RuleBasedStateMachine):
    """With events only, what is shown follows what was written, at most the longest delay behind."""

    def __init__(self) -> None:
        super().__init__()
        self.protection = Protection(RULES)
        self.truth: set[str] = set()
        self.now = 0.0

    @rule(name=st.sampled_from("abcd"), pause=st.floats(0.0, 2.0))
    def put(self, name: str, pause: float) -> None:
        self.now += pause
        self.truth.add(name)
        self.protection.put(S, member(name), self.now)

    @rule(name=st.sampled_from("abcd"), pause=st.floats(0.0, 2.0))
    def delete(self, name: str, pause: float) -> None:
        self.now += pause
        self.truth.discard(name)
        self.protection.delete(S, name, self.now)

    @rule()
    def wait(self) -> None:
        self.now += max(RULES.debounce_max, RULES.flap_hold)
        self.protection.tick(self.now)
        assert shown(self.protection) == self.truth

    @invariant()
    def nothing_waits_longer_than_promised(self) -> None:
        wake_at = self.protection.wake_at()
        assert wake_at == inf or wake_at <= self.now + max(RULES.debounce_max, RULES.flap_hold)


TestEventsAlone = EventsAlone.TestCase
