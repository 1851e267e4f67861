"""What plugins declare, read from their source text.

Nothing of a plugin runs here, so a dry run needs no torch. A plugin's decorators stand on top-level functions of its
file. Their arguments are literals, or names of literals that the file assigns once at its top; `restore` is exempt.
"""

import ast
import functools
import keyword
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from slimdiff.errors import UserError
from slimdiff.io.folders import encoding_problem, is_file
from slimdiff.plugins import KINDS, Declared, NetworkFamily, Source, Step
from slimdiff.runtime.fingerprint import EXCLUDED, REGISTRATION, SOURCE, Codebase, package
from slimdiff.runtime.syntax import Module, parse

Entry = dict[str, str]  # path, kind, name and code of a declaration, as settings and headers hold it
D = TypeVar("D", Step, NetworkFamily, Source)


@dataclass(frozen=True)
class Declaration(Generic[D]):
    """One registered function of a plugin."""

    path: str  # of the plugin, as the config gives it
    declared: D
    code: str  # digest of the code that the function reaches

    @property
    def entry(self) -> Entry:
        """The declaration as an entry of the setting `plugins`."""
        return {"path": self.path, "kind": self.declared.kind, "name": self.declared.name, "code": self.code}


@dataclass(frozen=True)
class PluginCatalog:
    """The declarations of a config's plugins by name, in the order of files and lines."""

    steps: dict[str, Declaration[Step]] = field(default_factory=dict)
    families: dict[str, Declaration[NetworkFamily]] = field(default_factory=dict)
    sources: dict[str, Declaration[Source]] = field(default_factory=dict)


def load_catalog(paths: Sequence[str]) -> PluginCatalog:
    """Return what the files `paths` declare.

    Raises:
        UserError: a file is not a plugin, or two files declare the same name.
    """
    return _load_catalog(tuple(paths))


@functools.cache
def _load_catalog(paths: tuple[str, ...]) -> PluginCatalog:
    catalog = PluginCatalog()
    tables: dict[str, dict[str, Any]] = {"step": catalog.steps, "family": catalog.families, "source": catalog.sources}
    files: dict[str, Path] = {}
    for path in paths:
        for name, own in own_modules(*parse_plugin(path)).items():
            if files.setdefault(name, own).resolve() != own.resolve():
                raise UserError(f"{own} and {files[name]} have one name, and Python imports one of them; rename one")
        for declaration in read(path):
            kind, name = declaration.declared.kind, declaration.declared.name
            if name in tables[kind]:
                raise UserError(f"{path}: {kind} {name!r} is also declared in {tables[kind][name].path}; rename one")
            tables[kind][name] = declaration
    return catalog


def path_problem(path: str) -> str | None:
    """Return what is wrong with `path` as an entry of `plugins`, as in "is 'x'; allowed: …"; None if nothing is."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or parts.suffix != ".py":
        return f"is {path!r}; allowed: a file that ends in .py, its path relative to the working directory, without .."
    if not _importable(parts.stem):
        return f"is {path!r}; allowed: a name that Python can import, of letters, digits and _, and no word of Python's"
    if problem := encoding_problem(path):
        return problem
    if library := library_of(parts.stem, Path(path).parent):
        return f"is {path!r}, the name of a module of {library}, and Python imports one of the two; rename the file"
    if not is_file(path):
        return f"is {path!r}, which does not exist; correct the path or remove it"
    return None


def parse_plugin(path: str | os.PathLike[str]) -> tuple[Codebase, Module]:
    """Return the plugin in `path`, and all code that it can reach: slimdiff, and the modules of its own folder.

    Raises:
        UserError: it cannot be read, is not valid Python, or has a name by which Python imports another file.
    """
    file = Path(path)
    code = Codebase((SOURCE, file.parent), base=package())
    module = code.module(file.stem) if _importable(file.stem) else None
    if module is None or module.path.resolve() != file.resolve():
        parse(file)
        raise UserError(f"the plugin {path} needs a name that Python can import and no other module has; rename it")
    for name, own in own_modules(code, module).items():
        if library := library_of(name, file.parent):
            raise UserError(
                f"{own} has the name of a module of {library}, and Python imports one of the two; rename it"
            )
    return code, module


def own_modules(code: Codebase, module: Module) -> dict[str, Path]:
    """Return the files next to a plugin that it imports, itself included, by the names of their modules."""
    names = sorted({name.partition(".")[0] for name in code.modules(module.name)} - {"slimdiff"})
    return {name: found.path for name in names if (found := code.module(name)) is not None}


def library_of(name: str, folder: Path) -> str | None:
    """Return what else than `folder` has a module `name`; None if nothing has.

    The working directory counts for nothing, since jobs do not import from it (`python -P`). A folder without
    __init__.py does, as in google.protobuf: a file google.py would hide it.
    """
    if name in sys.stdlib_module_names or name == "__main__":
        return "the standard library"
    ignored = {os.path.realpath(folder), os.path.realpath(".")}
    places = [place for place in sys.path if os.path.realpath(place) not in ignored]
    # Also finders of packages that are installed to be edited.
    specs = (finder.find_spec(name, places) for finder in sys.meta_path)
    spec = next((spec for spec in specs if spec is not None), None)
    if spec is None:
        return None
    return f"an installed package ({spec.origin or next(iter(spec.submodule_search_locations or ()), name)})"


def _importable(stem: str) -> bool:
    """Return whether `import stem` can find a file of this name."""
    return stem.isidentifier() and not keyword.iskeyword(stem) and not stem.startswith("__")


@functools.cache
def read(path: str) -> tuple[Declaration[Any], ...]:
    """Return what the plugin in `path` declares, in the order of its lines.

    Raises:
        UserError: it cannot be read, is not valid Python, declares nothing, or has a decorator that cannot be read
            without running it.
    """
    code, module = parse_plugin(path)
    names = _decorator_names(module.tree)
    registered = [
        (statement, kind, call)
        for statement in module.tree.body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for kind, call in _decorators(path, statement, names)
    ]
    if not registered:
        raise UserError(f"{path} registers nothing: decorate a function with step, family or source of {REGISTRATION}")
    literals = _literals(module.tree)
    declarations: list[Declaration[Any]] = []
    for statement, kind, call in registered:
        try:
            declared = _declare(kind, call, literals)
        except UserError as error:
            raise UserError(f"{path}, line {call.lineno}: @{kind}: {error}") from None
        if any((other.declared.kind, other.declared.name) == (kind, declared.name) for other in declarations):
            raise UserError(f"{path}, line {call.lineno}: @{kind}: {declared.name!r} is declared twice; rename one")
        digest = code.fingerprint(f"{module.name}:{statement.name}", texts=EXCLUDED)
        declarations.append(Declaration(path, declared, digest))
    return tuple(declarations)


def _decorator_names(tree: ast.Module) -> dict[str, str]:
    """Return the kind of each decorator by the text that the file has for it."""
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == REGISTRATION:
            names |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in KINDS}
        elif isinstance(node, ast.ImportFrom) and node.module == "slimdiff":
            modules = [alias.asname or alias.name for alias in node.names if alias.name == "plugins"]
            names |= {f"{module}.{kind}": kind for module in modules for kind in KINDS}
        elif isinstance(node, ast.Import):
            modules = [alias.asname or alias.name for alias in node.names if alias.name == REGISTRATION]
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
            raise UserError(f"{path}, line {decorator.lineno}: write @{kind}(…) with arguments, on a plain function")
        yield kind, call


def _literals(tree: ast.Module) -> dict[str, ast.expr]:
    """Return the values that the file assigns once at its top, by name."""
    values: dict[str, list[ast.expr]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    values.setdefault(target.id, []).append(node.value)
    return {name: assigned[0] for name, assigned in values.items() if len(assigned) == 1}


def _declare(kind: str, call: ast.Call, literals: Mapping[str, ast.expr]) -> Declared:
    arguments: dict[str, Any] = {}
    if len(call.args) > 1 or any(keyword.arg is None for keyword in call.keywords):
        raise UserError("takes the name first, then key=value arguments")
    for key, node in [*(("name", node) for node in call.args), *((str(k.arg), k.value) for k in call.keywords)]:
        if (kind, key) == ("step", "restore"):
            arguments["restores"] = not (isinstance(node, ast.Constant) and node.value is None)
            continue
        try:
            value = literals.get(node.id, node) if isinstance(node, ast.Name) else node
            arguments[key] = ast.literal_eval(value)
        except ValueError:
            raise UserError(
                f"{key} is {ast.unparse(node)[:60]}; allowed: a literal, or the name of one that the file assigns once "
                "at its top, since the rules read it without running the file"
            ) from None
    try:
        return KINDS[kind](**arguments)
    except TypeError as error:
        raise UserError(str(error).partition(" ")[2]) from None
