"""Sampling the NCSN: Heun on Karras' sigmas with 10 steps against the paper's 500 Euler–Maruyama steps, one thread.

Times are milliseconds per image in a batch of 32.
"""

import time

from _network import MODEL, TRAINING
from _record import interleaved, record

from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.inference.sampling import sample_images
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import pick_device

BATCH, ROUNDS = 32, 3
DATASET = {"channels": 1, "height": 28, "width": 28, "saturated": 0.8}


def ms_per_image(method: str, steps: int) -> float:
    """Return the wall time per image of one sampling run."""
    denoiser = build_denoiser(build_network(MODEL).eval(), MODEL, TRAINING)
    start = time.perf_counter()
    sample_images(denoiser, SamplerSettings(method, steps), MODEL, DATASET, BATCH, BATCH, seed=0)
    return (time.perf_counter() - start) * 1000.0 / BATCH


if __name__ == "__main__":
    pick_device(0, 1)
    measured = interleaved(lambda: ms_per_image("heun", 10), lambda: ms_per_image("euler-maruyama", 500), ROUNDS)
    record("sampling: 500 Euler–Maruyama steps / 10 Heun steps (ms per image)", measured, 1)
