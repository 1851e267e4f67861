"""Generate the reference pages from the schema, the columns and the command line, and fit links to the site."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from slimdiff.analysis.columns import COLUMNS
from slimdiff.cli.app import app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
Schema = Mapping[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site: the README as its start, and the reference."""
    pages = {
        "index.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "reference/cli.md": cli_reference(),
        "reference/config.md": config_reference(),
        "reference/columns.md": column_reference(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site; a link to a file of the repository that is not on it becomes its name."""
    own = page.file.src_uri
    folder = "" if own == "index.md" else posixpath.dirname(f"docs/{own}")

    def rewrite(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = path.removeprefix("docs/")
        for candidate in (inside, f"{inside}/README.md", f"{inside}/index.md"):
            if path.startswith("docs/") and files.get_file_from_path(candidate):
                relative = posixpath.relpath(candidate, posixpath.dirname(own))
                return f"{mark}[{text}]({relative}{anchor})"
        if not (ROOT / path).exists():
            return match[0]  # broken: the strict build says so
        return text if f"`{path}`" == text or path in text else f"{text} (`{path}`)"

    parts = FENCE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(rewrite, part) for index, part in enumerate(parts))


def cli_reference() -> str:
    """Return the page of every command and option, from the command line's own help."""
    command = typer.main.get_command(app)
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="slimdiff", title="Command line")


def column_reference() -> str:
    """Return the page of every column of the matrix, with its type, unit, meaning and the stage that measures it."""
    lines = [
        "# Columns of the matrix\n",
        "`results/matrix.parquet` has one row per cell. A column that was not measured is null, never 0. *Source* is",
        "the stage that writes it.\n",
        "| column | type | unit | meaning | source |",
        "|---|---|---|---|---|",
        *(
            f"| `{column.name}` | {column.dtype} | {column.unit or '–'} | {_cell(column.meaning)} |"
            f" {column.source or '–'} |"
            for column in COLUMNS
        ),
    ]
    return "\n".join(lines) + "\n"


def config_reference() -> str:
    """Return the page of every key of the configuration, with its type, default and meaning."""
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    lines = [
        "# Configuration keys\n",
        "`config.yaml` holds the defaults; an overlay given with `--configfile` holds only what differs. `NAME` is a",
        "name of your choice. A dash means that the key has no default.\n",
    ]
    for key, part in schema["properties"].items():
        lines += [f"\n## `{key}`\n", "| key | type | default | meaning |", "|---|---|---|---|"]
        lines += _rows(key, part, schema, defaults)
    return "\n".join(lines) + "\n"


def _rows(path: str, part: Schema, schema: Schema, defaults: Any, below: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a table line for `part` and each key below it; `below` names the definitions around it."""
    if "$ref" in part:
        name = part["$ref"].removeprefix("#/$defs/")
        if name in below:
            yield f"| `{path}` | mapping | – | {_cell(part.get('description', f'keys of {name}'))} |"
            return
        part, below = {**schema["$defs"][name], **part}, (*below, name)
    yield f"| `{path}` | {_type(part)} | {_default(path, defaults)} | {_cell(part.get('description', ''))} |"
    branches = [part, *(part[word] for word in ("then", "else") if word in part)]
    shown: set[str] = set()
    for branch in branches:
        for key, value in branch.get("properties", {}).items():
            if "$ref" in value or (key not in shown and {"type", "enum", "anyOf", "const"} & value.keys()):
                name = value.get("$ref", "").removeprefix("#/$defs/")
                label = f"{path}.{key}" + (f" ({name.removeprefix('network_')})" if name.startswith("network_") else "")
                if key == "network" and not name:
                    continue  # each family has keys of its own
                shown.add(key)
                yield from _rows(label, value, schema, defaults, below)
        for value in branch.get("patternProperties", {}).values():
            yield from _rows(f"{path}.NAME", value, schema, defaults, below)
    if isinstance(part.get("items"), Mapping) and "properties" in part["items"]:
        yield from _rows(f"{path}[]", part["items"], schema, defaults, below)


def _type(part: Schema) -> str:
    """Say what values `part` allows."""
    if "enum" in part:
        return ", ".join(f"`{_scalar(value)}`" for value in part["enum"])
    if "const" in part:
        return f"`{_scalar(part['const'])}`"
    if "anyOf" in part:
        return " or ".join(_type(choice) for choice in part["anyOf"])
    kinds = part.get("type", "mapping")
    names = {"object": "mapping", "string": "text", "array": "list"}
    words = " or ".join(names.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {part[word]}" for word, sign in signs.items() if word in part]
    return " ".join([words, ", ".join(limits)]) if limits else words


def _default(path: str, defaults: Any) -> str:
    """Return the value of `path` in config.yaml where it has one for all, a dash otherwise."""
    value = defaults
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return "–"
        value = value[key]
    return "–" if isinstance(value, Mapping) or (value and isinstance(value, list)) else f"`{_scalar(value)}`"


def _scalar(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
