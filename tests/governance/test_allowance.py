from math import floor

from hypothesis import given
from hypothesis import strategies as st

from gateway.governance.allowance import PART, Allowance, Ask, MemoryLedger, Told, decide
from gateway.governance.windows import Slot

DAY = Slot(0, 86400.0, 0, 86400.0)


def ask(need: float, want: float = 0.0, settle: float = 0.0, slot: int = 0, since: int = 0) -> Ask:
    return Ask(b"day UTC\0k", slot, since, slot + 86400.0, 100.0, need, max(need, want), settle)


def test_of_a_quota_of_which_much_is_left_much_is_drawn_at_once_and_in_the_end_one_by_one() -> None:
    ledger = MemoryLedger()
    granted = [ledger.draw([ask(1.0, want=50.0)])[0].granted for _ in range(90)]
    assert granted[0] == floor(100 * PART)
    assert granted[-20:] == [0.0] * 20
    assert granted[:40] == sorted(granted[:40], reverse=True)
    assert sum(granted) > 99.0


def test_what_counts_no_more_is_dropped_and_what_is_left_names_the_oldest() -> None:
    counts = {0: 60.0, 10: 30.0}
    assert decide(counts, ask(20.0, slot=20, since=0)) == Told(0.0, 10.0, 0)
    assert decide(counts, ask(20.0, slot=20, since=10)) == Told(20.0, 50.0, 10)
    assert counts == {10: 30.0, 20: 20.0}


def test_giving_back_more_than_was_drawn_gives_nothing() -> None:
    counts = {0: 5.0}
    assert decide(counts, ask(0.0, settle=-9.0)).left == 100.0


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 60), st.floats(-40, 0)), max_size=40))
def test_never_more_is_drawn_than_there_is(asks: list[tuple[float, float, float]]) -> None:
    counts: dict[int, float] = {}
    for need, want, settle in asks:
        before = sum(counts.values())
        told = decide(counts, ask(need, want, settle))
        assert told.granted == 0.0 or told.granted >= need
        assert sum(counts.values()) <= max(before, 100.0) + 1e-6


def test_demand_sizes_an_allowance() -> None:
    one = Allowance(b"k", 1000.0, DAY, 0.0)
    assert one.ask(1.0, 0.0).want == 1.0
    one.tokens = 50.0
    for _ in range(50):
        one.spend(1.0, 1.0)
    assert one.ask(1.0, 2.0).want == 25.0  # 50 in two seconds: a second's worth


def test_a_debt_is_told_with_the_next_ask_and_credit_is_bounded_by_what_was_spent() -> None:
    one = Allowance(b"k", 1000.0, DAY, 0.0)
    one.settle(7.0)
    assert one.tokens == -7.0
    assert one.ask(1.0, 1.0).settle == 7.0
    assert one.tokens == 0.0
    one.settle(-100.0)
    assert one.tokens == 7.0


def test_the_table_forgets_those_touched_longest_ago() -> None:
    ledger = MemoryLedger(max_keys=2)
    for key in (b"a", b"b", b"a", b"c"):
        ledger.draw([ask(1.0)._replace(key=key)])
    left = {key: ledger.draw([ask(0.0)._replace(key=key)])[0].left for key in (b"a", b"c")}
    assert left == {b"a": 98.0, b"c": 99.0}
    assert repr(ledger) == "<MemoryLedger 2 keys>"
