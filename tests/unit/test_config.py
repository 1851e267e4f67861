"""Configurations: the settings of each stage, and the messages about mistakes."""

import copy
import functools
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ownmodels import write_inputs
from photos import write_photos
from presets import CONFIG, ROOT, SCHEMA, merge, read_yaml

from slimdiff.catalog import families, samplers
from slimdiff.config import lookup, resolve
from slimdiff.config.cells import Cell, expand
from slimdiff.config.pretrained import fill_pretrained
from slimdiff.config.validate import RENAMED, validate
from slimdiff.errors import UserError
from slimdiff.io.files import digest
from slimdiff.io.settings import canonical

METHODS = SCHEMA["$defs"]["optimization"]["properties"]["prune"]["properties"]["method"]["enum"]
IMPORTANCES = SCHEMA["$defs"]["importance"]["enum"]
PRESETS = sorted((ROOT / "config").glob("*.yaml"))
PUBLISHED = sorted((ROOT / "docs" / "results").glob("*/*.yaml"))

# The paper's Tables 1 to 3, and two amounts that only its text mentions.
PAPER_RECIPES = {
    "baseline",
    "linear-4bit-frozen",
    "linear-8bit-mixed",
    "linear-8bit-mixed+adam-8bit",
    *(f"random-{amount}" for amount in (10, 30, 50, 70)),
    *(f"l1-{amount}" for amount in (10, 30, 50, 70)),
    *(f"random-{amount}-{scope}" for amount in (30, 50) for scope in ("middle", "extremes")),
    "groups-2",
    "groups-4",
    "groups-max",
}


def refusal(overlay: dict[Any, Any], name: str = "my.yaml") -> str:
    """Return the message that refuses config.yaml with `overlay` merged over it."""
    with pytest.raises(UserError) as caught:
        validate(merge(CONFIG, overlay), SCHEMA, {"config.yaml": CONFIG, name: overlay})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in the configuration are relative to it."""
    monkeypatch.chdir(ROOT)


def entry(**changes: Any) -> dict[str, Any]:
    return {"dataset": "mnist", "model": "ncsn", "optimizations": ["baseline"], "seeds": [0], **changes}


def ddpm(changes: dict[str, Any], overlay: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return an overlay with these changes of the DDPM and a matrix that runs it."""
    return {**(overlay or {}), "models": {"ddpm": changes}, "matrix": [entry(model="ddpm", **keys)]}


def recipe(**keys: Any) -> dict[str, Any]:
    """Return an overlay with a recipe `mine` and a matrix that runs it."""
    return {"optimizations": {"mine": {"training": "plain", **keys}}, "matrix": [entry(optimizations=["mine"])]}


def test_a_preset_without_its_base_lacks_keys() -> None:
    with pytest.raises(UserError, match=r"^smoke.yaml: plugins is missing; .*config\.yaml"):
        validate({"matrix": [entry()]}, SCHEMA, {"smoke.yaml": {"matrix": [entry()]}})


def test_the_defaults_are_valid() -> None:
    validate(CONFIG, SCHEMA, {"config.yaml": CONFIG})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_presets_are_valid_and_hold_only_differences(path: Path, tmp_path: Path) -> None:
    overlay = read_yaml(path)
    write_inputs(overlay, tmp_path)
    for key in ("pretrained", "path"):
        for entry in (*overlay.get("models", {}).values(), *overlay.get("datasets", {}).values()):
            if key in entry:
                entry[key] = str(tmp_path / entry[key])
    validate(fill_pretrained(merge(CONFIG, overlay)), SCHEMA, {"config.yaml": CONFIG, path.name: overlay})

    def same(base: Any, other: Any, where: str) -> None:
        if isinstance(base, dict) and isinstance(other, dict):
            for key, value in other.items():
                same(base.get(key, ...), value, f"{where}.{key}")  # null differs from no key: the model may have one
        else:
            assert base != other, f"{path.name}: {where} repeats config.yaml"

    for key, value in overlay.items():
        same(CONFIG.get(key), value, key)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_matrix_of_a_published_run_is_valid_with_the_preset_of_its_command(path: Path) -> None:
    readme = (path.parent / "README.md").read_text(encoding="utf-8")
    command = re.search(rf"--configfile (config/\S+) {path.relative_to(ROOT)}$", readme, re.MULTILINE)
    assert command, f"{path.parent.name}/README.md has no command with {path.name}"
    files = {name: read_yaml(name) for name in ("config.yaml", command[1])}
    files[path.name] = read_yaml(path)
    validate(functools.reduce(merge, files.values()), SCHEMA, files)


def test_the_schema_describes_every_key_and_holds_no_defaults() -> None:
    def walk(node: Any, where: str = "", refined: frozenset[str] = frozenset()) -> None:
        """Walk the schema; properties in `refined` are refined by `then` and `else`, and may be open mappings."""
        if isinstance(node, dict):
            assert "default" not in node
            if node.get("type") == "object" and where not in refined:
                assert node["additionalProperties"] is False
            for child in (*node.get("properties", {}).values(), *node.get("patternProperties", {}).values()):
                assert "description" in child or "$ref" in child or child.keys() <= {"const", "required"}, child
            if "allOf" in node:
                refined = frozenset(key for rule in node["allOf"] for key in rule["then"]["properties"])
            for key, child in node.items():
                walk(child, key, refined)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(SCHEMA)


def test_all_recipes_of_the_paper_are_configured() -> None:
    assert set(CONFIG["optimizations"]) >= PAPER_RECIPES
    assert len(PAPER_RECIPES) == 19
    for name in ("paper.yaml", "paper-cpu.yaml"):
        overlay = read_yaml(Path("config", name))
        assert {cell.optimization for cell in expand(overlay["matrix"])} >= PAPER_RECIPES


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
    """Checking and expanding takes a second, and arguments stay below Linux's limit of 128 KiB."""
    config = merge(CONFIG, {"matrix": [entry(optimizations=[*CONFIG["optimizations"]][:20], seeds=list(range(500)))]})
    config["models"]["ncsn"]["training"]["optimizer"] = "adam"  # Muon has no 8-bit state
    start = time.process_time()
    validate(config, SCHEMA, {"config.yaml": config})
    assert len(expand(config["matrix"])) == 10_000
    assert time.process_time() - start < 2.0
    assert len(canonical(resolve.matrix_settings(config))) + len(canonical(resolve.provenance(config))) < 100_000


def names(optimization: str, seed: str = "0") -> dict[str, str]:
    """Return a job's wildcards, as text like Snakemake's."""
    return {"dataset": "mnist", "model": "ncsn", "optimization": optimization, "seed": seed}


def test_a_training_overrides_options_of_its_model() -> None:
    chosen = resolve.train_settings(CONFIG, "mnist", "ncsn", "linear-8bit-frozen+adam-8bit", "3")
    assert chosen["seed"] == 3
    assert chosen["training"] == {**CONFIG["models"]["ncsn"]["training"], "linear": "8bit", "optimizer_state": "8bit"}
    assert set(chosen["model"]) == {"family", "image_size", "channels", "fit", "patch", "network"}


def test_cells_of_one_training_share_its_settings() -> None:
    chosen = {lookup.training_of(CONFIG, optimization) for optimization in ("baseline", "ema", "l1-30", "linear-4bit")}
    assert chosen == {"plain"}


def test_steps_are_in_order_and_samplers_keep_only_their_own_options() -> None:
    overlay = recipe(
        quantize={"linear": "8bit"},
        prune={"method": "l1", "amount": 0.2, "scope": "middle"},
        sampler={"method": "predictor-corrector", "steps": 30},
        weights="ema",
    )
    assert resolve.compress_settings(merge(CONFIG, overlay), **names("mine")) == {
        "weights": "ema",
        "steps": [
            {"prune": {"method": "l1", "amount": 0.2, "scope": "middle"}},
            {"quantize": {"linear": "8bit"}},
        ],
        "sampler": {
            "method": "predictor-corrector",
            "steps": 30,
            "snr": 0.16,
            "precision": "float32",
            "guidance": 1.0,
            "guidance_interval": None,
        },
        "engine": "torch",
        "precision": "fp32",
        "seed": 0,
    }


def test_an_engines_precision_replaces_the_samplers() -> None:
    """A sampler's `precision` is autocast around float32 weights, which only engine torch in fp32 has."""
    overlay = recipe(engine="openvino", precision="int8") | {"models": {"ddpm": {"sampler": {"precision": "auto"}}}}
    config = merge(CONFIG, overlay)
    model: dict[str, Any] = {"dataset": "mnist", "model": "ddpm", "seed": 0}
    plain = resolve.compress_settings(config, optimization="baseline", **model)
    other = resolve.compress_settings(config, optimization="mine", **model)
    assert (plain["sampler"]["precision"], plain["engine"], plain["precision"]) == ("auto", "torch", "fp32")
    assert (other["sampler"]["precision"], other["engine"], other["precision"]) == ("float32", "openvino", "int8")
    assert resolve.row_settings(config, optimization="mine", **model)["engine_precision"] == "int8"
    assert [lookup.needs_images(config, name) for name in ("baseline", "bf16", "mine")] == [False, True, True]
    assert [lookup.uses_gpu(config, name) for name in ("baseline", "compile-bf16", "mine")] == [True, True, False]


def test_each_sampler_has_its_constants() -> None:
    methods = SCHEMA["$defs"]["sampler"]["properties"]["method"]["enum"]
    assert list(samplers.SAMPLER_FACTS) == methods
    known = families.FAMILIES.values()
    assert {method for family in known for method in family.samplers} == set(methods)
    constants = set(SCHEMA["$defs"]["sampler"]["properties"]) - {"method"}
    shared = {
        *samplers.SAMPLER_ALWAYS,
        *samplers.SAMPLER_OPTIONAL,
        *(key for family in known for key in family.sampler),
    }
    facts = samplers.SAMPLER_FACTS.values()
    assert set().union(*((*each.options, *each.optional) for each in facts)) | shared == constants


def test_every_sampler_of_a_ddpm_keeps_its_guidance() -> None:
    sampler = CONFIG["models"]["ddpm"]["sampler"]
    config = merge(CONFIG, {"optimizations": {"mine": {"training": "plain", "sampler": {"method": "ddim"}}}})
    assert lookup.sampler_options(config, "ddpm", "mine") == {
        "method": "ddim",
        **{key: sampler[key] for key in ("steps", *families.FAMILIES["ddpm"].sampler, "precision")},
    }
    assert lookup.sampler_options(config, "ddpm", "baseline") == {k: v for k, v in sampler.items() if k != "grid"}


def test_a_speedup_is_relative_to_the_baseline_of_the_same_model_and_seed() -> None:
    entry = {"dataset": "digits", "model": "ncsn", "seeds": [0, 1]}
    matrix = [{**entry, "optimizations": ["ema"]}, {**entry, "optimizations": ["baseline"], "seeds": [1]}]
    config = {"profile": {"baseline": "baseline", "repeats": 1}, "matrix": matrix}
    cell = {"dataset": "digits", "model": "ncsn", "optimization": "ema"}
    assert lookup.baseline_cell(config, **cell, seed="1") == Cell("digits", "ncsn", "baseline", 1)
    assert lookup.baseline_cell(config, **cell, seed="0") is None
    assert lookup.baseline_cell(config, **{**cell, "model": "ddpm"}, seed=1) is None
    for none in ({"baseline": None, "repeats": 1}, {"baseline": "baseline", "repeats": 0}):
        assert lookup.baseline_cell({**config, "profile": none}, **cell, seed=1) is None


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
        ({"sampling": {"fill_memory": True}}, {"sample"}),
        ({"sampling": {"labels": "uniform"}}, set()),  # an unconditional model has none
        ({"profile": {"repeats": 9}}, {"profile"}),
        ({"profile": {"baseline": None}}, set()),
        ({"datasets": {"digits": {"source": "mnist"}}}, set()),
    ],
)
def test_a_stage_gets_only_the_settings_it_uses(overlay: dict[str, Any], changed: set[str]) -> None:
    def of_baseline(config: dict[str, Any]) -> dict[str, str]:
        return {
            stage: canonical(value)
            for stage, value in resolve.row_settings(config, **names("baseline"))["settings"].items()
        }

    before, after = of_baseline(CONFIG), of_baseline(merge(CONFIG, overlay))
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_labels_are_a_setting_of_class_conditional_samples() -> None:
    cell = {"dataset": "mnist", "model": "ddpm", "optimization": "baseline", "seed": 0}
    for labels in ("training", "uniform"):
        config = merge(CONFIG, {"sampling": {"labels": labels}})
        assert resolve.sample_settings(config, **cell)["labels"] == labels
        assert resolve.score_settings(config, **cell) == resolve.score_settings(CONFIG, **cell)


def test_extractors_are_not_settings_of_the_data_stage() -> None:
    assert resolve.data_settings(CONFIG, "mnist") == {"name": "mnist", "source": "mnist"}
    reference = resolve.reference_settings(CONFIG, "mnist")
    assert reference == {"dataset": "mnist", "extractors_sha256": CONFIG["datasets"]["mnist"].get("extractors_sha256")}
    assert resolve.extractors_settings(CONFIG, "digits") == {"dataset": "digits", **CONFIG["extractor_training"]}


def test_extractors_and_classifier_have_their_own_settings() -> None:
    assert resolve.classifier_settings(CONFIG, "digits") == {"dataset": "digits", **CONFIG["classifier_training"]}
    assert lookup.inception_kinds(CONFIG) == []
    assert lookup.inception_kinds(merge(CONFIG, {"inception": {"paper": "download"}})) == ["paper"]
    assert resolve.inception_settings(CONFIG, "digits", "paper") == {"dataset": "digits", "kind": "paper"}
    assert resolve.inception_weights_settings(CONFIG, "paper") == {"kind": "paper"}


def test_provenance_holds_only_the_used_part_of_the_config() -> None:
    part = resolve.provenance(merge(CONFIG, {"matrix": [entry(optimizations=["groups-2"])]}))
    assert {kind: list(part[kind]) for kind in ("datasets", "models", "trainings", "optimizations")} == {
        "datasets": ["mnist"],
        "models": ["ncsn"],
        "trainings": ["groups-2"],
        "optimizations": ["groups-2"],
    }


def test_a_training_inherits_the_options_of_its_start() -> None:
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
    validate(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay})
    assert lookup.chain_of(config, "third") == ["first", "second", "third"]
    assert {"second", "third"} <= set(lookup.later_trainings(config)) <= set(config["trainings"]) - {"first"}
    second = resolve.finetune_settings(config, "mnist", "ncsn", "second", 4)
    assert second["training"] == {**CONFIG["models"]["ncsn"]["training"], "epochs": 2, "batch_size": 8}
    assert second["start"] == {"training": "first", "weights": "ema"}
    assert second["steps"] == [{"prune": CHANNELS}]
    third = resolve.finetune_settings(config, "mnist", "ncsn", "third", 4)
    assert third["training"] == {**second["training"], "learning_rate": 0.5}
    assert third["start"] == {"training": "second", "weights": "raw"}
    assert third["steps"] == []
    row = resolve.row_settings(config, **names("mine"))["settings"]
    assert [part["training"]["epochs"] for part in (*row["starts"], row["train"])] == [7, 2, 2]
    assert list(resolve.provenance(config)["trainings"]) == ["first", "second", "third"]


def test_trainings_are_split_between_the_two_stages() -> None:
    first, later = lookup.first_trainings(CONFIG), lookup.later_trainings(CONFIG)
    assert sorted([*first, *later]) == sorted(CONFIG["trainings"])
    assert "plain" in first
    assert {"channels-30", "channels-50-diff"} <= set(later)


PRUNE = {"method": "l1", "amount": 0.3, "scope": "global"}
CHANNELS = {"method": "channels", "importance": "l1", "amount": 0.5}


DISTILL = {"steps": 4, "teacher": "heun", "substeps": 2}


def student(distill: dict[str, Any], sampler: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return an overlay with a student `mine` and a matrix that samples it."""
    recipes = {"mine": {"training": "mine", "sampler": {"method": "euler", "steps": 4, "grid": 8, **(sampler or {})}}}
    trainings = {"mine": {"start": "plain", "distill": {**DISTILL, **distill}, **keys}}
    return {"trainings": trainings, "optimizations": recipes, "matrix": [entry(optimizations=["mine"])]}


TUNING = CONFIG["trainings"]["consistency"]["distill"]


def tuned(start: str = "plain", sampler: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return an overlay with a consistency tuning `mine` and a matrix that samples it."""
    options = {"method": "consistency", "steps": 2, "renoise": [0.5], **(sampler or {})}
    return {
        "trainings": {"mine": {"start": start, "distill": TUNING}},
        "optimizations": {"mine": {"training": "mine", "sampler": options}},
        "matrix": [entry(optimizations=["mine"])],
    }


def test_a_tuned_network_learns_the_guidance_of_its_models_sampler() -> None:
    for model, guidance in (("ncsn", [1.0, None]), ("ddpm", [2.25, [0.3, 3.0]])):
        hook = resolve.finetune_settings(CONFIG, "mnist", model, "consistency", 0)["hook"]["distill"]
        assert hook == {**TUNING, "guidance": guidance[0], "guidance_interval": guidance[1]}


def test_a_student_learns_the_noise_levels_of_its_models_sampler() -> None:
    overlay = student({}, prune=CHANNELS)
    overlay["models"] = {"ncsn": {"sampler": {"sigma_max": 20.0}}}
    config = merge(CONFIG, overlay)
    validate(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay})
    requested = resolve.finetune_settings(config, "mnist", "ncsn", "mine", 0)
    assert requested["steps"] == [{"prune": CHANNELS}]
    levels = {"grid": 8, "sigma_min": None, "sigma_max": 20.0, "rho": 7.0}
    assert requested["hook"] == {"distill": {**DISTILL, **levels, "guidance": 1.0, "guidance_interval": None}}
    second = resolve.finetune_settings(config, "mnist", "ddpm", "distilled-2", 0)["hook"]["distill"]
    assert (second["grid"], second["sigma_max"]) == (8, 11.0)
    assert (second["guidance"], second["guidance_interval"]) == (1.0, None)
    first = resolve.finetune_settings(config, "mnist", "ddpm", "distilled-4", 0)["hook"]["distill"]
    assert (first["guidance"], first["guidance_interval"]) == (2.25, [0.3, 3.0])


def test_knowledge_comes_from_any_start_to_students_that_sample_as_they_like() -> None:
    """Of a teacher that predicts noise, or is a student of few steps; the settings are those of the training alone."""
    distill = {"method": "knowledge", "weight": 0.5, "features": 0.1}
    blocks = {"method": "blocks", "names": ["bottom"]}
    for start, options in (("noise-prediction", {"preconditioning": "epsilon"}), ("distilled-4", {})):
        overlay = {
            "trainings": {"mine": {"start": start, "prune": blocks, "distill": distill}},
            "optimizations": {"mine": {"training": "mine", "sampler": {"steps": 12, "guidance": 2.0}}},
            "matrix": [entry(model="ddpm", optimizations=["mine"])],
            "models": {"ddpm": {"training": {"label_dropout": 0.1}}},
        }
        if start == "distilled-4":
            overlay["optimizations"]["mine"]["sampler"]["guidance"] = 1.0
        config = merge(CONFIG, overlay)
        validate(config, SCHEMA, {"config.yaml": CONFIG, "my.yaml": overlay})
        settings = resolve.finetune_settings(config, "mnist", "ddpm", "mine", 0)
        assert settings["hook"] == {"distill": distill}
        assert settings["steps"] == [{"prune": blocks}]
        assert settings["training"].items() >= options.items()


def started(**keys: Any) -> dict[str, Any]:
    """Return an overlay with a training `mine` of these keys, and a matrix that runs it."""
    recipes = {"mine": {"training": "mine"}}
    return {"trainings": {"mine": keys}, "optimizations": recipes, "matrix": [entry(optimizations=["mine"])]}


def case(name: str, overlay: dict[Any, Any], message: str, file: str = "my.yaml") -> Any:
    """Return a parameter set: an overlay, and the words that its error must contain in order, separated by …."""
    key, *words = message.split(" … ")
    return pytest.param(overlay, f"{file}: {key} ", words, id=name)


CUBIC = {"amount": 0.5, "schedule": "cubic", "until": 0.7}
DDPM_RUNS_MINE = {"matrix": [entry(model="ddpm", optimizations=["mine"])]}

SCHEMA_CASES = [
    case(
        "misspelt key",
        recipe(prnue=PRUNE),
        "optimizations.mine.prnue … unknown key; allowed in optimizations.mine: training, weights, "
        "prune, quantize, sampler, engine, precision … (did you mean prune?)",
    ),
    case("misspelt key at the top", {"matriks": []}, "matriks … unknown key … data_dir … (did you mean matrix?)"),
    case("missing key", {"optimizations": {"mine": {"weights": "ema"}}}, "optimizations.mine.training … is missing"),
    case(
        "missing amount",
        recipe(prune={"method": "l1"}),
        "optimizations.mine.prune.amount … is missing … optimizations.mine.prune … method, amount",
    ),
    case(
        "no quantization", recipe(quantize={}), "optimizations.mine.quantize … {}; allowed: a mapping … 1 or more keys"
    ),
    case(
        "unknown engine",
        recipe(engine="tensorrt"),
        "optimizations.mine.engine … 'tensorrt' … torch, torch-compile, openvino",
    ),
    case(
        "amount of 1.3",
        recipe(prune={**PRUNE, "amount": 1.3}),
        "optimizations.mine.prune.amount … 1.3 … allowed: a number at least 0 and below 1 (",
    ),
    case(
        "amount of 1",
        recipe(prune={**PRUNE, "amount": 1}),
        "optimizations.mine.prune.amount … is 1; … allowed: a number at least 0 and below 1 (",
    ),
    case(
        "number in quotes",
        recipe(prune={**PRUNE, "amount": "0.3"}),
        "optimizations.mine.prune.amount … '0.3' … allowed: a number at least 0 and below 1 ( … write it"
        " without quotes",
    ),
    case(
        "number that YAML reads as text",
        {"models": {"ncsn": {"training": {"learning_rate": "1e-3"}}}},
        "models.ncsn.training.learning_rate … '1e-3'; allowed: a number above 0 ( … YAML reads 1e-3 as "
        "text, write 1.0e-3",
    ),
    case(
        "number without a sign in the exponent",
        {"models": {"ncsn": {"training": {"learning_rate": "2.5E3"}}}},
        "models.ncsn.training.learning_rate … YAML reads 2.5E3 as text, write 2.5e+3",
    ),
    case(
        "unknown method",
        recipe(prune={**PRUNE, "method": "l2"}),
        f"optimizations.mine.prune.method … 'l2'; allowed: {', '.join(METHODS)} (",
    ),
    case(
        "unknown scope",
        recipe(prune={**PRUNE, "scope": "top"}),
        "optimizations.mine.prune.scope … 'top'; allowed: global, middle, extremes or text of the form ^module:",
    ),
    case(
        "unknown importance",
        recipe(prune={**CHANNELS, "importance": "l2"}),
        f"optimizations.mine.prune.importance … 'l2'; allowed: {', '.join(IMPORTANCES)} (",
    ),
    case(
        "groups of a half",
        {"trainings": {"groups-2": {"groups": 0.5}}},
        "trainings.groups-2.groups … 0.5; allowed: a whole number at least 1 or max (",
    ),
    case(
        "too few samples",
        {"sampling": {"n_samples": 32}},
        "sampling.n_samples … 32; allowed: a whole number at least 64 (",
    ),
    case(
        "boolean as a number", {"sampling": {"n_samples": True}}, "sampling.n_samples … true; allowed: a whole number"
    ),
    case("another composition", {"sampling": {"labels": "equal"}}, "sampling.labels … 'equal'; allowed: training, "),
    case("empty section", {"sampling": None}, "sampling … null; allowed: a mapping ("),
    case("empty matrix", {"matrix": []}, "matrix … []; allowed: a list with 1 or more entries ("),
    case("no seeds", {"matrix": [entry(seeds=[])]}, "matrix[0].seeds … []; allowed: a list with 1 or more entries"),
    case("seed in quotes", {"matrix": [entry(seeds=["0"])]}, "matrix[0].seeds[0] … '0'; allowed: a whole number"),
    case(
        "name with a slash",
        {"optimizations": {"l1/30": {"training": "plain"}}},
        "optimizations.l1/30 … not a usable name; allowed: letters, digits, and . _ + - … 100 at most",
    ),
    case("name with a leading dot", {"trainings": {".hidden": {}}}, "trainings..hidden … not a usable name"),
    case(
        "quantize with two keys",
        recipe(quantize={"linear": "8bit", "weights": "8bit"}),
        "optimizations.mine.quantize … allowed: a mapping … 1 key at most",
    ),
    case(
        "weights in three bits",
        recipe(quantize={"weights": "3bit"}),
        "optimizations.mine.quantize.weights … '3bit'; allowed: 4bit, 8bit, bf16",
    ),
    case(
        "unstructured pruning before a training",
        started(start="plain", prune={**CHANNELS, "method": "l1"}),
        "trainings.mine.prune.method … 'l1'; allowed: channels, blocks (",
    ),
    case(
        "student of no step",
        student({"steps": 0}),
        "trainings.mine.distill.steps … 0; allowed: a whole number at least 1",
    ),
    case(
        "attention level out of range",
        ddpm({"network": {"attention_levels": [2, 4]}}),
        "models.ddpm.network.attention_levels[1] … 4; allowed: a whole number at least 0 and at most 3",
    ),
    case(
        "cache interval of 0",
        ddpm({"sampler": {"cache_interval": 0}}),
        "models.ddpm.sampler.cache_interval … 0; allowed: a whole number at least 1",
    ),
    case(
        "share above one",
        ddpm({"training": {"label_dropout": 1.5}}),
        "models.ddpm.training.label_dropout … 1.5; allowed: a number at least 0 and at most 1 (",
    ),
    case(
        "unknown precision",
        ddpm({"training": {"precision": "float16"}}),
        "models.ddpm.training.precision … 'float16'; allowed: float32, bfloat16, auto (",
    ),
    case(
        "unknown optimizer",
        {"models": {"ncsn": {"training": {"optimizer": "adam8bit"}}}},
        "models.ncsn.training.optimizer … 'adam8bit'; allowed: adam, adamw, muon (",
    ),
    case(
        "optimizer without a state in 8 bits",
        started(optimizer="muon", optimizer_state="8bit"),
        "trainings.mine.optimizer_state … 8bit; allowed with optimizer muon: float; … adamw",
    ),
    case(
        "unknown Inception network",
        {"inception": {"tensorflow": "download"}},
        "inception.tensorflow … unknown key; allowed in inception: standard, paper",
    ),
    case(
        "Inception weights that are a number",
        {"inception": {"paper": 7}},
        "inception.paper … 7; allowed: null or download or text (",
    ),
]

YAML_CASES = [
    case("name that is a number", {"trainings": {8: {}}}, "trainings.8 … YAML reads as 8; write it in quotes"),
    case(
        "infinity",
        {"models": {"ncsn": {"sampler": {"sigma_max": float("inf")}}}},
        "models.ncsn.sampler.sigma_max … inf; allowed: finite numbers",
    ),
    case(
        "date",
        yaml.safe_load("data_dir: 2026-11-23"),
        "data_dir … 2026-11-23 … YAML reads as a date; write it in quotes",
    ),
]

NAME_CASES = [
    case(
        "unknown optimization",
        {"matrix": [entry(optimizations=["baseline", "l1-31"])]},
        "matrix[0].optimizations[1] … 'l1-31'; allowed: baseline, ema,  … (did you mean l1-30?); correct"
        " it, or add it under optimizations",
    ),
    case(
        "margin of an unknown data set",
        {"verdicts": {"margins": {"quality": {"mnits": 1.3}}}},
        "verdicts.margins.quality.mnits … 'mnits'; allowed: … mnist",
    ),
    case(
        "margin of 1",
        {"verdicts": {"margins": {"quality": {"mnist": 1}}}},
        'verdicts.margins.quality … "mnist": 1, … above 1',
    ),
    case("unknown baseline", {"profile": {"baseline": "base"}}, "profile.baseline … 'base'; allowed: baseline, ema, "),
    case("unknown data set", {"matrix": [entry(dataset="mnits")]}, "matrix[0].dataset … 'mnits'; allowed: mnist, "),
    case(
        "unknown model",
        {"matrix": [entry(model="ddmp")]},
        "matrix[0].model … 'ddmp'; allowed: ncsn, ddpm, unet2d (did you mean ddpm?); correct it",
    ),
    case(
        "unknown training",
        {"optimizations": {"mine": {"training": "plaine"}}},
        "optimizations.mine.training … 'plaine'; allowed: plain, groups-2, ",
    ),
    case("unknown start", started(start="plan"), "trainings.mine.start … 'plan'; allowed: plain, "),
    case(
        "cell twice in an entry",
        {"matrix": [entry(seeds=[0, 1, 0])]},
        "matrix[0] … mnist/ncsn/baseline/seed0 a second time",
    ),
    case(
        "cell twice in two entries",
        {"matrix": [entry(), entry(optimizations=["ema", "baseline"])]},
        "matrix[1] … mnist/ncsn/baseline/seed0 a second time",
    ),
]

ENGINE_CASES = [
    case(
        "precision that onnxruntime lacks",
        recipe(engine="onnxruntime", precision="bf16"),
        "optimizations.mine.precision … is bf16 … engine onnxruntime … torch in fp32, bf16; … "
        "torch-compile in fp32, bf16; … openvino in fp32, bf16, int8; … onnxruntime in fp32, int8; … "
        "leave it out",
    ),
    case(
        "precision that torch lacks",
        recipe(precision="int8"),
        "optimizations.mine.precision … is int8 … engine torch  … torch in fp32, bf16; … torch-compile "
        "in fp32, bf16; … openvino in fp32, bf16, int8; … onnxruntime in fp32, int8; … leave it out",
    ),
    case(
        "two precisions",
        recipe(precision="bf16", sampler={"precision": "float32"}),
        "optimizations.mine.sampler.precision … engine torch in bf16 … optimizations.mine.precision … leave it out",
    ),
    case(
        "quantized twice",
        recipe(engine="openvino", precision="int8", quantize={"linear": "8bit"}),
        "optimizations.mine.quantize … engine openvino in int8 … allowed: quantize.weights … fp32 … leave one out",
    ),
    case(
        "frozen linear layers in another engine",
        recipe(training="linear-8bit-frozen", engine="onnxruntime"),
        "optimizations.mine.engine … is onnxruntime … linear-8bit-frozen … 8bit … allowed: a training "
        "with linear: float",
    ),
    case(
        "feature cache in another engine",
        merge(recipe(engine="torch-compile", sampler={"cache_interval": 2}), DDPM_RUNS_MINE),
        "optimizations.mine.sampler.cache_interval … 2; allowed with engine torch-compile in fp32: 1",
    ),
]

PRUNING_CASES = [
    case(
        "pruning quantized layers",
        recipe(training="linear-8bit-frozen", prune=PRUNE),
        "optimizations.mine.prune … linear-8bit-frozen … 8bit … allowed: a training with linear: float",
    ),
    case(
        "quantizing quantized layers",
        recipe(training="linear-8bit-frozen", quantize={"linear": "4bit"}),
        "optimizations.mine.quantize … linear-8bit-frozen … 8bit … allowed: a training with linear: float",
    ),
    case(
        "channels with a scope",
        recipe(prune={**CHANNELS, "scope": "global"}),
        "optimizations.mine.prune.scope … method channels … leave it out",
    ),
    case(
        "channels of a linear module",
        recipe(prune={**CHANNELS, "scope": "module:dense1"}),
        "optimizations.mine.prune.scope … 'module:dense1'; allowed with method channels for model ncsn …"
        " conv1, conv2, conv3, conv4, tconv4, tconv3, tconv2; … leave it out",
    ),
    case(
        "module that the network lacks",
        recipe(prune={**PRUNE, "scope": "module:conv9"}),
        "optimizations.mine.prune.scope … 'module:conv9'; allowed after 'module:' for model ncsn: conv1, ",
    ),
    case(
        "channels without an importance",
        recipe(prune={"method": "channels", "amount": 0.5}),
        "optimizations.mine.prune.importance … is missing … method channels",
    ),
    case(
        "weights without a scope",
        recipe(prune={"method": "l1", "amount": 0.5}),
        "optimizations.mine.prune.scope … is missing … method l1",
    ),
    case(
        "weights with an importance",
        recipe(prune={**PRUNE, "importance": "l1"}),
        "optimizations.mine.prune.importance … method l1 … leave it out",
    ),
    case(
        "loss-based importance in a recipe",
        recipe(prune={**CHANNELS, "importance": "taylor"}),
        "optimizations.mine.prune.importance … 'taylor' … images … allowed in a recipe: l1, random … trainings.*.prune",
    ),
    case(
        "channels of grouped convolutions",
        recipe(training="groups-2", prune=CHANNELS),
        "optimizations.mine.prune … training groups-2, whose groups is 2; allowed: 1",
    ),
    case(
        "channels of grouped convolutions, fine-tuned",
        started(start="groups-2", prune=CHANNELS),
        "trainings.mine.prune … training groups-2, whose groups is 2; allowed: 1",
    ),
    case(
        "channels of quantized layers, fine-tuned",
        started(start="linear-8bit-frozen", prune=CHANNELS),
        "trainings.mine.prune … training linear-8bit-frozen, whose linear is 8bit; allowed: float",
    ),
    case(
        "diff-pruning without a threshold",
        started(start="plain", prune={**CHANNELS, "importance": "diff-pruning"}),
        "trainings.mine.prune.threshold … is missing … diff-pruning",
    ),
    case(
        "threshold with another importance",
        started(start="plain", prune={**CHANNELS, "threshold": 0.1}),
        "trainings.mine.prune.threshold … diff-pruning … is l1 … leave it out",
    ),
    case(
        "sparsity of 0",
        started(start="plain", sparsify={"amount": 0, "schedule": "one-shot"}),
        "trainings.mine.sparsify.amount … 0; allowed: above 0 … leave sparsify out",
    ),
    case(
        "cubic schedule without an end",
        started(start="plain", sparsify={"amount": 0.5, "schedule": "cubic"}),
        "trainings.mine.sparsify.until … is missing … cubic",
    ),
    case(
        "one-shot schedule with an end",
        started(start="plain", sparsify={"amount": 0.5, "schedule": "one-shot", "until": 0.5}),
        "trainings.mine.sparsify.until … cubic … leave it out … one-shot",
    ),
    case(
        "sparsity of a module that the network lacks, in a training that another one starts from",
        merge(
            started(start="first"),
            {"trainings": {"first": {"start": "plain", "sparsify": {**CUBIC, "scope": "module:conv9"}}}},
        ),
        "trainings.first.sparsify.scope … 'module:conv9'; allowed after 'module:' for model ncsn: conv1, ",
    ),
]

START_CASES = [
    case("training that starts from itself", started(start="mine"), "trainings.mine.start … circle (mine → mine)"),
    case(
        "circle of starts",
        {"trainings": {"one": {"start": "two"}, "two": {"start": "one"}}},
        "trainings.one.start … 'two', a circle (one → two → one); allowed: a chain that ends",
    ),
    case(
        "training option next to start",
        started(start="plain", epochs=3),
        "trainings.mine.epochs … finetune … : start, ",
    ),
    case("pruning without a start", {"trainings": {"mine": {"prune": CHANNELS}}}, "trainings.mine.prune … add start"),
    case(
        "student without a start", {"trainings": {"mine": {"distill": DISTILL}}}, "trainings.mine.distill … add start"
    ),
    case(
        "start in a model's own training",
        {"models": {"ncsn": {"training": {"start": "plain"}}}},
        "models.ncsn.training.start … entries of trainings … move it",
    ),
    case(
        "another network after a start",
        started(start="plain", finetune={"groups": 2}),
        "trainings.mine.finetune.groups … start … leave it out",
    ),
    case(
        "noise levels of a training that has its own",
        {**started(start="plain", distill=DISTILL, finetune={"log_sigma_std": 0.3})},
        "trainings.mine.finetune.log_sigma_std … 0.3; allowed without distill of method progressive … leave it out",
    ),
    case(
        "another family's option after a start",
        started(start="plain", finetune={"min_snr_gamma": 5.0}),
        "trainings.mine.finetune.min_snr_gamma … family ddpm … model ncsn is ncsn … leave it out",
    ),
]

BLOCKS = {"method": "blocks", "amount": 0.3}

BLOCK_CASES = [
    case(
        "blocks of a network that has none",
        started(start="plain", prune=BLOCKS),
        "trainings.mine.prune.method … is blocks; allowed for model ncsn of family ncsn: channels",
    ),
    case(
        "blocks by amount and by name",
        merge(started(start="plain", prune={**BLOCKS, "names": ["bottom"]}), DDPM_RUNS_MINE),
        "trainings.mine.prune … needs one of amount and names",
    ),
    case(
        "blocks by neither",
        merge(recipe(prune={"method": "blocks"}), DDPM_RUNS_MINE),
        "optimizations.mine.prune … needs one of amount and names",
    ),
    case(
        "unknown block",
        merge(started(start="plain", prune={"method": "blocks", "names": ["bottom", "inc"]}), DDPM_RUNS_MINE),
        "trainings.mine.prune.names[1] … 'inc'; allowed for model ddpm: down1.conv1, ",
    ),
    case(
        "blocks by importance",
        merge(started(start="plain", prune={**BLOCKS, "importance": "l1"}), DDPM_RUNS_MINE),
        "trainings.mine.prune.importance … is not an option of method blocks; leave it out",
    ),
    case(
        "names of channels",
        started(start="plain", prune={**CHANNELS, "names": ["conv1"]}),
        "trainings.mine.prune.names … is not an option of method channels; leave it out",
    ),
    case(
        "blocks of quantized layers",
        merge(started(start="linear-8bit-frozen", prune=BLOCKS), DDPM_RUNS_MINE),
        "trainings.mine.prune … removes blocks after training linear-8bit-frozen, whose linear is 8bit; allowed: float",
    ),
]

KNOWLEDGE = {"method": "knowledge", "weight": 0.5}

KNOWLEDGE_CASES = [
    case(
        "knowledge without a weight",
        started(start="plain", distill={"method": "knowledge"}),
        "trainings.mine.distill.weight … missing",
    ),
    case(
        "steps of knowledge",
        started(start="plain", distill={**KNOWLEDGE, "steps": 4}),
        "trainings.mine.distill.steps … does not belong to method knowledge; leave it out",
    ),
    case(
        "weight of progressive distillation",
        student({"weight": 0.5}),
        "trainings.mine.distill.weight … does not belong to method progressive; leave it out",
    ),
    case(
        "features of other widths",
        started(start="plain", prune=CHANNELS, distill={**KNOWLEDGE, "features": 1.0}),
        "trainings.mine.distill.features … is 1.0; allowed after removing channels … : 0",
    ),
]

STUDENT_CASES = [
    case(
        "two training hooks",
        student({}, quantize={"weights": "8bit"}),
        "trainings.mine.distill … quantize … allowed: one of sparsify, quantize, distill",
    ),
    case(
        "teacher that predicts noise",
        merge(student({}, start="noise-prediction"), DDPM_RUNS_MINE),
        "trainings.mine.distill … noise-prediction, whose preconditioning is epsilon; allowed: edm",
    ),
    case(
        "guided teacher without classes",
        student({"guidance": 1.5}),
        "trainings.mine.distill.guidance … 1.5; allowed for an unconditional network (classes: 0): 1",
    ),
    case(
        "student's student that is guided again",
        merge(student({"steps": 2, "teacher": "euler", "guidance": 1.5}, start="distilled-4"), DDPM_RUNS_MINE),
        "trainings.mine.distill.guidance … 1.5; allowed after training distilled-4 … guidance in its weights: 1",
    ),
    case(
        "guided teacher trained without label dropout",
        ddpm(
            {"training": {"label_dropout": 0.0}, "sampler": {"guidance": 1.5}},
            {"optimizations": student({}, {"guidance": 1.0})["optimizations"], "trainings": student({})["trainings"]},
            optimizations=["mine"],
        ),
        "trainings.mine.distill.guidance … 1.5; allowed after training plain, whose label_dropout is 0: 1",
    ),
    case(
        "student's student by Heun",
        student({"steps": 2}, start="distilled-4"),
        "trainings.mine.distill.teacher … heun; allowed after training distilled-4 … : euler",
    ),
    case(
        "student's student with too many substeps",
        student({"teacher": "euler", "substeps": 2}, start="distilled-4"),
        "trainings.mine.distill.substeps … 2; allowed after training distilled-4 … 4 steps",
    ),
    *(
        case(
            f"student sampled with another {key}",
            student({}, {key: value}),
            f"optimizations.mine.sampler.{key} … is {value}; allowed for training mine … : {allowed}",
        )
        for key, value, allowed in (
            ("method", "heun", "euler"),
            ("steps", 8, 4),
            ("grid", 4, 8),
            ("sigma_min", 0.5, "null"),
            ("sigma_max", 9.0, 20.0),
            ("rho", 3.0, 7.0),
        )
    ),
    case(
        "options of the other way to distil",
        student(TUNING),
        "trainings.mine.distill.steps … does not belong to method consistency; leave it out",
    ),
    case(
        "consistency tuning of a student",
        tuned(start="distilled-4"),
        "trainings.mine.distill … starts from distilled-4, which is distilled itself",
    ),
    case(
        "a tuned network without its sampler",
        tuned(sampler={"method": "heun", "steps": 2}),
        "optimizations.mine.sampler.method … heun; allowed for training mine, which was distilled for it: consistency",
    ),
    case(
        "a step without its noise level",
        tuned(sampler={"steps": 3}),
        "optimizations.mine.sampler.renoise … [0.5]; allowed with 3 steps: 2 noise levels",
    ),
    case(
        "too few steps",
        recipe(sampler={"method": "euler-maruyama", "steps": 1}),
        "optimizations.mine.sampler.steps … 1; allowed for euler-maruyama: 2 or more",
    ),
    case(
        "guided student",
        merge(student({}), DDPM_RUNS_MINE),
        "optimizations.mine.sampler.guidance … 2.25; allowed for training mine … : 1.0",
    ),
]

NETWORK_CASES = [
    case(
        "groups that do not divide the channels",
        {"trainings": {"groups-2": {"groups": 3}}, "matrix": [entry(optimizations=["groups-2"])]},
        "trainings.groups-2.groups … 3; allowed with the channels [32, 64, 128, 256] of model ncsn: 1, "
        "2, 4, 8, 16, 32 or max",
    ),
    case(
        "groups of the model itself",
        {"models": {"ncsn": {"training": {"groups": 64}}}},
        "models.ncsn.training.groups … 64; allowed with the channels",
    ),
    case(
        "channels in another file that groups do not divide",
        {
            "models": {"ncsn": {"network": {"channels": [30, 64, 128, 256], "norm_groups": [2, 2, 32, 32]}}},
            "matrix": [entry(optimizations=["groups-4"])],
        },
        "trainings.groups-4.groups … 4; allowed with the channels [30, 64, 128, 256] of model ncsn: 1, 2 or max",
        file="config.yaml",
    ),
    case(
        "norm groups",
        {"models": {"ncsn": {"network": {"norm_groups": [5, 32, 32, 32]}}}},
        "models.ncsn.network.norm_groups[0] … 5; allowed with channels [32, 64, 128, 256]: 1, 2, 4, 8, 16, 32",
    ),
    case(
        "norm groups of the last norm",
        {"models": {"ncsn": {"network": {"norm_groups": [4, 64, 32, 32]}}}},
        "models.ncsn.network.norm_groups[1] … 64; allowed with channels",
    ),
    case(
        "small image",
        {"models": {"ncsn": {"image_size": 16}}},
        "models.ncsn.image_size … 16; allowed: 17 or more pixels",
    ),
    case(
        "image size of a ddpm",
        ddpm({"image_size": 28}),
        "models.ddpm.image_size … 28; allowed for family ddpm with patch 2: multiples of 16 … 16 or 32",
    ),
    case("small image of a ddpm", ddpm({"image_size": 4}), "models.ddpm.image_size … 4; allowed for  … 16 or 32"),
    case(
        "heads that do not divide base",
        ddpm({"network": {"heads": 3}}),
        "models.ddpm.network.heads … 3; allowed: 1, 2, 4, 8, 16",
    ),
    case(
        "groups that do not divide the bottleneck",
        ddpm({}, {"trainings": {"groups-2": {"groups": 3}}}, optimizations=["groups-2"]),
        "trainings.groups-2.groups … 3; allowed with the channels [64, 128] of model ddpm: 1, 2, 4, 8, "
        "16, 32, 64 or max",
    ),
    case(
        "groups that do not divide all convolutions",
        ddpm({"network": {"grouped": "all"}}, {"trainings": {"groups-2": {"groups": 32}}}, optimizations=["groups-2"]),
        "trainings.groups-2.groups … 32; allowed with the channels [16, 32, 64, 128] of model ddpm: 1, "
        "2, 4, 8, 16 or max",
    ),
    case(
        "classes of another data set",
        ddpm({"network": {"classes": 9}}),
        "models.ddpm.network.classes … 9; allowed with data set mnist: 10 … or 0",
    ),
    case(
        "noise schedule of an ncsn",
        {"trainings": {"groups-2": {"noise_schedule": "cosine"}}, "matrix": [entry(optimizations=["groups-2"])]},
        "trainings.groups-2.noise_schedule … family ddpm … model ncsn is ncsn … leave it out",
    ),
    case(
        "min-SNR weighting with edm",
        ddpm({"training": {"preconditioning": "edm", "min_snr_gamma": 5}}),
        "models.ddpm.training.min_snr_gamma … 5; allowed with preconditioning edm: null",
    ),
    case(
        "noise levels of edm with another preconditioning",
        {
            "trainings": {"groups-2": {"preconditioning": "score", "log_sigma_mean": 0.3}},
            "matrix": [entry(optimizations=["groups-2"])],
        },
        "trainings.groups-2.log_sigma_mean … 0.3; allowed with preconditioning edm alone, not score: leave it out",
    ),
    case(
        "noise levels far out",
        ddpm({"training": {"log_sigma_mean": 50}}),
        "models.ddpm.training.log_sigma_mean … 50 … 5",
    ),
    case(
        "preconditioning that a ddpm lacks",
        ddpm({"training": {"preconditioning": "score"}}),
        "models.ddpm.training.preconditioning … score; allowed for family ddpm: epsilon, v, edm",
    ),
    case(
        "preconditioning that an ncsn lacks",
        {"models": {"ncsn": {"training": {"preconditioning": "epsilon"}}}},
        "models.ncsn.training.preconditioning … epsilon; allowed for family ncsn: score, edm",
    ),
    case(
        "ddpm without its options",
        {"models": {"mine": {**copy.deepcopy(CONFIG["models"]["ncsn"]), "family": "ddpm"}}},
        "models.mine.training.noise_schedule … is missing",
    ),
]


def guided(guide: str = "l1-70", sampler: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """Return an overlay with a recipe `mine` that recipe `guide` guides, and a matrix that runs both."""
    options = {"guide": {"optimization": guide, "scale": 2.0}, **(sampler or {})}
    return {**recipe(sampler=options, **keys), "matrix": [entry(optimizations=["mine", guide])]}


GUIDE = "optimizations.mine.sampler.guide"
GUIDED_DDPM = {"matrix": [entry(model="ddpm", optimizations=["mine", "l1-70"])]}
GUIDE_CASES = [
    case("guide that is no recipe", guided("l1-71"), f"{GUIDE}.optimization … 'l1-71'; allowed: … mean l1-70?"),
    case(
        "guide that the matrix lacks",
        {**guided(), "matrix": [entry(optimizations=["mine"]), entry(optimizations=["l1-70"], seeds=[1])]},
        f"{GUIDE}.optimization … l1-70, and the matrix has no mnist/ncsn/l1-70/seed0; list it there",
    ),
    case(
        "guide of several masks",
        merge(guided("random-10"), {"optimizations": {"random-10": {"mask_seed": [0, 1]}}}),
        f"{GUIDE}.optimization … random-10, whose list of seeds makes it several recipes; allowed: … one seed",
    ),
    case(
        "guide and classifier-free guidance",
        {**guided(), **GUIDED_DDPM},
        "optimizations.mine.sampler.guidance … 2.25; allowed with guide: 1",
    ),
    case(
        "guide and feature reuse",
        {**guided(sampler={"guidance": 1.0, "guidance_interval": None, "cache_interval": 2}), **GUIDED_DDPM},
        "optimizations.mine.sampler.cache_interval … 2; allowed with guide: 1",
    ),
    case("guided engine", guided(precision="bf16"), f"{GUIDE} … mine has an engine; allowed with a guide: torch in"),
    case("guiding engine", guided("bf16"), f"{GUIDE} … bf16 has an engine; allowed with a guide: torch in fp32"),
    case("guiding student", guided("consistency-1"), f"{GUIDE} … consistency-1 is distilled; allowed: networks"),
    case(
        "guide of a guide",
        merge(guided("other"), {"optimizations": {"other": guided()["optimizations"]["mine"]}}),
        f"{GUIDE}.optimization … other, which has a guide itself; allowed: a recipe without",
    ),
    case(
        "guide with other pixels",
        {
            **merge(guided("other"), {"optimizations": {"other": {"training": "dark"}}}),
            "trainings": {"dark": {"black": -1.0}},
        },
        f"{GUIDE}.optimization … other, whose black is -1.0; allowed: that of training plain, 0.0",
    ),
    case(
        "guided baseline of speedups",
        {**guided(), "profile": {"baseline": "mine"}},
        f"{GUIDE} … others are compared with mine; allowed: in other recipes",
    ),
    case(
        "guide of a model",
        {**recipe(), "models": {"ncsn": {"sampler": {"guide": {"optimization": "l1-70", "scale": 2.0}}}}},
        "models.ncsn.sampler.guide … allowed in recipes only; move it into one",
    ),
    case(
        "guide of scale 1",
        guided(sampler={"guide": {"optimization": "l1-70", "scale": 1.0}}),
        f"{GUIDE}.scale … 1.0; allowed: … 1",
    ),
]

SAMPLER_CASES = [
    case(
        "grid that steps do not divide",
        recipe(sampler={"method": "euler", "steps": 4, "grid": 6}),
        "optimizations.mine.sampler.grid … 6; allowed with steps 4: a multiple of it, or null",
    ),
    case(
        "sigma_min above sigma_max",
        recipe(sampler={"sigma_min": 0.002, "sigma_max": 0.001}),
        "optimizations.mine.sampler … sigma_min 0.002 and sigma_max 0.001; allowed: sigma_min below sigma_max",
    ),
    case(
        "model's sampler of the other family",
        ddpm({"sampler": {"method": "predictor-corrector"}}),
        "models.ddpm.sampler.method … predictor-corrector; allowed for model ddpm of family ddpm: heun, "
        "euler, consistency, ddpm, ddim, dpm-solver++, unipc",
    ),
    case(
        "recipe's sampler of the other family",
        recipe(sampler={"method": "ddim"}),
        "optimizations.mine.sampler.method … ddim; allowed for model ncsn of family ncsn: heun, ",
    ),
    *(
        case(
            f"{key} of an ncsn",
            recipe(sampler={key: value}),
            f"optimizations.mine.sampler.{key} … family ddpm … model ncsn is ncsn … leave it out",
        )
        for key, value in (("clip", True), ("cache_interval", 2))
    ),
    case(
        "tolerance of a ddpm",
        ddpm({"sampler": {"tolerance": 1e-3}}),
        "models.ddpm.sampler.tolerance … family ncsn … model ddpm is ddpm … leave it out",
    ),
    case(
        "steps that do not divide ddim's schedule",
        ddpm({"sampler": {"method": "ddim", "steps": 15}}),
        "models.ddpm.sampler.steps … 15; allowed for ddim: 1, 2, 4, 5, 8, 10, 20, 25, 40, ",
    ),
    case(
        "more steps than the schedule has",
        ddpm({"sampler": {"method": "unipc", "steps": 1001}}),
        "models.ddpm.sampler.steps … 1001; allowed for unipc: up to 1000",
    ),
    case(
        "guidance of an unconditional ncsn",
        {"models": {"ncsn": {"sampler": {"guidance": 1.5}}}},
        "models.ncsn.sampler.guidance … 1.5; allowed for an unconditional network (classes: 0): 1",
    ),
    case(
        "guidance of an unconditional ddpm",
        ddpm({"network": {"classes": 0}, "sampler": {"guidance": 3}}),
        "models.ddpm.sampler.guidance … 3; allowed for an unconditional network (classes: 0): 1",
    ),
    case(
        "guided noise levels in the wrong order",
        ddpm({"sampler": {"guidance_interval": [3.0, 0.3]}}),
        "models.ddpm.sampler.guidance_interval … [3.0, 0.3]; allowed: the smaller noise level first",
    ),
    case(
        "no noise level is guided",
        ddpm({"sampler": {"guidance_interval": [12, 20], "sigma_max": 11.0}}),
        "models.ddpm.sampler.guidance_interval … [12, 20]; allowed with sigma_max 11.0: noise levels from 0 to that",
    ),
    case(
        "cached features where only some noise levels are guided",
        ddpm({"sampler": {"guidance_interval": [0.3, 3.0], "cache_interval": 2}}),
        "models.ddpm.sampler.cache_interval … 2; allowed with guidance_interval [0.3, 3.0]: 1",
    ),
    case(
        "guidance without label dropout",
        ddpm({"training": {"label_dropout": 0}, "sampler": {"guidance": 3}}),
        "models.ddpm.sampler.guidance … 3; allowed for a training with label_dropout 0: 1",
    ),
]

FILE_CASES = [
    case(
        "folder without a path",
        {"datasets": {"mine": {"source": "folder", "image_size": 8, "channels": 1, "test_fraction": 0.1}}},
        "datasets.mine.path … is missing … source: folder",
    ),
    case(
        "path without source folder",
        {"datasets": {"digits": {"path": "photos"}}},
        "datasets.digits.path … source: folder … digits",
    ),
    *(
        case(
            f"missing file of {key}",
            {"datasets": {"mnist": {key: "nowhere.safetensors"}}},
            f"datasets.mnist.{key} … 'nowhere.safetensors', which does not exist; correct it, or leave the key out",
        )
        for key in ("extractors", "classifier", "foreign_extractors")
    ),
    *(
        case(
            f"digest without {key}",
            {"datasets": {"digits": {f"{key}_sha256": "0" * 64}}},
            f"datasets.digits.{key}_sha256 … the key {key}",
        )
        for key in ("extractors", "classifier")
    ),
    case(
        "classifier of another digest",
        {"datasets": {"mnist": {"classifier_sha256": "0" * 64}}},
        f"datasets.mnist.classifier_sha256 … {'0' * 64} … workflow/resources/classifiers/mnist.safetensors … "
        f"{CONFIG['datasets']['mnist']['classifier_sha256']} … restore the file, or leave both keys out",
    ),
    case(
        "Inception weights that do not exist",
        {"inception": {"standard": "nowhere.pth"}, "sampling": {"n_samples": 5000}},
        "inception.standard … 'nowhere.pth', which does not exist; allowed: null, download, or the path of the weights",
    ),
    case(
        "fewer samples than Inception features",
        {"inception": {"paper": "download"}, "sampling": {"n_samples": 2047}},
        "sampling.n_samples … 2047; allowed with inception.paper: 2048 or more … raise it, or set "
        "inception.paper to null",
    ),
]
MISTAKES = [
    *SCHEMA_CASES,
    *YAML_CASES,
    *NAME_CASES,
    *ENGINE_CASES,
    *PRUNING_CASES,
    *START_CASES,
    *BLOCK_CASES,
    *KNOWLEDGE_CASES,
    *STUDENT_CASES,
    *NETWORK_CASES,
    *GUIDE_CASES,
    *SAMPLER_CASES,
    *FILE_CASES,
]


@pytest.mark.parametrize(("overlay", "place", "words"), MISTAKES)
def test_a_mistake_is_refused_at_its_key(overlay: dict[Any, Any], place: str, words: list[str]) -> None:
    message = refusal(overlay)
    assert message.startswith(place), message
    rest = message.removeprefix(place)
    for word in words:
        assert word in rest, (word, message)
        rest = rest.partition(word)[2]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_key_is_refused_with_its_new_name(old: str, new: str) -> None:
    *parents, key = old.replace("*", "ncsn").split(".")
    overlay: Any = {key: "anything"}
    for parent in reversed(parents):
        overlay = {parent: overlay}
    place, name = old.replace("*", "ncsn"), new.replace("*", "ncsn")
    assert refusal(overlay).startswith(f"my.yaml: {place} is now {name};")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (None, "allowed: a folder that exists"),
        ((), "found none"),
        (("cats",), "found 'cats'"),
        (("cats", ".thumbnails"), "found 'cats'"),
        (("cats", "dogs"), None),
    ],
)
def test_a_folder_of_images_has_classes(tmp_path: Path, classes: tuple[str, ...] | None, expected: str | None) -> None:
    path = tmp_path / "photos"
    if classes is not None:
        path.mkdir()
        write_photos(path, classes)
    source = {"source": "folder", "path": str(path), "image_size": 28, "channels": 1, "test_fraction": 0.1}
    overlay = {"datasets": {"photos": source}, "matrix": [entry(dataset="photos")]}
    if expected is None:
        validate(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})
    else:
        message = refusal(overlay)
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
def test_options_that_a_ddpm_accepts(changes: dict[str, Any], overlay: dict[str, Any]) -> None:
    merged = ddpm(changes, overlay)
    validate(merge(CONFIG, merged), SCHEMA, {"my.yaml": merged})


@pytest.mark.parametrize("classes", [2, 3])
def test_a_ddpm_has_the_number_of_classes_of_its_folder(tmp_path: Path, classes: int) -> None:
    write_photos(tmp_path, ("cats", "dogs", ".thumbnails"))
    source = {"source": "folder", "path": str(tmp_path), "image_size": 32, "channels": 1, "test_fraction": 0.1}
    overlay = ddpm({"network": {"classes": classes}}, {"datasets": {"photos": source}}, dataset="photos")
    if classes == 2:
        validate(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})
    else:
        assert (
            "network.classes is 3; allowed with data set photos: 2, its number of classes ('cats', 'dogs'), "
            in refusal(overlay)
        )


def test_entries_outside_the_matrix_may_be_unfinished() -> None:
    """An unfinished model or folder must not stop other runs."""
    overlay = {
        "models": {"small": {**copy.deepcopy(CONFIG["models"]["ncsn"]), "image_size": 8}},
        "datasets": {
            "photos": {"source": "folder", "path": "nowhere", "image_size": 8, "channels": 3, "test_fraction": 0.1}
        },
    }
    validate(merge(CONFIG, overlay), SCHEMA, {"my.yaml": overlay})


def test_the_last_file_with_the_key_is_named() -> None:
    one, two = {"profile": {"repeats": -2}}, {"profile": {"warmup": -1}}
    files = {"config.yaml": CONFIG, "one.yaml": one, "two.yaml": two}
    with pytest.raises(UserError, match=r"^one\.yaml: profile\.repeats is -2"):
        validate(merge(CONFIG, one), SCHEMA, files)
    with pytest.raises(UserError, match=r"^two\.yaml: profile\.warmup is -1"):
        validate(merge(CONFIG, two), SCHEMA, files)


def test_shipped_networks_are_the_pinned_ones() -> None:
    for data in CONFIG["datasets"].values():
        assert digest(ROOT / data["foreign_extractors"]) == data["foreign_extractors_sha256"]
    shipped = {name: data for name, data in CONFIG["datasets"].items() if "extractors" in data}
    assert set(shipped) == {"mnist", "fashion_mnist"}
    for data in shipped.values():
        assert digest(ROOT / data["extractors"]) == data["extractors_sha256"]
        assert digest(ROOT / data["classifier"]) == data["classifier_sha256"]
