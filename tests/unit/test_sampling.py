"""Images depend on seed and index alone; degenerate ones are detected; sizes survive a round trip."""

import json
import math
import re

import numpy as np
import pytest
import torch
from builders import (
    MODELS,
    SAMPLER,
    SAMPLERS,
    TRAININGS,
    UNET_SAMPLER,
    model_header,
    small_model,
    training,
    write_small_model,
)
from PIL import Image
from torchvision.utils import make_grid

import slimdiff
from slimdiff.catalog.families import FAMILIES
from slimdiff.checkpoints.model import write_model
from slimdiff.data.transforms import to_dataset, to_model
from slimdiff.diffusion.denoiser import build_denoiser
from slimdiff.diffusion.guidance import labels_in_turn
from slimdiff.diffusion.samplers import SamplerSettings
from slimdiff.errors import UserError
from slimdiff.inference.images import BACKGROUND, class_sheet, contact_sheet, write_png
from slimdiff.inference.sampling import _degenerate, sample_images
from slimdiff.io.samples import read_samples
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.stages import sample as sample_stage

DATASET = {"channels": 1, "height": 20, "width": 20, "saturated": 0.0}


# every sampler of every family, and every preconditioning with the family's first sampler
COMBINATIONS = [
    *((name, family.preconditionings[0], method) for name, family in FAMILIES.items() for method in family.samplers),
    *((name, known, family.samplers[0]) for name, family in FAMILIES.items() for known in family.preconditionings[1:]),
]


@pytest.mark.parametrize(("family", "preconditioning", "method"), COMBINATIONS)
def test_image_17_is_the_same_at_any_batch_size(family, preconditioning, method):
    model = MODELS[family]()
    network = build_network(model, seed=1).eval()
    denoiser = build_denoiser(network, model, TRAININGS[family](preconditioning=preconditioning))
    options = {"method": method, "steps": 5, "renoise": [2.0, 1.0, 0.5, 0.2]}
    settings = build(SamplerSettings, {**SAMPLERS[family], **options}, "sampler")
    classes = model["network"].get("classes", 0)

    def images(n, batch_size):
        labels = labels_in_turn(n, classes) if classes else None
        return sample_images(denoiser, settings, model, DATASET, n, batch_size, 3, labels).images.int()

    whole = images(20, 20)
    for n, batch_size in ((20, 7), (18, 18)):
        other = images(n, batch_size)
        assert int((whole[:n] - other).abs().max()) <= 1  # a gray level: convolutions round by batch size
        assert float((whole[17] != other[17]).float().mean()) < 0.05
    assert len(torch.unique(whole[:4].flatten(1), dim=0)) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_images(tmp_path, family):
    write_small_model(tmp_path / "m.safetensors", family)
    loaded = slimdiff.load(tmp_path / "m.safetensors")
    first, again, other = (loaded.sample(4, seed=seed).images for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) == 4


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (28, 3), (20, 1)])
def test_dataset_to_model_and_back_is_lossless_without_scaling(size, channels):
    images = torch.randint(0, 256, (3, 1, size, size), dtype=torch.uint8)
    x = to_model(images, size, channels)
    assert x.shape == (3, channels, size, size)
    assert float(x.min()) >= -1
    assert float(x.max()) <= 1
    assert torch.equal(to_dataset(x, size, size, 1), images)


def test_padding_is_inverted_exactly_and_scaling_approximately():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    padded = to_model(images, 32, 1, "pad")
    assert float(padded[:, :, :2].max()) == -1
    assert torch.equal(to_dataset(padded, 28, 28, 1, "pad"), images)
    smooth = (torch.linspace(0, 255, 28)[None, None, None, :].expand(2, 1, 28, 28)).to(torch.uint8)
    back = to_dataset(to_model(smooth, 64, 3), 28, 28, 1)
    assert int((back.int() - smooth.int()).abs().max()) <= 6
    with pytest.raises(ValueError, match="28×28 images to "):
        to_model(images, 20, 1, "pad")


class Stuck(torch.nn.Module):
    """A network whose output makes all samples equal."""

    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(float(value)))

    def forward(self, x, noise_level):
        return torch.zeros_like(x) + self.weight


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "NaN"), (-1e4, "constant")])
def test_degenerate_samples_have_a_reason(value, reason):
    denoiser = build_denoiser(Stuck(value), small_model(), training())
    settings = build(SamplerSettings, SAMPLER, "sampler")
    sampled = sample_images(denoiser, settings, small_model(), DATASET, 6, 3, 0)
    assert reason in sampled.reason


def flat_tones(saturated):
    """Return the reason for images of one gray level each, for a data set with this fraction of saturated pixels."""
    tones = torch.tensor([10, 60, 110, 160], dtype=torch.uint8)[:, None, None, None].expand(4, 1, 20, 20)
    return _degenerate(tones, True, saturated)


def black_and_white(share):
    """Return images in which this fraction of pixels is black or white and the rest gray."""
    values = torch.randint(0, 2, (10, 1, 100, 100), generator=torch.Generator().manual_seed(0)) * 255
    values.view(-1)[: round((1 - share) * values.numel())] = 77
    return values.to(torch.uint8)


def test_flat_images_have_a_reason():
    assert flat_tones(0.0) == "every sample is one flat tone"


@pytest.mark.parametrize(
    ("share", "saturated", "refused"),
    [(1.0, 0.5, True), (0.9995, 0.5, True), (0.998, 0.5, False), (1.0, 1.0, False), (0.9995, 0.9993, False)],
)
def test_saturated_images_have_a_reason_unless_the_data_set_is_like_that(share, saturated, refused):
    reason = _degenerate(black_and_white(share), True, saturated)
    assert bool(reason) == refused
    assert refused == ("samples are saturated" in reason)


def test_nan_in_the_ode_solver_is_a_failure_with_a_reason():
    denoiser = build_denoiser(Stuck(float("nan")), small_model(), training())
    settings = build(SamplerSettings, {**SAMPLER, "method": "ode"}, "sampler")
    sampled = sample_images(denoiser, settings, small_model(), DATASET, 6, 3, 0)
    assert "NaN" in sampled.reason
    assert sampled.images.shape == (0, 1, 20, 20)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns"), [(100, 10), (30, 3), (23, 7)])
def test_a_contact_sheet_has_the_pixels_of_torchvision(n, columns, channels):
    """Conditional models get a column per class: image i is in column i % columns, in the last row too."""
    images = torch.randint(0, 256, (n, channels, 9, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = make_grid(images, nrow=columns, padding=2, pad_value=128)[:channels]  # it converts gray images to RGB
    assert torch.equal(contact_sheet(images, columns), expected)


def test_a_contact_sheet_is_filled_row_by_row(tmp_path):
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 4, 4).contiguous()
    sheet = contact_sheet(images, columns=3, border=1)
    assert sheet.shape == (1, 11, 16)
    assert int(sheet[0, 1, 1]) == 0
    assert int(sheet[0, 1, 6]) == 1
    assert int(sheet[0, 6, 1]) == 3
    assert int(sheet[0, 0, 0]) == 128
    write_png(tmp_path / "grid.png", sheet)
    assert (tmp_path / "grid.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_class_sheet_has_a_column_for_each_class():
    images = torch.arange(7, dtype=torch.uint8).reshape(7, 1, 1, 1).expand(-1, -1, 4, 4).contiguous()
    turns = torch.arange(6) % 3
    assert torch.equal(class_sheet(images[:6], turns, range(3)), contact_sheet(images[:6], 3))
    found = class_sheet(images, torch.tensor([1, 1, 0, 1, 1, 0, 1]), (1, 0), rows=4)[0, 2::6, 2::6][:4, :2]
    assert found.tolist() == [[0, 2], [1, 5], [3, BACKGROUND], [4, BACKGROUND]]


def sampled(tmp_path, n=4, class_index=None, **sampler):
    """Images of a small conditional model with these settings of its sampler."""
    write_small_model(tmp_path / "m.safetensors", "ddpm", sampler={**UNET_SAMPLER, **sampler})
    return slimdiff.load(tmp_path / "m.safetensors").sample(n, 5, class_index=class_index)


def with_counts(tmp_path, names, counts, **network):
    """A small conditional model of these classes, trained on so many images of each."""
    model = MODELS["ddpm"](network={"classes": len(names), **network})
    counted = {} if counts is None else {"class_counts": list(counts)}
    dataset = {"name": "made-up", "classes": list(names), **counted, **DATASET}
    header = model_header(model, TRAININGS["ddpm"](), dataset=dataset)
    header["sampler"] = {**UNET_SAMPLER, "steps": 2}
    write_model(tmp_path / "m.safetensors", build_network(model, seed=1), header)
    return slimdiff.load(tmp_path / "m.safetensors")


def test_named_classes_take_turns(tmp_path):
    assert sampled(tmp_path, 3, [1]).labels.tolist() == [1, 1, 1]
    assert sampled(tmp_path, 3, [1, 0]).labels.tolist() == [1, 0, 1]


def test_without_names_classes_get_the_shares_of_the_training_images(tmp_path):
    """By largest remainders, and any prefix nearly so; equal classes take turns."""
    loaded = with_counts(tmp_path, ["rare", "common", "none"], [10, 90, 0])
    for n, rare in ((1, 0), (5, 1), (14, 1), (15, 2), (20, 2)):
        found = loaded.sample(n).labels
        assert found.bincount(minlength=3).tolist() == [rare, n - rare, 0]
    assert found.tolist().index(0) < 10 < 19 - found.tolist()[::-1].index(0)
    assert with_counts(tmp_path, ["a", "b", "c"], [7, 7, 7]).sample(8).labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


GIVEN = [
    ("class_index", 1), ("class_index", 0), ("class_index", "1"), ("class_index", ["1"]), ("class_index", [1.5]),
    ("class_index", [True]), ("class_index", [np.True_]), ("class_index", [None]), ("class_index", [-1]),
    ("classes", [1]), ("classes", 1), ("classes", b"a"), ("classes", [None]), ("labels", 0), ("labels", [True]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "given"), GIVEN)
def test_what_is_neither_a_name_nor_a_position_is_refused(tmp_path, key, given):
    with pytest.raises(UserError, match="allowed: "):
        with_counts(tmp_path, ["a", "b"], [5, 5]).sample(1, **{key: given})
    if np.size(given):
        write_small_model(tmp_path / "m.safetensors", "ncsn")
        with pytest.raises(UserError, match="unconditional"):
            slimdiff.load(tmp_path / "m.safetensors").sample(1, **{key: given})


@pytest.mark.parametrize("positions", [np.array([1, 0]), torch.tensor([1, 0]), (np.int64(1), 0)])
def test_positions_may_be_integers_of_any_kind(tmp_path, positions):
    loaded = with_counts(tmp_path, ["a", "b"], [5, 5])
    assert loaded.sample(2, class_index=positions).labels.tolist() == [1, 0]


@pytest.mark.parametrize("counts", [None, [0, 0], [1, 2, 3]])
def test_a_file_without_training_counts_needs_the_names(tmp_path, counts):
    loaded = with_counts(tmp_path, ["a", "b"], counts)
    with pytest.raises(UserError, match=r"older slimdiff.*--class-index.*class_index"):
        loaded.sample(2)
    assert loaded.sample(2, classes=["b"]).labels.tolist() == [1, 1]


def test_python_takes_names_and_positions_as_the_command_line_does(tmp_path):
    loaded = with_counts(tmp_path, ["1", "10", "2"], [5, 5, 5])
    assert loaded.sample(2, classes=["10", "1"]).labels.tolist() == [1, 0]
    assert loaded.sample(2, classes=["1"], class_index=[1]).labels.tolist() == [0, 1]
    assert loaded.sample(1, labels=["10"]).labels.tolist() == [1]
    assert loaded.sample(1, labels=[2]).labels.tolist() == [2]  # name and position agree
    for ambiguous in ("1", 1):
        with pytest.raises(UserError, match=rf"label {ambiguous} is ambiguous.*--class-index {ambiguous} "):
            loaded.sample(1, labels=[ambiguous])
    with pytest.raises(UserError, match=r"are '10'; allowed: a list of names"):
        loaded.sample(1, classes="10")  # not the classes 1 and 0
    twice = with_counts(tmp_path, ["a", "b", "a"], [5, 5, 5])
    assert twice.sample(1, class_index=[2]).labels.tolist() == [2]
    with pytest.raises(UserError, match=r"class 'a' is ambiguous.*0 or 2"):
        twice.sample(1, classes=["a"])
    zeros = with_counts(tmp_path, ["00", "01"], [5, 5])
    assert zeros.sample(1, labels=["01"]).labels.tolist() == [1]
    for unknown in (0, "one"):
        with pytest.raises(UserError, match=rf"class '{unknown}' is unknown.*allowed: 1, 10, 2"):
            loaded.sample(1, labels=[unknown])


def test_an_image_depends_on_its_own_label_alone(tmp_path):
    turns, ones = sampled(tmp_path, 4).images.int(), sampled(tmp_path, 4, [1]).images.int()
    assert int((turns[1::2] - ones[1::2]).abs().max()) <= 1
    assert int((turns[::2] - ones[::2]).abs().amax((1, 2, 3)).min()) > 1


def test_guidance_of_0_ignores_the_labels(tmp_path):
    zeros, ones = (sampled(tmp_path, class_index=[label], guidance=0.0).images for label in (0, 1))
    assert torch.equal(zeros, ones)
    assert not torch.equal(*(sampled(tmp_path, class_index=[label], guidance=1.0).images for label in (0, 1)))


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        ({"guidance": 1.0}, 7),
        ({"guidance": 0.0}, 7),
        ({"guidance": 1.5}, 14),
        ({"guidance": 1.5, "method": "ddim", "steps": 5}, 10),
        ({"guidance": 1.0, "method": "ddpm", "steps": 6}, 6),
    ],
)
def test_both_passes_of_guidance_are_counted(tmp_path, sampler, evaluations):
    assert sampled(tmp_path, **sampler).network_evaluations == evaluations


def test_unknown_labels_are_refused(tmp_path):
    for label in (2, -1):
        with pytest.raises(UserError, match=rf"position {label} is unknown to this model; allowed: 0 to 1"):
            sampled(tmp_path, class_index=[0, label])
    write_small_model(tmp_path / "plain.safetensors")
    loaded = slimdiff.load(tmp_path / "plain.safetensors")
    assert loaded.classes == 0
    assert loaded.sample(2).labels is None
    for given in ({"labels": [0]}, {"classes": ["rows"]}, {"class_index": [0]}):
        with pytest.raises(UserError, match="this model is unconditional"):
            loaded.sample(2, **given)


def test_another_sampler_and_guidance_can_be_requested(tmp_path):
    write_small_model(tmp_path / "m.safetensors", "ddpm")
    loaded = slimdiff.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.sample(2, 5, guidance=3.0).images, sampled(tmp_path, 2, guidance=3.0).images)
    ddim = loaded.sample(2, 5, sampler="ddim", steps=4).images
    assert torch.equal(ddim, sampled(tmp_path, 2, method="ddim").images)
    assert torch.equal(loaded.sample(2, 5, sampler="heun").images, sampled(tmp_path, 2).images)
    with pytest.raises(UserError, match=r"sampler 'ddim' needs steps: .*heun"):
        loaded.sample(2, 5, sampler="ddim")
    with pytest.raises(UserError, match=r"sampler is 'ode'; allowed for this model: heun, euler, consistency, "):
        loaded.sample(2, sampler="ode")
    write_small_model(tmp_path / "plain.safetensors")
    plain = slimdiff.load(tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"guidance is 3\.0, but this model is unconditional"):
        plain.sample(2, guidance=3.0)
    with pytest.raises(UserError, match=r"sampler is 'ddim'; allowed for this model: heun, euler, consistency, "):
        plain.sample(2, sampler="ddim")


@pytest.mark.parametrize(
    ("sampler", "steps", "said"),
    [
        ("ddim", 3, "steps is 3; allowed for ddim: 1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 1000"),
        ("unipc", 2000, "steps is 2000; allowed for unipc: up to 1000"),
        ("ddpm", 1, "steps is 1; allowed for ddpm: 2 or more"),
        (None, 0, "steps is 0; allowed: a whole number, 1 or more"),
        ("ddim", 0, "steps is 0; allowed: a whole number, 1 or more"),
        ("ddim", 2.5, "steps is 2.5; allowed: a whole number, 1 or more"),
    ],
)
def test_invalid_steps_of_a_sampler_are_refused(tmp_path, sampler, steps, said):
    write_small_model(tmp_path / "m.safetensors", "ddpm")
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        slimdiff.load(tmp_path / "m.safetensors").sample(2, sampler=sampler, steps=steps)


@pytest.mark.parametrize(
    ("key", "value"),
    [("n", 0), ("n", -1), ("n", 2.5), ("n", True), ("batch_size", 0), ("guidance", -1.0), ("guidance", math.nan)],
)
def test_arguments_out_of_range_are_refused(tmp_path, key, value):
    write_small_model(tmp_path / "m.safetensors", "ddpm")
    loaded = slimdiff.load(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=f"^{key} is {re.escape(repr(value))}; allowed: "):
        loaded.sample(**{"n": 2, key: value})


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda", 1.5])
def test_a_device_that_is_not_there_does_not_make_the_file_a_bad_one(tmp_path, monkeypatch, device):
    write_small_model(tmp_path / "m.safetensors")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"^device is '{device}'") as caught:
        slimdiff.load(tmp_path / "m.safetensors", device)
    assert "m.safetensors" not in str(caught.value)


def test_nobody_is_advised_to_delete_a_folder(tmp_path):
    with pytest.raises(UserError, match="is a folder") as caught:
        slimdiff.load(tmp_path)
    assert "delete" not in str(caught.value)


def test_a_sampler_without_steps_takes_none(tmp_path):
    write_small_model(tmp_path / "m.safetensors")
    loaded = slimdiff.load(tmp_path / "m.safetensors")
    assert loaded.sample(1, sampler="ode").network_evaluations > 6  # one step of Dormand and Prince takes seven
    with pytest.raises(UserError, match=r"steps is 10, but the sampler 'ode' chooses its own: leave it out"):
        loaded.sample(1, sampler="ode", steps=10)


@pytest.mark.parametrize(
    ("family", "method"), [(name, method) for name, family in FAMILIES.items() for method in family.samplers]
)
def test_progress_is_reported_in_equal_parts(tmp_path, family, method):
    """Five images in batches of three; each batch reports once per evaluation of the sampler."""
    write_small_model(tmp_path / "m.safetensors", family)
    told_of = []
    steps = {"ode": None, "consistency": 1}.get(method, 5)
    loaded = slimdiff.load(tmp_path / "m.safetensors")
    plain = loaded.sample(5, sampler=method, steps=steps, batch_size=3)
    watched = loaded.sample(
        5, sampler=method, steps=steps, batch_size=3, progress=lambda done, n: told_of.append((done, n))
    )
    assert torch.equal(plain.images, watched.images)
    if method == "ode":
        assert told_of == [(3, 5), (5, 5)], "the number of evaluations is known only at the end"
        return
    calls = round(watched.network_evaluations / (1 if family == "ncsn" else 2))  # guidance evaluates twice in one call
    parts = [3 * part / calls for part in range(1, calls + 1)] + [3.0]
    parts += [3 + 2 * part / calls for part in range(1, calls + 1)] + [5.0]
    assert [done for done, _ in told_of] == pytest.approx(parts)
    assert {n for _, n in told_of} == {5}


def test_clip_and_precision_reach_the_samples(tmp_path):
    plain, clipped, rough = (
        sampled(tmp_path, guidance=3.0, **changes).images for changes in ({}, {"clip": True}, {"precision": "bfloat16"})
    )
    assert not torch.equal(plain, clipped)
    assert not torch.equal(plain, rough)
    with pytest.raises(UserError, match=r"precision is 'float16'; allowed: float32, bfloat16, auto"):
        sampled(tmp_path, precision="float16")


def run_stage(tmp_path, **settings):
    paths = {"model": "m.safetensors", "out": "samples.npz", "out-grid": "grid.png"}
    arguments = [part for key, name in paths.items() for part in (f"--{key}", str(tmp_path / name))]
    sample_stage.main(["--settings", json.dumps({"batch_size": 2, "seed": 5, **settings}), *arguments])
    return read_samples(tmp_path / "samples.npz")


@pytest.mark.parametrize(("family", "labels"), [("ncsn", []), ("ddpm", [0, 1, 0])])
def test_the_stage_writes_images_and_their_provenance(tmp_path, family, labels):
    write_small_model(tmp_path / "m.safetensors", family)
    loaded = slimdiff.load(tmp_path / "m.safetensors")
    samples, expected = run_stage(tmp_path, n_samples=3), loaded.sample(3, 5, batch_size=2)
    assert np.array_equal(samples.images, expected.images.numpy())
    assert samples.labels.tolist() == labels
    assert samples.classes == tuple(loaded.settings["dataset"]["classes"])
    assert (samples.status, samples.reason) == (("failed", expected.reason) if expected.reason else ("ok", ""))
    assert samples.network_evaluations == expected.network_evaluations
    assert samples.batch_size == 2
    assert samples.sampler == loaded.settings["sampler"]


def test_the_stage_samples_classes_by_share_or_equally(tmp_path):
    with_counts(tmp_path, ["rare", "common"], [10, 90])
    by_share, equal = (run_stage(tmp_path, n_samples=10, labels=labels) for labels in ("training", "uniform"))
    assert np.bincount(by_share.labels).tolist() == [1, 9]
    assert equal.labels.tolist() == [0, 1] * 5
    width, height = Image.open(tmp_path / "grid.png").size
    assert (width, height) == (2 * 22 + 2, 5 * 22 + 2), "a column for each class"
