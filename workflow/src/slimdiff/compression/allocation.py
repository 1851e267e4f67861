"""How many elements of each layer become zero, when layers are not one pool: schedules of equal totals.

`rising`: the report's proposal, a share that rises from the ends of the network towards its middle. `sensitivity`: each
layer's loss, measured with that layer alone pruned, says where zeros cost least. Either way the zeros of all layers
together are as many as a pool of them all would have, to the element.
"""

import itertools
from collections.abc import Mapping, Sequence

from slimdiff.errors import UserError

ALLOCATIONS = ("pool", "rising", "sensitivity")
MOST = 0.98  # share of a layer that may go: a layer of zeros alone lets nothing through
LEAST_WEIGHT = 0.25  # of the outermost layers, where the middle's is 1
Curve = Sequence[tuple[float, float]]  # (share of a layer that is zero, loss with it), by ascending share


def total_zeros(sizes: Mapping[str, int], amount: float) -> int:
    """Zeros that a pool of these layers has: round(amount · elements), Python's rounding, as torch's."""
    return round(amount * sum(sizes.values()))


def rising(sizes: Mapping[str, int], amount: float) -> dict[str, int]:
    """Zeros per layer, at shares that rise linearly towards the layer in the middle.

    The share of layer i of n is c · w_i, at most MOST; w_i goes from LEAST_WEIGHT at both ends to 1 in the middle, and
    c is what makes the total right.

    Args:
        sizes: elements per layer, in the order in which the network applies them.

    Raises:
        UserError: that many zeros leave no layer its least share.
    """
    last = max(1, len(sizes) - 1)
    depth = [1 - abs(2 * place / last - 1) for place in range(len(sizes))]
    weights = [LEAST_WEIGHT + (1 - LEAST_WEIGHT) * each for each in depth]
    wanted = total_zeros(sizes, amount)
    _check_room(sizes, wanted, amount)
    low, high = 0.0, MOST / LEAST_WEIGHT
    for _ in range(100):  # of a bisection: to the last bit of a float
        factor = (low + high) / 2
        placed = sum(min(MOST, factor * w) * size for w, size in zip(weights, sizes.values(), strict=True))
        low, high = (factor, high) if placed < wanted else (low, factor)
    exact = {n: min(MOST, high * w) * size for (n, size), w in zip(sizes.items(), weights, strict=True)}
    return _rounded(exact, wanted)


def by_sensitivity(sizes: Mapping[str, int], amount: float, curves: Mapping[str, Curve]) -> dict[str, int]:
    """Zeros per layer such that the sum of the layers' own losses is least, by their measured curves.

    Each curve is replaced by its lower convex hull, and zeros go where the hull rises least per element: the solution
    of the allocation problem by Lagrange multipliers (Everett 1963; Shoham and Gersho 1988 for bits), that losses of
    layers add up being the assumption. A loss that falls when a layer is pruned counts as one that stays.

    Args:
        curves: of each layer, from a share of 0 to one of at most MOST.

    Raises:
        UserError: as for `rising`.
    """
    wanted = total_zeros(sizes, amount)
    segments = []
    for name, size in sizes.items():
        hull = lower_hull(curves[name])
        for (before, low), (after, high) in itertools.pairwise(hull):
            elements = (after - before) * size
            segments.append(((high - low) / elements, before, name, elements))
    room = sum(elements for *_, elements in segments)
    if wanted > room:
        _refuse(amount, room / sum(sizes.values()))
    exact, left = dict.fromkeys(sizes, 0.0), float(wanted)
    for _, _, name, elements in sorted(segments):
        taken = min(elements, left)
        exact[name] += taken
        left -= taken
    return _rounded(exact, wanted)


def lower_hull(curve: Curve) -> list[tuple[float, float]]:
    """The convex function below a curve that is made non-decreasing first: its corners (Andrew's monotone chain)."""
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


def _rounded(exact: Mapping[str, float], wanted: int) -> dict[str, int]:
    """Whole numbers that add up to `wanted`: the largest remainders are rounded up, of equal ones the first."""
    made = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: made[name] - exact[name])
    for name in by_remainder[: wanted - sum(made.values())]:
        made[name] += 1
    return made


def _check_room(sizes: Mapping[str, int], wanted: int, amount: float) -> None:
    room = sum(int(MOST * size) for size in sizes.values())
    if wanted > room:
        _refuse(amount, room / sum(sizes.values()))


def _refuse(amount: float, room: float) -> None:
    raise UserError(
        f"prune.amount is {amount}; allowed with this allocation: up to {room:.3f}, since no layer loses all"
    )
