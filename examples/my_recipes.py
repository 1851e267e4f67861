"""A plugin with two compression steps, a family of networks, and a source of images.

examples/config.yaml runs it. Copy what you need; slimdiff itself stays unchanged.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from slimdiff.errors import UserError
from slimdiff.plugins import family, source, step

FLOAT32_MANTISSA = 23  # bits

# --- a step that changes the structure: `restore` repeats the change before a file's tensors are loaded


def put_factors(network, name, rank):
    """Replace a linear layer by two thin ones, without setting their weights; return the old layer and the new pair."""
    old = network.get_submodule(name)
    pair = nn.Sequential(nn.Linear(old.in_features, rank, bias=False), nn.Linear(rank, old.out_features))
    network.set_submodule(name, pair)
    return old, pair


def restore_factors(network, record, tensors):
    """Restore the structure that `low_rank` recorded as name → rank."""
    for name, rank in record.items():
        put_factors(network, name, rank)


@step(
    "low-rank",
    settings={
        "share": {
            "description": "rank of each linear layer, as a fraction of its smaller dimension",
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
        }
    },
    restore=restore_factors,
)
def low_rank(network, settings, seed):
    """Factorize linear layers by truncated SVD where that saves parameters (Eckart and Young 1936)."""
    record = {}
    for name, layer in list(network.named_modules()):
        if type(layer) is not nn.Linear or layer.bias is None:
            continue
        rank = max(1, round(settings["share"] * min(layer.weight.shape)))
        if rank * sum(layer.weight.shape) >= layer.weight.numel():
            continue
        left, values, right = torch.linalg.svd(layer.weight.data, full_matrices=False)
        old, pair = put_factors(network, name, rank)
        pair[0].weight.data = values[:rank, None].sqrt() * right[:rank]
        pair[1].weight.data = left[:, :rank] * values[:rank].sqrt()
        pair[1].bias.data = old.bias.data
        record[name] = rank
    if not record:
        raise UserError(f"low-rank.share is {settings['share']}, which shrinks no linear layer; choose a smaller share")
    return record


# --- a step that keeps the structure: the file loads without the plugin


@step(
    "round-mantissa",
    settings={
        "bits": {"description": "mantissa bits to keep of every weight", "type": "integer", "minimum": 0, "maximum": 22}
    },
)
def round_mantissa(network, settings, seed):
    """Round every float32 parameter to the nearest number with fewer mantissa bits, ties to even.

    The file keeps its size and compresses better, since the dropped bits are zero.
    """
    for parameter in network.parameters():
        if parameter.dtype == torch.float32:
            parameter.data = rounded(parameter.data, settings["bits"])


def rounded(values, bits):
    """Return float32 values with `bits` mantissa bits; a carry correctly runs over into the exponent."""
    dropped = FLOAT32_MANTISSA - bits
    pattern = values.contiguous().view(torch.int32)
    half = (1 << (dropped - 1)) - 1 + (pattern >> dropped & 1)
    return ((pattern + half) >> dropped << dropped).view(torch.float32).view_as(values)


# --- a family of networks


@family(
    "residual",
    network={
        "width": {"description": "channels, an even number", "type": "integer", "minimum": 2, "multipleOf": 2},
        "blocks": {"description": "residual blocks", "type": "integer", "minimum": 1},
        "classes": {"description": "number of classes, that of the data set, or 0", "type": "integer", "minimum": 0},
    },
    preconditionings=["edm", "score"],
    samplers=["heun", "euler-maruyama"],
    scopes=["global", "middle"],
)
def residual(network, channels, image_size, groups):
    """Return the network for `models.*.network`; its convolutions accept any `image_size`."""
    return Residual(channels, network["width"], network["blocks"], network["classes"])


class Block(nn.Module):
    """Residual block of two convolutions, shifted by the embedding of noise level and class."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.shift = nn.Linear(width, width)

    def forward(self, x, embedding):
        """x (N, width, S, S), embedding (N, width) → (N, width, S, S)."""
        h = self.first(F.silu(x)) + self.shift(embedding)[:, :, None, None]
        return x + self.second(F.silu(h))


class Residual(nn.Module):
    """Residual blocks at one resolution, conditioned on the noise level and, with classes, on the class."""

    def __init__(self, channels, width, blocks, classes):
        super().__init__()
        self.width = width
        self.embed = nn.Linear(width, width)
        self.label = nn.Embedding(classes, width) if classes else None
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.leave = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, noise_level, labels=None):
        """x (N, C, S, S), noise_level (N,), labels (N,) with -1 for none → (N, C, S, S)."""
        frequencies = torch.exp(torch.linspace(0, math.log(100), self.width // 2, device=x.device))
        angle = noise_level[:, None] * frequencies
        embedding = F.silu(self.embed(torch.cat([angle.sin(), angle.cos()], dim=1)))
        if labels is not None and self.label is not None:
            embedding = embedding + self.label(labels.clamp_min(0)) * (labels >= 0)[:, None]
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.leave(F.silu(h))

    def prune_scopes(self):
        """Return the names of the prunable modules by scope."""
        inner = [f"blocks.{i}.{part}" for i in range(len(self.blocks)) for part in ("first", "second", "shift")]
        return {"global": ["enter", *inner, "leave"], "middle": inner}


# --- a source of images

SIZE = 12  # pixels


@source(
    "shapes",
    classes=["disk", "square", "cross"],
    options={
        "train_images": {"description": "images to train on", "type": "integer", "minimum": 3},
        "test_images": {"description": "images held out", "type": "integer", "minimum": 3},
    },
)
def shapes(options, data_dir):
    """Draw disks, squares and crosses of random size, place and brightness on black."""
    rng = np.random.default_rng(0)
    n = options["train_images"] + options["test_images"]
    labels = np.arange(n) % 3
    images = np.stack([draw(label, rng) for label in labels])[:, None]
    cut = options["train_images"]
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def draw(label, rng):
    """Return one image, uint8 (SIZE, SIZE)."""
    radius = rng.uniform(2.5, 4.5)
    row, column = rng.uniform(radius, SIZE - 1 - radius, 2)
    down, across = np.mgrid[:SIZE, :SIZE] - np.array([row, column])[:, None, None]
    far = np.maximum(abs(down), abs(across))
    if label == 0:
        inside = down**2 + across**2 <= radius**2
    elif label == 1:
        inside = far <= 0.85 * radius
    else:
        inside = (np.minimum(abs(down), abs(across)) <= 1) & (far <= radius)
    return (inside * rng.integers(128, 256)).astype(np.uint8)
