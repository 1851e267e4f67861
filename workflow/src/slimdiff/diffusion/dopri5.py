"""Dormand–Prince 5(4) with a step size for each image of the batch.

scipy.integrate.solve_ivp and torchdiffeq choose one step for the whole batch, so an image would depend on its batch.
Tests compare with scipy's RK45; docs/decisions has a comparison with torchode.
"""

from collections.abc import Callable

import torch

# Dormand and Prince 1980: nodes, stages (the last row is also the 5th-order solution), and 5th minus 4th order
NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

SAFETY, MIN_FACTOR, MAX_FACTOR = 0.9, 0.2, 10.0  # of the step size
ORDER = 5

Slope = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def solve(
    slope: Slope, start: torch.Tensor, t_start: float, t_end: float, tolerance: float, max_steps: int = 10_000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integrate dx/dt = slope(t, x) from t_start to t_end.

    Args:
        slope: takes t (M,) and x (M, …) for any subset of the batch, and returns (M, …).
        start: float64 (N, …).
        tolerance: absolute and relative, of the root mean square of an image's error.

    Returns:
        x at t_end, and the evaluations of `slope` per image (N,).

    Raises:
        FloatingPointError: an image needs more than `max_steps` steps, or became NaN or infinite.
    """
    n = start.shape[0]
    direction = 1.0 if t_end > t_start else -1.0
    x = start.clone()
    t = torch.full((n,), t_start, dtype=torch.float64, device=start.device)
    first = slope(t, x)
    h = _initial_step(slope, t, x, first, direction, tolerance)
    evaluations = torch.full((n,), 2)
    active = torch.arange(n, device=start.device)

    for _ in range(max_steps):
        if active.numel() == 0:
            return x, evaluations
        t_a, x_a = t[active], x[active]
        h_a = torch.minimum(h[active], (t_end - t_a).abs())
        ks = [first[active]]
        x_new = x_a
        for node, weights in zip(NODES[1:], STAGES[1:], strict=True):
            x_new = x_a + _column(direction * h_a, x_a) * _combine(weights, ks)
            ks.append(slope(t_a + node * direction * h_a, x_new))
        evaluations[active.cpu()] += len(NODES) - 1

        error = _column(h_a, x_a) * _combine(ERROR, ks)
        scale = tolerance + tolerance * torch.maximum(x_a.abs(), x_new.abs())
        norm = _rms(error / scale)
        if not bool(torch.isfinite(norm).all()):
            raise FloatingPointError("the probability-flow ODE reached NaN or infinity")

        accepted = norm < 1.0
        factor = (SAFETY * norm.clamp_min(1e-12) ** (-1 / ORDER)).clamp(MIN_FACTOR, MAX_FACTOR)
        h[active] = h_a * torch.where(accepted, factor, factor.clamp_max(1.0))
        moved = active[accepted]
        t[moved] = (t_a + direction * h_a)[accepted]
        x[moved] = x_new[accepted]
        first[moved] = ks[-1][accepted]  # first same as last
        active = active[(t[active] - t_end).abs() > 1e-12]
    raise FloatingPointError(f"the probability-flow ODE needs more than {max_steps} steps at tolerance {tolerance}")


def _initial_step(
    slope: Slope, t: torch.Tensor, x: torch.Tensor, first: torch.Tensor, direction: float, tolerance: float
) -> torch.Tensor:
    """Return the first step size (N,): Hairer, Nørsett and Wanner, Solving ODEs I, II.4."""
    scale = tolerance + tolerance * x.abs()
    d0, d1 = _rms(x / scale), _rms(first / scale)
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), torch.full_like(d0, 1e-6), 0.01 * d0 / d1)
    ahead = slope(t + direction * h0, x + _column(direction * h0, x) * first)
    d2 = _rms((ahead - first) / scale) / h0
    largest = torch.maximum(d1, d2)
    h1 = torch.where(largest <= 1e-15, (h0 * 1e-3).clamp_min(1e-6), (0.01 / largest) ** (1 / ORDER))
    return torch.minimum(100 * h0, h1)


def _combine(weights: tuple[float, ...], ks: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(ks[0])
    for weight, k in zip(weights, ks, strict=True):
        if weight:
            total = total + weight * k
    return total


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def _rms(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).square().mean(1).sqrt()
