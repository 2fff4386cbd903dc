"""What a person types about a release, against a whole gateway in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.cli.releases import lines
from tests.fakes.versions import page, version
from tests.runtime.running import running


async def test_a_person_looks_rolls_back_and_promotes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        version("v1") as one,
        version("v2") as two,
        running(tmp_path, page(one, two, "{weight: 10%, judge: {}}")) as gateway,
    ):

        async def typed(*words: str) -> tuple[int, str]:
            capsys.readouterr()
            code = await asyncio.to_thread(main, [*words, "--admin", gateway.admin_url])
            said = capsys.readouterr()
            return code, said.out + said.err

        code, said = await typed("releases")
        assert code == 0
        assert said.startswith("m: canary m1 1 -> m2 2, ramping at 10%\n  requests 0 : 0, errors 0 : 0")
        assert (await typed("diff", "--policies", str(tmp_path)))[1] == "nothing would change\n"
        code, said = await typed("rollback", "m")
        assert (code, "rolled_back at 0%" in said) == (0, True)
        code, said = await typed("diff", "--policies", str(tmp_path))
        assert code == 0, "what the judge or a person did is no change of the policies"
        assert "# beside the policies: release m is rolled_back, m2 2 has\n#   0% of the requests" in said
        code, said = await typed("pause", "m")
        assert (code, "it is rolled_back; what can be done: promote, resume" in said) == (1, True)
        code, said = await typed("rollback", "nobody")
        assert (code, "there is no release 'nobody'; there are: m" in said) == (1, True)
        assert (await typed("promote", "m"))[0] == 0


def test_nobody_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["releases", "--admin", "http://127.0.0.1:1"]) == 3
    assert "no gateway answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("decided", "said"),
    [
        pytest.param("here", "ramping at 5%", id="here"),
        pytest.param("elsewhere", "ramping at 5% (another gateway decides)", id="elsewhere"),
        pytest.param(
            "alone", "ramping at 5% (the other gateways can't be asked: it only takes back)", id="alone"
        ),
    ],
)
def test_who_decides_is_said_where_it_is_not_this_gateway(decided: str, said: str) -> None:
    both = {"stable": 1, "candidate": 2}
    release = {
        "name": "m",
        "kind": "canary",
        "stable": "m1 1",
        "candidate": "m2 2",
        "phase": "ramping",
        "weight": 0.05,
        "requests": both,
        "errors": both,
        "pairs": 0,
        "fallbacks": 0,
        "decided": decided,
    }
    assert lines(release)[0] == f"m: canary m1 1 -> m2 2, {said}"
