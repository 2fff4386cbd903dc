from __future__ import annotations

import pytest

from gateway.config.yaml_tree import DEEPEST, Mapping, Scalar, parse_yaml


def problems(text):
    return [str(problem) for problem in parse_yaml(text, "a.yaml")[1]]


def value(text, key="a"):
    root, found = parse_yaml(text, "a.yaml")
    assert not found
    return {name.text: node for name, node in root.entries}[key]


@pytest.mark.parametrize("text", ["off", "22:30", "1.10", "1e-3", "0o17", "017", "yes", "2027-01-01", "0x1F"])
def test_a_plain_scalar_keeps_its_text(text):
    node = value(f"a: {text}")
    assert (node.text, node.quoted) == (text, False)


@pytest.mark.parametrize(("text", "is_null"), [("", True), ("~", True), ("null", True), ("'null'", False)])
def test_null_is_null_only_without_quotes(text, is_null):
    assert value(f"a: {text}").is_null is is_null


def test_positions_count_from_one():
    mark = value("b: 1\nü: {a: x, c: 2}", "ü").entries[1][1].mark
    assert str(mark) == "a.yaml:2:14"


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null"])
def test_an_empty_file_is_an_empty_mapping(text):
    root, found = parse_yaml(text, "a.yaml")
    assert (root.entries, found) == ((), [])


def test_a_key_written_twice_names_both_lines_and_the_first_stays():
    root, found = parse_yaml("a: {b: 1}\na: 2\n", "a.yaml")
    assert [str(problem) for problem in found] == [
        "a.yaml:2:1: a: expected every key once, found 'a' again (first in line 1)"
    ]
    assert isinstance(root.entries[0][1], Mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1\n", "a.yaml:2:1: expected spaces as indentation, found a tab"),
        ("a: 1\n---\nb: 2\n", "a.yaml:2:1: expected one document per file, found another"),
        ("- a\n", "a.yaml:1:1: expected keys like `endpoints:` at the top of the file, found a list"),
        ("a: *b\n", "a.yaml:1:4: a: expected an anchor defined above, found *b"),
        ("a: &b [*b]\n", "expected an anchor defined above, found *b"),
        ("a: !!int 3\n", "a.yaml:1:4: a: expected no tag, found !!int"),
        ("[a]: 1\n", "a.yaml:1:1: expected a word as key"),
        ("? {a: 1}\n: 2\n", "expected a word as key"),
        ("a: [1\nb: 2\n", "expected YAML"),
        ("a: \x07\n", "control character"),
        ("a: " + "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), f"at most {DEEPEST} levels"),
    ],
    ids=[
        "tab",
        "documents",
        "list",
        "alias",
        "itself",
        "tag",
        "key",
        "complex-key",
        "syntax",
        "bell",
        "depth",
    ],
)
def test_what_is_no_policy_file_is_refused_with_its_position(text, message):
    assert message in "\n".join(problems(text))


def test_a_thousand_laughs_are_counted_as_if_written_out():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    assert "at most 100000 values through aliases" in "\n".join(problems("\n".join(lines)))


def test_an_alias_is_its_anchor_and_a_merged_key_yields_to_ones_own():
    node = value("x: &x {b: 1, c: 2}\na: {<<: *x, c: 3}")
    assert {key.text: item.text for key, item in node.entries} == {"b": "1", "c": "3"}


def test_a_text_tag_is_quotes_by_another_name():
    assert value("a: !!str null") == Scalar("null", True, value("a: !!str null").mark)


def test_windows_line_ends_and_block_texts_are_read():
    assert value("b: 1\r\na: |\r\n  x\r\n").text == "x\n"


def test_a_long_file_is_no_attack():
    root, found = parse_yaml("\n".join(f"k{i}: [1, 2, 3]" for i in range(30_000)), "a.yaml")
    assert (len(root.entries), found) == (30_000, [])
