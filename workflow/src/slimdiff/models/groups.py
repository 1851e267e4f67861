"""How a training's `groups` divides a convolution."""

import math

from slimdiff.errors import UserError


def split(c_in: int, c_out: int, groups: int | str) -> int:
    """The groups of a convolution with these channels: `groups`, which must divide both, or for `max` the most.

    Raises:
        UserError: `groups` does not divide them.
    """
    if groups == "max":
        return math.gcd(c_in, c_out)
    count = int(groups)
    if c_in % count == 0 and c_out % count == 0:
        return count
    raise UserError(
        f"trainings.*.groups is {groups}: it must divide the {c_in} and {c_out} channels of a convolution; "
        f"allowed there: divisors of {math.gcd(c_in, c_out)}, or 'max'"
    )
