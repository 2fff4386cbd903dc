"""Every simulator meets its targets: `python -m loadtests.sims` in CI, on as many cores as there are."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from loadtests.sims.__main__ import NAMES, main

LONGEST_FIRST = sorted(NAMES, key=("ejection", "balancing", "release", "overload", *NAMES).index)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name → future of the finished run, folder of its report."""
    folder = tmp_path_factory.mktemp("sims")
    run = partial(subprocess.run, capture_output=True, text=True)
    command = [sys.executable, "-m", "loadtests.sims", "--out", folder]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as cores:
        yield {name: cores.submit(run, [*command, name]) for name in LONGEST_FIRST}, folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", LONGEST_FIRST)
def test_the_simulator_meets_its_targets(name, runs):
    futures, folder = runs
    ran = futures[name].result()
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    report = json.loads((folder / f"{name}.json").read_text())
    assert report["targets"]
    assert all(target["holds"] for target in report["targets"])
    picture = folder / f"{name}.png"
    assert not picture.exists() or picture.stat().st_size > 5_000


def test_an_unknown_simulator_is_named_with_those_that_exist(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["realease"])
    assert exit_.value.code == 2
    assert "release" in capsys.readouterr().err
