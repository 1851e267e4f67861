"""Allocation of zeros to layers for unstructured pruning; the total is that of a single pool, to the element.

`rising`: the paper's proposal, a share that rises from both ends of the network towards its middle. `sensitivity`:
zeros go where they cost least, by each layer's loss when it alone is pruned.
"""

import itertools
from collections.abc import Mapping, Sequence

from slimdiff.catalog.limits import MAX_SHARE, allocation_faults
from slimdiff.errors import refuse

ALLOCATIONS = ("pool", "rising", "sensitivity")
MIN_WEIGHT = 0.25  # of the outermost layers in `rising`; the middle has 1
Curve = Sequence[tuple[float, float]]  # (share of zeros in a layer, loss), ascending


def total_zeros(sizes: Mapping[str, int], amount: float) -> int:
    """Return the zeros of a pool of these layers: round(amount · elements), rounded as Python and torch do."""
    return round(amount * sum(sizes.values()))


def rising(sizes: Mapping[str, int], amount: float) -> dict[str, int]:
    """Return the zeros per layer, with shares that rise linearly towards the middle layer.

    The share of layer i is c · w_i, at most MAX_SHARE. w_i goes from MIN_WEIGHT at both ends to 1 in the middle; c
    makes the total right.

    Args:
        sizes: elements per layer, in the network's order.

    Raises:
        UserError: `amount` exceeds MAX_SHARE.
    """
    refuse(allocation_faults(amount), "prune")
    last = max(1, len(sizes) - 1)
    depths = [1 - abs(2 * index / last - 1) for index in range(len(sizes))]
    weights = [MIN_WEIGHT + (1 - MIN_WEIGHT) * depth for depth in depths]
    total = total_zeros(sizes, amount)
    low, high = 0.0, MAX_SHARE / MIN_WEIGHT
    for _ in range(100):  # bisect to the last bit of a float
        factor = (low + high) / 2
        zeros = sum(min(MAX_SHARE, factor * w) * size for w, size in zip(weights, sizes.values(), strict=True))
        low, high = (factor, high) if zeros < total else (low, factor)
    exact = {n: min(MAX_SHARE, high * w) * size for (n, size), w in zip(sizes.items(), weights, strict=True)}
    return _rounded(exact, total)


def by_sensitivity(sizes: Mapping[str, int], amount: float, curves: Mapping[str, Curve]) -> dict[str, int]:
    """Return the zeros per layer that minimize the sum of the layers' losses, by their measured curves.

    Each curve is replaced by its lower convex hull, and zeros go where the hull rises least per element. That solves
    the allocation problem by Lagrange multipliers (Everett 1963; Shoham and Gersho 1988 for bits), assuming that the
    layers' losses add up. A loss that falls when a layer is pruned counts as constant.

    Args:
        curves: per layer, from a share of 0 to MAX_SHARE.

    Raises:
        UserError: as for `rising`.
    """
    refuse(allocation_faults(amount), "prune")
    total = total_zeros(sizes, amount)
    segments = []
    for name, size in sizes.items():
        hull = lower_hull(curves[name])
        for (before, low), (after, high) in itertools.pairwise(hull):
            elements = (after - before) * size
            segments.append(((high - low) / elements, before, name, elements))
    exact, left = dict.fromkeys(sizes, 0.0), float(total)
    for _, _, name, elements in sorted(segments):
        taken = min(elements, left)
        exact[name] += taken
        left -= taken
    return _rounded(exact, total)


def lower_hull(curve: Curve) -> list[tuple[float, float]]:
    """Return the corners of the lower convex hull of a curve made non-decreasing (Andrew's monotone chain)."""
    raised: list[tuple[float, float]] = []
    for share, loss in curve:
        raised.append((share, max(loss, raised[-1][1]) if raised else loss))
    hull: list[tuple[float, float]] = []
    for x, y in raised:
        while len(hull) > 1:
            (x_1, y_1), (x_2, y_2) = hull[-2:]
            if (y_2 - y_1) * (x - x_1) < (y - y_1) * (x_2 - x_1):
                break
            hull.pop()
        hull.append((x, y))
    return hull


def _rounded(exact: Mapping[str, float], total: int) -> dict[str, int]:
    """Return integers that add up to `total`: the largest remainders are rounded up, the first of equal ones."""
    zeros = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: zeros[name] - exact[name])
    for name in by_remainder[: total - sum(zeros.values())]:
        zeros[name] += 1
    return zeros
