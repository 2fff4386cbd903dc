"""What is counted of a sick instance, and what a report makes of it; the play itself: `make govern`."""

from random import Random

import pytest

from loadtests.govern.detection import RATE, Detected, Sick, due, report


async def sick(came: list[float]) -> Sick:
    made = Sick(1.0, Random(1))
    made.begin, made.end, made.came = 2.0, 8.0, came
    return made


async def test_only_calls_while_it_is_ill_count():
    assert (await sick([1.9, 2.0, 7.9, 8.0])).calls(2.0, 8.0) == 2


async def test_it_is_back_with_the_call_that_makes_half_of_its_share():
    one = await sick([2.0, 8.5, 11.0, 11.4, 11.8, 12.2, 12.6, 13.0])
    assert one.back(20.0) == pytest.approx(4.6)
    assert (await sick([2.0, 9.0, 12.0])).back(20.0) == 12.0


def test_each_path_is_asked_for_at_its_rate():
    calls = due(["a", "b"], RATE, 100.0, Random(1))
    for name in ("a", "b"):
        assert sum(path == name for _, path, _ in calls) == pytest.approx(RATE * 100, rel=0.15)
    assert [at for at, _, _ in calls] == sorted(at for at, _, _ in calls)


GOOD = {
    "broken": Detected([0.2, 0.4], [5.0, 9.0], [1, 2], [0.5, 0.7]),
    "doubtful": Detected([4.0, 30.0, 11.0], [], [20, 150, 55], [4.0, 50.0, 19.0], 0.009),
    "release": Detected([1.0, 2.0], [], [5, 6]),
}


@pytest.mark.parametrize(
    ("scene", "bad", "missed"),
    [
        ("broken", Detected([0.2, 2.2], [5.0, 9.0], [1, 11], [0.5]), 1),
        ("broken", Detected([0.2, 0.2], [16.0, 20.0], [1, 1], [0.5]), 1),
        ("broken", Detected([0.2, 0.4], [5.0, 9.0], [1, 2], [0.5, 2.2, 2.2]), 1),
        ("doubtful", Detected([21.0, 30.0, 11.0], [], [105, 150, 55], [4.0]), 1),
        ("doubtful", Detected([4.0, 30.0, 11.0], [], [20, 150, 55], [4.0, 50.0, 21.0]), 1),
        ("doubtful", Detected([4.0, 30.0, 11.0], [], [20, 150, 55], [4.0], 0.02), 1),
        ("release", Detected([1.0, 12.0], [], [5, 21]), 2),
    ],
    ids=[
        "found late",
        "back late",
        "shown late",
        "doubted late",
        "doubt shown late",
        "well ones blamed",
        "released too far",
    ],
)
def test_what_is_late_misses_its_target(tmp_path, scene, bad, missed):
    assert all(target.holds for target in report(GOOD).targets)
    made = report({**GOOD, scene: bad})
    made.save(tmp_path, "detection")
    assert sum(not target.holds for target in made.targets) == missed
    assert (tmp_path / "detection.png").exists()
