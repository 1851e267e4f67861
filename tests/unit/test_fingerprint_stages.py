"""Fingerprints of stages are correct: every function that runs is in the stage's set, and nothing else counts."""

import ast
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from builders import SOURCE
from presets import ROOT

from slimdiff.plugins import declarations
from slimdiff.runtime.fingerprint import EXCLUDED, Codebase, Loaded
from slimdiff.runtime.syntax import Definition

STAGES = sorted(
    path.stem for path in (SOURCE / "slimdiff" / "stages").glob("*.py") if path.stem not in ("__init__", "command")
)
PLUGIN = "examples/my_recipes.py"
Place = tuple[str, int]  # a file, and the first line of a top-level statement in it
CODE = Codebase([SOURCE])


def entry(stage: str) -> str:
    return f"slimdiff.stages.{stage}:main"


# --- functions that run are in the set


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the functions that ran in each stage and during each import, from Python's profiling hook."""
    out = tmp_path_factory.mktemp("traced") / "calls.json"
    paths = os.pathsep.join([str(SOURCE), str(ROOT / "tests" / "helpers")])
    script = str(ROOT / "tests" / "helpers" / "traced_stages.py")
    run = subprocess.run(
        [sys.executable, script, str(out)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return record


@cache
def statements(path: str) -> list[tuple[int, int, ast.stmt]]:
    """Return first and last line of the top-level statements of a file, decorators included."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    starts = [min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) for node in tree.body]
    return [(start, node.end_lineno or start, node) for start, node in zip(starts, tree.body, strict=True)]


def enclosing(path: str, line: int) -> tuple[Place, ast.stmt]:
    """Return the top-level statement that contains a function: the function itself, or its enclosing definition."""
    (found,) = [(start, node) for start, end, node in statements(path) if start <= line <= end]
    return (path, found[0]), found[1]


def places(code: Codebase, definitions: set[Definition]) -> set[Place]:
    """Return where definitions stand."""
    found = set()
    for definition in definitions:
        module = code.module(definition.module)
        assert module is not None
        lines = [definition.node.lineno, *(d.lineno for d in getattr(definition.node, "decorator_list", []))]
        found.add((str(module.path.resolve()), min(lines)))
    return found


def path_of(module: str) -> str:
    found = CODE.module(module)
    assert found is not None
    return str(found.path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_function_that_runs_in_a_stage_is_in_its_set(calls: dict[str, Any], stage: str) -> None:
    ran = {enclosing(path, line)[0] for path, line in calls["stages"][stage]}
    held = places(CODE, CODE.definitions(entry(stage)))
    assert len(ran) > 3
    assert not ran - held


@pytest.mark.slow
def test_the_trace_covers_most_of_what_stages_can_reach(calls: dict[str, Any]) -> None:
    """Otherwise the test above would prove little."""
    reached = set().union(*(CODE.definitions(entry(stage)) for stage in STAGES))
    functions = {definition for definition in reached if isinstance(definition.node, ast.FunctionDef)}
    ran = {enclosing(path, line)[0] for found in calls["stages"].values() for path, line in found}
    held = places(CODE, functions)
    assert len(held & ran) > 0.8 * len(held), sorted(held - ran)


@pytest.mark.slow
def test_functions_that_run_on_import_are_in_the_set_of_every_stage_that_loads_the_module(
    calls: dict[str, Any],
) -> None:
    for stage in STAGES:
        held = places(CODE, CODE.definitions(entry(stage)))
        for module in CODE.modules(entry(stage)):
            for path, line in calls["imports"].get(module, ()):
                place, node = enclosing(path, line)
                if isinstance(node, ast.FunctionDef | ast.ClassDef):  # not a generator in a constant
                    assert place in held, f"{stage} loads {module}"


@pytest.mark.slow
def test_every_function_that_runs_with_a_plugin_is_in_a_set_of_plugin_or_stage(
    calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code, module = declarations.parse_plugin(PLUGIN)
    registered = {"data": ["shapes"], "train": ["residual"], "sample": ["residual", "low_rank"]}
    registered["compress"] = ["residual", "low_rank", "round_mantissa"]
    # Loading, reading of declarations, and computing of digests, none of which affects results.
    own = {"slimdiff.runtime.fingerprint", "slimdiff.runtime.syntax"}
    own |= {name for name in MODULES if f"{name}.".startswith("slimdiff.plugins.")}
    loading = {path_of(name) for name in own}
    for stage, functions in registered.items():
        held = places(CODE, CODE.definitions(entry(stage)))
        held |= places(code, set().union(*(code.definitions(f"{module.name}:{name}") for name in functions)))
        ran = {enclosing(path, line)[0] for path, line in calls["stages"][f"{stage}+plugin"]}
        assert {path for path, _ in ran} >= {str(module.path.resolve()), *map(path_of, EXCLUDED)}
        assert not {(path, line) for path, line in ran if path not in loading} - held


# --- nothing outside the set counts


def change(node: ast.stmt) -> dict[str, Any]:
    """Edit a statement: add a statement to its body, or change its value; return what it held."""
    held = dict(vars(node))
    if isinstance(node, ast.AnnAssign) and node.value is None:
        node.annotation = ast.Tuple([node.annotation], ast.Load())
    elif hasattr(node, "value"):
        node.value = ast.Tuple([node.value, ast.Constant(0)], ast.Load())
    else:
        node.body = [*node.body, ast.Pass()]  # type: ignore[attr-defined]
    return held


def definitions(module: str) -> list[Definition]:
    found = CODE.module(module)
    assert found is not None
    return [*found.definitions, *found.mains]


MODULES = sorted(
    name
    for path in (SOURCE / "slimdiff").rglob("*.py")
    if (name := ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"))
)


@contextlib.contextmanager
def edited(*edits: Definition) -> Iterator[None]:
    """Edit these definitions; the code base recomputes everything that depends on their syntax."""
    originals = [change(definition.node) for definition in edits]
    forget(edits)
    try:
        yield
    finally:
        for definition, original in zip(edits, originals, strict=True):
            vars(definition.node).update(original)
        forget(edits)


def forget(edits: Iterable[Definition]) -> None:
    for definition in edits:
        vars(definition).pop("digest", None)
        CODE._edges.pop(definition, None)
        CODE._edges.pop(Loaded(definition.module), None)
    CODE._acts.clear()


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    return {stage: CODE.fingerprint(entry(stage)) for stage in STAGES}


def test_an_edit_changes_the_fingerprints_of_the_stages_whose_set_holds_it(before: dict[str, str]) -> None:
    holders: dict[Definition, list[str]] = {}
    for stage in STAGES:
        for definition in CODE.definitions(entry(stage)):
            holders.setdefault(definition, []).append(stage)
    for definition, stages in holders.items():
        with edited(definition):
            same = [stage for stage in stages if CODE.fingerprint(entry(stage)) == before[stage]]
        assert not same, ast.unparse(definition.node)[:80]
    assert {stage: CODE.fingerprint(entry(stage)) for stage in STAGES} == before


@pytest.mark.parametrize("stage", STAGES)
def test_edits_of_all_that_its_set_does_not_hold_leave_a_fingerprint(before: dict[str, str], stage: str) -> None:
    """All at once: an edit adds code and removes none, so it cannot hide another one's effect."""
    held = CODE.definitions(entry(stage))
    outside = [found for module in MODULES for found in definitions(module) if found not in held]
    with edited(*outside):
        assert CODE.fingerprint(entry(stage)) == before[stage]
        assert CODE.definitions(entry(stage)) == held


def trees() -> Iterator[tuple[str, str]]:
    """Yield every module and its text."""
    for module in MODULES:
        yield module, Path(path_of(module)).read_text(encoding="utf-8")


def test_comments_change_nothing(before: dict[str, str]) -> None:
    commented = {}
    for module, text in trees():
        starts = {start for start, _, _ in statements(path_of(module))}
        lines = text.splitlines(keepends=True)
        new = "".join(f"# a remark\n\n{line}" if n in starts else line for n, line in enumerate(lines, start=1))
        commented[module] = ast.parse(f"# the first line\n{new}")
    code = Codebase([SOURCE], commented)
    assert {stage: code.fingerprint(entry(stage)) for stage in STAGES} == before


def test_docstrings_change_nothing(before: dict[str, str]) -> None:
    documented = {module: ast.parse(text) for module, text in trees()}
    for tree in documented.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                if ast.get_docstring(node, clean=False) is not None:
                    node.body.pop(0)
                node.body.insert(0, ast.Expr(ast.Constant("Another text.")))
    code = Codebase([SOURCE], documented)
    assert {stage: code.fingerprint(entry(stage)) for stage in STAGES} == before


# --- the sets are small


@pytest.mark.parametrize(
    ("stage", "foreign"),
    [
        ("train", ("inference", "profiling", "compression.unstructured", "compression.channels", "diffusion.samplers")),
        (
            "train",
            ("engines", "catalog.engines", "metrics", "analysis", "report", "io.packed", "training.distillation"),
        ),
        ("compress", ("training.loop", "training.finetune", "metrics", "analysis", "report")),
        ("sample", ("training", "metrics", "analysis", "report")),
        ("score", ("training", "models", "diffusion", "compression", "analysis", "report")),
        ("reference", ("training", "models", "diffusion", "compression", "analysis", "report")),
        ("row", ("training", "models", "config.resolve", "report", "diffusion")),
        ("data", ("training", "models", "diffusion", "compression", "metrics", "analysis", "report")),
    ],
)
def test_a_stage_does_not_depend_on_unused_modules(stage: str, foreign: tuple[str, ...]) -> None:
    """An edit of a sampler must not rerun trainings."""
    held = {definition.module for definition in CODE.definitions(entry(stage))}
    assert not {name for name in held if any(f"{name}.".startswith(f"slimdiff.{other}.") for other in foreign)}


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_code_of_the_rules_or_on_plugin_loading(stage: str) -> None:
    held = {definition.module for definition in CODE.definitions(entry(stage))}
    rules = {"slimdiff.config.resolve", "slimdiff.config.validate", "slimdiff.runtime.fingerprint"}
    assert not held & (rules | EXCLUDED)
