"""What plugins bring, read from their source text: nothing of a plugin runs here, so a dry run needs no torch.

A plugin's decorators stand on functions at the top of its file and hold literals (or names of literals assigned once at
the top of the file), `restore` excepted.
"""

import ast
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from slimdiff.errors import UserError
from slimdiff.io.folders import is_file
from slimdiff.plugins import KINDS, Declared, NetworkFamily, Source, Step, digest

API = "slimdiff.plugins"
Entry = dict[str, str]  # path, kind, name and code of something that a plugin brings, as settings and headers have it


@dataclass(frozen=True)
class Read:
    """One declaration in a plugin's file."""

    path: str  # as it was given
    declared: Declared
    code: str  # digest of what the function uses

    @property
    def entry(self) -> Entry:
        """What settings and headers say of it."""
        return {"path": self.path, "kind": self.declared.kind, "name": self.declared.name, "code": self.code}


@dataclass(frozen=True)
class PluginCatalog:
    """What the plugins of a configuration bring, by name, in the order of files and of lines."""

    steps: dict[str, Read] = field(default_factory=dict)
    families: dict[str, Read] = field(default_factory=dict)
    sources: dict[str, Read] = field(default_factory=dict)

    def step(self, name: str) -> Step:
        """The declaration of a step."""
        declared = self.steps[name].declared
        assert isinstance(declared, Step)
        return declared

    def family(self, name: str) -> NetworkFamily:
        """The declaration of a family."""
        declared = self.families[name].declared
        assert isinstance(declared, NetworkFamily)
        return declared

    def source(self, name: str) -> Source:
        """The declaration of a source."""
        declared = self.sources[name].declared
        assert isinstance(declared, Source)
        return declared


def load_catalog(paths: Sequence[str]) -> PluginCatalog:
    """What the files `paths` declare.

    Raises:
        UserError: a file is no plugin, or two declare the same.
    """
    return _catalogue(tuple(paths))


@functools.cache
def _catalogue(paths: tuple[str, ...]) -> PluginCatalog:
    made = PluginCatalog()
    shelves: dict[str, dict[str, Read]] = {"step": made.steps, "family": made.families, "source": made.sources}
    for path in paths:
        for found in read(path):
            shelf, name = shelves[found.declared.kind], found.declared.name
            if name in shelf:
                raise UserError(f"{path}: {found.declared.kind} {name!r} is declared in {shelf[name].path} as well")
            shelf[name] = found
    return made


def path_problem(path: str) -> str | None:
    """What is wrong with `path` as an entry of `plugins`, or None; goes on from it, as in "is 'x'; allowed: …"."""
    form = "a file that ends in .py, its path without .. and from the folder that the run is started in"
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or parts.suffix != ".py":
        return f"is {path!r}; allowed: {form}"
    if not parts.stem.isidentifier():
        return f"is {path!r}; allowed: a name that Python can import, of letters, digits and _"
    if not is_file(path):
        return f"is {path!r}, which does not exist; correct it, or take it out"
    return None


@functools.cache
def read(path: str) -> tuple[Read, ...]:
    """What the plugin in `path` declares, in the order of its lines.

    Raises:
        UserError: it cannot be read, is not valid Python, declares nothing, or declares something in a way that cannot
            be read without running it.
    """
    file = Path(path)
    tree = digest.parse(file)
    names = _decorator_names(tree)
    found = [
        (statement, kind, call)
        for statement in tree.body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for kind, call in _decorators(path, statement, names)
    ]
    if not found:
        raise UserError(
            f"{path} registers nothing: a plugin has functions with the decorators step, family or source of {API}"
        )
    registered = [statement for statement, _, _ in found]
    literals = _literals(tree)
    made: list[Read] = []
    for statement, kind, call in found:
        try:
            declared = _declare(kind, call, literals)
        except UserError as error:
            raise UserError(f"{path}, line {call.lineno}: @{kind}: {error}") from None
        if any((one.declared.kind, one.declared.name) == (kind, declared.name) for one in made):
            raise UserError(f"{path}, line {call.lineno}: @{kind}: {declared.name!r} is declared a second time")
        made.append(Read(path, declared, digest.digest(file, tree, statement, registered)))
    return tuple(made)


def _decorator_names(tree: ast.Module) -> dict[str, str]:
    """How the file calls the decorators: the text of each, and its kind."""
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == API:
            names |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in KINDS}
        elif isinstance(node, ast.ImportFrom) and node.module == "slimdiff":
            modules = [alias.asname or alias.name for alias in node.names if alias.name == "plugins"]
            names |= {f"{module}.{kind}": kind for module in modules for kind in KINDS}
        elif isinstance(node, ast.Import):
            modules = [alias.asname or alias.name for alias in node.names if alias.name == API]
            names |= {f"{module}.{kind}": kind for module in modules for kind in KINDS}
    return names


def _decorators(
    path: str, statement: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, names: Mapping[str, str]
) -> Iterator[tuple[str, ast.Call]]:
    for decorator in statement.decorator_list:
        call = decorator if isinstance(decorator, ast.Call) else None
        kind = names.get(ast.unparse(call.func if call else decorator))
        if kind is None:
            continue
        if call is None or not isinstance(statement, ast.FunctionDef):
            raise UserError(
                f"{path}, line {decorator.lineno}: write @{kind}(…) with its arguments, on a plain function"
            )
        yield kind, call


def _literals(tree: ast.Module) -> dict[str, ast.expr]:
    """What is assigned once at the top of the file."""
    made: dict[str, list[ast.expr]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    made.setdefault(target.id, []).append(node.value)
    return {name: values[0] for name, values in made.items() if len(values) == 1}


def _declare(kind: str, call: ast.Call, literals: Mapping[str, ast.expr]) -> Declared:
    arguments: dict[str, Any] = {}
    if len(call.args) > 1 or any(keyword.arg is None for keyword in call.keywords):
        raise UserError("takes the name first, and all else as key=value")
    for key, node in [*(("name", node) for node in call.args), *((str(k.arg), k.value) for k in call.keywords)]:
        if (kind, key) == ("step", "restore"):
            arguments["restores"] = not (isinstance(node, ast.Constant) and node.value is None)
            continue
        try:
            value = literals.get(node.id, node) if isinstance(node, ast.Name) else node
            arguments[key] = ast.literal_eval(value)
        except ValueError:
            raise UserError(
                f"{key} is {ast.unparse(node)[:60]}; allowed: a literal, or the name of one that is assigned once at "
                "the top of the file, since the rules read it without running the file"
            ) from None
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise UserError(str(error).partition(" ")[2]) from None
