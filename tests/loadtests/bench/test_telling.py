"""The table, the picture, the history and README's part, from a run that nobody measured."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from loadtests.bench import history, picture, readme, table, targets
from loadtests.bench.contest import Result
from tests.loadtests.bench.runs import costs, whole_run

SVG = "{http://www.w3.org/2000/svg}"


def test_the_table_has_a_block_per_row_and_says_what_is_not_comparable() -> None:
    text = table.write(whole_run())
    assert "equal policy (policy)" in text
    assert "Not comparable" in text
    assert "envoy: left out: not here (make peers)" in text
    (nginx, *_) = (line for line in text.splitlines() if line.startswith("  NGINX"))
    assert nginx.split()[1:6] == ["29.0", "/", "29.5", "/", "30.0"]


def test_whoever_does_less_has_its_ratio_in_brackets_and_is_told() -> None:
    text = table.write(whole_run())
    assert "(0.83)" in text
    assert "varnish: does less:" in text


def test_a_row_without_figures_still_says_why() -> None:
    run = whole_run()
    run["rows"] = {"tls": {"peers": {}, "skipped": {"": "wrk ended with 1"}, "notes": []}}
    assert "nothing measured: left out: wrk ended with 1" in table.write(run)


def test_the_picture_is_well_formed_cheapest_first_and_ours_alone_is_blue() -> None:
    root = ET.fromstring(picture.draw(whole_run()))
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("rx")]
    assert [bar.get("fill") for bar in bars[:3]] == [picture.OTHER, picture.OWN, picture.OTHER]
    lengths = [float(bar.get("width", "0")) for bar in bars[:3]]
    assert lengths == sorted(lengths)
    assert "Headgate 33" in root.get("aria-label", "")


def test_a_bar_that_leaves_the_panel_is_cut_and_keeps_its_number() -> None:
    drawn = picture.draw(whole_run())
    root = ET.fromstring(drawn)
    longest = max(float(one.get("width", "0")) for one in root.iter(f"{SVG}rect") if one.get("rx"))
    assert longest == picture.LONGEST
    assert drawn.count("stroke-width") == 3  # one cut per panel: aiohttp's eleven times
    assert "330 · 11.0×" in drawn


def test_everything_of_the_picture_lies_within_it() -> None:
    root = ET.fromstring(picture.draw(whole_run()))
    width, height = (float(one) for one in root.get("viewBox", "").split()[2:])
    for one in root.iter(f"{SVG}rect"):
        assert float(one.get("x", "0")) + float(one.get("width", "0")) <= width
        assert float(one.get("y", "0")) + float(one.get("height", "0")) <= height


def test_only_a_whole_run_is_what_readme_shows(tmp_path: Path) -> None:
    path = tmp_path / "history" / "bench.jsonl"
    assert history.newest_whole(path) is None
    run = whole_run()
    history.append({"date": "2025-01-01", "peers": {}}, path)  # as lines were before there were rows
    history.append(run, path)
    history.append({**run, "date": "2026-02-02", "whole": False}, path)
    newest = history.newest_whole(path)
    assert newest is not None
    assert newest["date"] == "2026-01-02"


@pytest.mark.parametrize(("empty", "whole"), [(False, True), (True, False)], ids=["all", "one empty"])
def test_a_run_with_an_empty_row_is_not_whole(empty: bool, whole: bool) -> None:
    results = [Result("plain", {"nginx": costs(30.0, 1.0)}), Result("tls", {} if empty else {"nginx": {}})]
    run = history.finish({"rounds": 6}, results, 12.3, whole=True)
    assert run["whole"] is whole
    assert json.loads(json.dumps(run))["rows"]["plain"]["peers"]["nginx"]["cpu_us_median"] == 30.0


def test_readme_is_rewritten_between_its_comments_and_nowhere_else(tmp_path: Path) -> None:
    page, drawing, record = tmp_path / "README.md", tmp_path / "bench.svg", tmp_path / "bench.jsonl"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    history.append(whole_run(), record)
    assert readme.rewrite(page, drawing, record) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{readme.BEGIN}\n")
    assert text.endswith(f"\n{readme.END}\nafter\n")
    assert "old" not in text
    assert "| plain proxying | 30.0 | 33.0 (1.10×) |" in text
    assert "[25.0 (0.83×)]" in text
    assert drawing.read_text().startswith("<svg")
    again = text
    readme.rewrite(page, drawing, record)
    assert page.read_text() == again


def test_without_a_whole_run_or_a_place_for_it_readme_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, drawing, record = tmp_path / "README.md", tmp_path / "bench.svg", tmp_path / "bench.jsonl"
    page.write_text("no place\n")
    assert readme.rewrite(page, drawing, record) == 1
    assert "no whole run" in capsys.readouterr().err
    history.append(whole_run(), record)
    assert readme.rewrite(page, drawing, record) == 1
    assert page.read_text() == "no place\n"


def test_targets_are_judged_only_where_there_are_figures() -> None:
    run = whole_run()
    lines = {line.strip().rsplit(maxsplit=1)[0]: line.split()[-1] for line in targets.judge(run["rows"])}
    assert lines["plain proxying, × NGINX                    ≤ 1.3    1.10"] == "reached"
    assert lines["cache hit, × our own proxied request       ≤ 0.7    1.00"] == "missed"
    assert not [line for line in lines if "Envoy" in line or "pure" in line]  # nobody measured them
    assert targets.judge({}) == []
    assert "targets\n" in table.write(run)
