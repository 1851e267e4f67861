"""Training the NCSN on a CPU: two jobs of one thread side by side against one job of two threads.

The result is why the rule `train` uses one thread. Values are images per second over both jobs.
"""

import multiprocessing
import time

import torch
from _network import MODEL, TRAINING
from _record import interleaved, record

from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import pick_device

BATCH, STEPS, ROUNDS = 128, 12, 3


def train(threads: int) -> float:
    """Return the seconds of STEPS training steps, after two warm-up steps."""
    pick_device(0, threads)
    network = build_network(MODEL)
    denoiser = build_denoiser(network, MODEL, TRAINING)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    x_0, sigma, noise = torch.rand(BATCH, 1, 28, 28), torch.rand(BATCH) + 0.1, torch.randn(BATCH, 1, 28, 28)
    start = 0.0
    for step in range(STEPS + 2):
        if step == 2:
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        denoiser.loss(x_0, sigma, noise).mean().backward()
        optimizer.step()
    return time.perf_counter() - start


def images_per_s(jobs: int, threads: int) -> float:
    """Return the images per second of `jobs` processes that start together."""
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        seconds = pool.map(train, [threads] * jobs, chunksize=1)
    return sum(BATCH * STEPS / each for each in seconds)


if __name__ == "__main__":
    measured = interleaved(lambda: images_per_s(1, 2), lambda: images_per_s(2, 1), ROUNDS)
    record("training: two jobs of one thread / one job of two (images per s)", measured, 2)
