"""Muon for weight matrices, AdamW for all other parameters, as one optimizer.

Muon (Jordan et al. 2024) moves a matrix along its momentum, orthogonalized by Newton-Schulz iterations: here three,
with the coefficients of Polar Express (Amsel et al. 2025, algorithm 1), instead of five. They are polynomials of X Xᵀ
times X, so they run on that small square matrix, in float32, for all matrices of a shape at once. torch.optim.Muon
takes matrices alone, one after the other (docs/decisions).
Updates are scaled to the root mean square of AdamW's (Liu et al. 2025, eq. 4), so both share a rate and a decay.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.95
# Of X, (X Xᵀ) X and (X Xᵀ)² X in each iteration; optimal for singular values from 0.01 to 1
COEFFICIENTS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))
RMS = 0.2  # of AdamW's updates


class Muon(torch.optim.Optimizer):
    """Muon and AdamW, with one learning rate and weight decay.

    A kernel is a matrix of its first dimension (outputs, or inputs if it is transposed) × rest, one for each group.

    Args:
        matrices: parameters of two dimensions or more, with the number of groups that divides their first one.
        others: parameters of AdamW.
    """

    def __init__(
        self,
        matrices: Mapping[nn.Parameter, int],
        others: Sequence[nn.Parameter],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self._groups = list(matrices.values())
        self._adamw = torch.optim.AdamW(others, learning_rate, weight_decay=weight_decay, fused=True)
        own = {"params": list(matrices), "lr": learning_rate, "weight_decay": weight_decay}
        super().__init__([own, *self._adamw.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step along the parameters' gradients; a parameter without one keeps its value."""
        own = self.param_groups[0]
        pairs = zip(own["params"], self._groups, strict=True)
        inner = [(parameter, groups) for parameter, groups in pairs if parameter.grad is not None]
        momenta = [self._momentum(parameter).flatten(1).chunk(groups) for parameter, groups in inner]
        orthogonal = iter(orthogonalize([matrix for matrices in momenta for matrix in matrices]))
        for parameter, groups in inner:
            parts = [next(orthogonal) for _ in range(groups)]
            rate = own["lr"] * RMS * max(parts[0].shape) ** 0.5
            update = torch.cat(parts).reshape(parameter.shape)
            parameter.mul_(1.0 - own["lr"] * own["weight_decay"]).sub_(update, alpha=rate)
        self._adamw.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as torch's optimizers do."""
        super().load_state_dict(state_dict)
        self._share()

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return Nesterov's momentum of a parameter."""
        assert parameter.grad is not None
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        buffer.lerp_(parameter.grad, 1.0 - MOMENTUM)
        return parameter.grad.lerp(buffer, MOMENTUM)

    def _share(self) -> None:
        """Make AdamW use this optimizer's state, and its parameter group, whose rate the training loop sets."""
        self._adamw.state, self._adamw.param_groups = self.state, self.param_groups[1:]


def orthogonalize(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return each matrix (A, B) with singular values from 0.73 to 1.27 where they are 1 % of its norm or more."""
    stacks: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        stacks[tuple(sorted(matrix.shape))].append(index)
    results = list(matrices)
    for indices in stacks.values():
        x = torch.stack([_wide(matrices[index]) for index in indices])
        x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
        gram, product = x @ x.mT, None
        for iteration, (first, second, third) in enumerate(COEFFICIENTS, 1):
            factor = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
            factor.diagonal(dim1=1, dim2=2).add_(first)
            product = factor if product is None else factor @ product
            if iteration < len(COEFFICIENTS):
                gram = factor @ gram @ factor
        for index, result in zip(indices, product @ x, strict=True):
            results[index] = result if matrices[index].shape == result.shape else result.T
    return results


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
