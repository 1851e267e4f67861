"""The repository's files agree: versions, declared imports, tools of hooks and lint, no path of one machine."""

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from slimdiff.catalog.stages import CELL_STAGES, DATASET_STAGES, TRAINING_STAGES

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
# Name on conda-forge → name on PyPI, where they differ.
CONDA_NAMES = {"pytorch-cpu": "torch", "pytorch-gpu": "torch"}
# Snakemake runs outside the environments of its rules.
NOT_IN_CONDA = {"snakemake"}
# Import name → name of the distribution.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "markdown_it": "markdown-it-py",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "yaml": "pyyaml",
}
# Libraries that only tests use → the declared distribution that depends on them.
TRANSITIVE = {"packaging": "pytest"}

# Libraries that benchmarks compare with; docs/decisions says how to install them.
MEASURED_ONCE = {"blosc2", "torchode", "zipnn"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


RUN = requirements(PROJECT["dependencies"])
EXTRAS = {name: requirements(lines) for name, lines in PROJECT["optional-dependencies"].items()}
EVERYTHING = {**RUN, **EXTRAS["export"], **EXTRAS["gpu"], **EXTRAS["test"], **EXTRAS["docs"], **EXTRAS["dev"]}


def test_constraints_pin_every_dependency_within_its_range() -> None:
    lines = (ROOT / "envs" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = requirements([line for line in lines if line and not line.startswith("#")])
    assert set(pins) == set(EVERYTHING)
    for name, pin in pins.items():
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert EVERYTHING[name].specifier.contains(exact.version), f"{name} {exact.version} is out of range"


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_conda_files_are_in_step_with_pyproject(flavour: str) -> None:
    content = yaml.safe_load((ROOT / "envs" / f"{flavour}.yaml").read_text(encoding="utf-8"))
    assert content["channels"] == ["conda-forge", "nodefaults"]
    plain = [line for line in content["dependencies"] if isinstance(line, str)]
    by_pip = [line for entry in content["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
    listed = requirements(plain + by_pip)
    for conda_name, name in CONDA_NAMES.items():
        if conda_name in listed:
            listed[name] = listed.pop(conda_name)
    assert listed.pop("python").specifier == SpecifierSet(PROJECT["requires-python"])
    listed.pop("pip")
    assert set(listed) == set(RUN) - NOT_IN_CONDA
    for name, found in listed.items():
        assert found.specifier == RUN[name].specifier, f"{name} in envs/{flavour}.yaml"


def test_conda_environments_differ_only_in_torch() -> None:
    lines = [
        set((ROOT / "envs" / f"{flavour}.yaml").read_text(encoding="utf-8").splitlines()[1:])
        for flavour in ("cpu", "cuda")
    ]
    assert {line.strip(" -").partition(">")[0] for line in lines[0] ^ lines[1]} == set(CONDA_NAMES)


@pytest.mark.parametrize("folder", ["workflow/src", "tests", "benchmarks"])
def test_every_import_is_declared(folder: str) -> None:
    extras = ("export", "engines", "gpu") if folder == "workflow/src" else ("test",)
    allowed = {**RUN, **{name: requirement for extra in extras for name, requirement in EXTRAS[extra].items()}}
    local = {path.stem for name in (folder, "tests") for path in (ROOT / name).rglob("*.py")} | {
        "slimdiff",
        "tests",
        "benchmarks",
    }
    for path in (ROOT / folder).rglob("*.py"):
        for name in imported(path) - sys.stdlib_module_names - local - MEASURED_ONCE:
            distribution = canonicalize_name(DISTRIBUTIONS.get(name, TRANSITIVE.get(name, name)))
            assert distribution in allowed, (
                f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does not name"
            )


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_hooks_and_lint_call_the_same_tools() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    entries = [hook["entry"] for hook in hooks]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for tool in ("ruff check", "ruff format", "snakefmt", "codespell", "mypy"):
        assert any(entry.startswith(f".venv/bin/{tool}") for entry in entries), f"pre-commit does not call {tool}"
        assert f"$(IN_VENV) {tool}" in makefile, f"make lint does not call {tool}"


def test_versions_agree() -> None:
    text = (ROOT / "workflow/src/slimdiff/__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert version and citation["version"] == version[1]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{version[1]}]" in changelog


def test_the_snakefile_includes_every_file_of_rules() -> None:
    included = re.findall(r'^include: "(.+)"$', (ROOT / "Snakefile").read_text(encoding="utf-8"), re.MULTILINE)
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "workflow" / "rules").glob("*.smk")]
    assert sorted(included) == sorted(files)


def test_the_table_of_stages_matches_the_rules() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    rules = dict(re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))
    timed = {name for name, block in rules.items() if f"results/benchmarks/{name}/" in block}
    assert timed == {*DATASET_STAGES, *TRAINING_STAGES, *CELL_STAGES}
    for stage, output in CELL_STAGES.items():
        assert f"/{output}" in rules[stage], f"rule {stage} does not write {output}"


def test_everything_on_the_api_page_exists() -> None:
    text = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^::: (\S+)\n(?: +options:\n +members: \[(.+)\])?", text, re.MULTILINE)
    assert entries
    for name, members in entries:
        found = pkgutil.resolve_name(name)
        for member in filter(None, members.split(", ")):
            assert hasattr(found, member), f"{name} has no {member}"


@pytest.mark.parametrize("path", sorted((ROOT / "workflow" / "schemas").glob("*")), ids=lambda path: path.name)
def test_schemas_are_schemas(path: Path) -> None:
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    jsonschema.Draft202012Validator.check_schema(schema)


def test_no_path_of_one_machine_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("no git repository here")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file():  # deleted, not committed yet
            continue
        if path.suffix in {".py", ".smk", ".md", ".yaml", ".yml", ".toml", ".txt", ".cff", ".rst", ".csv", ".json", ""}:
            text = path.read_text(encoding="utf-8")
            found = re.search(r"/(?:home|Users|root|work)/\w+", text)
            assert found is None or path == Path(__file__), f"{name} names {found and found[0]}"
