"""The modern U-Net: diffusers' UNet2DModel as a family."""

import pytest
import torch
import torch.nn.functional as F
from builders import SMALL_UNET2D, small_unet2d_model
from diffusers import UNet2DModel
from torch import nn

from slimdiff.catalog.layers import channel_modules, layers_of
from slimdiff.catalog.limits import conv_weights
from slimdiff.compression.channels import ChannelSettings, prune_channels
from slimdiff.engines.split import split_network
from slimdiff.inference.deepcache import CachedUNet
from slimdiff.models.registry import build_network
from slimdiff.models.unet2d import UNet2D

SHAPES = [
    {},
    {"classes": 0, "zero_init": True},
    {"layers_per_block": 2, "resnet_time_scale_shift": "default", "norm_num_groups": 2, "attention_head_dim": None},
    {
        "block_out_channels": [8, 24, 16],
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 4,
        "downsample_padding": 0,
        "add_attention": False,
    },
]


def build(changes, groups=1, **model):
    return build_network(small_unet2d_model(changes, **model), groups, seed=1).eval()


def inputs(network, n=3, size=16):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, size, size, generator=generator)
    labels = torch.tensor([0, -1, 1])[:n] if network.classes else None
    return x, torch.linspace(-200.0, 200.0, n), labels


@pytest.mark.parametrize("changes", SHAPES)
def test_diffusers_loads_its_weights_and_computes_the_same(changes):
    network = build(changes)
    x, noise_level, labels = inputs(network)
    config = {key: value for key, value in {**SMALL_UNET2D, **changes}.items() if key not in ("classes", "zero_init")}
    n_classes = network.classes + 1 if network.classes else None
    theirs = UNet2DModel(**config, sample_size=8, in_channels=4, out_channels=4, num_class_embeds=n_classes)
    theirs.load_state_dict(network.state_dict())
    theirs.eval().to(memory_format=torch.channels_last)
    classes = None if labels is None else torch.where(labels < 0, 2, labels)
    with torch.no_grad():
        inner = theirs(F.pixel_unshuffle(x, 2), noise_level, classes, return_dict=False)[0]
        assert torch.equal(network(x, noise_level, labels), F.pixel_shuffle(inner, 2))


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, "max"])
def test_the_catalog_knows_its_layers_without_building_it(changes, groups):
    network, settings = build(changes, groups), {**SMALL_UNET2D, **changes}
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    scopes = network.prune_scopes()
    assert layers_of("unet2d", settings) == [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not name.startswith("time_embedding.")
    ]
    assert conv_weights("unet2d", 4, settings, groups) == sum(layer.weight.numel() for layer in convolutions)
    assert sorted(scopes["global"]) == sorted(layers_of("unet2d", settings))
    assert sorted(scopes["global"]) == sorted((*scopes["middle"], *scopes["extremes"]))
    assert {name.partition(".")[0] for name in scopes["middle"]} == {"down_blocks", "mid_block", "up_blocks"}


def test_groups_divide_the_inner_convolutions():
    whole, grouped = (dict(build({}, groups).named_modules()) for groups in (1, 2))
    divided = {name for name, layer in grouped.items() if getattr(layer, "groups", 1) == 2}
    assert divided == {name for name, layer in whole.items() if getattr(layer, "kernel_size", 0) == (3, 3)} - {
        "conv_in",
        "conv_out",
    }


def test_zero_init_starts_at_zero_and_trains():
    network = build({"zero_init": True}, 2).train()
    x, noise_level, labels = inputs(network)
    out = network(x, noise_level, labels)
    assert torch.equal(out, torch.zeros_like(x))
    (out - x).square().mean().backward()
    assert network.conv_out.weight.grad.abs().sum() > 0
    assert build({"zero_init": False})(x, noise_level, labels).abs().max() > 0


@pytest.mark.parametrize("changes", SHAPES)
def test_the_split_network_computes_the_same(changes):
    network = build(changes).requires_grad_(False)  # torch multiplies matrices that need no gradient in another way
    x, noise_level, labels = inputs(network)
    embedder, body = split_network(network)
    assert torch.equal(body(x, embedder(noise_level, labels)), network(x, noise_level, labels))
    assert isinstance(network, UNet2D)
    assert network.time_embedding is not None


@pytest.mark.parametrize("changes", SHAPES)
def test_a_shallow_pass_with_the_features_of_the_same_input_is_exact(changes):
    network = build(changes)
    cached = CachedUNet(network, 2, "euler")
    whole, shallow = (cached(*inputs(network)) for _ in range(2))
    assert cached.shallow_calls == 1
    assert torch.equal(whole, shallow)


@pytest.mark.parametrize("changes", SHAPES)
def test_without_channels_it_is_a_narrower_network_of_its_kind(changes):
    """Half of the channels leave what `block_out_channels` of half the widths would have, but for the embedding."""
    network = build(changes)
    prune_channels(network, ChannelSettings("channels", "l1", 0.5), seed=0)
    widths = {**SMALL_UNET2D, **changes}["block_out_channels"]
    narrow = build({**changes, "norm_num_groups": 2, "block_out_channels": [width // 2 for width in widths]})
    sizes = {
        name: layer.weight.shape
        for name, layer in narrow.named_modules()
        if isinstance(layer, nn.Conv2d) or name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
    }
    assert {name: network.get_submodule(name).weight.shape for name in sizes} == sizes
    x, noise_level, labels = inputs(network)
    assert network(x, noise_level, labels).isfinite().all()


def test_scale_and_shift_lose_the_channels_of_their_convolution():
    """Each bias is its own index, so that what remains says where it comes from."""
    network = build({"zero_init": False})
    block = network.down_blocks[1].resnets[0]
    block.conv1.bias.data = torch.arange(16.0)
    block.time_emb_proj.bias.data = torch.arange(32.0)
    block.norm2.bias.data = torch.arange(16.0)
    prune_channels(network, ChannelSettings("channels", "random", 0.5), seed=3)
    kept = block.conv1.bias.data
    assert len(kept) == 8
    assert torch.equal(block.time_emb_proj.bias.data, torch.cat([kept, kept + 16]))
    assert torch.equal(block.norm2.bias.data, kept)
    assert torch.equal((kept // 4).int(), torch.arange(8, dtype=torch.int32) // 2)  # two of the four of each norm group


def test_attention_loses_the_same_channels_of_queries_keys_and_values():
    network = build({"attention_head_dim": 8})
    attention = network.mid_block.attentions[0]
    for layer in (attention.to_q, attention.to_k, attention.to_v):
        layer.bias.data = torch.arange(16.0)
    prune_channels(network, ChannelSettings("channels", "random", 0.5), seed=3)
    kept = attention.to_k.bias.data
    assert torch.equal((kept // 8).int(), torch.tensor([0] * 4 + [1] * 4, dtype=torch.int32))  # as many of each head
    assert torch.equal(attention.to_v.bias.data, kept)
    assert torch.allclose(attention.to_q.bias.data, kept * 0.5**0.5)  # a head's scores are divided by its width's root


def test_each_block_has_channels_of_its_own():
    network = small_unet2d_model()["network"]
    names = channel_modules("unet2d", network)
    assert names == ["down_blocks", "mid_block", "up_blocks"]
    for name in names:
        network = build({})
        prune_channels(network, ChannelSettings("channels", "l1", 0.5, scope=f"module:{name}"), seed=0)
        assert network(*inputs(network)).isfinite().all()
