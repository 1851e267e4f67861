"""Digest the code that an entry point reaches: a real edit reruns a stage, a comment does not.

`fingerprint("slimdiff.stages.train:main")` covers every top-level definition (function, class, assignment) that `main`
can reach. It reads syntax trees and imports nothing: milliseconds, where importing torch costs seconds.

- A definition reaches whatever it names: in its own module and, through imports, in other modules below the roots.
  Decorators, base classes, default values and annotations count, since Python evaluates them and dataclasses are built
  from them. Imports under `if TYPE_CHECKING` do not count: they never run.
- Reaching a definition loads its module, the packages around it, and the modules that these import at their top. In a
  loaded module every statement that acts on import counts (`Codebase.acts`).
- What syntax cannot tell counts as more. A module used as a value counts whole; code that looks names up by text
  (`eval`, `importlib.import_module`) reaches every module. A rerun too many, never one too few.

Not seen: files that code reads, versions of libraries, classes named in pickles, and effects on import that hide in an
operator, an attribute or a library's function.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimdiff.errors import UserError
from slimdiff.runtime.syntax import (
    Alias,
    Definition,
    Module,
    Read,
    Target,
    annotations,
    bound_names,
    children,
    defaults,
    has_docstring,
    is_special,
    name_chain,
    parse,
    walk,
)

SOURCE = Path(__file__).parents[2]  # the folder that holds the package
LENGTH = 12  # hexadecimal digits: 48 bits, ample for the few versions of one module
# Modules that no fingerprint follows. Plugin loading names every table of steps and runs only in jobs that use a
# plugin; the digest of each plugin covers its text (slimdiff.plugins.declarations).
EXCLUDED = frozenset({"slimdiff.plugins.loading"})
REGISTRATION = "slimdiff.plugins"  # its decorators note the function that they stand on, and change nothing else
LOOKUPS = (  # functions and tables that find code by text
    *("eval", "exec", "compile", "__import__", "__builtins__", "builtins.eval", "builtins.exec", "builtins.__import__"),
    *("importlib.import_module", "importlib.reload", "importlib.util.module_from_spec", "importlib.machinery"),
    *("sys.modules", "runpy.run_module", "runpy.run_path", "pkgutil.resolve_name"),
)
LOOKUP_MODULES = {name.rpartition(".")[0] for name in LOOKUPS} - {"", "sys"}  # a module as a value can look up these
PURE_DECORATORS = {  # they wrap what they stand on and note it nowhere
    *("property", "staticmethod", "classmethod", "dataclasses.dataclass", "contextlib.contextmanager"),
    *("functools.cache", "functools.cached_property", "functools.lru_cache", "functools.total_ordering"),
    *("functools.wraps", "abc.abstractmethod", "typing.final", "typing.overload", "typing.runtime_checkable"),
    *("torch.no_grad", "torch.inference_mode", "torch.enable_grad"),
}
PLACES = (ast.Attribute, ast.Subscript)  # to assign there changes what others hold
CONSTRUCTORS = {"__new__", "__init__", "__post_init__", "__setattr__"}


@dataclass(frozen=True)
class Loaded:
    """A module that Python has run."""

    module: str


@dataclass(frozen=True)
class Whole:
    """Everything in a module, and in the modules below it."""

    module: str


EVERYTHING = Whole("")
Node = Definition | Alias | Loaded | Whole


class Codebase:
    """The modules below some folders, and what reaches what in them.

    Args:
        roots: folders, searched in order, as in sys.path.
        sources: syntax trees to use instead of the files of these modules.
        base: a code base that knows the modules of the package already; spares parsing them again.
    """

    def __init__(
        self, roots: Sequence[Path], sources: Mapping[str, ast.Module] | None = None, base: "Codebase | None" = None
    ) -> None:
        self.roots, self.sources, self.base = tuple(roots), sources or {}, base
        self._modules: dict[str, Module | None] = {}
        self._edges: dict[Node, tuple[Node, ...]] = {}
        self._acts: dict[Definition, bool] = {}

    def fingerprint(self, entry: str, texts: Iterable[str] = ()) -> str:
        """Return the digest of all that an entry point reaches; comments, layout and docstrings do not count.

        Args:
            entry: "package.module:name", or "package.module" for every definition in it.
            texts: modules whose own definitions count as well, but nothing that these reach.

        Raises:
            UserError: a module is missing or is not valid Python.
        """
        nodes = self.reach(entry).union(*(self._require(name).definitions for name in texts))
        aliases = {f"{node.module} {node.name} {node.origin}\n" for node in nodes if isinstance(node, Alias)}
        definitions = [node for node in nodes if isinstance(node, Definition)]
        definitions.sort(key=lambda node: (node.module, node.position))
        digest = hashlib.sha256("".join(sorted(aliases)).encode())
        for node in definitions:
            digest.update(f"{node.module} {node.digest}\n".encode())
        return digest.hexdigest()[:LENGTH]

    def definitions(self, entry: str) -> set[Definition]:
        """Return the definitions that `entry` reaches."""
        return {node for node in self.reach(entry) if isinstance(node, Definition)}

    def modules(self, entry: str) -> set[str]:
        """Return the modules that Python loads for `entry`."""
        return {node.module for node in self.reach(entry) if isinstance(node, Loaded)}

    def reach(self, entry: str) -> set[Node]:
        """Return all that `entry` reaches."""
        name, _, attribute = entry.partition(":")
        module = self._require(name)
        reached: set[Node] = set()
        waiting: list[Node] = [Loaded(name), *module.mains]
        waiting += self._follow(name, tuple(attribute.split("."))) if attribute else module.definitions
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                if node not in self._edges:
                    self._edges[node] = tuple(set(self._reached_from(node)))
                waiting.extend(self._edges[node])
        return reached

    def module(self, name: str) -> Module | None:
        """Return the module of this dotted name, None where no root has it.

        Raises:
            UserError: it cannot be read, or is not valid Python.
        """
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def acts(self, definition: Definition) -> bool:
        """Return whether a statement may do more, when its module is loaded, than bind its own names.

        An assignment acts if it calls a function of the roots, hands one to a library, or assigns to an attribute or an
        item; making an instance of a plain dataclass is harmless. A definition acts through its decorators and default
        values, a class through its body and the hooks of its bases as well. Any other statement acts.
        """
        if definition not in self._acts:
            self._acts[definition] = True  # what depends on itself acts
            self._acts[definition] = self._statement_acts(definition.module, definition.node)
        return self._acts[definition]

    def _read(self, name: str) -> Module | None:
        if self.base is not None and name not in self.sources and (known := self.base.module(name)) is not None:
            return known
        for root in self.roots:
            stem = root.joinpath(*name.split("."))
            for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
                if path.is_file():
                    return Module(name, path, self.sources[name] if name in self.sources else parse(path))
            if stem.is_dir() and any(stem.glob("*.py")):  # a package without __init__.py
                return Module(name, stem, ast.Module([], []))
        return None

    def _require(self, name: str) -> Module:
        module = self.module(name)
        if module is None:
            places = ", ".join(map(str, self.roots))
            raise UserError(f"module {name} does not exist under {places}: correct the import or restore the file")
        return module

    def _is_ours(self, name: str) -> bool:
        return self.module(name.partition(".")[0]) is not None

    def _reached_from(self, node: Node) -> Iterator[Node]:
        if isinstance(node, Definition):
            yield Loaded(node.module)
            references = node.references
            for read in references.reads:
                yield from self._resolve(node.module, read)
            yield from self._loads(references.imports)
        elif isinstance(node, Loaded):
            module = self._require(node.module)
            yield from (definition for definition in module.definitions if self.acts(definition))
            yield from self._loads({*module.imports, node.module.rpartition(".")[0]})
        elif isinstance(node, Whole):
            if node.module:
                module = self._require(node.module)
                yield Loaded(node.module)
                yield from module.definitions
                for name in module.bindings:
                    yield from self._resolve(node.module, (name, ()))
            yield from map(Whole, self._below(node.module))

    def _loads(self, names: Iterable[str]) -> Iterator[Loaded]:
        for name in names:
            if name and name not in EXCLUDED and self._is_ours(name) and self.module(name) is not None:
                yield Loaded(name)

    def _below(self, name: str) -> set[str]:
        """Return the modules directly below the module `name`, or below the roots."""
        folders = [root.joinpath(*name.split(".")) if name else root for root in self.roots]
        names = {path.stem for folder in folders for path in folder.glob("*.py") if path.name != "__init__.py"}
        names |= {path.parent.name for folder in folders for path in folder.glob("*/__init__.py")}
        prefix = f"{name}." if name else ""
        return {f"{prefix}{below}" for below in names if below.isidentifier()} - EXCLUDED

    def _resolve(self, module: str, read: Read, seen: frozenset[Read] = frozenset()) -> Iterator[Node]:
        """Yield what a name in `module`, and the attributes after it, may stand for."""
        start, attributes = read
        if isinstance(start, Target):
            yield from self._follow(start.module, (*start.path, *attributes), seen)
            return
        bindings = self._require(module).bindings.get(start, ())
        for binding in bindings:
            yield binding
            if isinstance(binding, Alias):
                yield from self._follow(binding.target.module, (*binding.target.path, *attributes), seen)
        if not bindings:
            yield from self._library(start, attributes)
            if start == "globals":
                yield Whole(module)

    def _follow(self, module: str, path: tuple[str, ...], seen: frozenset[Read] = frozenset()) -> Iterator[Node]:
        """Yield what the attributes `path` of a module lead to; the whole module where syntax cannot tell."""
        if (module, path) in seen or module in EXCLUDED:
            return
        seen |= {(module, path)}
        if not self._is_ours(module):
            yield from self._library(module, path)
            return
        bindings = self._require(module).bindings
        yield Loaded(module)
        below = f"{module}.{path[0]}" if path else ""
        if not path or (path[0] not in bindings and self.module(below) is None):
            yield Whole(module)
            return
        if path[0] in bindings:
            yield from self._resolve(module, (path[0], path[1:]), seen)
        if self.module(below) is not None:
            yield from self._follow(below, path[1:], seen)

    def _library(self, start: str, attributes: tuple[str, ...]) -> Iterator[Node]:
        name = ".".join((start, *attributes))
        if name in LOOKUP_MODULES or any(name == lookup or name.startswith(f"{lookup}.") for lookup in LOOKUPS):
            yield EVERYTHING

    def _statement_acts(self, module: str, node: ast.stmt) -> bool:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = [*defaults(node.args), *annotations(node)]
            return self._decorated(module, node.decorator_list) or any(self._calls(module, part) for part in parts)
        if isinstance(node, ast.ClassDef):
            heads = [*node.bases, *(keyword.value for keyword in node.keywords)]
            body = node.body[1:] if has_docstring(node) else node.body
            return (
                self._decorated(module, node.decorator_list)
                or any(self._calls(module, head) or self._has_hooks(module, head) for head in heads)
                or any(self._statement_acts(module, part) for part in body)
            )
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            plain = not any(isinstance(part, PLACES) for target in targets for part in walk(target))
            annotation = node.annotation if isinstance(node, ast.AnnAssign) else None
            return not plain or self._calls(module, node.value) or self._calls(module, annotation)
        if isinstance(node, ast.Import | ast.ImportFrom):
            return is_special(node)
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return not is_text and not isinstance(node, ast.Pass)

    def _decorated(self, module: str, decorators: Sequence[ast.expr]) -> bool:
        """Return whether a decorator may do more than wrap."""
        for decorator in decorators:
            call = decorator if isinstance(decorator, ast.Call) else None
            chain = name_chain(call.func if call else decorator)
            parts = [*call.args, *call.keywords] if call else []
            if chain is None or any(self._calls(module, part) for part in parts):
                return True
            own = self._own(module, chain)
            if any(node.module != REGISTRATION for node in own):
                return True
            is_accessor = chain[1] in (("setter",), ("getter",), ("deleter",))
            if not own and not is_accessor and not self._library_names(module, chain) <= PURE_DECORATORS:
                return True
        return False

    def _calls(self, module: str, node: ast.AST | None) -> bool:
        """Return whether evaluating an expression may run code of the roots, making of plain instances apart."""
        if node is None or isinstance(node, ast.Lambda):
            return node is not None and any(self._calls(module, part) for part in defaults(node.args))
        if isinstance(node, ast.Call):
            chain = name_chain(node.func)
            if chain is None:
                if any(isinstance(part, ast.Lambda) or self._own(module, name_chain(part)) for part in walk(node.func)):
                    return True
            elif own := self._own(module, chain):
                if not all(self._is_plain_class(found) for found in own):
                    return True
            elif not all(name.startswith("typing.") for name in self._library_names(module, chain)):
                handed = [*node.args, *(keyword.value for keyword in node.keywords)]
                if any(isinstance(part, ast.Lambda) or self._is_code(module, name_chain(part)) for part in handed):
                    return True
        return any(self._calls(module, part) for part in children(node))

    def _own(self, module: str, chain: Read | None) -> list[Node]:
        """Return the definitions of the roots that a name may lead to."""
        nodes = () if chain is None else self._resolve(module, chain)
        return [node for node in nodes if isinstance(node, Definition | Whole)]

    def _library_names(self, module: str, chain: Read) -> set[str]:
        """Return the dotted names of what a name outside of the roots may stand for."""
        targets = [node.target for node in self._resolve(module, chain) if isinstance(node, Alias)]
        outside = [target for target in targets if not self._is_ours(target.module)]
        if not outside:
            return {".".join((str(chain[0]), *chain[1]))}
        return {".".join((target.module, *target.path, *chain[1])) for target in outside}

    def _is_code(self, module: str, chain: Read | None) -> bool:
        """Return whether a name may lead to a function, a class or a module of the roots."""
        code = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        return any(not isinstance(node, Definition) or isinstance(node.node, code) for node in self._own(module, chain))

    def _is_plain_class(self, node: Node) -> bool:
        """Return whether making an instance runs no code of its own; true of a dataclass without __post_init__."""
        if not isinstance(node, Definition) or not isinstance(node.node, ast.ClassDef) or self.acts(node):
            return False
        bases = [self._own(node.module, name_chain(base)) for base in node.node.bases]
        return CONSTRUCTORS.isdisjoint(name for part in node.node.body for name in bound_names(part)) and all(
            own and all(self._is_plain_class(base) for base in own) for own in bases
        )

    def _has_hooks(self, module: str, base: ast.expr) -> bool:
        """Return whether a base class of the roots may run code when another is derived from it."""
        for node in self._own(module, name_chain(base)):
            if not isinstance(node, Definition) or not isinstance(node.node, ast.ClassDef):
                return True
            hooks = {"__init_subclass__", "__class_getitem__"}
            if node.node.keywords or any(getattr(part, "name", None) in hooks for part in node.node.body):
                return True
            if any(self._has_hooks(node.module, further) for further in node.node.bases):
                return True
        return False


@functools.cache
def package() -> Codebase:
    """Return the code of slimdiff."""
    return Codebase([SOURCE])


@functools.cache
def fingerprint(entry: str) -> str:
    """Return the digest of all code of slimdiff that `entry`, such as "slimdiff.stages.train:main", reaches."""
    return package().fingerprint(entry)


def kept_fingerprints(path: Path, entries: Sequence[str], source: Path = SOURCE) -> dict[str, str]:
    """Return the fingerprint of each entry point, from the file `path` if the package has not changed since.

    Computing them takes half of a dry run, reading the package's text 10 ms. The file is written anew if it is missing,
    damaged or of another text. If it cannot be written, the next call computes them again.

    Args:
        source: the folder that holds the package.

    Raises:
        UserError: as `Codebase.fingerprint`.
    """
    text = digest_of_text(source)
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, dict) and kept.get("text") == text and kept.get("fingerprints", {}).keys() == set(entries):
            return dict(kept["fingerprints"])
    code = package() if source == SOURCE else Codebase([source])
    found = {entry: code.fingerprint(entry) for entry in entries}
    if digest_of_text(source) == text:  # else somebody edits right now
        with contextlib.suppress(OSError):
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_text(json.dumps({"text": text, "fingerprints": found}), encoding="utf-8")
            temporary.replace(path)
    return found


def digest_of_text(source: Path) -> str:
    """Return the digest of all Python files below a folder, and of their names."""
    digest = hashlib.sha256()
    for file in sorted(source.rglob("*.py")):
        text = file.read_bytes()
        digest.update(f"{file.relative_to(source).as_posix()} {len(text)}\n".encode("utf-8", "surrogateescape") + text)
    return digest.hexdigest()
