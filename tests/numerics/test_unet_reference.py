"""The U-Net against an independent float64 implementation of the published one, written from its description.

The published one is dome272's Diffusion-Models-pytorch, `UNet_conditional`. The reference takes the network's
parameters in their order, which is the published order, and checks their published shapes.
"""

import importlib
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from builders import UNET, small_unet_model, unet_model

from slimdiff.models.registry import build_network

ROOT = Path(__file__).parents[2]


class Reference:
    """One forward pass; `levels` are those with attention."""

    def __init__(self, network, base, channels, classes, embed_dim, heads, levels):
        self.left = [parameter.detach().double() for parameter in network.parameters()]
        self.vectors = self.left.pop() if classes else None  # after all others in the published order
        self.base, self.channels, self.embed_dim, self.heads, self.levels = base, channels, embed_dim, heads, levels

    def take(self, *shape):
        weight = self.left.pop(0)
        assert weight.shape == shape
        return weight

    @staticmethod
    def gelu(x):
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    @staticmethod
    def standardized(x, dims):
        return (x - x.mean(dims, keepdim=True)) / torch.sqrt(x.var(dims, keepdim=True, correction=0) + 1e-5)

    def norm(self, x):
        """GroupNorm with one group."""
        c = x.shape[1]
        return self.standardized(x, (1, 2, 3)) * self.take(c)[:, None, None] + self.take(c)[:, None, None]

    def layer_norm(self, x):
        c = x.shape[-1]
        return self.standardized(x, -1) * self.take(c) + self.take(c)

    def linear(self, x, c_out):
        weight, bias = self.take(c_out, x.shape[-1]), self.take(c_out)
        return x @ weight.T + bias

    def convolution(self, x, c_out):
        return F.conv2d(x, self.take(c_out, x.shape[1], 3, 3), padding=1)

    def double(self, x, c_out, mid=None, residual=False):
        h = self.gelu(self.norm(self.convolution(x, mid or c_out)))
        h = self.norm(self.convolution(h, c_out))
        return self.gelu(x + h) if residual else h

    def embedded(self, x, embedding):
        return x + self.linear(embedding * torch.sigmoid(embedding), x.shape[1])[:, :, None, None]

    def down(self, x, embedding, c_out):
        n, c, height, width = x.shape
        x = x.reshape(n, c, height // 2, 2, width // 2, 2).amax((3, 5))
        return self.embedded(self.double(self.double(x, c, residual=True), c_out), embedding)

    def up(self, x, skip, embedding, c_out):
        x = torch.cat([skip, self.enlarged(x)], 1)
        c = x.shape[1]
        return self.embedded(self.double(self.double(x, c, residual=True), c_out, mid=c // 2), embedding)

    @staticmethod
    def enlarged(x):
        """Bilinear enlargement to twice the size, with aligned corners."""
        n = x.shape[-1]
        weights = torch.zeros(2 * n, n, dtype=x.dtype, device=x.device)
        for i in range(2 * n):
            position = i * (n - 1) / (2 * n - 1)
            low = min(int(position), max(n - 2, 0))
            weights[i, low] += 1 - (position - low)
            if n > 1:
                weights[i, low + 1] += position - low
        return weights @ x @ weights.T

    def attention(self, x, level):
        if level not in self.levels:
            return x
        n, c, height, width = x.shape
        tokens = x.reshape(n, c, -1).mT
        weight, bias, out_weight, out_bias = self.take(3 * c, c), self.take(3 * c), self.take(c, c), self.take(c)
        q, k, v = (self.layer_norm(tokens) @ weight.T + bias).split(c, dim=2)
        mixed = []
        for head in range(self.heads):
            part = slice(head * c // self.heads, (head + 1) * c // self.heads)
            scores = q[..., part] @ k[..., part].mT / math.sqrt(c // self.heads)
            mixed.append(torch.softmax(scores, -1) @ v[..., part])
        tokens = tokens + torch.cat(mixed, -1) @ out_weight.T + out_bias
        tokens = tokens + self.linear(self.gelu(self.linear(self.layer_norm(tokens), c)), c)
        return tokens.mT.reshape(n, c, height, width)

    def time(self, t):
        i = torch.arange(0, self.embed_dim, 2, device=t.device)
        angle = t[:, None] * 10000 ** (-i / self.embed_dim)  # frequencies in float32, as published
        return torch.cat([torch.sin(angle), torch.cos(angle)], 1)

    def __call__(self, x, t, labels=None):
        x, embedding, c = x.double(), self.time(t.double()), self.base
        if labels is not None:
            for index, label in enumerate(labels.tolist()):
                embedding[index] += self.vectors[label] if label >= 0 else 0
        x1 = self.double(x, c)
        x2 = self.attention(self.down(x1, embedding, 2 * c), 1)
        x3 = self.attention(self.down(x2, embedding, 4 * c), 2)
        x4 = self.attention(self.down(x3, embedding, 4 * c), 3)
        for width in (8 * c, 8 * c, 4 * c):
            x4 = self.double(x4, width)
        h = self.attention(self.up(x4, x3, embedding, 2 * c), 2)
        h = self.attention(self.up(h, x2, embedding, c), 1)
        h = self.attention(self.up(h, x1, embedding, c), 0)
        weight, bias = self.take(self.channels, c, 1, 1), self.take(self.channels)
        assert not self.left
        return F.conv2d(h, weight, bias)


def both(model, labels, n, dtype=torch.float32, device="cpu"):
    """Return the network's and the reference's output, with every norm and bias away from its initial value."""
    network = build_network(model, seed=3).eval().to(device, dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter)
    options, channels, size = model["network"], model["channels"], model["image_size"]
    x = torch.randn(n, channels, size, size, generator=generator).to(device, dtype)
    t = (torch.rand(n, generator=generator) * 999).to(device, dtype)
    labels = None if labels is None else torch.tensor(labels).to(device)
    keys = ("base", "classes", "embed_dim", "heads")
    reference = Reference(
        network, channels=channels, levels=options["attention_levels"], **{key: options[key] for key in keys}
    )
    with torch.inference_mode():
        return network(x, t, labels), reference(x, t, labels)


@pytest.mark.parametrize("labels", [None, [0, 1, 1], [1, -1, 0]], ids=["no labels", "labels", "some"])
@pytest.mark.parametrize(
    ("size", "channels", "network"),
    [
        (16, 1, {"base": 16, "heads": 4, "attention_levels": [0, 1, 2, 3]}),
        (32, 3, {"base": 32, "heads": 2, "attention_levels": [1, 3], "embed_dim": 256}),
        (8, 3, {"base": 16, "heads": 1, "attention_levels": [2]}),
    ],
    ids=["every level", "two levels", "one level"],
)
def test_output_equals_the_published_architectures(size, channels, network, labels):
    ours, theirs = both(small_unet_model(network, image_size=size, channels=channels), labels, 3)
    assert torch.allclose(ours.double(), theirs, atol=1e-4)


@pytest.mark.parametrize("labels", [None, [1, -1]], ids=["no labels", "labels"])
def test_output_equals_the_reference_in_float64_to_the_last_digits(labels, device):
    ours, theirs = both(small_unet_model({"attention_levels": [0, 1, 2, 3]}), labels, 2, torch.float64, device)
    assert float(theirs.abs().max()) > 0.1
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_the_papers_network_equals_the_published_one():
    ours, theirs = both(unet_model(), [7], 1)
    assert torch.allclose(ours.double(), theirs, atol=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_the_rival_of_the_speed_benchmark_is_the_same_network(training, monkeypatch):
    """In eval mode torch computes the rival's attention by another path."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    rival = importlib.import_module("_published").PublishedUNet(c=16).train(training)
    model = unet_model(image_size=16, network={**UNET, "base": 16})
    ours = build_network(model, seed=3).train(training)
    generator = torch.Generator().manual_seed(1)
    for theirs, own in zip(rival.parameters(), ours.parameters(), strict=True):
        own.data += 0.1 * torch.randn(own.shape, generator=generator)
        theirs.data.copy_(own.data)
    inputs = torch.randn(2, 3, 16, 16, generator=generator), torch.tensor([3.0, 700.0]), torch.tensor([7, 0])
    with torch.no_grad():
        expected, found = rival(*inputs), ours(*inputs)
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(found, expected, atol=1e-4)
