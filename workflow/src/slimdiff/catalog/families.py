"""What each family of networks can be told, and what each sampler asks for: facts that configuration and models share.

Apart from slimdiff.config.resolve, so that an edit of that module draws no samples again.
"""

from dataclasses import dataclass

# The constants that each sampler uses: those of another one are left out, so that editing them changes nothing.
SAMPLER_CONSTANTS = {
    "heun": ("steps", "sigma_min", "sigma_max", "rho"),
    "euler": ("steps", "sigma_min", "sigma_max", "rho", "grid"),
    "euler-maruyama": ("steps",),
    "predictor-corrector": ("steps", "snr"),
    "ode": ("tolerance",),
    "ddpm": ("steps",),
    "ddim": ("steps",),
    "dpm-solver++": ("steps",),
    "unipc": ("steps",),
}
SAMPLER_ALWAYS = ("precision",)  # what every sampler of every family uses
SCHEDULED = ("ddpm", "ddim", "dpm-solver++", "unipc")  # samplers that step through a noise schedule
TIMESTEPS = 1000  # of that schedule


# Training options that say what a network is or computes: one that starts from another's weights has them from there.
FIXED_BY_START = ("preconditioning", "sigma_data", "black", "noise_schedule", "groups", "linear")


@dataclass(frozen=True, slots=True)
class Family:
    """What a family of networks can be told."""

    preconditionings: tuple[str, ...]
    samplers: tuple[str, ...]
    training: tuple[str, ...] = ()  # training options of this family alone
    sampler: tuple[str, ...] = ()  # sampler options of this family alone, whatever the method


FAMILIES = {
    "ncsn": Family(
        ("score", "edm"),
        ("heun", "euler", "euler-maruyama", "predictor-corrector", "ode"),
        ("label_dropout",),
        ("guidance",),
    ),
    "ddpm": Family(
        ("epsilon", "v", "edm"),
        ("heun", "euler", *SCHEDULED),
        ("noise_schedule", "min_snr_gamma", "label_dropout"),
        ("guidance", "clip", "reuse"),
    ),
}


def divisors(n: int) -> str:
    """The numbers that divide n, as a message lists them."""
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def steps_problem(method: str, steps: int) -> str | None:
    """What is wrong with `steps` of a sampler, or None; goes on from its name, as in "is 15; allowed …"."""
    if method == "ddim" and TIMESTEPS % steps:  # its steps must be equal
        return f"is {steps}; allowed for {method}: {divisors(TIMESTEPS)}"
    if method in SCHEDULED and steps > TIMESTEPS:
        return f"is {steps}; allowed for {method}: up to {TIMESTEPS}"
    return None
