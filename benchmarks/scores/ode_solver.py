"""The probability-flow ODE by slimdiff.diffusion.dopri5 and by torchode, one thread, 16 images.

Errors are against scipy's DOP853 at 1e-11, on the exact score of a mixture of eight Gaussians. Seconds are
of the untrained NCSN, interleaved. slimdiff does not depend on torchode:

    pip install --target /tmp/torchode --no-deps torchode torchtyping typeguard sympy mpmath
    PYTHONPATH=/tmp/torchode:workflow/src:benchmarks python benchmarks/scores/ode_solver.py
"""

import time
from collections.abc import Callable

import torch
import torchode
from _network import MODEL, TRAINING
from _record import interleaved
from scipy.integrate import solve_ivp

from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.dopri5 import Slope, solve
from slimdiff.diffusion.processes import TIME_MIN, VESDE
from slimdiff.models.registry import build_network
from slimdiff.runtime.devices import pick_device

N, ROUNDS, STD = 16, 3, 0.3
SDE = VESDE()
MEANS = torch.randn(8, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def mixture(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return the exact estimate of a mixture of Gaussians around MEANS."""
    flat, variance = x.flatten(1)[:, None], STD**2 + sigma[:, None] ** 2
    weights = torch.softmax(-(flat - MEANS).square().sum(-1) / (2 * variance), 1)
    estimates = MEANS + STD**2 / variance[..., None] * (flat - MEANS)
    return (weights[..., None] * estimates).sum(1).reshape(x.shape)


def slope_of(denoiser: Callable[..., torch.Tensor], dtype: torch.dtype) -> Slope:
    """Return dx/dt of the probability-flow ODE."""

    def slope(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        sigma = SDE.marginal_std(t)
        gain = SDE.diffusion(t).square() / (2 * sigma.square())
        return gain[:, None, None, None] * (x - denoiser(x.to(dtype), sigma.to(dtype)).double())

    return slope


def ours(slope: Slope, x: torch.Tensor, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the final x, and the evaluations per image."""
    return solve(slope, x, 1.0, TIME_MIN, tolerance)


def theirs(slope: Slope, x: torch.Tensor, tolerance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same by torchode, which keeps finished images in the batch."""
    term = torchode.ODETerm(lambda t, y: slope(t, y.reshape(x.shape)).flatten(1))
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    times = x.new_ones(len(x)), x.new_full((len(x),), TIME_MIN)
    problem = torchode.InitialValueProblem(y0=x.flatten(1), t_start=times[0], t_end=times[1])
    solution = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller).solve(problem)
    return solution.ys[:, -1].reshape(x.shape), solution.stats["n_f_evals"]


def exact(slope: Slope, x: torch.Tensor) -> torch.Tensor:
    """Return the final x by scipy, image by image."""

    def flat(t: float, y: torch.Tensor) -> torch.Tensor:
        return slope(torch.tensor([t], dtype=torch.float64), torch.as_tensor(y).reshape(1, *x.shape[1:])).flatten()

    solved = [solve_ivp(flat, (1.0, TIME_MIN), image.flatten(), "DOP853", rtol=1e-11, atol=1e-11) for image in x]
    return torch.stack([torch.as_tensor(solution.y[:, -1]) for solution in solved]).reshape(x.shape)


def start_of(size: int) -> torch.Tensor:
    noise = torch.randn(N, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return noise * SDE.marginal_std(torch.ones(()))


def seconds(solver: Callable[..., tuple[torch.Tensor, torch.Tensor]], slope: Slope, tolerance: float) -> float:
    start = time.perf_counter()
    solver(slope, start_of(28), tolerance)
    return time.perf_counter() - start


if __name__ == "__main__":
    pick_device(0, 1)
    torch.set_grad_enabled(False)
    slope, x = slope_of(mixture, torch.float64), start_of(8)
    reference = exact(slope, x)
    for tolerance in (1e-3, 1e-5, 1e-7):
        for name, solver in (("ours", ours), ("torchode", theirs)):
            end, evaluations = solver(slope, x, tolerance)
            error, alone = float((end - reference).abs().max()), solver(slope, x[:1], tolerance)[0]
            print(
                f"{tolerance:g} {name}: error {error:.1e}, {float(evaluations.double().mean()):.0f} evaluations, "
                f"an image alone differs by {float((alone - end[:1]).abs().max()):.1e}"
            )
    denoiser = build_denoiser(build_network(MODEL).eval(), MODEL, TRAINING | {"preconditioning": "score"})
    slope = slope_of(denoiser, torch.float32)
    for tolerance in (1e-3, 1e-5):

        def run(solver: Callable[..., tuple[torch.Tensor, torch.Tensor]], tolerance: float = tolerance) -> float:
            return seconds(solver, slope, tolerance)

        print(f"{tolerance:g} NCSN: {interleaved(lambda: run(ours), lambda: run(theirs), ROUNDS)}")
