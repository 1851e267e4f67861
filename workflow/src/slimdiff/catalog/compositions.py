"""The composition of a set of images: how many of each class, and in which order a model samples them."""

import heapq
from collections.abc import Sequence

TRAINING, UNIFORM = "training", "uniform"  # values of the config key sampling.labels


def apportion(n: int, shares: Sequence[int]) -> list[int]:
    """Return how many of n images each class gets by its share, by largest remainders (Hamilton's method).

    Equal remainders go to the first classes. Whole numbers make the result exact.

    Args:
        shares: images of each class, at least one in total.
    """
    total = sum(shares)
    counts = [n * share // total for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda label: (-(n * shares[label] % total), label))
    for label in by_remainder[: n - sum(counts)]:
        counts[label] += 1
    return counts


def interleave(counts: Sequence[int]) -> list[int]:
    """Return each class `counts` times, ordered so that any prefix has the composition of the whole.

    The first k labels hold less than one image more or less of a class than its share of k. Classes of equal counts
    take turns. This is Pfair scheduling (Baruah et al. 1996): image j of a class, from 0, has to be in a place from
    j n / count to (j + 1) n / count, and the first place goes to the image whose last one comes first.
    """
    n = sum(counts)
    released = sorted(
        (copy * n // count, -(-(copy + 1) * n // count), label)
        for label, count in enumerate(counts)
        for copy in range(count)
    )
    order: list[int] = []
    waiting: list[tuple[int, int, int]] = []
    next_release = 0
    for place in range(n):
        while next_release < n and released[next_release][0] <= place:
            release, deadline, label = released[next_release]
            heapq.heappush(waiting, (deadline, release, label))
            next_release += 1
        order.append(heapq.heappop(waiting)[2])
    return order


def largest_counts(limit: int, shares: Sequence[int], available: Sequence[int]) -> list[int]:
    """Return the counts of the largest set of at most `limit` images that has these shares and is available.

    Args:
        shares: images of each class in a set of the wanted composition, at least one in total.
        available: images of each class to choose from.
    """
    total = sum(shares)
    # A class gets at least its share, rounded down.
    bounds = [((have + 1) * total - 1) // share for share, have in zip(shares, available, strict=True) if share]
    for n in range(min(limit, *bounds), 0, -1):
        counts = apportion(n, shares)
        if all(count <= have for count, have in zip(counts, available, strict=True)):
            return counts
    return [0] * len(shares)
