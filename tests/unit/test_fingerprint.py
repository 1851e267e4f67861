"""Fingerprints: the definitions that an entry point reaches, and what changes the digest."""

import sys
from pathlib import Path

import pytest

from slimdiff.errors import UserError
from slimdiff.runtime.fingerprint import Codebase, kept_fingerprints
from slimdiff.runtime.syntax import bound_names

MAKE = '''"""A module."""

from functools import cache

from slimdiff.other import double

UNUSED = 1


class Thing:
    """A thing."""

    size = 1


@cache
def make(n: int = 2) -> int:
    """Make one."""
    # a remark
    return double(n) + Thing.size


def other() -> int:
    return UNUSED
'''
OTHER = "FACTOR = 2\ndef double(n):\n    return FACTOR * n\ndef triple(n):\n    return 3 * n\n"
Files = dict[str, str]
BASE = {"__init__": "", "stages/__init__": "", "stages/make": MAKE, "other": OTHER}


def write(folder: Path, files: Files) -> Codebase:
    """Write a package called slimdiff with these files, and return its code base."""
    for name, text in files.items():
        path = folder / "slimdiff" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Codebase([folder])


def digest(folder: Path, files: Files, entry: str = "slimdiff.stages.make:make") -> str:
    return write(folder, files).fingerprint(entry)


def reached(folder: Path, files: Files, entry: str = "slimdiff.stages.make:make") -> set[str]:
    """Return the names of the reached definitions, each with its module."""
    definitions = write(folder, files).definitions(entry)
    return {
        f"{definition.module.removeprefix('slimdiff.')}.{name}"
        for definition in definitions
        for name in bound_names(definition.node) or {"*"}
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    # a remark\n", ""),
        ('"""Make one."""', '"""Make another,\n\n    said at length.\n    """'),
        ('    """A thing."""\n\n', ""),
        ('"""A module."""\n\n', ""),
        ("return double(n) + Thing.size", "return (\n        double(n)\n        + Thing.size\n    )"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("return UNUSED", "return -UNUSED"),
        ("UNUSED = 1\n", "UNUSED = 1\nADDED = 2\n"),
        ("from functools import cache\n\n", "import os\nfrom functools import cache, partial\n\n"),
    ],
)
def test_what_changes_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert MAKE.count(old) == 1
    assert digest(tmp_path, {**BASE, "stages/make": MAKE.replace(old, new)}) == digest(tmp_path, BASE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+ Thing.size", "- Thing.size"),
        ("size = 1", "size = 1.0"),
        ("size = 1", "size = True"),
        ("n: int = 2", "n: int = 3"),
        ("n: int = 2", "n: float = 2"),
        ("class Thing:", "class Thing(object):"),
        ("    return double(n)", "    'text'\n    return double(n)"),
        ("import double\n", "import triple as double\n"),
        ("from functools import cache\n", "from functools import lru_cache as cache\n"),
        ("@cache\n", ""),
    ],
)
def test_a_real_edit_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert MAKE.count(old) == 1
    assert digest(tmp_path, {**BASE, "stages/make": MAKE.replace(old, new)}) != digest(tmp_path, BASE)


def test_swapped_imports_change_the_digest(tmp_path: Path) -> None:
    """The same definitions are reached under other names."""
    text = "from slimdiff.other import {}\ndef make(n):\n    return double(n), triple(n)\n"
    plain, swapped = (text.format(names) for names in ("double, triple", "double as triple, triple as double"))
    assert digest(tmp_path, {**BASE, "stages/make": plain}) != digest(tmp_path, {**BASE, "stages/make": swapped})


def test_only_reached_definitions_of_an_imported_module_count(tmp_path: Path) -> None:
    assert reached(tmp_path, BASE) == {"stages.make.make", "stages.make.Thing", "other.double", "other.FACTOR"}
    edited = OTHER.replace("3 * n", "n + n + n")
    assert digest(tmp_path, {**BASE, "other": edited}) == digest(tmp_path, BASE)
    edited = OTHER.replace("FACTOR = 2", "FACTOR = 4")
    assert digest(tmp_path, {**BASE, "other": edited}) != digest(tmp_path, BASE)


THIRD = "from slimdiff.stages import helper\nA = 1\nB = 2\ndef f():\n    return A\nclass C(Base := object):\n    pass\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from slimdiff.third import f\ndef make(): f()", {"third.f", "third.A"}),
        ("from slimdiff import third\ndef make(): third.f()", {"third.f", "third.A"}),
        ("import slimdiff.third\ndef make(): slimdiff.third.f()", {"third.f", "third.A"}),
        ("import slimdiff.third as t\ndef make(): t.f()", {"third.f", "third.A"}),
        ("from .. import third\ndef make(): third.f()", {"third.f", "third.A"}),
        ("from ..third import f as g\ndef make(): g()", {"third.f", "third.A"}),
        ("def make():\n    import slimdiff.third as t\n    return t.f()", {"third.f", "third.A"}),
        ("def make():\n    from slimdiff.third import B\n    return lambda: [B for x in y]", {"third.B"}),
        (
            "from slimdiff.third import f\nTABLE = {'f': f}\ndef make(name): TABLE[name]()",
            {"third.f", "third.A", "TABLE"},
        ),
        ("from slimdiff.third import C\nclass D(C): pass\ndef make(): D()", {"D", "third.C"}),
        ("from slimdiff.third import B\ndef g(x=B): pass\ndef make(): g()", {"g", "third.B"}),
        ("from slimdiff.third import C\ndef make(x: C): pass", {"third.C"}),
        ("from slimdiff.third import C\ndef make(x: 'list[C]'): pass", {"third.C"}),
        (
            "from typing import Annotated\nfrom slimdiff import third\ndef make(x: Annotated[int, 'third.C']): pass",
            set(),
        ),
        ("from slimdiff import third\nX = third.A\ndef make(): return X", {"X", "third.A"}),
        ("from slimdiff import third\nX = Y = third.A\nX += 1\ndef make(): return Y", {"X", "Y", "third.A"}),
        ("from slimdiff import third\ndef make():\n    third = 1\n    return third", set()),
        ("from slimdiff import third\ndef make(third): return [third for third in third]", set()),
        ("from slimdiff import third\ndef make(): return [third for third in third.A]", {"third.A"}),
        ("from slimdiff import third\nclass D:\n    third: int\ndef make(): return D", {"D"}),
        ("import third\ndef make(): third.f()", set()),  # a library with the same name
    ],
)
def test_references_by_name_are_followed(tmp_path: Path, text: str, names: set[str]) -> None:
    files = {**BASE, "stages/helper": "", "third": THIRD, "stages/make": text}
    expected = {name if "." in name else f"stages.make.{name}" for name in names}
    assert reached(tmp_path, files) - {"stages.make.make", "third.Base"} == expected


WHOLE = {"third.A", "third.B", "third.C", "third.f"}


@pytest.mark.parametrize(
    "text",
    [
        "from slimdiff import third\ndef make(name): return getattr(third, name)",
        "from slimdiff import third\nTABLE = {'third': third}\ndef make(): return TABLE",
        "from slimdiff import third\ndef make(): return third.g",  # undefined
        "from slimdiff.third import *\ndef make(): return f",
        "def make():\n    import slimdiff.third as t\n    return vars(t)",
        "from slimdiff.third import A\nimport importlib\ndef make(name): return importlib.import_module(name)",
        "from importlib import import_module as load\ndef make(name): return load(name)",
        "def make(name): return __import__(name)",
        "def make(name): return eval(name)",
        "import sys\ndef make(name): return sys.modules[name]",
        "def make(cls): return cls.__subclasses__()",
        "import importlib\ndef make(name): return getattr(importlib, name)",
    ],
)
def test_a_name_looked_up_by_text_counts_the_whole_module(tmp_path: Path, text: str) -> None:
    assert reached(tmp_path, {**BASE, "stages/helper": "", "third": THIRD, "stages/make": text}) >= WHOLE


@pytest.mark.parametrize("lookup", ["globals()[name]", "vars()[name]", "locals()[name]"])
def test_a_name_looked_up_in_its_own_module_counts_that_module(tmp_path: Path, lookup: str) -> None:
    text = f"from slimdiff import third\nX = 1\ndef make(name): return {lookup}\n"
    assert reached(tmp_path, {**BASE, "stages/helper": "", "third": THIRD, "stages/make": text}) >= {
        "stages.make.X",
        *WHOLE,
    }


@pytest.mark.parametrize(
    ("statement", "acts"),
    [
        ("print(TABLE)", True),
        ("TABLE['x'] = f", True),
        ("f.name = 'f'", True),
        ("TABLE |= {}", True),
        ("del B", True),
        ("for name in 'ab': TABLE[name] = f", True),
        ("if B: B = 3", True),
        ("try:\n    import nowhere\nexcept ImportError:\n    B = 3", True),
        ("with open(B): pass", True),
        ("X = f()", True),
        ("X = TABLE.setdefault('x', 1)", True),
        ("X = [f() for _ in 'ab']", True),
        ("X = print(f)", True),
        ("X = print(lambda: B)", True),
        ("@f\ndef g(): pass", True),
        ("import atexit\n@atexit.register\ndef g(): pass", True),
        ("@TABLE['f']\ndef g(): pass", True),
        ("def g(x=f()): pass", True),
        ("class G:\n    x = f()", True),
        ("class H:\n    def __init_subclass__(cls): f()\nclass G(H): pass", True),
        ("class H(type): pass\nclass G(metaclass=H): pass\nclass I(G): pass", True),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    def __post_init__(self): f()\nX = P()",
            True,
        ),
        ("if __name__ == '__main__': f()", False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nowhere", False),
        ("X = B", False),
        ("X = [name.upper() for name in 'ab']", False),
        ("from typing import TypeVar\nX = TypeVar('X', bound=f)", False),
        ("X = [B, 'b'.upper(), len('ab')]", False),
        ("import re\nX = re.compile('b')", False),
        ("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    x: int = B\nX = P(1)", False),
        ("import functools\n@functools.cache\ndef g(): f()", False),
        ("X = lambda: f()", False),
        ("def g(): f()", False),
        (
            "class G:\n    x = 1\n    @property\n    def y(self): return f()\n    @y.setter\n    def y(self, v): f()",
            False,
        ),
    ],
)
def test_a_statement_that_acts_on_import_counts(tmp_path: Path, statement: str, acts: bool) -> None:
    """In every loaded module, whether or not a definition in it is reached."""
    third = f"TABLE = {{}}\nB = 2\nUNUSED = 3\ndef f(): return B\n{statement}\n"
    files = {**BASE, "third": third, "stages/make": "import slimdiff.third\ndef make(): pass\n"}
    names = reached(tmp_path, files)
    assert bool(names - {"stages.make.make"}) == acts
    assert "third.UNUSED" not in names


def test_an_acting_statement_of_an_indirect_import_counts(tmp_path: Path) -> None:
    files = {**BASE, "other": f"from slimdiff import third\n{OTHER}", "third": "def f(): pass\nf()\n"}
    assert "third.f" in reached(tmp_path, files)
    assert "third.f" not in reached(tmp_path, {**files, "other": OTHER})


def test_an_acting_statement_of_a_package_counts(tmp_path: Path) -> None:
    before = digest(tmp_path, BASE)
    assert digest(tmp_path, {**BASE, "__init__": "VERSION = 2\n"}) == before
    assert digest(tmp_path, {**BASE, "__init__": "print(2)\n"}) != before


def test_the_main_block_counts_in_the_entry_points_module(tmp_path: Path) -> None:
    files = {**BASE, "stages/make": f"{MAKE}\nif __name__ == '__main__':\n    other()\n"}
    assert "stages.make.other" in reached(tmp_path, files)


def test_packages_around_a_module_are_loaded(tmp_path: Path) -> None:
    modules = write(tmp_path, BASE).modules("slimdiff.stages.make:make")
    assert modules == {"slimdiff", "slimdiff.stages", "slimdiff.stages.make", "slimdiff.other"}


def test_circular_imports_terminate(tmp_path: Path) -> None:
    files = {**BASE, "other": "from slimdiff.third import double\n", "third": "from slimdiff.other import double\n"}
    assert digest(tmp_path, files)


def test_a_module_with_relative_imports_in_a_package_file(tmp_path: Path) -> None:
    files = {**BASE, "parts/__init__": "from .one import f\n", "parts/one": "def f(): pass\n"}
    files["stages/make"] = "from slimdiff import parts\ndef make(): parts.f()\n"
    assert reached(tmp_path, files) == {"stages.make.make", "parts.one.f"}


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    code = write(tmp_path, BASE)
    (tmp_path / "slimdiff" / "other.py").unlink()
    with pytest.raises(UserError, match=r"slimdiff\.other .*restore"):
        code.fingerprint("slimdiff.stages.make:make")


def test_a_broken_module_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other\.py, line 1"):
        digest(tmp_path, {**BASE, "other": "def double(n:\n"})


def test_torch_stays_out() -> None:
    assert "torch" not in vars(sys.modules["slimdiff.runtime.fingerprint"])


def test_fingerprints_are_kept_while_no_text_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment is another text, with the same fingerprints; a new module or another entry point counts as well."""
    kept, source, entries = tmp_path / "kept", tmp_path / "source", ["slimdiff.stages.make:make"]
    computed, original = [], Codebase.fingerprint
    monkeypatch.setattr(Codebase, "fingerprint", lambda self, entry: (computed.append(entry), original(self, entry))[1])

    def computes(n: int, *more: str) -> dict[str, str]:
        computed.clear()
        found = kept_fingerprints(kept, [*entries, *more], source)
        assert len(computed) == n
        assert found == {entry: original(Codebase([source]), entry) for entry in [*entries, *more]}
        return found

    write(source, BASE)
    first = computes(1)
    assert computes(0) == first
    write(source, {**BASE, "other": f"# a remark\n{OTHER}"})
    assert computes(1) == computes(0) == first
    write(source, {"other": OTHER.replace("2", "3")})
    assert computes(1) == computes(0) != first
    write(source, {"new": ""})
    computes(1)
    computes(2, "slimdiff.stages.make:other")
    for damaged in ("", "[]", '{"text": 1}', kept.read_text()[:-9]):
        kept.write_text(damaged)
        computes(1)
        computes(0)


def test_a_folder_that_cannot_be_written_keeps_no_fingerprints(tmp_path: Path) -> None:
    write(tmp_path, BASE)
    entry = "slimdiff.stages.make:make"
    assert kept_fingerprints(tmp_path / "missing" / "kept", [entry], tmp_path).keys() == {entry}
