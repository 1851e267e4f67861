"""Strict reading of hand-written YAML and JSON: refuse what is ambiguous, endless or code.

A configuration or claims file may come from somebody else. Plain PyYAML keeps the last of two equal keys, reads 010 as
8, expands a hundred bytes of aliases to a billion values, and raises a dozen kinds of exceptions. Here each of these is
one UserError, and no tag creates an object.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from slimdiff.errors import UserError, dotted
from slimdiff.io import yaml_versions
from slimdiff.io.text import one_line

MAX_BYTES = 4 << 20  # PyYAML reads about 100 kB/s
MAX_DEPTH = 40  # of nested mappings and lists; config.yaml has 5
MAX_VALUES = 1_000_000  # with aliases expanded
TEMPLATE_KEY = "__use_yte__"  # makes Snakemake run expressions in the file as Python
BREAKS_11 = re.compile("[\x85\u2028\u2029]")  # end a line, and so a comment, in YAML 1.1 and not in YAML 1.2
UNREAD_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:binary")  # of scalars that stay text

PARSE_ERRORS = (  # PyYAML also raises these, for invalid dates and numbers and for misplaced tags
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class _SyntaxError(Exception):
    """What is wrong with the text; the caller adds the file's name."""


def read(path: str | os.PathLike[str]) -> Any:
    """Return the plain value in the file.

    Raises:
        UserError: the file is not UTF-8, longer than 4 MiB, or neither JSON nor YAML; it repeats a key, is nested too
            deeply or holds too many values, or YAML 1.1 and 1.2 differ about a value. The message names the file and,
            if known, the line.
        OSError: the file cannot be opened.
    """
    with Path(path).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"{one_line(path)} is longer than {MAX_BYTES >> 20} MiB; shorten it")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{one_line(path)} is not YAML: line {line} is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None
    return parse(text, os.fspath(path))


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the mapping in a configuration file.

    Raises:
        UserError: as `read`; or the file holds no mapping, or is a template, whose expressions Snakemake runs as code.
        OSError: the file cannot be opened.
    """
    content = read(path)
    if not isinstance(content, dict):
        kind = "nothing" if content is None else type(content).__name__
        raise UserError(f"{one_line(path)} must hold a mapping, not {kind}; start with a key, such as data_dir: data")
    if TEMPLATE_KEY in content:
        raise UserError(
            f"{one_line(path)}: {TEMPLATE_KEY} makes Snakemake run expressions in this file as code; allowed: plain "
            "values. Remove the key and write the values"
        )
    return content


def parse(text: str, name: str) -> Any:
    """Parse `text` as JSON, else as YAML 1.1; messages name it `name`.

    Raises:
        UserError: as `read`.
    """
    try:
        try:
            value = json.loads(text, object_pairs_hook=_mapping)
        except (ValueError, RecursionError):
            return _yaml(text)
        _check_depth(value)
        return value
    except _SyntaxError as error:
        raise UserError(f"{one_line(name)}: {one_line(error)}") from None
    except PARSE_ERRORS as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
        raise UserError(f"{one_line(name)} is not YAML: {' '.join(one_line(reason).split())}") from None


class _Loader(yaml.SafeLoader):
    """A SafeLoader that stops at the first value that is too deep or ambiguous.

    PyYAML alone needs half a minute to fail at the former.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.path: list[str | int | None] = []  # of the value being composed; None for the document and for keys

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value and its children.

        Args:
            index: its position in a list, or the node of its key; None for a key.
        """
        if len(self.path) > MAX_DEPTH:
            raise _SyntaxError(f"line {self.line + 1} is nested too deeply; allowed: {MAX_DEPTH} levels")
        self.path.append(index.value if isinstance(index, yaml.ScalarNode) else index if type(index) is int else None)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.path.pop()
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Compose a scalar; one that is plain, or tagged as in !!int 010, must mean the same in YAML 1.1 and 1.2."""
        event: Any = self.peek_event()
        is_key = len(self.path) > 1 and self.path[-1] is None
        typed = event.implicit[0] if event.tag is None else event.tag not in UNREAD_TAGS
        problem = yaml_versions.problem(event.value, is_key) if typed else None
        if event.tag == "!":  # PyYAML resolves it as a plain scalar, even in quotes
            problem = "has the tag !, which YAML 1.2 reads as text and PyYAML does not; write the value without it"
        if problem:
            names = dotted([key for key in self.path if key is not None])
            place = f"a key{f' of {names}' if names else ''}" if is_key else names or "the value"
            raise _SyntaxError(f"line {event.start_mark.line + 1}: {place} {problem}")
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        return node


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [key for key, _ in pairs]
        repeated = next(key for key in names if names.count(key) > 1)
        raise _SyntaxError(f"the key {repeated} appears twice in a mapping; keep one of them")
    return mapping


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise _SyntaxError(f"it is nested too deeply; allowed: {MAX_DEPTH} levels")
        parts = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [child for part in parts for child in part]


def _yaml(text: str) -> Any:
    if found := BREAKS_11.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise _SyntaxError(
            f"line {line} holds U+{ord(found[0]):04X}, which ends the line in YAML 1.1 and not in YAML 1.2; delete it, "
            "or write it as an escape in double quotes"
        )
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(root: yaml.Node) -> None:
    """Refuse endless, too deep and too large values and repeated keys. Visits each node once."""
    sizes: dict[int, tuple[int, int]] = {}  # node → its values and depth, with aliases expanded
    open_nodes: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, done = waiting.pop()
        if id(node) in sizes:
            continue
        children = list(_children(node))
        if done:
            open_nodes.discard(id(node))
            values = 1 + sum(sizes[id(child)][0] for child in children)
            depth = 1 + max((sizes[id(child)][1] for child in children), default=0)
            place = f"line {node.start_mark.line + 1}"
            if depth > MAX_DEPTH + 1:  # the innermost level is a value
                raise _SyntaxError(f"{place} is nested too deeply through its aliases; allowed: {MAX_DEPTH} levels")
            if values > MAX_VALUES:
                raise _SyntaxError(f"{place} expands to more than {MAX_VALUES:,} values; shorten it and use no aliases")
            sizes[id(node)] = (values, depth)
            continue
        if id(node) in open_nodes:
            raise _SyntaxError(f"line {node.start_mark.line + 1} contains itself through an alias; remove the alias")
        open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check_repeated_keys(node)
        waiting.append((node, True))
        waiting.extend((child, False) for child in children)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_repeated_keys(node: yaml.MappingNode) -> None:
    seen: dict[tuple[str, str], int] = {}  # tag and key → line
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if (key.tag, key.value) in seen:
            first = seen[key.tag, key.value]
            raise _SyntaxError(f"the key {key.value} appears twice, in lines {first} and {line}; keep one of them")
        seen[key.tag, key.value] = line
