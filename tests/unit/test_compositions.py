"""How many images of each class, and in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimdiff.catalog.compositions import apportion, interleave, largest_counts

SHARES = st.lists(st.one_of(st.integers(0, 5), st.integers(0, 60_000)), min_size=1, max_size=20).filter(any)


@pytest.mark.parametrize(
    ("n", "shares", "counts"),
    [
        (10, (9, 1), [9, 1]),
        (5, (9, 1), [5, 0]),  # 4.5 and 0.5: the first of equal remainders
        (100, (99, 1), [99, 1]),
        (7, (1, 1, 1), [3, 2, 2]),
        (3, (0, 2, 0, 1), [0, 2, 0, 1]),
        (0, (3, 4), [0, 0]),
        (2000, (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
         [197, 225, 199, 204, 195, 181, 197, 209, 195, 198]),
    ],
)  # fmt: skip
def test_largest_remainders(n: int, shares: tuple[int, ...], counts: list[int]) -> None:
    assert apportion(n, shares) == counts


@given(n=st.integers(0, 500), shares=SHARES)
def test_a_class_gets_its_quota_rounded_down_or_up(n: int, shares: list[int]) -> None:
    counts = apportion(n, shares)
    assert sum(counts) == n
    for count, share in zip(counts, shares, strict=True):
        assert n * share // sum(shares) <= count <= -(-n * share // sum(shares))


@given(n=st.integers(0, 300), shares=SHARES)
def test_any_prefix_has_the_composition_of_the_whole(n: int, shares: list[int]) -> None:
    """To less than one image of each class."""
    counts = apportion(n, shares)
    seen = [0] * len(counts)
    for k, label in enumerate(interleave(counts), 1):
        seen[label] += 1
        assert all(abs(found * n - k * count) < n for found, count in zip(seen, counts, strict=True))
    assert seen == counts


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("n", [1, 8, 64, 99, 200])
def test_equal_classes_take_turns(n: int, classes: int) -> None:
    assert interleave(apportion(n, [6000] * classes)) == [image % classes for image in range(n)]


@given(limit=st.integers(0, 200), shares=SHARES, data=st.data())
def test_the_largest_set_of_a_composition(limit: int, shares: list[int], data: st.DataObject) -> None:
    available = data.draw(st.lists(st.integers(0, 60), min_size=len(shares), max_size=len(shares)))

    def fits(n: int) -> bool:
        return all(count <= have for count, have in zip(apportion(n, shares), available, strict=True))

    n = max(filter(fits, range(limit + 1)))
    assert largest_counts(limit, shares, available) == apportion(n, shares)
