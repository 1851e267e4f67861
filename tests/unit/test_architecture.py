"""The house stands as docs/architecture.md draws it: floors, wings, no circles, and the limits that rules keep to."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from slimdiff.runtime import fingerprint

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "workflow" / "src"
PACKAGE = SOURCE / "slimdiff"
# Libraries of the torch wing: to import one is to import torch.
TORCH = {"torch", "torchvision", "bitsandbytes", "torch_fidelity", "torchmetrics"}
SEEN_BY = {
    "both": {"both", "torch", "analysis", "shared"},
    "torch": {"torch", "shared"},
    "analysis": {"analysis", "shared"},
    "shared": {"shared"},
}


@dataclass(frozen=True)
class Room:
    """A line of the map."""

    floor: int
    wing: str
    name: str
    patterns: tuple[str, ...]

    def holds(self, module: str) -> bool:
        return any(fnmatchcase(module, f"slimdiff.{pattern}") for pattern in self.patterns)


def read_map() -> list[Room]:
    """The rooms of the page that people read; there is no second list."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    fence = re.search(r"^```floors\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert fence, "docs/architecture.md has no fenced block called floors"
    heading, *lines = fence[1].strip().splitlines()
    assert heading.split() == ["floor", "wing", "room", "modules"]
    return [Room(int(floor), wing, name, tuple(names)) for floor, wing, name, *names in map(str.split, lines)]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


ROOMS = read_map()
FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
# The package files that hold code: an empty __init__.py is no module of its own.
MODULES = [name for name, path in FILES.items() if path.name != "__init__.py"]


def room_of(module: str) -> Room:
    found = [room for room in ROOMS if room.holds(module)]
    assert found, f"{module} has no room in docs/architecture.md: give it one"
    assert len(found) == 1, f"{module} is in {len(found)} rooms of docs/architecture.md"
    return found[0]


@cache
def imported(module: str) -> frozenset[str]:
    """Every module that an import statement anywhere in `module` names, ours down to the file that is loaded."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} uses a relative import; write the name in full"
            assert node.module is not None
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(members & set(FILES) or {node.module})
    return frozenset(names)


def ours(module: str) -> set[str]:
    """The package modules that `module` imports; the front door and empty __init__.py left out."""
    return {name for name in imported(module) if name in MODULES}


def torch_libraries(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(module)} & TORCH


def test_every_room_is_lived_in() -> None:
    for room in ROOMS:
        for pattern in room.patterns:
            assert any(fnmatchcase(name, f"slimdiff.{pattern}") for name in MODULES), f"{pattern} names no module"
    assert {room.wing for room in ROOMS} <= set(SEEN_BY)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    here = room_of(module)
    for other in sorted(ours(module)):
        there = room_of(other)
        if there == here:
            continue
        assert there.floor < here.floor, (
            f"{module} (floor {here.floor}, {here.name}) imports {other} (floor {there.floor}, {there.name})"
        )
        assert there.wing in SEEN_BY[here.wing], f"{module} ({here.wing}) imports {other} ({there.wing} wing)"


def test_there_are_no_circles() -> None:
    graphlib.TopologicalSorter({module: ours(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_torch_stays_in_its_wing(module: str) -> None:
    if room_of(module).wing in ("analysis", "shared"):
        assert not torch_libraries(module)
        for other in fingerprint.modules(module):
            assert not torch_libraries(other), f"{module} reaches {other}, which imports torch"


def test_the_front_door_imports_nothing_until_asked() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    loaded = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name for node in loaded if isinstance(node, ast.ImportFrom) for name in [node.module]} <= {"typing"}
    assert not any(isinstance(node, ast.Import) for node in loaded)
    for name, path in FILES.items():
        if path.name == "__init__.py" and name != "slimdiff":
            assert path.read_text(encoding="utf-8").strip() == "", f"{path.relative_to(ROOT)} must stay empty"


def test_a_fingerprint_covers_what_a_stage_imports() -> None:
    for module in MODULES:
        assert ours(module) <= fingerprint.modules(module)


BLOCKER = f"""
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {sorted(TORCH)!r}:
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize(
    "module",
    [
        "slimdiff",
        "slimdiff.config.resolve",
        "slimdiff.runtime.fingerprint",
        "slimdiff.stages.row",
        "slimdiff.stages.aggregate",
    ],
)
def test_loads_without_torch(module: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", f"{BLOCKER}\nimport {module}"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr


def test_a_row_needs_the_standard_library_only() -> None:
    """There is one such job for every cell: a thousand of them must be cheap."""
    for module in fingerprint.modules("slimdiff.stages.row"):
        if module in MODULES:
            others = {name.partition(".")[0] for name in imported(module)} - {"slimdiff"}
            assert others <= sys.stdlib_module_names, f"{module} imports {others - sys.stdlib_module_names}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("slimdiff.stages.")])
def test_stages_are_thin(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("module", [name for name in FILES if not name.startswith("slimdiff.cli.")])
def test_the_package_does_not_know_the_workflow(module: str) -> None:
    text = FILES[module].read_text(encoding="utf-8")
    assert "snakemake" not in text.lower()
    # In prose a path may serve as an example; in code it would tie the package to one place.
    # The front door alone has one: read_matrix() without a path is for people in a clone.
    allowed = {"results/matrix.parquet"} if module == "slimdiff" else set()
    assert not [literal for literal in string_literals(text) if "results/" in literal and literal not in allowed]


def string_literals(text: str) -> list[str]:
    """The strings in source code that are not docstrings."""
    tree = ast.parse(text)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
        if isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose)
    return [node.value for node in constants if isinstance(node.value, str)]


RULES = sorted([ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")])


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_never_import_torch(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"^\s*(?:from|import)\s+([\w.]+)", text, re.MULTILINE)
    names += [
        f"slimdiff.{name.strip()}"
        for line in re.findall(r"from slimdiff import (.+)", text)
        for name in line.split(",")
    ]
    for name in names:
        assert name.partition(".")[0] not in TORCH
        if name in MODULES:
            wing = room_of(name).wing
            assert wing in ("shared", "analysis"), f"{path.name} imports {name}, of the {wing} wing"


def test_rules_call_stages_by_module() -> None:
    for path in RULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s+(script|run|notebook):", text, re.MULTILINE), f"{path.name}: use shell"
        for stage in re.findall(r"-m slimdiff\.stages\.(\w+)", text):
            assert f"slimdiff.stages.{stage}" in MODULES


def test_tables_of_contents_stay_short() -> None:
    assert len((ROOT / "Snakefile").read_text(encoding="utf-8").splitlines()) <= 60
    assert len((ROOT / "workflow" / "rules" / "common.smk").read_text(encoding="utf-8").splitlines()) <= 150
