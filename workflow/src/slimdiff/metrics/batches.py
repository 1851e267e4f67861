"""A small network over many images: what extractors and the judge share."""

from collections.abc import Callable

import torch

from slimdiff.errors import UserError

BATCH_SIZE = 64  # stays in the cache: in double precision on a CPU, 250 took nearly twice as long


def in_batches(
    run: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    width: int,
    batch_size: int,
    device: torch.device | str,
) -> torch.Tensor:
    """`run` of `images`, uint8 (N, C, H, W), as float64 (N, width) on the CPU; `run` works on `device`."""
    # One block for all: small results kept between large temporary ones would leave the heap full of holes (7.6 GB).
    found = torch.empty(len(images), width, dtype=torch.float64)
    for start in range(0, len(images), batch_size):
        found[start : start + batch_size] = run(images[start : start + batch_size].to(device))
    return found


def check_shape(images: torch.Tensor, taken: tuple[int, ...], takes: str) -> None:
    """Raise UserError unless images (N, C, H, W) are of shape `taken`; `takes` tells in the error who wants them so."""
    if tuple(images.shape[1:]) != taken:
        shapes = ["×".join(map(str, shape)) for shape in (images.shape[1:], taken)]
        raise UserError(f"images are {shapes[0]} (channels×height×width), {takes} {shapes[1]}")
