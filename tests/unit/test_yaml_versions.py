"""Scalars that YAML 1.1 and YAML 1.2 read differently are refused with both readings; all others are left alone."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slimdiff.errors import UserError
from slimdiff.io import strict_yaml, yaml_versions

# scalar, reading of YAML 1.1, reading of YAML 1.2: by hand, from yaml.org/type and yaml.org/spec/1.2.2
DIFFERENT = [
    ("010", "8", "10"),
    ("-010", "-8", "-10"),
    ("08", "text", "8"),
    ("0o17", "text", "15"),
    ("0_", "0", "text"),
    ("1_000", "1000", "text"),
    ("+0x1F", "31", "text"),
    ("0x_ff", "255", "text"),
    ("0x_", "an error", "text"),
    ("0b101", "5", "text"),
    ("1:40", "100", "text"),
    ("-1:40", "-100", "text"),
    ("190:20:30", "685230", "text"),
    ("1:40.5", "100.5", "text"),
    ("1e3", "text", "1000.0"),
    ("1E3", "text", "1000.0"),
    ("1e-3", "text", "0.001"),
    ("1e-10", "text", "1.0e-10"),
    ("1.5e3", "text", "1500.0"),
    ("1e400", "text", ".inf"),
    ("-1e400", "text", "-.inf"),
    ("-.5", "text", "-0.5"),
    ("1_0.5", "10.5", "text"),
    *((word, "true", "text") for word in ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON")),
    *((word, "false", "text") for word in ("n", "N", "no", "No", "NO", "off", "Off", "OFF")),
    ("2026-11-23", "a date", "text"),
    ("2026-99-99", "a date", "text"),
    ("2001-12-14t21:59:43.10-05:00", "a date", "text"),
    ("=", "an error", "text"),
    ("<<", "a merge key", "text"),
]
KEYS = "yYnN"  # names of axes and counts; PyYAML reads them as YAML 1.2 does
EQUAL = [
    *(
        "0",
        "-0",
        "+1",
        "007",
        "00",
        "10",
        "0x1F",
        "1.",
        ".5",
        "0.5",
        "-0.5",
        "1.0e-3",
        "1.5E+3",
        ".inf",
        "-.INF",
        ".nan",
    ),
    *(
        "true",
        "TRUE",
        "False",
        "null",
        "Null",
        "~",
        "nan",
        "inf",
        "mnist",
        "l1-30",
        "1:60",
        "1-2",
        "1.2.3",
        "0x",
        "0b2",
    ),
    *("0o8", "y1", "none", "yEs", "nO", "2026-1-1", "1e", "1e+", ".", "+", "<script>", "a=b", "--", "_1", "1,000"),
]
TAGGED = ["a: !!int 010", "a: !!int '010'", "a: !!float 1_0.5", "a: !!bool yes", "a: &x no\nb: *x"]
LONG = ["0" + "7" * 9000, "9" * 5000, "1:" * 3000 + "1", "1" + "_0" * 5000, "1" * 5000 + "e5"]


@pytest.mark.parametrize(("text", "old", "new"), DIFFERENT)
def test_both_readings_are_named(text: str, old: str, new: str) -> None:
    places = {f"a: {{b: [1, {text}]}}": "a.b[1]"} | ({} if text in KEYS else {f"- {text}: 1": "a key of [0]"})
    for content, place in places.items():
        with pytest.raises(UserError) as caught:
            strict_yaml.parse(content, "my.yaml")
        message = str(caught.value)
        assert message.startswith(f"my.yaml: line 1: {place} is {text}, which YAML 1.1 reads as {old} and")
        assert f"YAML 1.2 as {new}; write " in message
        # What it says to write means one of the two readings, whoever reads it.
        for written in message.rpartition("; write ")[2].split(" or "):
            assert strict_yaml.parse(f"a: {written}", "") is not None
            value = yaml.safe_load(written)
            assert value == text if written.startswith("'") else float(value) == float(yaml.safe_load(written))
            assert written == f"'{text}'" or written in (old, new)


@pytest.mark.parametrize("text", EQUAL)
def test_what_both_read_alike_is_read(text: str) -> None:
    value, expected = strict_yaml.parse(f"a: {text}", "")["a"], yaml.safe_load(text)
    assert value == expected or math.isnan(value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: '010'", "010"),
        ('a: "1:40"', "1:40"),
        ("a: |\n  no\n", "no\n"),
        ("a: !!str 1e3", "1e3"),
        ('{"a": 1e3}', 1000.0),  # JSON has one reading
        ("'<<': {b: 1}\na: 1", 1),
        ("a: {y: 1, n: 2}", {"y": 1, "n": 2}),
    ],
)
def test_what_is_marked_as_text_is_text(content: str, expected: object) -> None:
    assert strict_yaml.parse(content, "")["a"] == expected


@pytest.mark.parametrize("content", TAGGED)
def test_a_tag_or_an_anchor_hides_nothing(content: str) -> None:
    with pytest.raises(UserError, match=r"YAML 1\.1"):
        strict_yaml.parse(content, "")


@pytest.mark.parametrize("value", ["010", "'0144'", '"yes"', "5", "text"])
def test_the_tag_of_no_type_is_refused(value: str) -> None:
    """In YAML 1.2 it makes text of a scalar; PyYAML resolves even a quoted one."""
    with pytest.raises(UserError, match=r"line 2: a\.b has the tag !,"):
        strict_yaml.parse(f"a:\n  b: ! {value}\n", "")


@pytest.mark.parametrize("character", "\x85\u2028\u2029")
@pytest.mark.parametrize("content", ["a: 1\n# text{}b: 2", "a: 1\nb: 'x{}y'", "a: 1\nb: x{}  y"])
def test_line_ends_of_one_version_alone_are_refused(content: str, character: str) -> None:
    with pytest.raises(UserError, match=rf"line 2 holds U\+{ord(character):04X}"):
        strict_yaml.parse(content.format(character), "")
    assert strict_yaml.parse('a: "\\L\\P\\N"', "") == {"a": "\u2028\u2029\x85"}
    assert strict_yaml.parse(f'{{"a": "{character}"}}', "") == {"a": character}  # JSON has one reading


@given(st.text("0123456789+-.eE", min_size=1, max_size=6))
def test_numbers_of_json_are_read_as_json_reads_them_or_refused(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        return
    assert yaml_versions.problem(text) or yaml.safe_load(text) == expected


@given(st.text("019:_.+-eExobyn=", min_size=1, max_size=7))
def test_a_message_is_short_and_whole(text: str) -> None:
    problem = yaml_versions.problem(text)
    assert problem is None or (problem.startswith(f"is {text}, ") and "; write " in problem and len(problem) < 150)


@pytest.mark.parametrize("text", LONG)
def test_long_ones_end_soon(tmp_path: Path, text: str) -> None:
    (tmp_path / "long.yaml").write_text(f"a: {text}")
    with pytest.raises(UserError) as caught:
        strict_yaml.read(tmp_path / "long.yaml")
    assert len(str(caught.value)) < 400
