"""Mutated configurations: each is valid and can be planned, or is refused before any job by one line with the key.

SLIMDIFF_FUZZ_EXAMPLES sets their number; the default is a thousand.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import BASES, FILE, MINIMAL, mutated, names_the_key, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from presets import ROOT, merge

from slimdiff.cli import config as cli_config
from slimdiff.errors import UserError
from slimdiff.io import strict_yaml

EXAMPLES = int(os.environ.get("SLIMDIFF_FUZZ_EXAMPLES", "1000"))
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
ODDITIES = [
    "&a [*a]",
    "&a {x: *a}",
    "*nowhere",
    "<<: *x",
    "<<: {seeds: [0]}",
    '!!python/object/apply:os.system ["touch pwned"]',
    "!!python/name:os.system",
    "!!python/tuple [1, 2]",
    "!!binary aGk=",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!int x",
    "!!int ''",
    "!!bool x",
    "!!float x",
    "!!timestamp x",
    "!own x",
    "2026-99-99",
    "2026-11-23",
    "190:20:30",
    "0o17",
    "017",
    "0x_",
    "no",
    "~",
    ".inf",
    ".nan",
    "1e400",
    "1.0e400",
    "9" * 5000,
    "[" * 2000,
    "{" * 2000,
    "- " * 500,
    "? [1]: 2",
    "? {a: b}\n: c",
    "\x00",
    "\x1b[31m",
    "\ufeff",
    "\u2028",
    "\t",
    "---",
    "...",
    "%YAML 9.9",
    "|",
    ">",
    "'",
    '"\\ud800"',
    '"\\xff"',
    "#",
    ": ",
    "__use_yte__: true",
    "?open('pwned', 'w')",
    "matrix: []",
    "seeds: [0]",
    "data_dir: a",
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def is_one_line(message: str) -> bool:
    return message.isprintable() and "Traceback" not in message and len(message) < 5000


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW)
@given(mutated())
def test_a_mutated_configuration_is_valid_or_refused(config: dict[str, Any]) -> None:
    message = outcome(config)
    if message is not None:
        assert is_one_line(message)
        assert names_the_key(message, config), message


@pytest.mark.parametrize("index", range(len(BASES)))
def test_configurations_are_valid_before_mutation(index: int) -> None:
    assert outcome(BASES[index]) is None


@settings(max_examples=EXAMPLES // 10, deadline=None, suppress_health_check=SLOW)
@given(st.data())
def test_a_mutated_file_is_valid_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    lines = yaml.safe_dump(MINIMAL, default_flow_style=False).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        odd = data.draw(st.one_of(st.sampled_from(ODDITIES), st.text(max_size=8)))
        change = data.draw(st.sampled_from(["value", "line", "before", "cut", "double"]))
        if change == "value":
            lines[place] = f"{lines[place].partition(':')[0]}: {odd}"
        elif change == "line":
            lines[place] = odd
        elif change == "before":
            lines.insert(place, odd)
        elif change == "cut":
            lines[place] = lines[place][: len(lines[place]) // 2]
        else:
            lines.append(lines[place])
    path = tmp_path / FILE
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + data.draw(st.sampled_from([b"", b"\xff\xfe"])))
    try:
        overlay = strict_yaml.read_config(path)
    except UserError as error:
        assert is_one_line(str(error))
        assert FILE in str(error)
        return
    message = outcome(merge(BASES[1], overlay), overlay)
    assert message is None or is_one_line(message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data_dir: a\nmatrix: []\ndata_dir: b\n", "the key data_dir appears twice, in lines 1 and 3"),
        ('{"data_dir": "a", "data_dir": "b"}', "the key data_dir appears twice"),
        ("a: &a\n  b: *a\n", "line 1 contains itself"),
        ("a: &a [1, *a]\n", "line 1 contains itself"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ('{"a": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ('{"a": ' + "[" * 20_000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: 2026-99-99", "line 1: a is 2026-99-99, which YAML 1.1 reads as a date and YAML 1.2 as text"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: !!int ''", "is not YAML"),
        ("a: [", "is not YAML"),
        ("__use_yte__: true\na: ?1 + 1\n", "run expressions in this file as code"),
        ("- 1\n", "must hold a mapping, not list"),
        ("", "must hold a mapping, not nothing"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("a: \x1b[2J", "special characters are not allowed"),
    ],
)
def test_yaml_is_read_strictly(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / FILE
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        strict_yaml.read_config(path)
    assert expected in str(caught.value)
    assert FILE in str(caught.value)
    assert is_one_line(str(caught.value))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{x: ", "}")])
def test_a_file_that_expands_to_a_billion_values_is_refused_at_once(tmp_path: Path, opening: str, closing: str) -> None:
    lines = ["a0: &a0 x"]
    for level in range(1, 30):
        inside = ", ".join([f"*a{level - 1}"] * 10) if opening == "[" else f"*a{level - 1}, y: *a{level - 1}"
        lines.append(f"a{level}: &a{level} {opening}{inside}{closing}")
    path = tmp_path / FILE
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="expands to more than"):
        strict_yaml.read_config(path)


def test_aliases_that_stay_small_are_read(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("a: &a {x: 1, y: 2}\nb: [*a, *a]\n", encoding="utf-8")
    assert strict_yaml.read(path) == {"a": {"x": 1, "y": 2}, "b": [{"x": 1, "y": 2}] * 2}


def test_undecodable_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        strict_yaml.read_config(path)
    path.write_bytes(b"a: " + b"x" * strict_yaml.MAX_BYTES)
    with pytest.raises(UserError, match="longer than 4 MiB"):
        strict_yaml.read_config(path)


def test_expanding_an_unchecked_configuration_terminates() -> None:
    """status and clean expand configurations without validation."""
    entry = {"dataset": "d", "model": "m", "optimizations": ["a"], "seeds": [0]}
    circle = {"x": {"start": "y"}, "y": {"start": "x"}}
    config = {"matrix": [entry], "optimizations": {"a": {"training": "x"}}, "trainings": circle}
    with pytest.raises(UserError, match="a circle"):
        cli_config.trainings_of(config, [Path(FILE)])
    for wrong in ({"optimizations": ["a/b"]}, {"optimizations": 3}, {"seeds": None}):
        with pytest.raises(UserError, match=FILE):
            cli_config.trainings_of({**config, "matrix": [entry | wrong]}, [Path(FILE)])


def test_a_link_out_of_a_folder_of_images_is_refused_before_any_job(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    (tmp_path / "photos" / "dogs" / "1.png").symlink_to("/etc/passwd")
    source = {
        "source": "folder",
        "path": str(tmp_path / "photos"),
        "image_size": 8,
        "channels": 1,
        "test_fraction": 0.5,
    }
    overlay = {"datasets": {"mnist": source}, "matrix": BASES[0]["matrix"][:1]}  # the unconditional network
    message = outcome(
        merge({**BASES[0], "datasets": {}}, overlay | {"verdicts": {"margins": {"quality": 1.5}}}), overlay
    )
    assert message is not None
    assert "datasets.mnist.path" in message
    assert "a link that leads out of the folder" in message
