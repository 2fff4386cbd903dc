from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import overrides
from gateway.config.load import load
from gateway.config.overrides import OverridesError, clear_override, set_override
from gateway.config.yaml_tree import parse_yaml
from tests.config import examples
from tests.config.sample_kinds import KINDS

NOW = 1795363200.0  # 2026-11-22 16:00Z


def test_setting_a_verb_writes_the_documented_line_and_shows_the_diff(tmp_path):
    edit = set_override(tmp_path, "digits", {"throttle": "20/s"}, NOW + 7200, NOW)
    line = 'digits: {throttle: 20/s, until: "2026-11-22 18:00Z"}'
    assert edit.after.endswith(f"\n{line}\n")
    assert f"+{line}\n" in edit.diff
    assert edit.ends == NOW + 7200
    assert not edit.path.exists()
    edit.write()
    assert edit.path.read_text() == edit.after
    assert os.listdir(tmp_path) == ["overrides.yaml"]


def test_what_was_written_loads(tmp_path):
    examples.write_all(tmp_path)
    set_override(tmp_path, "digits", {"send": {"stable": "90%", "canary": "10%"}}, NOW + 60, NOW).write()
    loaded = load(tmp_path, KINDS, examples.ENV)
    assert loaded.report() == ""
    override = loaded.schema.overrides["digits"]
    assert override.verbs.keys() == {"throttle", "degrade", "send"}
    assert override.verbs["send"][0].value.weights == {"stable": 0.9, "canary": 0.1}
    assert override.until == NOW + 60


FILE = """\
# on call: see the runbook
digits:   # two lines
  {throttle: 20/s, until: "2026-11-22 18:00Z"}

# orders is on fire
orders:
  send: "on"   # odd name
  until: "2026-11-22 17:00Z"
old: {throttle: 1/s, until: "2026-11-22 15:00Z"}
"""


def test_other_entries_keep_their_text_and_those_that_are_over_go(tmp_path):
    (tmp_path / "overrides.yaml").write_text(FILE)
    edit = set_override(tmp_path, "digits", {"degrade": "lite"}, NOW + 7200, NOW)
    assert (
        edit.after
        == """\
# on call: see the runbook
digits: {throttle: 20/s, degrade: lite, until: "2026-11-22 18:00Z"}

# orders is on fire
orders:
  send: "on"   # odd name
  until: "2026-11-22 17:00Z"
"""
    )


def test_clearing_takes_one_entry_away_and_a_second_time_changes_nothing(tmp_path):
    (tmp_path / "overrides.yaml").write_text(FILE)
    clear_override(tmp_path, "orders", NOW).write()
    kept = (tmp_path / "overrides.yaml").read_text()
    assert "send" not in kept
    assert kept.startswith(FILE[: FILE.index("\n\n")])
    again = clear_override(tmp_path, "orders", NOW)
    assert (again.diff, again.ends) == ("", None)


def test_a_file_in_one_line_is_written_anew_entry_by_entry(tmp_path):
    (tmp_path / "overrides.yaml").write_text(
        '{a: {throttle: [1/s, 2/s], until: "2030-01-01"}, b: {send: {x: 1}, until: 2030-01-01}}'
    )
    after = set_override(tmp_path, "b", {"send": "z"}, NOW + 1, NOW).after
    assert after == (
        'a: {throttle: [1/s, 2/s], until: "2030-01-01"}\nb: {send: z, until: "2026-11-22 16:00:01Z"}\n'
    )


def test_an_end_must_lie_ahead(tmp_path):
    with pytest.raises(ValueError, match="future"):
        set_override(tmp_path, "d", {"throttle": "1/s"}, NOW, NOW)


def test_a_part_of_a_second_is_never_lost(tmp_path):
    assert set_override(tmp_path, "d", {"send": "a"}, NOW + 0.25, NOW).ends == NOW + 1


def test_a_broken_file_is_not_touched(tmp_path):
    (tmp_path / "overrides.yaml").write_text("a: [\n")
    with pytest.raises(OverridesError, match=r"overrides\.yaml:2:1"):
        set_override(tmp_path, "d", {"send": "a"}, NOW + 1, NOW)


def test_an_edit_refuses_to_overwrite_anothers(tmp_path):
    edit = set_override(tmp_path, "d", {"send": "a"}, NOW + 1, NOW)
    set_override(tmp_path, "e", {"send": "a"}, NOW + 1, NOW).write()
    with pytest.raises(OverridesError, match="somebody else"):
        edit.write()


def test_a_failing_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    (tmp_path / "overrides.yaml").write_text(FILE)
    edit = clear_override(tmp_path, "orders", NOW)

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(overrides.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        edit.write()
    assert (tmp_path / "overrides.yaml").read_text() == FILE
    assert os.listdir(tmp_path) == ["overrides.yaml"]


def test_the_files_mode_is_kept(tmp_path):
    path = tmp_path / "overrides.yaml"
    path.write_text(FILE)
    path.chmod(0o640)
    clear_override(tmp_path, "orders", NOW).write()
    assert path.stat().st_mode & 0o777 == 0o640


@given(
    endpoint=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=9)
)
def test_whatever_an_endpoint_is_called_it_reads_back(endpoint, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    after = set_override(folder, endpoint, {"send": endpoint}, NOW + 1, NOW).after
    root, problems = parse_yaml(after, "o")
    assert not problems
    [(key, node)] = root.entries
    assert key.text == node.entries[0][1].text == endpoint
