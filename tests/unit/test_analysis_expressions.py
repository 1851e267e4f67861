"""The expression language of claims: its meaning, and one-line errors for arbitrary text."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimdiff.analysis.claims import expressions
from slimdiff.analysis.claims.expressions import Comparison, Failure, Place, Term
from slimdiff.analysis.columns import COLUMNS
from slimdiff.errors import UserError


def refusal(text: str, family: str | None = "ncsn") -> str:
    with pytest.raises(UserError) as caught:
        expressions.parse(text, family)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message or "allowed: " in message, "the message names a fix"
    return message


def test_a_comparison_of_two_cells() -> None:
    assert expressions.parse("fid_indomain(groups-2) < fid_indomain(baseline)", "ncsn") == Comparison(
        "fid_indomain(groups-2) < fid_indomain(baseline)",
        Term("fid_indomain", Place(None, "ncsn", "groups-2")),
        "<",
        1.0,
        Term("fid_indomain", Place(None, "ncsn", "baseline")),
        None,
    )


def test_a_factor_a_family_and_a_data_set() -> None:
    found = expressions.parse(" fid_indomain( cifar10 :ddpm / ema+l1-30 )\n> 2.5*fid_indomain(ncsn/baseline)")
    assert isinstance(found, Comparison)
    assert found.left.place == Place("cifar10", "ddpm", "ema+l1-30")
    assert (found.operator, found.factor, found.right) == (
        ">",
        2.5,
        Term("fid_indomain", Place(None, "ncsn", "baseline")),
    )
    assert found.text == "fid_indomain( cifar10 :ddpm / ema+l1-30 ) > 2.5*fid_indomain(ncsn/baseline)"


def test_a_number_on_the_right() -> None:
    found = expressions.parse("class_accuracy(cifar10: ddpm/groups-2+l1-10) > 0.5")
    assert isinstance(found, Comparison)
    assert (found.factor, found.right, found.within) == (0.5, None, None)


def test_a_margin() -> None:
    found = expressions.parse("coverage(*) = coverage(baseline) within 10 %", "ddpm")
    assert isinstance(found, Comparison)
    assert found.left.place.recipe == expressions.EVERY
    assert found.within == pytest.approx(0.1)
    number = expressions.parse("coverage(ema) = 0.9 within 2.5%", "ddpm")
    assert isinstance(number, Comparison)
    assert (number.factor, number.within) == (0.9, pytest.approx(0.025))


def test_the_papers_techniques_and_their_spread() -> None:
    text = "spread(kid(mnist: ddpm/paper/*)) > 2 * spread(kid( ncsn / paper/* ))"
    found = expressions.parse(text)
    assert isinstance(found, Comparison)
    assert found.left == Term("kid", Place("mnist", "ddpm", expressions.PAPER_EVERY), spread=True)
    assert found.right == Term("kid", Place(None, "ncsn", expressions.PAPER_EVERY), spread=True)
    plain = expressions.parse("speedup(paper/*) = 1 within 10 %", "ncsn")
    assert isinstance(plain, Comparison)
    assert plain.left == Term("speedup", Place(None, "ncsn", "paper/*"))


@pytest.mark.parametrize("column", expressions.RAW_TIMES)
def test_raw_times_are_refused_for_speedups(column: str) -> None:
    message = refusal(f"{column}(l1-30) < {column}(baseline)")
    assert column in message and "speedup" in message


def test_sizes_are_compared_like_with_like() -> None:
    message = refusal("size_packed_bytes(l1-30) < size_bytes(baseline)")
    assert "size_packed_bytes" in message and "size_bytes" in message
    assert "spread" in refusal("spread(kid(l1-30)) < spread(kid(baseline))")
    assert "spread" in refusal("spread(spread(kid(*))) < 3")


def test_a_failure() -> None:
    found = expressions.parse("failed(ema+linear-8bit-frozen)", "ddpm")
    assert found == Failure("failed(ema+linear-8bit-frozen)", Place(None, "ddpm", "ema+linear-8bit-frozen"))
    assert found.places == (Place(None, "ddpm", "ema+linear-8bit-frozen"),)


def test_every_numeric_column_can_be_named() -> None:
    assert {"fid_indomain", "kid", "size_gzip_bytes", "params_nonzero", "coverage", "nearest_ratio"} <= set(
        expressions.COLUMN_NAMES
    )
    assert not {"seed", "status", "settings", "dataset"} & set(expressions.COLUMN_NAMES)
    assert set(expressions.COLUMN_NAMES) <= {column.name for column in COLUMNS}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no <, > or ="),
        ("fid_indomain(a)", "has only one side"),
        ("fid_indomain(a) < ", "instead of COLUMN(cell)"),
        ("fid_indomain(a) fid_indomain(b)", "has no <, > or ="),
        ("fid_indomain(a) < fid_indomain(b) < fid_indomain(c)", "has 2 of <, > and ="),
        ("fid_indomain(a) <= fid_indomain(b)", "has 2 of <, > and ="),
        ("fd(a) < fd(b)", "has the unknown column 'fd'; allowed: mask_seed, sampling_seed, params, "),
        ("fid(a) < fid(b)", "has the column 'fid', which is now called fid_indomain"),
        ("rfid(a) < rfid(b)", "has the column 'rfid', which is now called fid_indomain_pct"),
        ("kid(a) < 0.5 * fid_report(b)", "has the column 'fid_report', which is now called fid_paper"),
        ("settings(a) < settings(b)", "has the unknown column 'settings'"),
        ("fid_indomain(a b) < fid_indomain(c)", "has the invalid cell 'a b'; allowed: [data set:] [family/] recipe"),
        ("fid_indomain(a/b/c) < fid_indomain(c)", "has the invalid cell 'a/b/c'"),
        ("fid_indomain(gan/a) < fid_indomain(b)", "has the unknown family 'gan'; allowed: ncsn, ddpm"),
        ("fid_indomain(a) < fid_indomain(*)", "has * on the right"),
        ("failed(*)", "has * in failed"),
        ("fid_indomain(a) < 0 * fid_indomain(b)", "has the number 0; allowed: numbers above 0"),
        ("fid_indomain(a) < 1e999", "has the number 1e999"),
        ("fid_indomain(a) < -1", "instead of COLUMN(cell)"),
        ("2 * fid_indomain(a) < fid_indomain(b)", "instead of COLUMN(cell)"),
        ("fid_indomain(a) = fid_indomain(b)", "needs a margin after ="),
        ("fid_indomain(a) < fid_indomain(b) within 10 %", "has a margin after <"),
        ("fid_indomain(a) = fid_indomain(b) within ten %", "needs a margin after ="),
        ("fid_indomain(a) = fid_indomain(b) within 0 %", "has the number 0"),
        ("fid_indomain(a) < fid_indomain(a)", "compares a cell with itself"),
        ("__import__('os').system('true') < 1", "instead of COLUMN(cell)"),
        ("fid(" + "a" * 400 + ") < 1", "is too long; allowed: 300 characters"),
    ],
)
def test_invalid_comparisons_are_refused(text: str, complaint: str) -> None:
    assert complaint in refusal(text)


def test_a_cell_needs_a_family() -> None:
    assert "has no family for 'groups-2'; write ncsn/groups-2" in refusal(
        "fid_indomain(groups-2) < fid_indomain(ncsn/baseline)", None
    )


PIECES = st.sampled_from(
    [
        *"<>=()*/:%.-+ \n0129",
        "fid_indomain",
        "failed",
        "within",
        "10 %",
        "2 *",
        "ncsn/",
        "mnist:",
        "baseline",
        "1e5",
        "é",
        "\x00",
    ]
)


@given(st.one_of(st.text(max_size=350), st.lists(PIECES, max_size=20).map("".join)))
def test_arbitrary_text_is_parsed_or_refused_in_one_line(text: str) -> None:
    try:
        found = expressions.parse(text, "ncsn")
    except UserError as error:
        assert str(error).splitlines() == [str(error)]
    else:
        assert expressions.parse(found.text, "ncsn") == found


NAMES = st.text(string.ascii_letters + string.digits + "._+-", max_size=8).map("a".__add__)


@given(NAMES, NAMES, NAMES, st.sampled_from(expressions.COLUMN_NAMES), st.floats(1e-6, 1e6), st.sampled_from("<>"))
def test_every_valid_name_of_a_config_can_be_used(
    dataset: str, left: str, right: str, column: str, factor: float, operator: str
) -> None:
    text = f"{column}({dataset}: ncsn/{left}) {operator} {factor!r} * {column}(ddpm/{right})"
    found = expressions.parse(text)
    assert isinstance(found, Comparison)
    assert found.left == Term(column, Place(dataset, "ncsn", left))
    assert found.right == Term(column, Place(None, "ddpm", right))
    assert (found.operator, found.factor) == (operator, factor)
