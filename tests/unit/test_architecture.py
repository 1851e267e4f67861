"""Imports follow the table of layers in docs/architecture.md, and the rules and the page load no torch."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "workflow" / "src"
PACKAGE = SOURCE / "slimdiff"
# To import one of these is to import torch.
TORCH = {"torch", "torchvision", "bitsandbytes", "torch_fidelity", "torchmetrics"}
# Modules and folders that load without torch. Of plugins, `loading` alone needs it.
TORCH_FREE = ("catalog", "config", "analysis", "report", "plugins", "errors", "runtime.fingerprint")
RULES = sorted([ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")])


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def read_layers() -> dict[str, int]:
    """Return the layer of each unit below the package, 0 the lowest, as docs/architecture.md lists them."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    fence = re.search(r"^```layers\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert fence, "docs/architecture.md has no fenced block called layers"
    lines = [line.split() for line in fence[1].strip().splitlines()]
    return {unit: len(lines) - 1 - index for index, line in enumerate(lines) for unit in line}


LAYERS = read_layers()


def unit_of(module: str) -> str:
    """Return the folder or module directly below the package that holds `module`; "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def statements(node: ast.AST, on_load: bool) -> Iterator[ast.AST]:
    """Yield the nodes below `node`; with `on_load` those that loading the module runs, no function's body."""
    for child in ast.iter_child_nodes(node):
        if on_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if on_load and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from statements(child, on_load)


@cache
def imported(module: str, on_load: bool = False) -> frozenset[str]:
    """Return every module that `module` imports, ours down to the file that is loaded; `on_load`: when it is loaded."""
    names: set[str] = set()
    for node in statements(ast.parse(FILES[module].read_text(encoding="utf-8")), on_load):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import; write the name in full"
            assert node.module is not None
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(members & set(FILES) or {node.module})
    return frozenset(names)


def ours(module: str, on_load: bool = False) -> set[str]:
    return {name for name in imported(module, on_load) if name in FILES and name != "slimdiff"}


@cache
def reached(module: str) -> frozenset[str]:
    """Return `module` and the modules of the package that importing it loads."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += ours(name, on_load=True)
    return frozenset(found)


def torch_libraries(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(module, on_load=True)} & TORCH


def is_torch_free(module: str) -> bool:
    inner = module.partition(".")[2]
    return module != "slimdiff.plugins.loading" and any(
        inner == name or inner.startswith(f"{name}.") for name in TORCH_FREE
    )


def test_the_table_names_every_unit() -> None:
    assert set(LAYERS) == {unit_of(module) for module in FILES} - {""}


@pytest.mark.parametrize("module", [name for name in FILES if name != "slimdiff"])
def test_imports_go_down(module: str) -> None:
    own = unit_of(module)
    for other in sorted(ours(module)):
        unit = unit_of(other)
        if unit != own:
            assert LAYERS[unit] < LAYERS[own], f"{module} imports {other}, which is not below it"


def test_there_are_no_circles() -> None:
    graphlib.TopologicalSorter({module: ours(module) - {module} for module in FILES}).prepare()


def test_the_folders_stay_few_and_loosely_coupled() -> None:
    pairs = {(unit_of(module), unit_of(other)) for module in FILES for other in ours(module) if module != "slimdiff"}
    assert len(LAYERS) <= 22
    assert len({(unit, other) for unit, other in pairs if unit != other}) <= 110


@pytest.mark.parametrize("module", [name for name in FILES if is_torch_free(name)])
def test_torch_free_modules_do_not_reach_torch(module: str) -> None:
    for other in reached(module):
        assert not torch_libraries(other), f"{module} reaches {other}, which imports torch"


def test_the_package_imports_nothing_until_it_is_used() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    loaded = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in loaded if isinstance(node, ast.ImportFrom)} <= {"typing"}
    assert not any(isinstance(node, ast.Import) for node in loaded)


BLOCKER = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {sorted(TORCH)!r}:
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, Blocker())
"""


def test_the_rules_and_the_report_load_without_torch() -> None:
    modules = [name for name in FILES if is_torch_free(name)] + ["slimdiff.stages.row", "slimdiff.stages.aggregate"]
    run = subprocess.run(
        [sys.executable, "-c", BLOCKER + "".join(f"import {module}\n" for module in modules)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


def test_a_row_needs_the_standard_library_only() -> None:
    """One such job runs for every cell: a thousand of them must be cheap."""
    for module in reached("slimdiff.stages.row"):
        others = {name.partition(".")[0] for name in imported(module, on_load=True)} - {"slimdiff"}
        assert others <= sys.stdlib_module_names, f"{module} imports {others - sys.stdlib_module_names}"


@pytest.mark.parametrize("module", [name for name in FILES if not name.startswith("slimdiff.cli.")])
def test_the_package_does_not_know_the_workflow(module: str) -> None:
    text = FILES[module].read_text(encoding="utf-8")
    assert "import snakemake" not in text
    # read_matrix() without a path, for people in a clone, is the one exception.
    allowed = {"results/matrix.parquet"} if module == "slimdiff" else set()
    assert not [literal for literal in string_literals(text) if "results/" in literal and literal not in allowed]


def string_literals(text: str) -> list[str]:
    """Return the strings in source code that are not docstrings."""
    tree = ast.parse(text)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
        if isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose)
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_never_import_torch(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for base, names in re.findall(r"^\s*from ([\w.]+) import (.+)$", text, re.MULTILINE):
        for name in [base, *(f"{base}.{name.split()[0]}" for name in names.split(","))]:
            for module in reached(name) if name in FILES else [name]:
                assert module.partition(".")[0] not in TORCH
                assert module not in FILES or not torch_libraries(module), f"{path.name} imports {name}: {module}"


def test_rules_call_stages_by_module() -> None:
    called = set()
    for path in RULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s+(script|run|notebook):", text, re.MULTILINE), f"{path.name}: use shell"
        called |= set(re.findall(r"-m slimdiff\.stages\.(\w+)", text))
    stages = {name.rpartition(".")[2] for name in FILES if unit_of(name) == "stages"} - {"stages", "command"}
    assert called == stages
