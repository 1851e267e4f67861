"""Groups of a convolution under the training option `groups`."""

import math

from slimdiff.errors import UserError


def conv_groups(c_in: int, c_out: int, groups: int | str) -> int:
    """Return the groups of a convolution: `groups`, or the greatest common divisor of the channels for `max`.

    Raises:
        UserError: `groups` does not divide both channel counts.
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
