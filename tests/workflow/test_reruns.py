"""An edit reruns exactly the jobs that it affects."""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from clones import SMOKE, Jobs, finish, planned, snakemake
from ownmodels import write_folder
from photos import write_photos

Edit = Callable[[str, str, str], None]

BASE, OTHER = "digits/ncsn", "digits/ddpm"
NCSN_CELLS = {
    f"{BASE}/{optimization}/0"
    for optimization in (
        "baseline",
        "ema",
        "linear-8bit",
        "linear-4bit-frozen",
        "l1-30",
        "l1-70+weights-8bit",
        "groups-2",
        "bf16",
        "sampler-ode",
        "channels-50",
    )
}
DDPM_CELLS = {
    f"{OTHER}/{optimization}/0"
    for optimization in (
        "baseline",
        "ema+linear-8bit-frozen",
        "groups-2+l1-10",
        "noise-prediction",
        "channels-50-diff",
        "steps-6-reuse-2",
    )
}
CELLS = NCSN_CELLS | DDPM_CELLS
NCSN_TRAININGS = {f"{BASE}/{training}/0" for training in ("plain", "linear-4bit-frozen", "groups-2")}
DDPM_TRAININGS = {
    f"{OTHER}/{training}/0" for training in ("plain", "linear-8bit-frozen", "groups-2", "noise-prediction")
}
TRAININGS = NCSN_TRAININGS | DDPM_TRAININGS
NCSN_LATER, DDPM_LATER = {f"{BASE}/channels-50/0"}, {f"{OTHER}/channels-50-diff/0"}  # trainings with a start
LATER = NCSN_LATER | DDPM_LATER
CELL_RULES = ("compress", "sample", "score", "profile", "row")
PACKAGE = Path("workflow/src/slimdiff")


def gathered(**jobs: set[str]) -> Jobs:
    """Return `jobs` and the four that follow any changed row."""
    return {**jobs, "aggregate": {""}, "claims": {""}, "report": {""}, "page": {""}}


def of_cells(cells: set[str], *rules: str) -> Jobs:
    return dict.fromkeys(rules or CELL_RULES, cells)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def edit_function(tree: Path, module: str, name: str) -> None:
    """Add a statement to a top-level function of the package."""
    path = tree / PACKAGE / module
    text = path.read_text(encoding="utf-8")
    (function,) = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    last = function.body[-1]
    lines = text.splitlines(keepends=True)
    lines.insert(last.lineno - 1, f"{' ' * last.col_offset}assert True\n")
    path.write_text("".join(lines), encoding="utf-8")


def test_a_first_run_has_each_job_once(finished: Path) -> None:
    everything = planned(finished, *SMOKE, "--forceall")
    assert everything == gathered(
        data={"digits"},
        extractors={"digits"},
        classifier={"digits"},
        reference={"digits"},
        foreign={"digits"},
        train=TRAININGS,
        finetune=LATER,
        **of_cells(CELLS),
    )


def test_a_second_run_does_nothing(tree: Path) -> None:
    report = tree / "results" / "report.html"
    before = report.stat().st_mtime_ns
    done = snakemake(tree, "--cores", "2", *SMOKE)
    assert done.returncode == 0
    assert "Nothing to be done" in done.stdout + done.stderr
    assert report.stat().st_mtime_ns == before


def test_editing_a_recipe(tree: Path, edit: Edit) -> None:
    edit("config.yaml", "plain, prune: {method: l1, amount: 0.3,", "plain, prune: {method: l1, amount: 0.35,")
    assert planned(tree, *SMOKE) == gathered(**of_cells({f"{BASE}/l1-30/0"}))


def test_adding_a_recipe(tree: Path, edit: Edit) -> None:
    edit(
        "config.yaml",
        "  l1-50:",
        "  l1-40: {training: plain, prune: {method: l1, amount: 0.4, scope: global}}\n  l1-50:",
    )
    edit("config/smoke.yaml", "      - l1-30\n", "      - l1-30\n      - l1-40\n")
    assert planned(tree, *SMOKE) == gathered(**of_cells({f"{BASE}/l1-40/0"}))


def test_adding_a_recipe_outside_the_matrix(tree: Path, edit: Edit) -> None:
    edit(
        "config.yaml",
        "  l1-50:",
        "  l1-40: {training: plain, prune: {method: l1, amount: 0.4, scope: global}}\n  l1-50:",
    )
    assert planned(tree, *SMOKE) == {}


def test_removing_a_recipe(tree: Path, edit: Edit) -> None:
    edit("config/smoke.yaml", "      - l1-30\n", "")
    assert planned(tree, *SMOKE) == gathered()


def test_adding_a_seed(tree: Path, edit: Edit) -> None:
    edit("config/smoke.yaml", "channels-50\n    seeds: [0]", "channels-50\n    seeds: [0, 1]")
    new = {cell.removesuffix("0") + "1" for cell in NCSN_CELLS}
    trainings = {training.removesuffix("0") + "1" for training in NCSN_TRAININGS}
    assert planned(tree, *SMOKE) == gathered(train=trainings, finetune={f"{BASE}/channels-50/1"}, **of_cells(new))


def test_editing_the_steps_before_a_training(tree: Path, edit: Edit) -> None:
    edit("config.yaml", "importance: diff-pruning, amount: 0.5", "importance: diff-pruning, amount: 0.4")
    assert planned(tree, *SMOKE) == gathered(finetune=DDPM_LATER, **of_cells({f"{OTHER}/channels-50-diff/0"}))


def test_editing_a_training(tree: Path, edit: Edit) -> None:
    edit("config.yaml", "  groups-2: {groups: 2}", "  groups-2: {groups: 2, epochs: 5}")
    trainings, cells = (
        {f"{BASE}/groups-2/0", f"{OTHER}/groups-2/0"},
        {f"{BASE}/groups-2/0", f"{OTHER}/groups-2+l1-10/0"},
    )
    assert planned(tree, *SMOKE) == gathered(train=trainings, **of_cells(cells))


def test_editing_the_baseline(tree: Path, edit: Edit) -> None:
    """Cells with its noise compare their images with its own, and all cells of a model are timed against it."""
    edit("config.yaml", "  baseline: {training: plain}", "  baseline: {training: plain, weights: ema}")
    baselines = {f"{BASE}/baseline/0", f"{OTHER}/baseline/0"}
    again = {**of_cells(baselines), **of_cells(CELLS, "score", "profile", "row")}
    assert planned(tree, *SMOKE) == gathered(**again)


def test_sampling_the_baseline_with_other_noise(tree: Path, edit: Edit) -> None:
    edit("config.yaml", "  baseline: {training: plain}", "  baseline: {training: plain, sampling_seed: 7}")
    baselines = {f"{BASE}/baseline/0", f"{OTHER}/baseline/0"}
    assert planned(tree, *SMOKE) == gathered(sample=baselines, score=CELLS, row=CELLS)


def test_editing_a_network(tree: Path, edit: Edit) -> None:
    """Cells of the other family are not rerun."""
    edit("config.yaml", "attention_levels: [2, 3]", "attention_levels: [1, 2, 3]")
    assert planned(tree, *SMOKE) == gathered(train=DDPM_TRAININGS, finetune=DDPM_LATER, **of_cells(DDPM_CELLS))


def test_editing_the_guidance(tree: Path, edit: Edit) -> None:
    edit("config.yaml", "guidance: 2.25 # scale", "guidance: 1.5 # scale")
    assert planned(tree, *SMOKE) == gathered(**of_cells(DDPM_CELLS))


def test_a_guided_recipe_follows_its_guide(tree: Path, edit: Edit) -> None:
    guided = "  guided: {training: plain, sampler: {guide: {optimization: l1-30, scale: 2.0}}}\n"
    edit("config.yaml", "  l1-50:", f"{guided}  l1-50:")
    edit("config/smoke.yaml", "      - l1-30\n", "      - l1-30\n      - guided\n")
    assert planned(tree, *SMOKE) == gathered(**of_cells({f"{BASE}/guided/0"}))
    finish(tree, *SMOKE)
    edit("config.yaml", "plain, prune: {method: l1, amount: 0.3,", "plain, prune: {method: l1, amount: 0.35,")
    assert planned(tree, *SMOKE) == gathered(**of_cells({f"{BASE}/guided/0", f"{BASE}/l1-30/0"}))


def test_editing_a_constant_of_one_sampler(tree: Path, edit: Edit) -> None:
    edit("config/smoke.yaml", "tolerance: 5.0e-2", "tolerance: 1.0e-3")
    assert planned(tree, *SMOKE) == gathered(**of_cells({f"{BASE}/sampler-ode/0"}))


@pytest.mark.parametrize(
    ("old", "new", "rules"),
    [
        ("n_samples: 128", "n_samples: 192", ("sample", "score", "row")),
        ("repeats: 2", "repeats: 3", ("profile", "row")),
    ],
)
def test_editing_a_measurement(tree: Path, edit: Edit, old: str, new: str, rules: tuple[str, ...]) -> None:
    edit("config/smoke.yaml", old, new)
    assert planned(tree, *SMOKE) == gathered(**of_cells(CELLS, *rules))


def test_touching_files(tree: Path) -> None:
    """One dry run for all: any of them would add its jobs."""
    for name in (
        "results/data/digits/images.safetensors",
        "results/train/digits/ncsn/plain/seed0/weights.safetensors",
        "results/cells/digits/ncsn/l1-30/seed0/model.safetensors",
        "workflow/resources/paper_reference.csv",
        "workflow/resources/claims.yaml",
        "workflow/src/slimdiff/report/page/assets/page.html",
        "workflow/src/slimdiff/stages/train.py",
        "workflow/rules/train.smk",
        "config.yaml",
    ):
        (tree / name).touch()
    assert planned(tree, *SMOKE) == {}


@pytest.mark.parametrize(
    ("name", "rules"), [("model.safetensors", CELL_RULES), ("grid.png", ("sample", "score", "row"))]
)
def test_a_deleted_model_or_grid_is_remade(tree: Path, name: str, rules: tuple[str, ...]) -> None:
    """By default Snakemake remakes an intermediate file only if a later job must run."""
    (tree / "results" / "cells" / BASE / "l1-30" / "seed0" / name).unlink()
    assert planned(tree, *SMOKE) == gathered(**of_cells({f"{BASE}/l1-30/0"}, *rules))


def test_other_deleted_files_are_remade_on_request(tree: Path) -> None:
    """Inputs of the matrix may be deleted to save space, and remade later: docs/reliability.md."""
    name = f"results/cells/{BASE}/l1-30/seed0/samples.npz"
    (tree / name).unlink()
    assert planned(tree, *SMOKE) == {}
    assert planned(tree, name, *SMOKE) == {"sample": {f"{BASE}/l1-30/0"}}


def test_edits_that_change_no_result(tree: Path, edit: Edit) -> None:
    """Comments, docstrings, layout and unused code; order of keys and spelling of numbers; paths and machines."""
    append(tree / PACKAGE / "metrics/frechet.py", "\n\n# a remark\n\nUNUSED = 1\n")
    module = tree / "workflow" / "src" / "slimdiff" / "stages" / "train.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(text.replace('"""', '"""Said otherwise. ', 1), encoding="utf-8")
    edit(
        "config.yaml",
        "plain, prune: {method: l1, amount: 0.3, scope: global}",
        "plain, prune: {scope: global, amount: 0.30, method: l1}",
    )
    edit("config.yaml", "data_dir: data", "data_dir: elsewhere")
    edit("workflow/rules/train.smk", "rule train:", "rule train:  # a remark")
    edit("workflow/rules/train.smk", "gpu=1,", "gpu=1,\n        disk_mb=10,")
    assert planned(tree, *SMOKE, "--cores", "8", "--resources", "gpu=0") == {}


@pytest.mark.parametrize(
    ("module", "function", "jobs"),
    [
        (
            "metrics/frechet.py",
            "frechet_distance",
            gathered(reference={"digits"}, foreign={"digits"}, **of_cells(CELLS, "score", "row")),
        ),
        ("profiling/profile.py", "profile", gathered(**of_cells(CELLS, "profile", "row"))),
        ("compression/unstructured.py", "prune_unstructured", gathered(**of_cells(CELLS))),
        ("engines/openvino_backend.py", "quantize", gathered(**of_cells(CELLS))),
        ("compression/channels.py", "prune_channels", gathered(finetune=LATER, **of_cells(CELLS))),
        ("diffusion/samplers.py", "heun_step", gathered(finetune=LATER, **of_cells(CELLS))),
        ("training/loop.py", "fit", gathered(train=TRAININGS, finetune=LATER, **of_cells(CELLS))),
        ("report/figures/write.py", "write_figures", {"report": {""}, "page": {""}}),
        ("analysis/claims/effects.py", "decide", {"claims": {""}, "report": {""}, "page": {""}}),
        ("analysis/decisions.py", "decide", {"claims": {""}, "report": {""}, "page": {""}}),
    ],
)
def test_editing_a_function(tree: Path, module: str, function: str, jobs: Jobs) -> None:
    edit_function(tree, module, function)
    assert planned(tree, *SMOKE) == jobs


def test_editing_the_page_style(tree: Path) -> None:
    """Fingerprints cover Python alone, so the page's other sources are inputs of its rule."""
    append(tree / "workflow/src/slimdiff/report/page/assets/page.css", "\np { color: red; }\n")
    assert planned(tree, *SMOKE) == {"page": {""}}


def test_adding_a_claim(tree: Path) -> None:
    comparison = "fid_indomain(ncsn/ema) < fid_indomain(ncsn/baseline)"
    claim = f"- {{id: mine, claim: It holds., source: me, comparisons: [{comparison}]}}\n"
    append(tree / "workflow/resources/claims.yaml", claim)
    assert planned(tree, *SMOKE) == {"claims": {""}, "report": {""}, "page": {""}}


def test_changing_a_margin(tree: Path) -> None:
    config = tree / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("size: 1.05", "size: 1.06"), encoding="utf-8")
    assert planned(tree, *SMOKE) == {"claims": {""}, "report": {""}, "page": {""}}


def test_a_moved_tree_is_still_finished(tree: Path) -> None:
    assert planned(tree.rename(tree.with_name("moved")), *SMOKE) == {}


def test_a_changed_image_folder_is_read_again(tree: Path) -> None:
    write_photos(tree / "photos")
    source = "{source: folder, path: photos, image_size: 8, channels: 1, test_fraction: 0.5}"
    matrix = "[{dataset: photos, model: ncsn, optimizations: [ema], seeds: [0]}]"
    (tree / "photos.yaml").write_text(f"datasets: {{photos: {source}}}\nmatrix: {matrix}\n")
    arguments = ("results/data/photos/images.safetensors", "--cores", "1", *SMOKE, "photos.yaml")
    assert snakemake(tree, *arguments).returncode == 0
    assert planned(tree, *arguments) == {}
    with (tree / "photos" / "dogs" / "2.png").open("ab") as file:
        file.write(b"another picture")
    assert planned(tree, *arguments) == {"data": {"photos"}}


OWN_FOLDER_FILES = (
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
)


@pytest.fixture(scope="module")
def with_own_model(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a diffusers folder, its baseline and a recipe that trains on."""
    tree = Path(shutil.copytree(finished, tmp_path_factory.mktemp("own") / "slimdiff"))
    write_folder(tree / "mine")
    (tree / "mine" / "notes.txt").write_text("of no interest")
    (tree / "mine.yaml").write_text(OWN_MODEL, encoding="utf-8")
    return finish(tree, *SMOKE, "mine.yaml")


OWN_MODEL = """\
models: {mine: {family: unet2d, pretrained: mine}}
matrix: [{dataset: digits, model: mine, optimizations: [baseline, l1-30, longer], seeds: [0, 1]}]
"""
OWN = {f"digits/mine/{recipe}/{seed}" for recipe in ("baseline", "l1-30", "longer") for seed in (0, 1)}
OWN_TRAININGS, OWN_LATER = ({f"digits/mine/{name}/{seed}" for seed in (0, 1)} for name in ("plain", "longer"))


@pytest.fixture
def own(with_own_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_own_model, tmp_path / "slimdiff"))


def test_a_first_run_of_an_own_model(own: Path) -> None:
    assert planned(own, *SMOKE, "mine.yaml") == {}
    shared = {"data", "extractors", "classifier", "reference", "foreign"}
    everything = planned(own, *SMOKE, "mine.yaml", "--forceall")
    assert everything == gathered(
        **{rule: {"digits"} for rule in shared}, pretrained=OWN_TRAININGS, finetune=OWN_LATER, **of_cells(OWN)
    )


@pytest.mark.parametrize("name", OWN_FOLDER_FILES)
def test_editing_a_file_of_the_folder(own: Path, name: str) -> None:
    """Even to the same effect: Snakemake compares the contents of small files, and the dates of large ones."""
    path = own / "mine" / name
    if path.suffix == ".safetensors":
        edited = bytearray(path.read_bytes())
        edited[-1] ^= 1
        path.write_bytes(edited)
    else:
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    again = gathered(pretrained=OWN_TRAININGS, finetune=OWN_LATER, **of_cells(OWN))
    assert planned(own, *SMOKE, "mine.yaml") == again


def test_editing_what_of_an_own_model_is_only_for_training_on(own: Path) -> None:
    (own / "mine" / "notes.txt").write_text("changed")
    text = OWN_MODEL.replace("pretrained: mine", "pretrained: mine, training: {learning_rate: 1.0e-4}")
    (own / "mine.yaml").write_text(text, encoding="utf-8")
    longer = {f"digits/mine/longer/{seed}" for seed in (0, 1)}
    assert planned(own, *SMOKE, "mine.yaml") == gathered(finetune=OWN_LATER, **of_cells(longer))


def test_sampling_an_own_model_otherwise(own: Path) -> None:
    text = OWN_MODEL.replace("pretrained: mine", "pretrained: mine, sampler: {method: ddim, steps: 10}")
    (own / "mine.yaml").write_text(text, encoding="utf-8")
    assert planned(own, *SMOKE, "mine.yaml") == gathered(**of_cells(OWN))


def test_an_own_model_reruns_no_cell_of_others(own: Path) -> None:
    assert planned(own, *SMOKE) == gathered()
