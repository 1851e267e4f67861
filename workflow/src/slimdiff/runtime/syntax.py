"""Read a module's syntax tree: its definitions, the names that they read, and its text without comments and layout."""

import ast
import contextlib
import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimdiff.errors import UserError

HIDDEN = {"__subclasses__", "__globals__", "__builtins__"}  # attributes that lead to code without its name
LEAVES = {"arg", "attr", "ctx", "id", "kind", "level", "module", "op", "ops", "type_comment"}  # fields
BRANCHES = {  # of each kind of node, the fields that can hold further nodes
    kind: tuple(field for field in kind._fields if field not in LEAVES)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
NAMESPACES = {"vars", "locals", "dir"}  # called without arguments
BINDERS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.pattern)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, *COMPREHENSIONS)


@dataclass(frozen=True)
class Target:
    """What an import binds: a module, or a name in it."""

    module: str
    name: str | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The attributes that lead from the module to it."""
        return () if self.name is None else (self.name,)


Read = tuple[str | Target, tuple[str, ...]]  # a name of the module, or an import of a function; attributes after it
Scope = Mapping[str, tuple[Target, ...]]  # local names, with what they are imports of


@dataclass(frozen=True, eq=False)
class Definition:
    """A top-level statement that is not an import."""

    module: str
    anchor: str  # what relative imports start from: the module, with a final dot if it is a package
    position: int
    node: ast.stmt

    @functools.cached_property
    def digest(self) -> str:
        """Digest of its syntax."""
        return hashlib.sha256(text(self.node).encode()).hexdigest()

    @property
    def references(self) -> "References":
        """What it reads and imports; worked out at each call."""
        return References(self.anchor, self.node)


@dataclass(frozen=True, eq=False)
class Alias:
    """A name that a top-level import binds."""

    module: str
    name: str
    target: Target

    @functools.cached_property
    def origin(self) -> str:
        """The dotted name of what it is bound to."""
        return ".".join((self.target.module, *self.target.path))


class Module:
    """The top level of a file: definitions, what each name may be bound to, and the modules that it imports."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree
        self._anchor = f"{name}." if path.name == "__init__.py" else name
        self.definitions: list[Definition] = []
        self.mains: list[Definition] = []  # run in the entry point's module alone
        self.bindings: dict[str, list[Definition | Alias]] = {}
        self.imports: set[str] = set()
        for node in tree.body[1:] if has_docstring(tree) else tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and not is_special(node):
                self._bind_imports(node)
            elif not _is_type_checking(node):
                definition = Definition(name, self._anchor, len(self.definitions) + len(self.mains), node)
                (self.mains if _is_main(node) else self.definitions).append(definition)
                for bound in bound_names(node):
                    self.bindings.setdefault(bound, []).append(definition)
                if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    for part in walk(node):
                        if isinstance(part, ast.Import | ast.ImportFrom):
                            self._bind_imports(part)

    def _bind_imports(self, node: ast.Import | ast.ImportFrom) -> None:
        for bound, target in _targets(self._anchor, node):
            self.bindings.setdefault(bound, []).append(Alias(self.name, bound, target))
        self.imports |= _imported(self._anchor, node)


class References:
    """What a statement may read when it runs and later: names of its module, attributes after them, and imports."""

    def __init__(self, anchor: str, node: ast.stmt) -> None:
        self.reads: set[Read] = set()
        self.imports: set[str] = set()
        self._anchor = anchor
        self._visit(node, {})

    def _visit(self, node: ast.AST, scope: Scope) -> None:
        visitor = VISITORS.get(node.__class__)
        if visitor is not None:
            visitor(self, node, scope)
        else:
            self._parts(node, scope)

    def _parts(self, node: ast.AST, scope: Scope) -> None:
        for part in children(node):
            self._visit(part, scope)

    def _name(self, node: ast.Name | ast.Attribute, scope: Scope) -> None:
        if isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
            self._read(node, scope)

    def _read(self, node: ast.expr, scope: Scope) -> None:
        if isinstance(node, ast.Attribute) and node.attr in HIDDEN:
            self.reads.add((Target("builtins", "eval"), ()))
        chain = name_chain(node)
        if chain is None:
            self._parts(node, scope)
        elif chain[0] in scope:
            self.reads |= {(target, chain[1]) for target in scope[str(chain[0])]}
        else:
            self.reads.add(chain)

    def _constant(self, node: ast.Constant, scope: Scope) -> None:
        """Read nothing."""

    def _global(self, node: ast.Global, scope: Scope) -> None:
        self.reads.update((name, ()) for name in node.names)

    def _call(self, node: ast.Call, scope: Scope) -> None:
        if not node.args and getattr(node.func, "id", None) in NAMESPACES:
            self.reads.add(("globals", ()))
        self._parts(node, scope)

    def _augmented(self, node: ast.AugAssign, scope: Scope) -> None:
        self._read(node.target, scope)
        self._visit(node.value, scope)

    def _annotated(self, node: ast.AnnAssign, scope: Scope) -> None:
        self._annotation(node.annotation, scope)
        self._parts(node, scope)

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        self.imports |= _imported(self._anchor, node)
        for bound, target in _targets(self._anchor, node):
            if bound not in scope:  # in a class body, where it may be read as an attribute
                self.reads.add((target, ()))
        if is_special(node) and isinstance(node, ast.ImportFrom):
            self.reads.add((Target(_origin(self._anchor, node)), ()))

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, scope: Scope) -> None:
        first, *others = node.generators
        self._visit(first.iter, scope)  # outside of the comprehension's own scope
        inner = {**scope, **{name: () for part in node.generators for name in _stored(part.target)}}
        results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        for part in (*results, first.target, *first.ifs, *others):
            self._visit(part, inner)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope) -> None:
        for value in defaults(node.args):
            self._visit(value, scope)
        if isinstance(node, ast.Lambda):
            body: list[ast.AST] = [node.body]
        else:
            body = [*node.body]
            for decorator in node.decorator_list:
                self._visit(decorator, scope)
            for annotation in annotations(node):
                self._visit(annotation, scope)
                self._annotation(annotation, scope)
        inner: Scope = {**scope, **dict.fromkeys((argument.arg for argument in _arguments(node.args)), ())}
        inner = _local_scope(self._anchor, body, inner)
        for part in body:
            self._visit(part, inner)

    def _annotation(self, node: ast.AST, scope: Scope) -> None:
        """Read the names in strings that stand for types; Literal and the texts of Annotated hold no types."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError):
                self._visit(ast.parse(node.value, mode="eval").body, scope)
        elif isinstance(node, ast.Subscript) and (chain := name_chain(node.value)) is not None:
            *_, generic = (chain[0], *chain[1])
            items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            for item in {"Literal": [], "Annotated": items[:1]}.get(str(generic), items):
                self._annotation(item, scope)
        else:
            for part in children(node):
                self._annotation(part, scope)


VISITORS: dict[type[ast.AST], Callable[[References, Any, Scope], None]] = {
    **dict.fromkeys((ast.Name, ast.Attribute), References._name),
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda), References._function),
    **dict.fromkeys(COMPREHENSIONS, References._comprehension),
    **dict.fromkeys((ast.Import, ast.ImportFrom), References._import),
    ast.AnnAssign: References._annotated,
    ast.AugAssign: References._augmented,
    ast.Call: References._call,
    ast.Constant: References._constant,
    ast.Global: References._global,
}


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of `path`.

    Raises:
        UserError: it cannot be read, or is not valid Python.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid Python ({error.msg}); correct it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def text(node: ast.AST) -> str:
    """Return a syntax tree as text that comments, layout, docstrings and the version of Python do not change.

    Unlike ast.dump it skips empty fields, since newer versions of Python add such fields to old nodes.
    """
    parts: list[str] = []
    _write(node, parts.append)
    return "".join(parts)


def name_chain(node: ast.AST) -> tuple[str, tuple[str, ...]] | None:
    """Return the name and the attributes of `name.attribute…`, None for any other expression."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    return (node.id, tuple(attributes)) if isinstance(node, ast.Name) else None


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes directly below `node`, contexts and operators apart, which hold nothing."""
    for field in BRANCHES[node.__class__]:
        value = getattr(node, field, None)
        if isinstance(value, list):
            for item in value:
                if isinstance(item, ast.AST):
                    yield item
        elif isinstance(value, ast.AST):
            yield value


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield `node` and all nodes below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(children(node))


def defaults(arguments: ast.arguments) -> list[ast.expr]:
    """Return the default values of a function's arguments."""
    return [value for value in (*arguments.defaults, *arguments.kw_defaults) if value is not None]


def annotations(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    """Return the annotations of a function."""
    found = [argument.annotation for argument in _arguments(node.args)]
    return [annotation for annotation in (*found, node.returns) if annotation is not None]


def bound_names(node: ast.stmt) -> set[str]:
    """Return the module-level names that a statement may bind."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    names: set[str] = set()
    waiting: list[ast.AST] = [node]
    while waiting:
        part = waiting.pop()
        names.update(_binds(part))
        # The target of a comprehension is local to it.
        waiting += [part.iter, *part.ifs] if isinstance(part, ast.comprehension) else children(part)
    return names


def has_docstring(node: ast.AST) -> bool:
    """Return whether a module, class or function begins with a docstring."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def is_special(node: ast.Import | ast.ImportFrom) -> bool:
    """Return whether an import does more than bind the names that it says: `*`, or `__future__`."""
    return isinstance(node, ast.ImportFrom) and (node.module == "__future__" or node.names[0].name == "*")


def _write(node: object, put: Callable[[str], None]) -> None:
    if isinstance(node, ast.AST):
        put(node.__class__.__name__)
        for field in node._fields:
            value = getattr(node, field, None)
            if field == "body" and has_docstring(node):
                value = list(value or ())[1:]
            if value is not None and value != []:
                put(f" {field}=")
                _write(value, put)
        put(";")
    elif isinstance(node, list):
        put("[")
        for item in node:
            _write(item, put)
            put(",")
        put("]")
    else:
        put(repr(node))


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return [argument for argument in found if argument is not None]


def _is_type_checking(node: ast.stmt) -> bool:
    """Return whether a statement is `if TYPE_CHECKING: …` without else."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    return name_chain(node.test) in (("TYPE_CHECKING", ()), ("typing", ("TYPE_CHECKING",)))


def _is_main(node: ast.stmt) -> bool:
    """Return whether a statement is `if __name__ == "__main__": …` without else."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


def _stored(node: ast.AST) -> set[str]:
    """Return the names that an assignment to `node` binds."""
    return {part.id for part in walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _binds(node: ast.AST) -> Collection[str]:
    """Return the names that a node binds by itself, imports apart."""
    if isinstance(node, ast.Name):
        return () if isinstance(node.ctx, ast.Load) else (node.id,)
    if not isinstance(node, BINDERS):
        return ()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return (node.name,) if node.name else ()
    if isinstance(node, ast.MatchMapping):
        return (node.rest,) if node.rest else ()
    return ()


def _local_scope(anchor: str, body: Sequence[ast.AST], outer: Scope) -> Scope:
    """Return the scope of a function: `outer`, and the names that its body binds outside of nested functions."""
    names: dict[str, tuple[Target, ...]] = {}
    declared: set[str] = set()
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        for name in _binds(node):
            names.setdefault(name, ())
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name, target in _targets(anchor, node):
                names[name] = (*names.get(name, ()), target)
        elif isinstance(node, ast.Global):
            declared.update(node.names)
        elif not isinstance(node, SCOPES):
            waiting.extend(children(node))
    return {name: targets for name, targets in {**outer, **names}.items() if name not in declared}


def _targets(anchor: str, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Target]]:
    """Yield the names that an import binds and what they are."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            if alias.name != "*":
                yield alias.asname or alias.name, Target(_origin(anchor, node), alias.name)
        elif alias.asname:
            yield alias.asname, Target(alias.name)
        else:
            first = alias.name.partition(".")[0]
            yield first, Target(first)


def _imported(anchor: str, node: ast.Import | ast.ImportFrom) -> set[str]:
    """Return the dotted names that an import may load as modules."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    origin = _origin(anchor, node)
    return {origin, *(f"{origin}.{alias.name}" for alias in node.names)}


def _origin(anchor: str, node: ast.ImportFrom) -> str:
    """Return the dotted name after `from`, resolved against the anchor of its module."""
    if not node.level:
        return node.module or ""
    parts = anchor.split(".")
    base = parts[: len(parts) - node.level]
    return ".".join([*base, node.module] if node.module else base)
