"""Allocation of zeros to layers: as many as with `pool`, distributed by a schedule or by measured losses."""

import itertools

import pytest
import torch
from builders import MODELS, small_unet_model
from hypothesis import given
from hypothesis import strategies as st

from slimdiff.catalog.layers import layers_of, modules
from slimdiff.compression.allocation import MAX_SHARE, by_sensitivity, lower_hull, rising, total_zeros
from slimdiff.compression.unstructured import PruneSettings, layers, prunable, prune_unstructured, sensitivity
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network

SIZES = st.lists(st.integers(50, 5000), min_size=1, max_size=9).map(lambda s: {f"l{i}": n for i, n in enumerate(s)})
AMOUNTS = st.floats(0.0, 0.9)
SHARES = (0.0, 0.2, 0.5, MAX_SHARE)


@given(SIZES, AMOUNTS)
def test_rising_sets_exactly_as_many_zeros_as_pool(sizes, amount):
    zeros = rising(sizes, amount)
    assert list(zeros) == list(sizes)
    assert sum(zeros.values()) == total_zeros(sizes, amount)
    assert all(0 <= zeros[name] <= MAX_SHARE * size + 1 for name, size in sizes.items())


@pytest.mark.parametrize("amount", [0.1, 0.3, 0.5])
def test_rising_peaks_in_the_middle_and_is_symmetric(amount):
    sizes = {f"l{i}": 10_000 for i in range(9)}
    shares = [zeros / 10_000 for zeros in rising(sizes, amount).values()]
    assert all(a < b for a, b in itertools.pairwise(shares[:5]))
    assert shares == pytest.approx(shares[::-1], abs=2e-4)
    assert shares[4] == pytest.approx(4 * shares[0], rel=1e-2)  # MIN_WEIGHT


@given(SIZES, AMOUNTS, st.data())
def test_sensitivity_sets_exactly_as_many_zeros_as_pool(sizes, amount, data):
    rises = st.lists(st.floats(-1.0, 10.0), min_size=3, max_size=3)
    curves = {name: list(zip(SHARES, [1.0, *data.draw(rises)], strict=True)) for name in sizes}
    zeros = by_sensitivity(sizes, amount, curves)
    assert sum(zeros.values()) == total_zeros(sizes, amount)
    assert all(0 <= zeros[name] <= MAX_SHARE * size + 1 for name, size in sizes.items())


def test_sensitivity_finds_the_best_of_all_allocations():
    """Against every allocation of 300 zeros in steps of 20, for convex curves."""
    sizes = {"a": 200, "b": 200, "c": 200}
    grid = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    curves = {
        "a": [(s, 3 * s**2) for s in grid],
        "b": [(s, 0.5 * s**2) for s in grid],
        "c": [(s, 2 * s**4) for s in grid],
    }

    def loss(zeros):
        return sum(dict(curves[name])[round(count / 200, 1)] for name, count in zeros.items())

    best = min(
        loss(dict(zip("abc", counts, strict=True)))
        for counts in itertools.product(range(0, 181, 20), repeat=3)
        if sum(counts) == 300
    )
    found = by_sensitivity(sizes, 0.5, curves)
    assert loss(found) == pytest.approx(best)


def test_the_convex_hull_lies_below_the_points_and_touches_them():
    hull = lower_hull([(0.0, 0.0), (0.25, 3.0), (0.5, 1.0), (1.0, 8.0)])
    assert hull == [(0.0, 0.0), (0.5, 3.0), (1.0, 8.0)]  # 1.0 counts as 3.0: the loss fell


def test_excessive_amounts_are_refused():
    with pytest.raises(UserError, match=r"prune.amount is 0.99; allowed with this allocation: up to 0.98"):
        rising({"a": 1000, "b": 1000}, 0.99)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("method", ["l1", "random"])
@pytest.mark.parametrize("allocation", ["rising", "sensitivity"])
def test_schedules_keep_as_many_weights_as_pool(family, method, allocation):
    def zeros(network):
        return sum(int((getattr(m, n) == 0).sum()) for m, n in prunable(network, "global"))

    def loss(network):  # falls with the weights, less for some layers
        return -float(sum(norm * (1 + place % 3) for place, norm in enumerate(norms(network))))

    @torch.no_grad()
    def norms(network):
        return torch.stack(torch._foreach_norm(list(network.parameters()), 1)).tolist()

    made = []
    for named in ("pool", allocation):
        # attention at one size: sensitivity measures a loss for each layer and share
        model = small_unet_model({"attention_levels": [3]}) if family == "ddpm" else MODELS[family]()
        network = build_network(model, seed=1)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1.0)  # no zeros before
        prune_unstructured(network, PruneSettings(method, 0.5, "global", named), 3, loss)
        made.append(zeros(network))
    assert made[0] == made[1] > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_layers_of_equal_size_are_pruned_independently(seed):
    """Two layers of 4,096 elements, half of each zero: 1,024 ± 32 positions coincide by chance."""
    network = torch.nn.Sequential(*[torch.nn.Linear(64, 64, bias=False) for _ in range(2)])
    network.prune_scopes = lambda: {"global": ("0", "1")}
    prune_unstructured(network, PruneSettings("random", 0.5, allocation="rising"), seed)
    first, second = (layer.weight == 0 for layer in network)
    assert first.sum() == second.sum() == 2048
    assert 1024 - 160 < (first & second).sum() < 1024 + 160


def test_a_single_layer_can_be_pruned():
    network = build_network(MODELS["ncsn"](), seed=1)
    before = {name: p.clone() for name, p in network.named_parameters()}
    prune_unstructured(network, PruneSettings("l1", 0.5, "module:conv3"), 0)
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"conv3.weight"}
    assert int((network.conv3.weight == 0).sum()) == round(0.5 * network.conv3.weight.numel())


def test_a_single_block_can_be_pruned():
    network = build_network(MODELS["ddpm"](), seed=1)
    names = layers(network, "module:down1")
    assert names == [
        f"down1.{inner}" for inner in ("conv1.conv1", "conv1.conv2", "conv2.conv1", "conv2.conv2", "embed")
    ]


@pytest.mark.parametrize("levels", [[2, 3], [], [0, 1, 2, 3]])
@pytest.mark.parametrize("family", MODELS)
def test_the_catalog_lists_the_layers_of_the_networks(family, levels):
    """The catalog, which imports no torch, has the names of the networks' layers."""
    model = MODELS[family](**({"network": {"attention_levels": levels}} if family == "ddpm" else {}))
    network = build_network(model, seed=0)
    assert layers_of(family, model["network"]) == layers(network, "global")
    tops = modules(layers(network, "global"))
    assert [name for top in tops for name in layers(network, f"module:{top}")] == layers(network, "global")


def test_layers_come_in_the_order_of_the_network():
    names = layers(build_network(MODELS["ncsn"](), seed=1), "global")
    assert names[:3] == ["conv1", "dense1", "conv2"]
    assert names[-1] == "tconv1"
    blocks = modules(layers(build_network(MODELS["unet2d"](), seed=1), "global"))
    assert blocks == ["conv_in", "down_blocks", "mid_block", "up_blocks", "conv_out"]


def test_sensitivity_prunes_a_copy_one_layer_at_a_time():
    network = build_network(MODELS["ncsn"](), seed=1)
    before = {name: p.clone() for name, p in network.named_parameters()}
    seen = []

    def loss(requested):
        seen.append({n for n, p in requested.named_parameters() if not torch.equal(p, before[n])})
        return float(len(seen))

    curves = sensitivity(network, PruneSettings("l1", 0.5), 0, loss, shares=(0.5,))
    assert list(curves) == layers(network, "global")
    assert seen[0] == set()
    assert all(changed and {name.split(".")[0] for name in changed} == {layer}
               for layer, changed in zip(curves, seen[1:], strict=True))  # fmt: skip
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (PruneSettings("l1", 0.5, "module:conv9"), r"prune.scope is 'module:conv9'; allowed after 'module:'.*conv1"),
        (PruneSettings("l1", 0.5, "outer"), r"prune.scope is 'outer'; allowed.*middle"),
        (PruneSettings("l1", 0.5, "global", "falling"), r"prune.allocation is 'falling'; allowed: pool, rising, sens"),
        (PruneSettings("l1", 0.5, "global", "sensitivity"), r"needs images; allowed without: pool, rising"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        prune_unstructured(build_network(MODELS["ncsn"](), seed=1), settings, 0)
