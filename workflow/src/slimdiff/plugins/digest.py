"""A digest of one function of a plugin: of the function, and of all in its file and beside it that it may use.

So an edit of one step of a plugin reruns the cells of that step, not those of a family in the same file. It is found in
the syntax tree alone. Where that cannot tell (a statement that acts when the file is loaded, a name looked up by text),
the statement or the whole file counts: a rerun too many, never one too few. Not seen: data that a plugin reads, and
versions of the libraries that it imports.
"""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from slimdiff.errors import UserError
from slimdiff.runtime import fingerprint

DYNAMIC = {"globals", "locals", "vars", "eval", "exec", "__import__", "importlib"}  # names as text
NOT_COUNTED = {"slimdiff", "slimdiff.plugins", "slimdiff.errors"}  # of the package: they do nothing to results


def digest(path: Path, tree: ast.Module, root: ast.stmt, registered: Sequence[ast.stmt]) -> str:
    """Digest of the top-level statement `root` of `tree`, read from `path`, and of whatever it may use.

    Args:
        registered: the top-level functions that are registered; the others of them count only where they are used.
    """
    kept = _kept(tree, root, registered, path.parent)
    state = hashlib.sha256()
    for statement in kept:
        state.update(fingerprint.text(statement).encode())
    for name, text in sorted(_imported(kept, path.parent, {path.resolve()}).items()):
        state.update(f"\n{name}\n{text}".encode())
    return state.hexdigest()[: fingerprint.LENGTH]


def beside(path: Path, tree: ast.Module) -> dict[str, Path]:
    """The modules beside the plugin that it imports directly, by name: the files that Python must take for them."""
    return {name: file for name in _names(tree.body) if (file := _file(path.parent, name)) is not None}


def _kept(tree: ast.Module, root: ast.stmt, registered: Sequence[ast.stmt], folder: Path) -> list[ast.stmt]:
    """The statements of the file that count, in its order."""
    body = tree.body[1:] if ast.get_docstring(tree, clean=False) is not None else tree.body
    if _reads(tree) & DYNAMIC or any(name in DYNAMIC for name in _names(body)):
        return body
    makers: dict[str, list[ast.stmt]] = {}
    for statement in body:
        for name in _binds(statement):
            makers.setdefault(name, []).append(statement)
    own = {name for name, made in makers.items() if any(_is_own(statement, folder) for statement in made)}
    waiting = [root, *(statement for statement in body if statement not in registered and _acts(statement, own))]
    found: set[int] = set()
    while waiting:
        statement = waiting.pop()
        if id(statement) not in found:
            found.add(id(statement))
            waiting.extend(maker for name in _reads(statement) for maker in makers.get(name, ()))
    return [statement for statement in body if id(statement) in found]


def _binds(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a value at the top of the file."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in names if isinstance(node.ctx, ast.Store | ast.Del)}


def _reads(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def _is_own(statement: ast.stmt, folder: Path) -> bool:
    """Whether it brings code of the user's: calling that may change anything."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return any(_file(folder, name) is not None for name in _names([statement]))
    return not isinstance(statement, ast.Assign | ast.AnnAssign)


def _acts(statement: ast.stmt, own: set[str]) -> bool:
    """Whether a statement may do more, when the file is loaded, than to bind the names that it names."""
    if isinstance(statement, ast.Import):
        return False
    if isinstance(statement, ast.ImportFrom):
        return any(alias.name == "*" for alias in statement.names)
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return any(_reads(decorator) & own for decorator in statement.decorator_list)
    if isinstance(statement, ast.ClassDef):
        heads = [*statement.decorator_list, *statement.keywords]
        return any(_reads(head) & own for head in heads) or any(_calls(item) & own for item in statement.body)
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        plain = all(isinstance(part, ast.Name | ast.Tuple | ast.List) for part in targets)
        return not plain or bool(_calls(statement.value) & own)
    return True


def _calls(node: ast.AST) -> set[str]:
    """Names in what is called within `node`, function bodies left out: those do not run yet."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return set()
    own = _reads(node.func) if isinstance(node, ast.Call) else set()
    return own.union(*(_calls(child) for child in ast.iter_child_nodes(node)))


def _imported(statements: Sequence[ast.stmt], folder: Path, seen: set[Path]) -> dict[str, str]:
    """What `statements` import from beside the plugin, as syntax, and from slimdiff, as digests."""
    found: dict[str, str] = {}
    for name in _names(statements):
        if name.partition(".")[0] == fingerprint.PACKAGE.name:
            if name not in NOT_COUNTED and fingerprint.exists(name):
                found[name] = fingerprint.fingerprint(name)
            continue
        file = _file(folder, name)
        if file is None:
            continue
        for part in sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]:
            if part.resolve() not in seen:
                seen.add(part.resolve())
                tree = parse(part)
                found[part.relative_to(folder).as_posix()] = fingerprint.text(tree)
                found |= _imported(tree.body, folder, seen)
    return found


def _names(statements: Sequence[ast.stmt]) -> set[str]:
    """The modules that import statements anywhere in `statements` may name."""
    return {name for statement in statements for node in ast.walk(statement) for name in _named(node)}


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(folder: Path, name: str) -> Path | None:
    """The file of the module or package beside the plugin that `import name` loads first."""
    first = name.partition(".")[0]
    candidates = (folder / first / "__init__.py", folder / f"{first}.py")
    return next((file for file in candidates if file.is_file()), None)


def parse(path: Path) -> ast.Module:
    """The syntax tree of `path`.

    Raises:
        UserError: it cannot be read, or is not valid Python.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
