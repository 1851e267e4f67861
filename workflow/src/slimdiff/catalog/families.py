"""Families of networks: their preconditionings, samplers and options. Free of torch, as the rules must be."""

from dataclasses import dataclass

PRECONDITIONINGS = ("score", "edm", "epsilon", "v", "sample")
ON_SCHEDULE = ("epsilon", "v", "sample")  # those with a noise schedule, whose loss min-SNR can weight
# Options of edm's noise levels in training, with the values of Karras et al. 2022, which a training without them has.
NOISE_LEVELS = {"log_sigma_mean": -1.2, "log_sigma_std": 1.2}
# Training options that define the network or what it predicts; a training with a start takes them from the start.
FIXED_BY_START = ("preconditioning", "sigma_data", "black", "noise_schedule", "groups", "linear")
# Those of a pretrained model that its weights are used with before any training.
USED_UNTRAINED = (*FIXED_BY_START, "precision", "min_snr_gamma", "label_dropout")


@dataclass(frozen=True, slots=True)
class Family:
    """The options of a family of networks."""

    preconditionings: tuple[str, ...]
    samplers: tuple[str, ...]
    training: tuple[str, ...] = ()  # training options that not every family has
    sampler: tuple[str, ...] = ()  # options of all its samplers that not every family has


_U_NET = {
    "samplers": ("heun", "euler", "consistency", "ddpm", "ddim", "dpm-solver++", "unipc"),
    "training": ("noise_schedule", "min_snr_gamma", "label_dropout"),
    "sampler": ("guidance", "guidance_interval", "clip", "cache_interval"),
}
FAMILIES = {
    "ncsn": Family(
        ("score", "edm"),
        ("heun", "euler", "consistency", "euler-maruyama", "predictor-corrector", "ode"),
        ("label_dropout",),
        ("guidance", "guidance_interval"),
    ),
    "ddpm": Family(("epsilon", "v", "edm"), **_U_NET),
    "unet2d": Family(("epsilon", "v", "sample", "edm"), **_U_NET),
}


def divisors(n: int) -> str:
    """Return the divisors of `n`, for messages."""
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)
