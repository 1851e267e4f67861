"""Configurations: what they ask for, and what is said about mistakes."""

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from presets import CONFIG, ROOT, merge

from slimdiff.config import resolve as settings
from slimdiff.config.resolve import Cell, expand
from slimdiff.config.validate import check
from slimdiff.errors import UserError
from slimdiff.io.files import digest
from slimdiff.io.settings import canonical

SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
PRESETS = sorted((ROOT / "config").glob("*.yaml"))

# The report's Tables 1 to 3, and the two amounts that only its text promises.
REPORT = {
    "baseline",
    "linear-4bit-frozen",
    "linear-8bit-frozen",
    "linear-8bit-frozen+adam-8bit",
    *(f"random-{amount}" for amount in (10, 30, 50, 70)),
    *(f"l1-{amount}" for amount in (10, 30, 50, 70)),
    *(f"random-{amount}-{scope}" for amount in (30, 50) for scope in ("middle", "extremes")),
    "groups-2",
    "groups-4",
    "groups-max",
}


def verdict(overlay: dict[Any, Any], name: str = "my.yaml") -> str:
    """What is said about config.yaml with `overlay` on it."""
    with pytest.raises(UserError) as caught:
        check(merge(CONFIG, overlay), SCHEMA, {"config.yaml": CONFIG, name: overlay})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in the configuration start from there."""
    monkeypatch.chdir(ROOT)


def entry(**changes: Any) -> dict[str, Any]:
    return {"dataset": "mnist", "model": "ncsn", "optimizations": ["baseline"], "seeds": [0], **changes}


def ddpm(changes: dict[str, Any], overlay: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """An overlay with these changes of the DDPM and a matrix that runs it."""
    return {**(overlay or {}), "models": {"ddpm": changes}, "matrix": [entry(model="ddpm", **keys)]}


def recipe(**keys: Any) -> dict[str, Any]:
    """An overlay with a recipe `mine` and a matrix that runs it."""
    return {"optimizations": {"mine": {"training": "plain", **keys}}, "matrix": [entry(optimizations=["mine"])]}


def test_the_defaults_are_sound() -> None:
    check(CONFIG, SCHEMA, {"config.yaml": CONFIG})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_presets_are_sound_and_hold_only_differences(path: Path) -> None:
    overlay = yaml.safe_load(path.read_text(encoding="utf-8"))
    check(merge(CONFIG, overlay), SCHEMA, {"config.yaml": CONFIG, path.name: overlay})

    def same(base: Any, other: Any, where: str) -> None:
        if isinstance(base, dict) and isinstance(other, dict):
            for key, value in other.items():
                same(base.get(key), value, f"{where}.{key}")
        else:
            assert base != other, f"{path.name}: {where} repeats config.yaml"

    for key, value in overlay.items():
        same(CONFIG.get(key), value, key)


def test_the_schema_says_what_every_key_is_for_and_holds_no_defaults() -> None:
    def walk(node: Any, where: str = "", refined: frozenset[str] = frozenset()) -> None:
        """`refined` are properties that `then` and `else` say more about: those may leave a mapping open."""
        if isinstance(node, dict):
            assert "default" not in node
            if node.get("type") == "object" and where not in refined:
                assert node["additionalProperties"] is False
            for child in (*node.get("properties", {}).values(), *node.get("patternProperties", {}).values()):
                assert "description" in child or "$ref" in child or child.keys() <= {"const", "required"}, child
            if "if" in node:
                then, otherwise = (node[branch]["properties"] for branch in ("then", "else"))
                refined = frozenset(key for key in then if "$ref" in then[key] and "$ref" in otherwise[key])
            for key, child in node.items():
                walk(child, key, refined)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(SCHEMA)


def test_the_reports_recipes_are_all_there() -> None:
    assert set(CONFIG["optimizations"]) >= REPORT
    assert len(REPORT) == 19
    for name in ("paper.yaml", "paper-cpu.yaml"):
        overlay = yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))
        assert {cell.optimization for cell in expand(overlay["matrix"])} >= REPORT


def test_expand_keeps_the_order() -> None:
    matrix = [entry(optimizations=["b", "a"], seeds=[1, 0]), entry(dataset="digits", optimizations=["a"], seeds=[7])]
    assert expand(matrix) == [
        Cell("mnist", "ncsn", "b", 1),
        Cell("mnist", "ncsn", "b", 0),
        Cell("mnist", "ncsn", "a", 1),
        Cell("mnist", "ncsn", "a", 0),
        Cell("digits", "ncsn", "a", 7),
    ]


def test_ten_thousand_cells_are_cheap() -> None:
    """A second to check and expand, and arguments below the 128 KiB that Linux allows one."""
    config = merge(CONFIG, {"matrix": [entry(optimizations=[*CONFIG["optimizations"]][:20], seeds=list(range(500)))]})
    start = time.process_time()
    check(config, SCHEMA, {"config.yaml": config})
    assert len(expand(config["matrix"])) == 10_000
    assert time.process_time() - start < 2.0
    assert len(canonical(settings.matrix_settings(config))) + len(canonical(settings.provenance(config))) < 100_000


def names(optimization: str, seed: str = "0") -> dict[str, str]:
    """A job's wildcards: text, as Snakemake has them."""
    return {"dataset": "mnist", "model": "ncsn", "optimization": optimization, "seed": seed}


def test_a_training_lays_its_options_over_the_models() -> None:
    chosen = settings.train_settings(CONFIG, "mnist", "ncsn", "linear-8bit-frozen+adam-8bit", "3")
    assert chosen["seed"] == 3
    assert chosen["training"] == {**CONFIG["models"]["ncsn"]["training"], "linear": "8bit", "optimizer_state": "8bit"}
    assert set(chosen["model"]) == {"family", "image_size", "channels", "fit", "network"}


def test_cells_of_one_training_share_its_settings() -> None:
    chosen = {
        settings.training_of(CONFIG, optimization) for optimization in ("baseline", "ema", "l1-30", "linear-4bit")
    }
    assert chosen == {"plain"}


def test_steps_are_applied_in_order_and_samplers_keep_what_they_use() -> None:
    overlay = recipe(
        quantize={"linear": "8bit"},
        prune={"method": "l1", "amount": 0.2, "scope": "middle"},
        sampler={"method": "predictor-corrector", "steps": 30},
        weights="ema",
    )
    assert settings.compress_settings(merge(CONFIG, overlay), **names("mine")) == {
        "weights": "ema",
        "steps": [
            {"prune": {"method": "l1", "amount": 0.2, "scope": "middle"}},
            {"quantize": {"linear": "8bit"}},
        ],
        "sampler": {"method": "predictor-corrector", "steps": 30, "snr": 0.16, "precision": "float32", "guidance": 1.0},
        "engine": "torch",
        "precision": "fp32",
        "seed": 0,
    }


def test_an_engines_precision_is_the_only_one() -> None:
    """A sampler's `precision` is autocast around float32 weights, which engine torch in fp32 alone has."""
    overlay = recipe(engine="openvino", precision="int8")
    config = merge(CONFIG, overlay)
    model: dict[str, Any] = {"dataset": "mnist", "model": "ddpm", "seed": 0}
    plain = settings.compress_settings(config, optimization="baseline", **model)
    other = settings.compress_settings(config, optimization="mine", **model)
    assert (plain["sampler"]["precision"], plain["engine"], plain["precision"]) == ("auto", "torch", "fp32")
    assert (other["sampler"]["precision"], other["engine"], other["precision"]) == ("float32", "openvino", "int8")
    assert settings.row_settings(config, optimization="mine", **model)["engine_precision"] == "int8"
    assert [settings.needs_images(config, name) for name in ("baseline", "bf16", "mine")] == [False, True, True]
    assert [settings.uses_gpu(config, name) for name in ("baseline", "compile-bf16", "mine")] == [True, True, False]


def test_each_sampler_has_its_constants() -> None:
    methods = SCHEMA["$defs"]["sampler"]["properties"]["method"]["enum"]
    assert list(settings.SAMPLER_CONSTANTS) == methods
    families = settings.FAMILIES.values()
    assert {method for family in families for method in family.samplers} == set(methods)
    constants = set(SCHEMA["$defs"]["sampler"]["properties"]) - {"method"}
    shared = {*settings.SAMPLER_ALWAYS, *(key for family in families for key in family.sampler)}
    assert set().union(*settings.SAMPLER_CONSTANTS.values()) | shared == constants


def test_a_ddpms_sampler_has_its_guidance_whatever_the_method() -> None:
    sampler = CONFIG["models"]["ddpm"]["sampler"]
    config = merge(CONFIG, {"optimizations": {"mine": {"training": "plain", "sampler": {"method": "ddim"}}}})
    assert settings.sampler_options(config, "ddpm", "mine") == {
        "method": "ddim",
        **{key: sampler[key] for key in ("steps", "guidance", "clip", "reuse", "precision")},
    }
    assert settings.sampler_options(config, "ddpm", "baseline") == {k: v for k, v in sampler.items() if k != "grid"}


def test_a_speedup_is_held_against_the_same_model_and_seed_if_the_matrix_has_it() -> None:
    entry = {"dataset": "digits", "model": "ncsn", "seeds": [0, 1]}
    matrix = [{**entry, "optimizations": ["ema"]}, {**entry, "optimizations": ["baseline"], "seeds": [1]}]
    config = {"profile": {"reference": "baseline", "repeats": 1}, "matrix": matrix}
    cell = {"dataset": "digits", "model": "ncsn", "optimization": "ema"}
    assert settings.reference_of(config, **cell, seed="1") == settings.Cell("digits", "ncsn", "baseline", 1)
    assert settings.reference_of(config, **cell, seed="0") is None
    assert settings.reference_of(config, **{**cell, "model": "ddpm"}, seed=1) is None
    for none in ({"reference": None, "repeats": 1}, {"reference": "baseline", "repeats": 0}):
        assert settings.reference_of({**config, "profile": none}, **cell, seed=1) is None


@pytest.mark.parametrize(
    ("overlay", "changed"),
    [
        ({"models": {"ncsn": {"sampler": {"snr": 0.2}}}}, set()),
        ({"models": {"ncsn": {"sampler": {"steps": 11}}}}, {"compress"}),
        ({"models": {"ncsn": {"training": {"epochs": 4}}}}, {"train"}),
        ({"models": {"ncsn": {"network": {"sigma": 20.0}}}}, {"train"}),
        ({"trainings": {"groups-2": {"epochs": 9}}}, set()),
        ({"optimizations": {"baseline": {"weights": "ema"}}}, {"compress"}),
        ({"optimizations": {"ema": {"weights": "raw"}}}, set()),
        ({"sampling": {"n_samples": 100}}, {"sample", "score"}),
        ({"sampling": {"batch_size": 10}}, {"sample", "profile"}),
        ({"profile": {"repeats": 9}}, {"profile"}),
        ({"profile": {"reference": None}}, set()),
        ({"datasets": {"digits": {"source": "mnist"}}}, set()),
    ],
)
def test_a_stage_is_given_only_what_it_uses(overlay: dict[str, Any], changed: set[str]) -> None:
    def of_baseline(config: dict[str, Any]) -> dict[str, str]:
        return {
            stage: canonical(value)
            for stage, value in settings.row_settings(config, **names("baseline"))["settings"].items()
        }

    before, after = of_baseline(CONFIG), of_baseline(merge(CONFIG, overlay))
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_data_sets_keep_their_extractors_to_themselves() -> None:
    assert settings.data_settings(CONFIG, "mnist") == {"name": "mnist", "source": "mnist"}
    reference = settings.reference_settings(CONFIG, "mnist")
    assert reference == {"dataset": "mnist", "extractors_sha256": CONFIG["datasets"]["mnist"].get("extractors_sha256")}
    assert settings.extractors_settings(CONFIG, "digits") == {"dataset": "digits", **CONFIG["extractor_training"]}


def test_what_scores_has_settings_of_its_own() -> None:
    assert settings.classifier_settings(CONFIG, "digits") == {"dataset": "digits", **CONFIG["classifier_training"]}
    assert settings.inception_kinds(CONFIG) == []
    assert settings.inception_kinds(merge(CONFIG, {"inception": {"paper": "download"}})) == ["paper"]
    assert settings.inception_settings(CONFIG, "digits", "paper") == {"dataset": "digits", "kind": "paper"}
    assert settings.inception_weights_settings(CONFIG, "paper") == {"kind": "paper"}


def test_provenance_is_the_part_that_the_matrix_uses() -> None:
    part = settings.provenance(merge(CONFIG, {"matrix": [entry(optimizations=["groups-2"])]}))
    assert {kind: list(part[kind]) for kind in ("datasets", "models", "trainings", "optimizations")} == {
        "datasets": ["mnist"],
        "models": ["ncsn"],
        "trainings": ["groups-2"],
        "optimizations": ["groups-2"],
    }


def test_a_training_that_starts_from_another_takes_its_options_from_there() -> None:
    overlay = {
        "trainings": {
            "first": {"epochs": 7, "batch_size": 8},
            "second": {"start": "first", "weights": "ema", "prune": CHANNELS, "finetune": {"epochs": 2}},
            "third": {"start": "second", "finetune": {"learning_rate": 0.5}},
        },
        "optimizations": {"mine": {"training": "third"}},
        "matrix": [entry(optimizations=["mine"])],
    }
    config = merge(CONFIG, overlay)
    check(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay})
    assert settings.chain_of(config, "third") == ["first", "second", "third"]
    assert {"second", "third"} <= set(settings.later_trainings(config)) <= set(config["trainings"]) - {"first"}
    second = settings.finetune_settings(config, "mnist", "ncsn", "second", 4)
    assert second["training"] == {**CONFIG["models"]["ncsn"]["training"], "epochs": 2, "batch_size": 8}
    assert second["start"] == {"training": "first", "weights": "ema"}
    assert second["steps"] == [{"prune": CHANNELS}]
    third = settings.finetune_settings(config, "mnist", "ncsn", "third", 4)
    assert third["training"] == {**second["training"], "learning_rate": 0.5}
    assert third["start"] == {"training": "second", "weights": "raw"}
    assert third["steps"] == []
    row = settings.row_settings(config, **names("mine"))["settings"]
    assert [part["training"]["epochs"] for part in (*row["starts"], row["train"])] == [7, 2, 2]
    assert list(settings.provenance(config)["trainings"]) == ["first", "second", "third"]


def test_trainings_are_split_between_the_two_stages() -> None:
    first, later = settings.first_trainings(CONFIG), settings.later_trainings(CONFIG)
    assert sorted([*first, *later]) == sorted(CONFIG["trainings"])
    assert "plain" in first
    assert {"channels-30", "channels-50-diff"} <= set(later)


PRUNE = {"method": "l1", "amount": 0.3, "scope": "global"}
CHANNELS = {"method": "channels", "importance": "l1", "amount": 0.5}


DISTILL = {"steps": 4, "teacher": "heun", "substeps": 2}


def student(distill: dict[str, Any], sampler: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """An overlay with a student `mine` and a matrix that samples it."""
    recipes = {"mine": {"training": "mine", "sampler": {"method": "euler", "steps": 4, "grid": 8, **(sampler or {})}}}
    trainings = {"mine": {"start": "plain", "distill": {**DISTILL, **distill}, **keys}}
    return {"trainings": trainings, "optimizations": recipes, "matrix": [entry(optimizations=["mine"])]}


def test_a_student_learns_the_levels_of_its_models_sampler() -> None:
    overlay = student({}, prune=CHANNELS)
    overlay["models"] = {"ncsn": {"sampler": {"sigma_max": 20.0}}}
    config = merge(CONFIG, overlay)
    check(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay})
    requested = settings.finetune_settings(config, "mnist", "ncsn", "mine", 0)
    assert requested["steps"] == [{"prune": CHANNELS}]
    levels = {"grid": 8, "sigma_min": None, "sigma_max": 20.0, "rho": 7.0}
    assert requested["hook"] == {"distill": {**DISTILL, **levels, "guidance": 1.0}}
    second = settings.finetune_settings(config, "mnist", "ddpm", "distilled-2", 0)["hook"]["distill"]
    assert (second["grid"], second["sigma_max"], second["guidance"]) == (8, 11.0, 1.0)
    assert settings.finetune_settings(config, "mnist", "ddpm", "distilled-4", 0)["hook"]["distill"]["guidance"] == 1.5


def started(**keys: Any) -> dict[str, Any]:
    """An overlay with a training `mine` of these keys, and a matrix that runs it."""
    recipes = {"mine": {"training": "mine"}}
    return {"trainings": {"mine": keys}, "optimizations": recipes, "matrix": [entry(optimizations=["mine"])]}


POSSIBLE = (
    "torch in fp32, bf16; torch-compile in fp32, bf16; openvino in fp32, bf16, int8; onnxruntime in fp32, int8; "
    "or take the key out"
)
MISTAKES: dict[str, tuple[dict[Any, Any], str]] = {
    # engines
    "engine nobody knows": (
        recipe(engine="tensorrt"),
        "my.yaml: optimizations.mine.engine is 'tensorrt'; allowed: torch, torch-compile, openvino, onnxruntime",
    ),
    "precision that the engine has not": (
        recipe(engine="onnxruntime", precision="bf16"),
        f"my.yaml: optimizations.mine.precision is bf16, which engine onnxruntime cannot do; allowed: {POSSIBLE}",
    ),
    "precision that torch has not": (
        recipe(precision="int8"),
        f"my.yaml: optimizations.mine.precision is int8, which engine torch cannot do; allowed: {POSSIBLE}",
    ),
    "two precisions": (
        recipe(precision="bf16", sampler={"precision": "float32"}),
        "my.yaml: optimizations.mine.sampler.precision cannot stand beside engine torch in bf16, where "
        "optimizations.mine.precision alone decides; leave it out",
    ),
    "quantized twice": (
        recipe(engine="openvino", precision="int8", quantize={"linear": "8bit"}),
        "my.yaml: optimizations.mine.quantize cannot stand beside engine openvino in int8; allowed: quantize.weights "
        "beside an engine in fp32; leave out one of them",
    ),
    "frozen linears in another engine": (
        recipe(training="linear-8bit-frozen", engine="onnxruntime"),
        "my.yaml: optimizations.mine.engine is onnxruntime, and training linear-8bit-frozen has linear layers in 8bit, "
        "which only engine torch in fp32 runs; allowed: a training with linear: float",
    ),
    # what a schema can say
    "misspelt key": (
        recipe(prnue=PRUNE),
        "my.yaml: optimizations.mine.prnue is an unknown key; allowed in optimizations.mine: training, weights, prune, "
        "quantize, sampler, engine, precision (did you mean prune?)",
    ),
    "misspelt key at the top": ({"matriks": []}, "my.yaml: matriks is an unknown key; allowed in the file: data_dir, "),
    "missing key": (
        {"optimizations": {"mine": {"weights": "ema"}}},
        "my.yaml: optimizations.mine.training is missing",
    ),
    "amount of 1.3": (
        recipe(prune={**PRUNE, "amount": 1.3}),
        "my.yaml: optimizations.mine.prune.amount is 1.3; allowed: a number at least 0 and below 1 (share of the "
        "scope's elements that become zero, or of each layer's channels that go)",
    ),
    "amount of 1": (recipe(prune={**PRUNE, "amount": 1}), "my.yaml: optimizations.mine.prune.amount is 1; allowed: "),
    "number in quotes": (
        recipe(prune={**PRUNE, "amount": "0.3"}),
        "my.yaml: optimizations.mine.prune.amount is '0.3'; allowed: a number at least 0 and below 1 (share of the "
        "scope's elements that become zero, or of each layer's channels that go); write it without quotes",
    ),
    "number that YAML reads as text": (
        {"models": {"ncsn": {"training": {"learning_rate": "1e-3"}}}},
        "my.yaml: models.ncsn.training.learning_rate is '1e-3'; allowed: a number above 0 (the peak, where the "
        "schedule has one); YAML reads 1e-3 as text, write 1.0e-3",
    ),
    "another one": (
        {"models": {"ncsn": {"training": {"learning_rate": "2.5E3"}}}},
        "YAML reads 2.5E3 as text, write 2.5e+3",
    ),
    "unknown method": (
        recipe(prune={**PRUNE, "method": "l2"}),
        "my.yaml: optimizations.mine.prune.method is 'l2'; allowed: random, l1, channels (how elements are chosen;",
    ),
    "unknown scope": (
        recipe(prune={**PRUNE, "scope": "top"}),
        "my.yaml: optimizations.mine.prune.scope is 'top'; allowed: global, middle, extremes or text of the form "
        "^module:[A-Za-z0-9_.]+$ (part of the network, or module and the name of a layer or a block)",
    ),
    "groups of half": (
        {"trainings": {"groups-2": {"groups": 0.5}}},
        "my.yaml: trainings.groups-2.groups is 0.5; allowed: a whole number at least 1 or max (of the inner ",
    ),
    "too few samples": (
        {"sampling": {"n_samples": 32}},
        "my.yaml: sampling.n_samples is 32; allowed: a whole number at least 64 (as many images as the extractors have "
        "features, or more)",
    ),
    "truth for a number": ({"sampling": {"n_samples": True}}, "my.yaml: sampling.n_samples is true; allowed: a whole "),
    "empty section": ({"sampling": None}, "my.yaml: sampling is null; allowed: a mapping (images drawn per cell)"),
    "empty matrix": ({"matrix": []}, "my.yaml: matrix is []; allowed: a list with 1 or more entries (what to run)"),
    "no seeds": (
        {"matrix": [entry(seeds=[])]},
        "my.yaml: matrix[0].seeds is []; allowed: a list with 1 or more entries",
    ),
    "seed in quotes": ({"matrix": [entry(seeds=["0"])]}, "my.yaml: matrix[0].seeds[0] is '0'; allowed: a whole number"),
    "name with a slash": (
        {"optimizations": {"l1/30": {"training": "plain"}}},
        "my.yaml: optimizations.l1/30 is not a usable name; allowed: letters, digits, and . _ + - after the first, "
        "100 at most",
    ),
    "name that starts with a dot": ({"trainings": {".hidden": {}}}, "my.yaml: trainings..hidden is not a usable name"),
    # what YAML can say and JSON cannot
    "name that is a number": (
        {"trainings": {8: {}}},
        "my.yaml: trainings.8 is a key that YAML reads as 8; write it in quotes",
    ),
    "infinity": (
        {"models": {"ncsn": {"sampler": {"sigma_max": float("inf")}}}},
        "my.yaml: models.ncsn.sampler.sigma_max is inf; allowed: finite numbers",
    ),
    "date": (
        yaml.safe_load("data_dir: 2026-11-23"),
        "my.yaml: data_dir is 2026-11-23, which YAML reads as a date; write it in quotes",
    ),
    # names
    "unknown optimization": (
        {"matrix": [entry(optimizations=["baseline", "l1-31"])]},
        "my.yaml: matrix[0].optimizations[1] is 'l1-31'; allowed: baseline, ema, ",
    ),
    "unknown recipe to hold speeds against": (
        {"profile": {"reference": "base"}},
        "my.yaml: profile.reference is 'base'; allowed: baseline, ema, ",
    ),
    "unknown optimization, the way out": (
        {"matrix": [entry(optimizations=["l1-31"])]},
        "(did you mean l1-30?); correct it, or add it under optimizations",
    ),
    "unknown data set": (
        {"matrix": [entry(dataset="mnits")]},
        "my.yaml: matrix[0].dataset is 'mnits'; allowed: mnist, ",
    ),
    "unknown model": (
        {"matrix": [entry(model="ddmp")]},
        "my.yaml: matrix[0].model is 'ddmp'; allowed: ncsn, ddpm (did you mean ddpm?); correct it",
    ),
    "unknown training": (
        {"optimizations": {"mine": {"training": "plaine"}}},
        "my.yaml: optimizations.mine.training is 'plaine'; allowed: plain, groups-2, ",
    ),
    "cell twice in an entry": (
        {"matrix": [entry(seeds=[0, 1, 0])]},
        "my.yaml: matrix[0] lists mnist/ncsn/baseline/0 a second time; list it once",
    ),
    "cell twice in two entries": (
        {"matrix": [entry(), entry(optimizations=["ema", "baseline"])]},
        "my.yaml: matrix[1] lists mnist/ncsn/baseline/0 a second time; list it once",
    ),
    # what does not go together
    "groups that do not divide": (
        {"trainings": {"groups-2": {"groups": 3}}, "matrix": [entry(optimizations=["groups-2"])]},
        "my.yaml: trainings.groups-2.groups is 3; allowed with the channels [32, 64, 128, 256] of model ncsn: "
        "1, 2, 4, 8, 16, 32 or max",
    ),
    "groups of the model itself": (
        {"models": {"ncsn": {"training": {"groups": 64}}}},
        "my.yaml: models.ncsn.training.groups is 64; allowed with the channels",
    ),
    "groups that another file makes not divide": (
        {
            "models": {"ncsn": {"network": {"channels": [30, 64, 128, 256], "norm_groups": [2, 2, 32, 32]}}},
            "matrix": [entry(optimizations=["groups-4"])],
        },
        "config.yaml: trainings.groups-4.groups is 4; allowed with the channels [30, 64, 128, 256] of model "
        "ncsn: 1, 2 or max",
    ),
    "norm groups": (
        {"models": {"ncsn": {"network": {"norm_groups": [5, 32, 32, 32]}}}},
        "my.yaml: models.ncsn.network.norm_groups[0] is 5; allowed with channels [32, 64, 128, 256]: 1, 2, 4, 8, ",
    ),
    "norm groups of the last level": (
        {"models": {"ncsn": {"network": {"norm_groups": [4, 64, 32, 32]}}}},
        "my.yaml: models.ncsn.network.norm_groups[1] is 64; allowed with channels",
    ),
    "image too small": (
        {"models": {"ncsn": {"image_size": 16}}},
        "my.yaml: models.ncsn.image_size is 16; allowed: 17 or more pixels",
    ),
    "pruning what is quantized": (
        {
            "optimizations": {"mine": {"training": "linear-8bit-frozen", "prune": PRUNE}},
            "matrix": [entry(optimizations=["mine"])],
        },
        "my.yaml: optimizations.mine.prune cannot follow training linear-8bit-frozen, whose linear layers are 8bit and "
        "frozen; allowed there: a training with linear: float",
    ),
    "channels with a scope": (
        recipe(prune={**CHANNELS, "scope": "global"}),
        "my.yaml: optimizations.mine.prune.scope does not go with method channels; leave it out",
    ),
    "channels of a module that makes none": (
        recipe(prune={**CHANNELS, "scope": "module:dense1"}),
        "my.yaml: optimizations.mine.prune.scope is 'module:dense1'; allowed with method channels for model ncsn: "
        "'module:' and one of conv1, conv2, conv3, conv4, tconv4, tconv3, tconv2; or leave it out to prune the whole",
    ),
    "channels without an importance": (
        recipe(prune={"method": "channels", "amount": 0.5}),
        "my.yaml: optimizations.mine.prune.importance is missing; method channels needs it",
    ),
    "zeros without a scope": (
        recipe(prune={"method": "l1", "amount": 0.5}),
        "my.yaml: optimizations.mine.prune.scope is missing; method l1 needs it",
    ),
    "zeros by an importance": (
        recipe(prune={**PRUNE, "importance": "l1"}),
        "my.yaml: optimizations.mine.prune.importance does not go with method l1; leave it out",
    ),
    "unknown importance": (
        recipe(prune={**CHANNELS, "importance": "l2"}),
        "my.yaml: optimizations.mine.prune.importance is 'l2'; allowed: l1, taylor, diff-pruning, random (how channels",
    ),
    "an importance that needs images in a recipe": (
        recipe(prune={**CHANNELS, "importance": "taylor"}),
        "my.yaml: optimizations.mine.prune.importance is 'taylor', which needs images; allowed in a recipe: l1, "
        "random; or prune in a training that starts from another (trainings.*.start with prune)",
    ),
    "channels of grouped convolutions": (
        {
            "optimizations": {"mine": {"training": "groups-2", "prune": CHANNELS}},
            "matrix": [entry(optimizations=["mine"])],
        },
        "my.yaml: optimizations.mine.prune removes channels after training groups-2, whose groups is 2; allowed there",
    ),
    "channels of grouped convolutions, trained on": (
        started(start="groups-2", prune=CHANNELS),
        "my.yaml: trainings.mine.prune removes channels after training groups-2, whose groups is 2; allowed there: 1",
    ),
    "channels of quantized layers, trained on": (
        started(start="linear-8bit-frozen", prune=CHANNELS),
        "my.yaml: trainings.mine.prune removes channels after training linear-8bit-frozen, whose linear is 8bit; ",
    ),
    "unknown start": (
        started(start="plan"),
        "my.yaml: trainings.mine.start is 'plan'; allowed: plain, ",
    ),
    "a start that is the training itself": (
        started(start="mine"),
        "my.yaml: trainings.mine.start is 'mine', a circle (mine → mine); allowed: a chain that ends",
    ),
    "starts in a circle": (
        {"trainings": {"one": {"start": "two"}, "two": {"start": "one"}}},
        "my.yaml: trainings.one.start is 'two', a circle (one → two → one); allowed: a chain that ends",
    ),
    "a training option beside a start": (
        started(start="plain", epochs=3),
        "my.yaml: trainings.mine.epochs must stand under finetune in a training with a start; allowed there: start, ",
    ),
    "pruning before a training that starts from nothing": (
        {"trainings": {"mine": {"prune": CHANNELS}}},
        "my.yaml: trainings.mine.prune is for a training that starts from another one; add the key start",
    ),
    "a start of a model's own training": (
        {"models": {"ncsn": {"training": {"start": "plain"}}}},
        "my.yaml: models.ncsn.training.start is for entries of trainings, not for a model's own training",
    ),
    "another network after a start": (
        started(start="plain", finetune={"groups": 2}),
        "my.yaml: trainings.mine.finetune.groups cannot differ from the start's",
    ),
    "zeros before a training": (
        started(start="plain", prune={**CHANNELS, "method": "l1"}),
        "my.yaml: trainings.mine.prune.method is 'l1'; allowed: channels (what is removed)",
    ),
    "diff-pruning without a threshold": (
        started(start="plain", prune={**CHANNELS, "importance": "diff-pruning"}),
        "my.yaml: trainings.mine.prune.threshold is missing; importance diff-pruning needs it",
    ),
    "a threshold of another importance": (
        started(start="plain", prune={**CHANNELS, "threshold": 0.1}),
        "my.yaml: trainings.mine.prune.threshold is for importance diff-pruning, and this is l1; leave it out",
    ),
    "another family's option after a start": (
        started(start="plain", finetune={"min_snr_gamma": 5.0}),
        "my.yaml: trainings.mine.finetune.min_snr_gamma is for family ddpm, and model ncsn is of family ncsn",
    ),
    "a student without a teacher": (
        {"trainings": {"mine": {"distill": DISTILL}}},
        "my.yaml: trainings.mine.distill is for a training that starts from another one; add the key start",
    ),
    "a student that is quantized meanwhile": (
        student({}, quantize={"weights": "8bit"}),
        "my.yaml: trainings.mine.distill stands beside quantize; allowed: one of ",
    ),
    "a student of one step": (
        student({"steps": 1}),
        "my.yaml: trainings.mine.distill.steps is 1; allowed: a whole number at least 2",
    ),
    "a teacher of noise": (
        merge(student({}, start="noise-prediction"), {"matrix": [entry(model="ddpm", optimizations=["mine"])]}),
        "my.yaml: trainings.mine.distill starts from noise-prediction, whose preconditioning is epsilon; allowed: edm",
    ),
    "a guided teacher that is told no class": (
        student({"guidance": 1.5}),
        "my.yaml: trainings.mine.distill.guidance is 1.5; allowed for a network that is told no class",
    ),
    "a student's student that is guided again": (
        merge(
            student({"steps": 2, "teacher": "euler", "guidance": 1.5}, start="distilled-4"),
            {"matrix": [entry(model="ddpm", optimizations=["mine"])]},
        ),
        "my.yaml: trainings.mine.distill.guidance is 1.5; allowed after training distilled-4, which has its teacher's",
    ),
    "a guided teacher that never did without labels": (
        ddpm(
            {"training": {"label_dropout": 0.0}, "sampler": {"guidance": 1.5}},
            {"optimizations": student({}, {"guidance": 1.0})["optimizations"], "trainings": student({})["trainings"]},
            optimizations=["mine"],
        ),
        "my.yaml: trainings.mine.distill.guidance is 1.5; allowed after training plain, whose label_dropout is 0: 1",
    ),
    "a student's student by Heun": (
        student({"steps": 2}, start="distilled-4"),
        "my.yaml: trainings.mine.distill.teacher is heun; allowed after training distilled-4, which is a student of ",
    ),
    "a student's student of other steps": (
        student({"teacher": "euler", "substeps": 2}, start="distilled-4"),
        "my.yaml: trainings.mine.distill.substeps is 2; allowed after training distilled-4, which has 4 steps",
    ),
    **{
        f"a student sampled with another {key}": (
            student({}, {key: value}),
            f"my.yaml: optimizations.mine.sampler.{key} is {value}; allowed for training mine, which was distilled for "
            f"that: {allowed}",
        )
        for key, value, allowed in (
            ("method", "heun", "euler"),
            ("steps", 8, 4),
            ("grid", 4, 8),
            ("sigma_min", 0.5, "null"),
            ("sigma_max", 9.0, "null"),
            ("rho", 3.0, 7.0),
        )
    },
    "a student that is guided": (
        merge(student({}), {"matrix": [entry(model="ddpm", optimizations=["mine"])]}),
        "my.yaml: optimizations.mine.sampler.guidance is 1.5; allowed for training mine, which was distilled for that",
    ),
    "a grid that steps do not divide": (
        recipe(sampler={"method": "euler", "steps": 4, "grid": 6}),
        "my.yaml: optimizations.mine.sampler.grid is 6; allowed with steps 4: a multiple of it, or null",
    ),
    "quantizing what is quantized": (
        {
            "optimizations": {"mine": {"training": "linear-8bit-frozen", "quantize": {"linear": "4bit"}}},
            "matrix": [entry(optimizations=["mine"])],
        },
        "my.yaml: optimizations.mine.quantize cannot follow training linear-8bit-frozen",
    ),
    "sigmas the wrong way round": (
        recipe(sampler={"sigma_min": 0.002, "sigma_max": 0.001}),
        "my.yaml: optimizations.mine.sampler has sigma_min 0.002 and sigma_max 0.001; allowed: sigma_min below ",
    ),
    # what does not go together in a DDPM
    "image size of a ddpm": (
        ddpm({"image_size": 28}),
        "my.yaml: models.ddpm.image_size is 28; allowed for family ddpm: multiples of 8, as 24 or 32",
    ),
    "image size of a ddpm, too small": (ddpm({"image_size": 4}), "my.yaml: models.ddpm.image_size is 4; allowed for "),
    "heads that do not divide": (
        ddpm({"network": {"heads": 3}}),
        "my.yaml: models.ddpm.network.heads is 3; allowed: 1, 2, 4, 8, 16",
    ),
    "attention level of nowhere": (
        ddpm({"network": {"attention_levels": [2, 4]}}),
        "my.yaml: models.ddpm.network.attention_levels[1] is 4; allowed: a whole number at least 0 and at most 3",
    ),
    "groups that do not divide the bottleneck": (
        ddpm({}, {"trainings": {"groups-2": {"groups": 3}}}, optimizations=["groups-2"]),
        "my.yaml: trainings.groups-2.groups is 3; allowed with the channels [64, 128] of model ddpm: 1, 2, 4, 8, 16, "
        "32, 64 or max",
    ),
    "groups that do not divide all convolutions": (
        ddpm({"network": {"grouped": "all"}}, {"trainings": {"groups-2": {"groups": 32}}}, optimizations=["groups-2"]),
        "my.yaml: trainings.groups-2.groups is 32; allowed with the channels [16, 32, 64, 128] of model ddpm: 1, 2, 4, "
        "8, 16 or max",
    ),
    "sampler of the other family": (
        ddpm({"sampler": {"method": "predictor-corrector"}}),
        "my.yaml: models.ddpm.sampler.method is predictor-corrector; allowed for family ddpm, as model ddpm is: heun, "
        "euler, ddpm, ddim, dpm-solver++, unipc",
    ),
    "sampler of a recipe of the other family": (
        recipe(sampler={"method": "ddim"}),
        "my.yaml: optimizations.mine.sampler.method is ddim; allowed for family ncsn, as model ncsn is: heun, ",
    ),
    "guidance of an ncsn": (
        {"models": {"ncsn": {"sampler": {"guidance": 1.5}}}},
        "my.yaml: models.ncsn.sampler.guidance is 1.5; allowed for a network that is told no class",
    ),
    "guidance of a recipe of an ncsn": (
        recipe(sampler={"clip": True}),
        "my.yaml: optimizations.mine.sampler.clip is for family ddpm, and model ncsn is of family ncsn; leave it out",
    ),
    "reuse of an ncsn": (
        recipe(sampler={"reuse": 2}),
        "my.yaml: optimizations.mine.sampler.reuse is for family ddpm, and model ncsn is of family ncsn; leave it out",
    ),
    "no reuse at all": (
        ddpm({"sampler": {"reuse": 0}}),
        "my.yaml: models.ddpm.sampler.reuse is 0; allowed: ",
    ),
    "quantized in two ways": (
        recipe(quantize={"linear": "8bit", "weights": "8bit"}),
        "my.yaml: optimizations.mine.quantize ",
    ),
    "weights in three bits": (
        recipe(quantize={"weights": "3bit"}),
        "my.yaml: optimizations.mine.quantize.weights is '3bit'; allowed: 4bit, 8bit, bf16",
    ),
    "steps that ddim cannot take": (
        ddpm({"sampler": {"method": "ddim", "steps": 15}}),
        "my.yaml: models.ddpm.sampler.steps is 15; allowed for ddim: 1, 2, 4, 5, 8, 10, 20, 25, 40, ",
    ),
    "more steps than there are": (
        ddpm({"sampler": {"method": "unipc", "steps": 1001}}),
        "my.yaml: models.ddpm.sampler.steps is 1001; allowed for unipc: up to 1000",
    ),
    "tolerance of a ddpm": (
        ddpm({"sampler": {"tolerance": 1e-3}}),
        "my.yaml: models.ddpm.sampler.tolerance is for family ncsn, and model ddpm is of family ddpm; leave it out",
    ),
    "noise schedule of an ncsn": (
        {"trainings": {"groups-2": {"noise_schedule": "cosine"}}, "matrix": [entry(optimizations=["groups-2"])]},
        "my.yaml: trainings.groups-2.noise_schedule is for family ddpm, and model ncsn is of family ncsn; leave it out",
    ),
    "min-SNR with edm": (
        ddpm({"training": {"preconditioning": "edm", "min_snr_gamma": 5}}),
        "my.yaml: models.ddpm.training.min_snr_gamma is 5; allowed with preconditioning edm: null",
    ),
    "preconditioning of an ncsn": (
        ddpm({"training": {"preconditioning": "score"}}),
        "my.yaml: models.ddpm.training.preconditioning is score; allowed for family ddpm: epsilon, v, edm",
    ),
    "preconditioning of a ddpm": (
        {"models": {"ncsn": {"training": {"preconditioning": "epsilon"}}}},
        "my.yaml: models.ncsn.training.preconditioning is epsilon; allowed for family ncsn: score, edm",
    ),
    "guidance without classes": (
        ddpm({"network": {"classes": 0}, "sampler": {"guidance": 3}}),
        "my.yaml: models.ddpm.sampler.guidance is 3; allowed for a network that is told no class (network.classes 0): ",
    ),
    "guidance without withheld labels": (
        ddpm({"training": {"label_dropout": 0}, "sampler": {"guidance": 3}}),
        "my.yaml: models.ddpm.sampler.guidance is 3; allowed for a training with label_dropout 0: 1",
    ),
    "classes of another data set": (
        ddpm({"network": {"classes": 9}}),
        "my.yaml: models.ddpm.network.classes is 9; allowed with data set mnist: 10, as many as it has, or 0 to tell ",
    ),
    "share above one": (
        ddpm({"training": {"label_dropout": 1.5}}),
        "my.yaml: models.ddpm.training.label_dropout is 1.5; allowed: a number at least 0 and at most 1 (",
    ),
    "precision of nothing": (
        ddpm({"training": {"precision": "float16"}}),
        "my.yaml: models.ddpm.training.precision is 'float16'; allowed: float32, bfloat16, auto (of the network's ",
    ),
    "8-bit optimizer by its old name": (
        {"models": {"ncsn": {"training": {"optimizer": "adam8bit"}}}},
        "my.yaml: models.ncsn.training.optimizer is 'adam8bit'; allowed: adam, adamw (",
    ),
    "option of a ddpm that is missing": (
        {"models": {"mine": {**copy.deepcopy(CONFIG["models"]["ncsn"]), "family": "ddpm"}}},
        "my.yaml: models.mine.",
    ),
    # data sets and files
    "folder without a path": (
        {"datasets": {"mine": {"source": "folder", "image_size": 8, "channels": 1, "test_fraction": 0.1}}},
        "my.yaml: datasets.mine.path is missing; source: folder needs it",
    ),
    "path without a folder": (
        {"datasets": {"digits": {"path": "photos"}}},
        "my.yaml: datasets.digits.path is only for source: folder, and the source is digits",
    ),
    "extractors that are not there": (
        {"datasets": {"mnist": {"extractors": "nowhere.safetensors"}}},
        "my.yaml: datasets.mnist.extractors is 'nowhere.safetensors', which does not exist; correct it, or leave the "
        "key out to have extractors trained",
    ),
    "pinned digest without extractors": (
        {"datasets": {"digits": {"extractors_sha256": "0" * 64}}},
        "my.yaml: datasets.digits.extractors_sha256 needs the key extractors beside it",
    ),
    "a classifier that is not there": (
        {"datasets": {"mnist": {"classifier": "nowhere.safetensors"}}},
        "my.yaml: datasets.mnist.classifier is 'nowhere.safetensors', which does not exist; correct it, or leave the "
        "key out to have a classifier trained",
    ),
    "pinned digest without a classifier": (
        {"datasets": {"digits": {"classifier_sha256": "0" * 64}}},
        "my.yaml: datasets.digits.classifier_sha256 needs the key classifier beside it",
    ),
    "another classifier than the pinned one": (
        {"datasets": {"mnist": {"classifier_sha256": "0" * 64}}},
        f"my.yaml: datasets.mnist.classifier_sha256 is {'0' * 64}, and "
        f"workflow/resources/classifiers/mnist.safetensors has "
        f"{CONFIG['datasets']['mnist']['classifier_sha256']}; restore the file, or leave both keys out to have a "
        "classifier trained",
    ),
    # Inception networks
    "an Inception network of another name": (
        {"inception": {"tensorflow": "download"}},
        "my.yaml: inception.tensorflow is an unknown key; allowed in inception: standard, paper",
    ),
    "weights that are neither downloaded nor there": (
        {"inception": {"standard": "nowhere.pth"}, "sampling": {"n_samples": 5000}},
        "my.yaml: inception.standard is 'nowhere.pth', which does not exist; allowed: null, download, or the path of "
        "the weights",
    ),
    "weights that are no path": (
        {"inception": {"paper": 7}},
        "my.yaml: inception.paper is 7; allowed: null or download or text (null: leave it out; download; or the path "
        "of the published weights)",
    ),
    "fewer samples than Inception has features": (
        {"inception": {"paper": "download"}, "sampling": {"n_samples": 2047}},
        "my.yaml: sampling.n_samples is 2047; allowed with inception.paper: 2048 or more, one per feature, better "
        "10,000; raise it, or set inception.paper to null",
    ),
}


@pytest.mark.parametrize(("overlay", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named_with_the_way_out(overlay: dict[Any, Any], expected: str) -> None:
    message = verdict(overlay)
    assert message.startswith(expected) or (
        not expected.startswith(("my.yaml", "config.yaml")) and expected in message
    ), message


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (None, "allowed: a folder that exists"),
        ((), "for each of two or more classes, found none"),
        (("cats",), "for each of two or more classes, found only 'cats'"),
        (("cats", ".thumbnails"), "found only 'cats'"),
        (("cats", "dogs"), None),
    ],
)
def test_a_folder_of_images_has_classes(tmp_path: Path, classes: tuple[str, ...] | None, expected: str | None) -> None:
    path = tmp_path / "photos"
    for name in classes if classes is not None else ():
        (path / name).mkdir(parents=True)
    if classes == ():
        path.mkdir()
    source = {"source": "folder", "path": str(path), "image_size": 28, "channels": 1, "test_fraction": 0.1}
    overlay = {"datasets": {"photos": source}, "matrix": [entry(dataset="photos")]}
    if expected is None:
        check(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})
    else:
        message = verdict(overlay)
        assert message.startswith("my.yaml: datasets.photos.path is ")
        assert message.endswith(expected)


@pytest.mark.parametrize(
    ("changes", "overlay"),
    [
        ({}, {}),
        ({"network": {"classes": 0}, "sampler": {"guidance": 1}}, {}),
        ({"training": {"label_dropout": 0}, "sampler": {"guidance": 1.0}}, {}),
        ({"training": {"preconditioning": "v", "min_snr_gamma": 5, "noise_schedule": "cosine"}}, {}),
        ({"sampler": {"method": "ddpm", "steps": 1000, "guidance": 0}}, {}),
        ({"image_size": 64, "channels": 3, "network": {"base": 64, "attention_levels": []}}, {}),
        ({"training": {"ema_warmup": 2000, "groups": "max"}}, {}),
    ],
)
def test_what_a_ddpm_can_be_told(changes: dict[str, Any], overlay: dict[str, Any]) -> None:
    overlay_told = ddpm(changes, overlay)
    check(merge(CONFIG, overlay_told), SCHEMA, {"my.yaml": overlay_told})


@pytest.mark.parametrize("classes", [2, 3])
def test_a_ddpm_knows_as_many_classes_as_a_folder_has(tmp_path: Path, classes: int) -> None:
    for name in ("cats", "dogs", ".thumbnails"):
        (tmp_path / name).mkdir()
    source = {"source": "folder", "path": str(tmp_path), "image_size": 32, "channels": 1, "test_fraction": 0.1}
    overlay = ddpm({"network": {"classes": classes}}, {"datasets": {"photos": source}}, dataset="photos")
    if classes == 2:
        check(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})
    else:
        assert "network.classes is 3; allowed with data set photos: 2, as many as it has" in verdict(overlay)


def test_what_the_matrix_leaves_out_may_be_unfinished() -> None:
    """A model or a folder in the making must not stop other runs."""
    overlay = {
        "models": {"small": {**copy.deepcopy(CONFIG["models"]["ncsn"]), "image_size": 8}},
        "datasets": {
            "photos": {"source": "folder", "path": "nowhere", "image_size": 8, "channels": 3, "test_fraction": 0.1}
        },
    }
    check(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})


def test_the_last_file_that_holds_the_key_is_named() -> None:
    one, two = {"profile": {"repeats": -2}}, {"profile": {"warmup": -1}}
    files = {"config.yaml": CONFIG, "one.yaml": one, "two.yaml": two}
    with pytest.raises(UserError, match=r"^one\.yaml: profile\.repeats is -2"):
        check(merge(CONFIG, one), SCHEMA, files)
    with pytest.raises(UserError, match=r"^two\.yaml: profile\.warmup is -1"):
        check(merge(CONFIG, two), SCHEMA, files)


def test_shipped_networks_are_the_pinned_ones() -> None:
    shipped = {name: data for name, data in CONFIG["datasets"].items() if "extractors" in data}
    assert set(shipped) == {"mnist", "fashion_mnist"}
    for data in shipped.values():
        assert digest(ROOT / data["extractors"]) == data["extractors_sha256"]
        assert digest(ROOT / data["classifier"]) == data["classifier_sha256"]
