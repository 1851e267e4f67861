"""Fingerprints: what changes them, and that they cover every import."""

import ast
import sys
from pathlib import Path

import pytest

from slimdiff.errors import UserError
from slimdiff.runtime import fingerprint as module
from slimdiff.runtime.fingerprint import fingerprint, modules

STAGES = sorted(
    path.stem for path in (module.PACKAGE / "stages").glob("*.py") if path.stem not in ("__init__", "command")
)

BEFORE = '''"""A module."""

from slimdiff.other import double


class Thing:
    """A thing."""

    size = 1


def make(n: int = 2) -> int:
    """Make one."""
    # a remark
    return double(n) + Thing.size
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the same name with a stage, a module that it imports, and one that it does not."""
    root = tmp_path / "slimdiff"
    (root / "stages").mkdir(parents=True)
    for name in ("__init__", "stages/__init__"):
        (root / f"{name}.py").write_text("")
    (root / "stages" / "make.py").write_text(BEFORE)
    (root / "other.py").write_text("def double(n):\n    return 2 * n\n")
    (root / "third.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "PACKAGE", root)
    forget()
    yield root
    forget()


def forget() -> None:
    for function in (module.fingerprint, module.modules, module._parse, module._imports, module._tree):
        function.cache_clear()


def take() -> str:
    forget()
    return fingerprint("slimdiff.stages.make")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # a remark\n", ""),
        ('"""Make one."""', '"""Make another,\n\n    said at length.\n    """'),
        ('    """A thing."""\n\n', ""),
        ('"""A module."""\n\n', ""),
        ("return double(n) + Thing.size", "return (\n        double(n)\n        + Thing.size\n    )"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(package: Path, old: str, new: str) -> None:
    before = take()
    assert BEFORE.count(old) == 1
    (package / "stages" / "make.py").write_text(BEFORE.replace(old, new))
    assert take() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+ Thing.size", "- Thing.size"),
        ("size = 1", "size = 1.0"),
        ("size = 1", "size = True"),
        ("n: int = 2", "n: int = 3"),
        ("class Thing:", "class Thing(object):"),
        ("    return double(n) + Thing.size", "    'text'\n    return double(n) + Thing.size"),
    ],
)
def test_real_edits_count(package: Path, old: str, new: str) -> None:
    before = take()
    (package / "stages" / "make.py").write_text(BEFORE.replace(old, new))
    assert take() != before


def test_an_edit_of_an_imported_module_counts_and_of_another_does_not(package: Path) -> None:
    before = take()
    (package / "third.py").write_text("x = 2\n")
    (package / "__init__.py").write_text("version = 2\n")
    assert take() == before
    (package / "other.py").write_text("def double(n):\n    return n + n\n")
    assert take() != before


@pytest.mark.parametrize(
    "line",
    [
        "import slimdiff.third",
        "from slimdiff import third",
        "from slimdiff.third import x",
        "from .. import third",
        "from ..third import x",
        "def f():\n    import slimdiff.third as t\n    return t",
    ],
)
def test_every_form_of_import_is_followed(package: Path, line: str) -> None:
    (package / "stages" / "make.py").write_text(f"{line}\n")
    forget()
    assert "slimdiff.third" in modules("slimdiff.stages.make")


def test_packages_around_a_module_belong_to_it(package: Path) -> None:
    assert modules("slimdiff.stages.make") == {"slimdiff.stages", "slimdiff.stages.make", "slimdiff.other"}


def test_circles_end(package: Path) -> None:
    (package / "other.py").write_text("import slimdiff.stages.make\n")
    assert take()


def test_a_missing_module_is_named(package: Path) -> None:
    (package / "other.py").unlink()
    with pytest.raises(UserError, match=r"^module slimdiff\.other does not exist .*restore the file$"):
        take()


def test_a_broken_module_is_named(package: Path) -> None:
    (package / "other.py").write_text("def double(n:\n")
    with pytest.raises(UserError, match=r"other\.py is not valid Python"):
        take()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_knows_every_module_that_it_loads(stage: str) -> None:
    """Against Python's own idea of what the sources import, found without this module's walk."""
    known = modules(f"slimdiff.stages.{stage}")
    files = {path: _dotted(path) for path in module.PACKAGE.rglob("*.py")}
    for path, name in files.items():
        if name not in known:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} has a relative import"
                imported = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            loaded = {one for one in imported if one in files.values() and one != "slimdiff"}
            assert loaded <= known, f"{name} imports {sorted(loaded - known)}"


def _dotted(path: Path) -> str:
    parts = path.relative_to(module.PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize(
    ("stage", "foreign"),
    [
        (
            "train",
            ("sampling", "diffusion.samplers", "compression.prune", "engines", "runtimes", "metrics", "analysis"),
        ),
        ("train", ("reuse", "compression.storage", "modelfile", "packing")),
        ("compress", ("training", "metrics", "analysis")),
        ("sample", ("training", "metrics", "analysis")),
        ("score", ("training", "models", "diffusion", "compression", "analysis")),
        ("reference", ("training", "models", "diffusion", "compression", "analysis")),
        ("row", ("training", "models", "config", "validation")),
    ],
)
def test_a_stage_does_not_hang_on_what_it_has_no_use_for(stage: str, foreign: tuple[str, ...]) -> None:
    """Or else an edit there would rerun it: a sampler must not cost a training."""
    known = modules(f"slimdiff.stages.{stage}")
    assert not {name for name in known if any(f"{name}.".startswith(f"slimdiff.{other}.") for other in foreign)}


def test_torch_stays_out() -> None:
    assert "torch" not in vars(sys.modules["slimdiff.runtime.fingerprint"])
