"""Formats of numbers, sizes and durations, and untrusted text on one safe line."""

import math

import pytest

from slimdiff.io.text import duration, one_line, significant, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (90.88, "90.9"),
        (802.98, "803"),
        (0.0928, "0.0928"),
        (12345.6, "12,300"),
        (9.999, "10.0"),
        (-364.3, "−364"),
        (0.0, "0"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(512, "512 bytes"), (97_000, "97.0 kB"), (4_139_629, "4.14 MB"), (2.5e9, "2.50 GB"), (None, "–")],
)
def test_sizes_have_units(n_bytes: float | None, text: str) -> None:
    assert size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(7.94, "7.9 s"), (402.0, "6 min 42 s"), (7500.0, "2 h 05 min"), (math.nan, "–"), (None, "–")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_untrusted_text_has_no_line_breaks_or_control_characters() -> None:
    assert one_line("a\nb\tc\x1b[2J\u202ed") == "a b c\\x1b[2J\\u202ed"
