"""The presets are complete: every number of the paper has its cells, and the paper's settings are used."""

import copy
import csv
import itertools
from pathlib import Path

import pytest
from presets import CONFIG, ROOT, merge, preset
from torch import nn

from slimdiff.analysis.claims import file as claimfile
from slimdiff.catalog.layers import layers_of, modules
from slimdiff.compression.arithmetic import count_macs
from slimdiff.compression.channels import ChannelSettings, kept_width, prune_channels
from slimdiff.compression.restore import leave_out
from slimdiff.config import lookup, resolve
from slimdiff.config.axes import expand_axes
from slimdiff.config.cells import expand
from slimdiff.errors import UserError
from slimdiff.io.settings import build, canonical
from slimdiff.models.registry import build_network

REFERENCE = ROOT / "workflow" / "resources" / "paper_reference.csv"
PRINTED = ROOT.parent / "shared" / "paper" / "paper_results.csv"  # the paper's numbers
# The paper states only that the images of averaged weights with 8-bit layers were black.
NEVER_PRINTED = {"ema+linear-8bit-mixed-sampled", "ema+linear-8bit-mixed", "ema+linear-8bit-frozen"}
FROZEN = {"linear-8bit-frozen", "linear-8bit-frozen+adam-8bit"}  # the other reading of Tables 1 and 5
BATCHES = {"batch-80", "linear-8bit-mixed+batch-80"}
SCALED = {"linear-8bit-frozen", "adam", *BATCHES}  # what paper-cpu.yaml adds to the paper's cells
SAME = {"network": {"classes": 0}, "sampler": {"guidance": 1.0}}  # where the two score networks may differ
DDPM_CELLS = 20  # of Tables 4 to 8


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", rows(REFERENCE), ids=lambda row: f"{row['table']}: {row['label']}, {row['model']}")
@pytest.mark.parametrize(("names", "seeds"), [(["paper.yaml"], 5), (["paper-cpu.yaml", "paper-samplers.yaml"], 3)])
def test_every_number_of_the_paper_has_a_cell(names: list[str], seeds: int, row: dict[str, str]) -> None:
    name = names[-1] if row["optimization"].startswith("sampler-") else names[0]
    config = preset(name)
    found = [
        cell
        for cell in expand(config["matrix"])
        if cell.dataset == "mnist"
        and config["models"][cell.model]["family"] == row["model"]
        and cell.optimization == row["optimization"]
    ]
    assert [cell.seed for cell in found] == list(range(seeds))


@pytest.mark.skipif(not PRINTED.exists(), reason="the paper's own list of numbers is not part of the project")
def test_every_printed_number_is_in_our_transcription() -> None:
    """Together with the test above: every printed number has a cell."""
    ours = {(row["table"], row["model"], row["label"]): row for row in rows(REFERENCE)}
    printed = rows(PRINTED)
    assert len(printed) > 40
    for row in printed:
        own = ours[row["table"], row["model"], row["label"]]
        for column in ("size_bytes", "inference_ms", "fid"):
            assert own[column] == row[column], row


@pytest.mark.parametrize(("name", "others"), [("paper.yaml", FROZEN), ("paper-cpu.yaml", SCALED)])
def test_the_ddpms_cells_are_tables_4_to_8_and_the_black_cell(name: str, others: set[str]) -> None:
    printed = {row["optimization"] for row in rows(REFERENCE) if row["model"] == "ddpm"}
    assert len(printed) == DDPM_CELLS
    (entry,) = [entry for entry in preset(name)["matrix"] if entry["model"] == "ddpm"]
    assert set(entry["optimizations"]) == printed | NEVER_PRINTED | others
    (entry,) = [entry for entry in preset(name)["matrix"] if entry["model"] == "ncsn"]
    assert set(entry["optimizations"]) > others - BATCHES


@pytest.mark.parametrize(("name", "others"), [("paper.yaml", FROZEN), ("paper-cpu.yaml", SCALED)])
def test_raw_and_averaged_weights_share_a_training(name: str, others: set[str]) -> None:
    config = preset(name)
    (entry,) = [entry for entry in config["matrix"] if entry["model"] == "ddpm"]
    trainings = {lookup.training_of(config, optimization) for optimization in entry["optimizations"]}
    mixed = {"linear-8bit-mixed", "linear-8bit-mixed+adam-8bit", "linear-8bit-mixed-sampled"}
    assert trainings == {"plain", *others, *mixed, "groups-2", "groups-4"}
    sampled = resolve.train_settings(config, "mnist", "ddpm", "linear-8bit-mixed-sampled", 0)["training"]
    assert (sampled.pop("ema_sampled_after"), sampled["epochs"] > 1) == (1, True)
    assert sampled == resolve.train_settings(config, "mnist", "ddpm", "linear-8bit-mixed", 0)["training"]


def test_the_scaled_preset_differs_from_the_defaults_in_length_and_rate_alone() -> None:
    """Except where Muon cannot go: 8-bit Adam has the optimizer of its reference, and Table 5 has the paper's batch."""
    config = preset("paper-cpu.yaml")
    for model in ("ncsn", "ddpm"):
        default = CONFIG["models"][model]["training"]
        keys = ("epochs", "learning_rate") if model == "ncsn" else ("epochs",)
        plain = merge(config["models"][model], {"training": {key: default[key] for key in keys}})
        assert plain == CONFIG["models"][model]
        options = {name: lookup.training_options(config, model, name) for name in config["trainings"]}
        assert options["linear-8bit-mixed+adam-8bit"] == {
            **options["adam"],
            "linear": "8bit-mixed",
            "optimizer_state": "8bit",
        }
        assert options["batch-80"] == {**options["plain"], "batch_size": round(2.5 * options["plain"]["batch_size"])}
        assert options["linear-8bit-mixed+batch-80"] == {**options["batch-80"], "linear": "8bit-mixed"}


def test_the_samplers_of_the_paper_share_the_trainings_of_its_other_cells() -> None:
    samplers, others = preset("paper-samplers.yaml"), preset("paper-cpu.yaml")
    for cell in expand(samplers["matrix"]):
        place = (cell.dataset, cell.model, "plain", cell.seed)
        assert resolve.train_settings(samplers, *place) == resolve.train_settings(others, *place)
    ancestral = lookup.sampler_options(samplers, "ddpm", "sampler-ddpm")
    paper = preset("paper.yaml")["models"]["ddpm"]["sampler"]
    keys = ("method", "steps", "guidance", "guidance_interval")
    assert {key: ancestral[key] for key in keys} == {key: paper[key] for key in keys}


@pytest.mark.parametrize("model", ["ncsn", "ddpm"])
def test_networks_from_scratch_are_as_narrow_and_train_as_long_or_as_much(model: str) -> None:
    config = preset("controls.yaml")
    network = build_network(config["models"][model])
    dense = sum(parameter.numel() for parameter in network.parameters())
    prune_channels(network, ChannelSettings("channels", "random", 0.5), 0)
    share = sum(parameter.numel() for parameter in network.parameters()) / dense
    epochs = {}
    for name in ("longer", "channels-50", "scratch-50", "scratch-50-long"):
        chain = resolve.trainings_settings(config, "mnist", model, name, 0)
        epochs[name] = [one["training"]["epochs"] for one in chain]
        if name not in ("longer", "channels-50"):
            (step,) = [step for one in chain for step in one.get("steps", [])]
            assert step["prune"] == {"method": "channels", "importance": "random", "amount": 0.5}
            assert epochs[name][-1] == epochs["longer"][-1], "the last learning-rate cycle is as long"
    assert sum(epochs["scratch-50"]) == sum(epochs["channels-50"]) == sum(epochs["longer"])
    first, later = epochs["channels-50"]
    assert sum(epochs["scratch-50-long"]) * share == pytest.approx(first + share * later, rel=0.05)
    assert round(epochs["scratch-50"][0] * 60_000 / config["models"][model]["training"]["batch_size"]) == 1


def test_the_controls_have_twenty_masks_on_each_training_and_every_cell_of_their_claims() -> None:
    config = expand_axes(preset("controls.yaml"))
    cells = expand(config["matrix"])
    for model, seed in itertools.product(("ncsn", "ddpm"), range(3)):
        own = [cell.optimization for cell in cells if (cell.model, cell.seed) == (model, seed)]
        masks = [name for name in own if name.startswith("random-10")]
        assert [config["optimizations"][name]["mask_seed"] for name in masks] == list(range(20))
    ran = {(cell.model, cell.optimization) for cell in cells}
    stated = claimfile.read([ROOT / name for name in config["claims"]])
    assert {(place.family, place.recipe) for c in stated for e in c.comparisons for place in e.places} <= ran


@pytest.mark.parametrize(
    ("name", "dataset", "cells"),
    [
        ("fashion.yaml", "fashion_mnist", 12),
        ("compression-sampler.yaml", "mnist", 35),
        ("fashion-twin.yaml", "mnist", 12),
    ],
)
def test_new_studies_have_both_networks_three_seeds_and_a_reference(name: str, dataset: str, cells: int) -> None:
    config = preset(name)
    for entry, model in zip(config["matrix"], ("ncsn", "ddpm"), strict=True):
        assert (entry["dataset"], entry["model"], entry["seeds"]) == (dataset, model, [0, 1, 2])
        assert len(entry["optimizations"]) == cells
        chains = {name: resolve.trainings_settings(config, dataset, model, name, 0) for name in entry["optimizations"]}
        lengths = {name: sum(one["training"]["epochs"] for one in chain) for name, chain in chains.items()}
        assert set(lengths.values()) == {lengths["baseline"], lengths["longer"]}


def test_every_recipe_meets_every_sampler() -> None:
    config = preset("compression-sampler.yaml")
    for entry in config["matrix"]:
        kept: dict[str, set[str]] = {}
        for name in entry["optimizations"]:
            recipe = {key: value for key, value in config["optimizations"][name].items() if key != "sampler"}
            sampler = lookup.sampler_options(config, entry["model"], name)
            kept.setdefault(canonical(recipe), set()).add(canonical(sampler))
        assert len(kept) == 7 and {len(samplers) for samplers in kept.values()} == {5}
        assert len(set.union(*kept.values())) == 5


def test_the_papers_preset_has_the_papers_settings() -> None:
    config = preset("paper.yaml")
    ncsn, ddpm = config["models"]["ncsn"], config["models"]["ddpm"]
    assert (ncsn["training"]["epochs"], ncsn["training"]["batch_size"]) == (50, 32)
    assert (ncsn["training"]["preconditioning"], ncsn["sampler"]["method"], ncsn["sampler"]["steps"]) == (
        "score",
        "euler-maruyama",
        500,
    )
    assert (ddpm["image_size"], ddpm["channels"]) == (64, 3)
    expected = {
        "epochs": 50,
        "batch_size": 16,
        "learning_rate": 3e-4,
        "lr_schedule": "constant",
        "optimizer": "adamw",
        "optimizer_state": "float",
        "ema_decay": 0.995,
        "ema_warmup": 2000,
        "preconditioning": "epsilon",
        "noise_schedule": "linear",
        "min_snr_gamma": None,
        "label_dropout": 0.1,
        "black": -1.0,
    }
    assert {key: ddpm["training"][key] for key in expected} == expected
    assert (ddpm["sampler"]["method"], ddpm["sampler"]["steps"], ddpm["sampler"]["guidance"]) == ("ddpm", 1000, 3.0)
    network = build_network(ddpm)
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_335_299


def test_the_short_presets_are_the_papers_but_for_lengths() -> None:
    """Fewer epochs, one seed, DDIM for the DDPM; and 256 images of the paper's sampler from the same trainings."""
    paper, short, ancestral = map(preset, ("paper.yaml", "paper-short.yaml", "paper-short-ancestral.yaml"))
    fewer = {"ncsn": {"training": {"epochs": 3}}, "ddpm": {"training": {"epochs": 1.5}}}
    fewer["ddpm"]["sampler"] = {"method": "ddim", "steps": 50, "clip": True}
    assert short["models"] == merge(paper["models"], fewer)
    assert short["matrix"] == [entry | {"seeds": [0]} for entry in paper["matrix"]]
    assert (short["sampling"]["n_samples"], ancestral["sampling"]["n_samples"]) == (2000, 256)
    for cell in expand(ancestral["matrix"]):
        place = (cell.dataset, cell.model, lookup.training_of(ancestral, cell.optimization), cell.seed)
        assert resolve.train_settings(ancestral, *place) == resolve.train_settings(short, *place)
        place = (cell.model, cell.optimization)
        assert lookup.sampler_options(ancestral, *place) == lookup.sampler_options(paper, *place)


def test_defaults_and_paper_differ_only_in_how_the_network_is_trained() -> None:
    """The same network, data, batches and epochs, trained our way and the paper's."""
    plain = resolve.train_settings(CONFIG, "mnist", "ddpm", "plain", 0)
    theirs = resolve.train_settings(CONFIG, "mnist", "ddpm", "noise-prediction", 0)
    assert plain["model"] == theirs["model"]
    assert theirs["training"]["preconditioning"] == "epsilon"
    for key in ("epochs", "batch_size", "label_dropout", "precision", "groups"):
        assert plain["training"][key] == theirs["training"][key]


def test_cifar10_is_the_papers_best_recipe_in_colour_at_full_size() -> None:
    config = preset("cifar10.yaml")
    model = config["models"]["ddpm"]
    assert (model["image_size"], model["channels"]) == (32, 3)
    assert "groups-2+l1-10" in {cell.optimization for cell in expand(config["matrix"])}
    recipe = config["optimizations"]["groups-2+l1-10"]
    assert config["trainings"][recipe["training"]] == {"groups": 2}
    assert recipe["prune"] == {"method": "l1", "amount": 0.1, "scope": "global"}


def test_every_cell_of_an_open_question_is_in_the_preset() -> None:
    config = preset("open-questions.yaml")
    ran = {
        (cell.dataset, config["models"][cell.model]["family"], cell.optimization) for cell in expand(config["matrix"])
    }
    requested = claimfile.read([ROOT / "workflow/resources/open-questions.yaml"])
    places = [place for claim in requested for expression in claim.comparisons for place in expression.places]
    assert places
    for place in places:
        assert (place.dataset or "mnist", place.family, place.recipe) in ran, place
    assert "ema+linear-8bit-frozen" in {recipe for _, family, recipe in ran if family == "ddpm"}


def test_the_conditional_score_network_differs_in_classes_and_guidance_alone() -> None:
    """Only the number of classes and the guidance scale differ."""
    config = preset("open-questions.yaml")
    conditional, plain = (canonical(merge(config["models"][name], SAME)) for name in ("ncsn-conditional", "ncsn"))
    assert conditional == plain
    assert config["models"]["ncsn-conditional"]["network"]["classes"] == 10
    assert (
        config["models"]["ncsn-conditional"]["sampler"]["guidance"] == config["models"]["ddpm"]["sampler"]["guidance"]
    )
    assert (
        config["models"]["ncsn-conditional"]["training"]["label_dropout"]
        == (config["models"]["ddpm"]["training"]["label_dropout"])
    )


# Modules without removable channels: they output the image, or a vector that is added to a convolution's output.
NO_CHANNELS = {"ncsn": {"tconv1", *(f"dense{number}" for number in range(1, 8))}, "ddpm": {"outc"}}


@pytest.mark.parametrize("model", ["ncsn", "ddpm"])
def test_the_study_prunes_every_module_by_three_methods_and_two_amounts(model: str) -> None:
    config = preset("sensitivity.yaml")
    options = config["models"][model]
    network = build_network(options)
    top = {name.partition(".")[0] for name, _ in network.named_modules() if name}
    named = modules(layers_of(options["family"], options["network"]) or [])
    assert set(named) <= top
    expected = {}
    for module, amount in itertools.product(named, (0.5, 0.9)):
        where = {"amount": amount, "scope": f"module:{module}"}
        for method in ("random", "l1"):
            prune = {"method": method, **where}
            expected[f"{method}-{100 * amount:g}-{module}"] = {"training": "plain", "prune": prune}
        if module not in NO_CHANNELS[model]:
            prune = {"method": "channels", "importance": "l1", **where}
            expected[f"channels-{100 * amount:g}-{module}"] = {"training": "plain", "prune": prune}
    (entry,) = [entry for entry in config["matrix"] if entry["model"] == model]
    assert entry["optimizations"] == ["baseline", *expected]
    assert {name: config["optimizations"][name] for name in expected} == expected
    assert entry["seeds"] == [0, 1, 2]
    for module in NO_CHANNELS[model]:
        with pytest.raises(UserError, match=r"^prune\.scope is"):
            prune_channels(network, ChannelSettings("channels", "l1", 0.5, scope=f"module:{module}"), 0)


@pytest.mark.parametrize("model", ["ddpm", "unet2d"])
def test_blocks_and_channels_save_nearly_the_same(model: str) -> None:
    """The pairs of the study, on an untrained network; a set of blocks saves its amount or a little more."""
    config = preset("blocks.yaml")
    network = build_network(config["models"][model])

    def macs(pruned: nn.Module) -> int:
        return count_macs(pruned, lambda network: network(*network.channel_plan()["inputs"]))

    without_blocks = copy.deepcopy(network)
    leave_out(without_blocks, dict(itertools.chain.from_iterable(b.items() for b in network.block_plan().values())))
    for channels, blocks in (("channels-15", "blocks-30"), ("channels-30", "blocks-45")):
        pruned, amount = copy.deepcopy(network), config["trainings"][blocks]["prune"]["amount"]
        prune_channels(pruned, build(ChannelSettings, config["trainings"][channels]["prune"], "prune"), 0)
        assert 1 - macs(pruned) / macs(network) == pytest.approx(amount, abs=0.04)
        assert macs(without_blocks) < (1 - amount) * macs(network)
        for name in (channels, blocks):
            distilled = dict(config["trainings"][f"{name}-distilled"])
            assert distilled.pop("distill")["method"] == "knowledge"
            assert distilled == config["trainings"][name]
    assert {len(entry["seeds"]) for entry in config["matrix"]} == {3}


def test_a_third_of_ddpm_cifar10s_channels_is_a_quarter_of_each_width_and_44_percent() -> None:
    """As torch-pruning's rounding to whole norm groups of 32 gives it in Fang et al. 2023."""
    trainings = preset("diff-pruning-cifar10.yaml")["trainings"]
    amounts = {trainings[name]["prune"]["amount"] for name in ("diff-pruning", "taylor", "magnitude", "random")}
    assert {kept_width(width, amount, 32) / width for width in (128, 256) for amount in amounts} == {0.75}
    assert trainings["blocks-44"]["prune"]["amount"] == pytest.approx(1 - 0.75**2, abs=0.01)
