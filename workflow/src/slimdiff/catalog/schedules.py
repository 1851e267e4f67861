"""Noise schedules and sampling options as a scheduler_config.json of diffusers holds them: names, defaults, limits.

Free of torch, as the rules must be. A noise schedule is `linear`, `cosine`, or a mapping with the keys of SCHEDULE.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from slimdiff.catalog.samplers import TIMESTEPS

MAX_TIMESTEPS = 10_000
MAX_BETAS = 1_000  # listed one by one, in every header and on every job's command line

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}  # in diffusers → preconditioning here

Limit = tuple[Callable[[Any], bool], str]  # whether a value is allowed, and what is, for messages


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def integer(low: int, high: int) -> Limit:
    """Allow integers from `low` to `high`."""
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"an integer from {low} to {high}",
    )


def one_of(*values: str | int) -> Limit:
    """Allow `values`, all of one type."""
    return lambda value: type(value) is type(values[0]) and value in values, ", ".join(map(str, values))


BETA: Limit = (lambda value: _number(value) and 0 < value < 1, "a number above 0 and below 1")
BOOLEAN: Limit = (lambda value: isinstance(value, bool), "true or false")
POSITIVE: Limit = (lambda value: _number(value) and value > 0, "a number above 0")
SHARE: Limit = (lambda value: _number(value) and 0 < value <= 1, "a number above 0 and up to 1")
BETAS: Limit = (
    lambda value: (
        value is None or (isinstance(value, list) and 2 <= len(value) <= MAX_BETAS and all(map(BETA[0], value)))
    ),
    f"null, or a list of 2 to {MAX_BETAS:,} numbers above 0 and below 1",
)

# Keys with diffusers' defaults and what is allowed.
SCHEDULE: dict[str, tuple[Any, Limit]] = {
    "num_train_timesteps": (TIMESTEPS, integer(2, MAX_TIMESTEPS)),
    "beta_start": (1e-4, BETA),
    "beta_end": (0.02, BETA),
    "beta_schedule": ("linear", one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")),
    "trained_betas": (None, BETAS),
}
SAMPLING: dict[str, tuple[Any, Limit]] = {
    "clip_sample_range": (1.0, POSITIVE),
    "thresholding": (False, BOOLEAN),
    "dynamic_thresholding_ratio": (0.995, SHARE),
    "sample_max_value": (1.0, POSITIVE),
    "timestep_spacing": ("leading", one_of("leading", "trailing", "linspace")),
    "steps_offset": (0, integer(0, 1)),
    "variance_type": (
        "fixed_small",
        one_of("fixed_small", "fixed_small_log", "fixed_large"),
    ),
    "set_alpha_to_one": (True, BOOLEAN),
}


def option_faults(
    options: Mapping[str, Any], table: Mapping[str, tuple[Any, Limit]]
) -> Iterator[tuple[tuple[str], str]]:
    """Yield each key of `options` that `table` (SCHEDULE or SAMPLING) lacks or whose value it does not allow."""
    for key, value in options.items():
        if key not in table:
            yield (key,), f"is unknown; allowed: {', '.join(table)}"
        elif not table[key][1][0](value):
            yield (key,), f"is {str(value)[:80]!r}; allowed: {table[key][1][1]}"


def schedule_faults(schedule: Mapping[str, Any]) -> Iterator[tuple[tuple[str], str]]:
    """Yield what keeps a mapping from being a noise schedule; keys below it."""
    yield from option_faults(schedule, SCHEDULE)
    for key in SCHEDULE:
        if key not in schedule:
            yield (key,), "is missing"
    betas, steps = schedule["trained_betas"], schedule["num_train_timesteps"]
    if betas is not None and len(betas) != steps:
        yield ("trained_betas",), f"has {len(betas)} numbers; allowed with num_train_timesteps {steps}: {steps}"
    if betas is None and schedule["beta_start"] > schedule["beta_end"]:
        yield ("beta_start",), f"is {schedule['beta_start']}; allowed: up to beta_end, {schedule['beta_end']}"


def timesteps_of(schedule: str | Mapping[str, Any]) -> int:
    """Return the number of steps of a noise schedule."""
    return TIMESTEPS if isinstance(schedule, str) else int(schedule["num_train_timesteps"])
