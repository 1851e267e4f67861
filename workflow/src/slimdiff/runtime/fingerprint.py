"""A digest of the code that a stage runs, so that a real edit reruns it and a comment does not.

Only the rules use it. It reads source text and imports nothing: milliseconds, where importing torch costs seconds.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

from slimdiff.errors import UserError

PACKAGE = Path(__file__).parents[1]
LENGTH = 12  # hexadecimal digits: 48 bits, ample for the few versions of one module


@functools.cache
def fingerprint(module: str) -> str:
    """Digest of `module` and of every slimdiff module that it imports, directly or through others.

    Comments, formatting and docstrings do not count, nor does the package's root, which holds no logic.

    Args:
        module: dotted name, for example "slimdiff.stages.train".

    Raises:
        UserError: a module is missing or is not valid Python.
    """
    digest = hashlib.sha256()
    for name in sorted(modules(module)):
        digest.update(f"{name}\n{_tree(name)}\n".encode())
    return digest.hexdigest()[:LENGTH]


@functools.cache
def modules(module: str) -> frozenset[str]:
    """`module` and the slimdiff modules that it imports, directly or through others, the root left out."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name != PACKAGE.name:
            found.add(name)
            waiting.extend(_imports(name))
            waiting.append(name.rpartition(".")[0])  # importing a module runs the package around it
    return frozenset(found)


def exists(module: str) -> bool:
    """Whether there is a module of this dotted name."""
    return _path(module) is not None


def text(node: ast.AST) -> str:
    """A syntax tree as text, without comments, layout and docstrings: equal for code that does the same by its form."""
    return "".join(_write(node))


def _path(module: str) -> Path | None:
    """The file of a dotted name, None where there is none."""
    stem = PACKAGE.parent.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _parse(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise UserError(f"module {module} does not exist under {PACKAGE}: correct the import or restore the file")
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid Python ({error}): correct it and run again") from None


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """The slimdiff modules that `module` names in import statements, at any depth."""
    found: set[str] = set()
    for node in ast.walk(_parse(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, module)
            found.add(origin)
            # `from package import name`: the name may be a module of its own or something inside the package.
            found.update(f"{origin}.{alias.name}" for alias in node.names if _path(f"{origin}.{alias.name}"))
    return frozenset(name for name in found if name.startswith(f"{PACKAGE.name}."))


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The dotted name after `from`, relative ones resolved against `module`."""
    if not node.level:
        return node.module or ""
    path = _path(module)
    parts = module.split(".") if path is not None and path.name == "__init__.py" else module.split(".")[:-1]
    base = parts[: len(parts) - (node.level - 1)]
    return ".".join([*base, node.module] if node.module else base)


@functools.cache
def _tree(module: str) -> str:
    """The module's syntax as text."""
    return text(_parse(module))


def _write(node: object) -> Iterator[str]:
    """A node as text, without docstrings.

    Not ast.dump: that one's text differs between Python versions, and a cluster's nodes need not share the laptop's.
    Empty fields are skipped, since newer versions add such fields to old nodes.
    """
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for field, value in ast.iter_fields(node):
            if field == "body" and _has_docstring(node):
                value = value[1:]
            if value is not None and value != []:
                yield f" {field}="
                yield from _write(value)
        yield ";"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _write(item)
            yield ","
        yield "]"
    else:
        yield repr(node)


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
