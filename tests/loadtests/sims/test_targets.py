"""Every simulator meets its targets: `python -m loadtests.sims` in CI."""

import json

import pytest

from loadtests.sims.__main__ import NAMES, main, simulator


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_simulator_meets_its_targets(name, tmp_path):
    report = simulator(name)()
    report.save(tmp_path, name)
    assert [str(target) for target in report.targets if not target.holds] == []
    assert report.targets
    assert json.loads((tmp_path / f"{name}.json").read_text())["title"] == report.title
    if report.draw is not None:
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000


def test_an_unknown_simulator_is_named_with_those_that_exist(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["realease"])
    assert exit_.value.code == 2
    assert "release" in capsys.readouterr().err
