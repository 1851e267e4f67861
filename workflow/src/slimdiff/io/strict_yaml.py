"""YAML and JSON that people write, read strictly: what is ambiguous, endless or code is refused, never guessed at.

A file of a configuration or of claims may come from somebody else. PyYAML alone would keep the last of two equal keys,
hold a hundred bytes that stand for a billion values, and raise a dozen kinds of exceptions; here all of that is one
UserError. It constructs plain values only: no tag creates an object.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from slimdiff.errors import UserError
from slimdiff.io.text import one_line

MAX_BYTES = 4 << 20  # PyYAML reads some 100 kB in a second
MAX_DEPTH = 40  # of mappings and lists in each other; config.yaml has 5
MAX_VALUES = 1_000_000  # as if every alias were written out
TEMPLATE_KEY = "__use_yte__"  # the workflow engine runs expressions in a file that has it, as Python
MERGE = "tag:yaml.org,2002:merge"

# What PyYAML raises besides its own errors: for dates and numbers that are none, for tags on what does not fit them.
UNREADABLE = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Wrong(Exception):
    """What is wrong with a text; goes on from its name."""


def read(path: str | os.PathLike[str]) -> Any:
    """The value that the file holds: mappings, lists, text, numbers, truth values, dates, null.

    Raises:
        UserError: it is missing, not UTF-8, longer than 4 MiB, no JSON or YAML, says a key twice, is nested too deeply
            or holds too many values. The message names the file and, where there is one, the line.
        OSError: it cannot be opened.
    """
    with Path(path).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"{one_line(path)} is longer than {MAX_BYTES >> 20} MiB; allowed: shorter files")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{one_line(path)} is not YAML: line {line} is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from None
    return parse(text, os.fspath(path))


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a file of a configuration.

    Raises:
        UserError: as `read`, or it holds no mapping, or it is a template, whose expressions are run as code.
        OSError: it cannot be opened.
    """
    content = read(path)
    if not isinstance(content, dict):
        kind = "nothing" if content is None else type(content).__name__
        raise UserError(f"{one_line(path)} must hold a mapping, not {kind}; begin with a key, as data_dir: data")
    if TEMPLATE_KEY in content:
        raise UserError(
            f"{one_line(path)}: {TEMPLATE_KEY} has the workflow engine run expressions in this file as code; allowed: "
            "plain values; take the key out and write the values"
        )
    return content


def parse(text: str, name: str) -> Any:
    """The value of `text`, which `name` names in messages; JSON, or else YAML 1.1.

    Raises:
        UserError: as `read`.
    """
    try:
        try:
            value = json.loads(text, object_pairs_hook=_mapping)
        except (ValueError, RecursionError):
            return _yaml(text)
        _refuse_deep(value)
        return value
    except _Wrong as wrong:
        raise UserError(f"{one_line(name)}: {one_line(wrong)}") from None
    except UNREADABLE as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error) or type(error).__name__
        raise UserError(f"{one_line(name)} is not YAML: {' '.join(one_line(reason).split())}") from None


class _Loader(yaml.SafeLoader):
    """SafeLoader that gives up at the first value that is too deep, where PyYAML needs half a minute to fail."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A value, what is in it included."""
        if self.depth > MAX_DEPTH:
            raise _Wrong(f"line {self.line + 1} is nested too deeply, in more than {MAX_DEPTH} mappings and lists")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise _Wrong(f"the key {twice} stands twice in a mapping; keep one of them")
    return made


def _refuse_deep(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise _Wrong(f"it is nested too deeply, in more than {MAX_DEPTH} mappings and lists; make it flatter")
        parts = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [child for part in parts for child in part]


def _yaml(text: str) -> Any:
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
    """Refuse what is endless, too deep, too much, or said twice. Each node is looked at once."""
    sizes: dict[int, tuple[int, int]] = {}  # values and depth of a node, aliases written out
    open_nodes: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, done = waiting.pop()
        if id(node) in sizes:
            continue
        inside = list(_inside(node))
        if done:
            open_nodes.discard(id(node))
            values = 1 + sum(sizes[id(child)][0] for child in inside)
            depth = 1 + max((sizes[id(child)][1] for child in inside), default=0)
            place = f"line {node.start_mark.line + 1}"
            if depth > MAX_DEPTH + 1:  # the innermost is a value
                raise _Wrong(
                    f"{place} is nested too deeply, in more than {MAX_DEPTH} mappings and lists by its aliases"
                )
            if values > MAX_VALUES:
                raise _Wrong(f"{place} stands for more than {MAX_VALUES:,} values; make it shorter, without aliases")
            sizes[id(node)] = (values, depth)
            continue
        if id(node) in open_nodes:
            raise _Wrong(f"line {node.start_mark.line + 1} holds itself through an alias; write it without")
        open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(node)
        waiting.append((node, True))
        waiting.extend((child, False) for child in inside)


def _inside(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _refuse_twice(node: yaml.MappingNode) -> None:
    seen: dict[tuple[str, str], int] = {}  # keys, and the line that each stands in
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        line = key.start_mark.line + 1
        if (key.tag, key.value) in seen:
            first = seen[key.tag, key.value]
            raise _Wrong(f"the key {key.value} stands twice, in lines {first} and {line}; keep one of them")
        seen[key.tag, key.value] = line
