"""Tables, targets and exit codes of the simulators."""

import pytest

from loadtests.sims import __main__ as sims
from loadtests.sims.report import Report, Target


@pytest.mark.parametrize(
    ("measured", "relation", "bound", "holds"),
    [(1.0, "<=", 1.0, True), (1.1, "<=", 1.0, False), (1.0, ">=", 1.0, True), (0.9, ">=", 1.0, False)],
)
def test_a_target_says_whether_it_holds(measured, relation, bound, holds):
    target = Target("share", measured, relation, bound)
    assert target.holds is holds
    assert str(target).startswith("holds" if holds else "MISSED")


def _report(*targets):
    return Report("Title", "Judged on nothing.", ("a", "b"), [["x", None], ["longer", 0.5]], targets)


def test_a_table_is_aligned_and_says_never_for_what_never_came():
    lines = _report().table().splitlines()
    assert lines == ["a       b", "------  -----", "x       never", "longer  0.5"]


def test_a_missed_target_makes_the_exit_code_one(monkeypatch, tmp_path, capsys):
    for measured, code in ((0.5, 0), (2.0, 1)):
        monkeypatch.setattr(
            sims, "simulator", lambda _, m=measured: lambda: _report(Target("t", m, "<=", 1.0))
        )
        assert sims.main(["release", "--out", str(tmp_path)]) == code
    assert "1 target(s) missed" in capsys.readouterr().out
