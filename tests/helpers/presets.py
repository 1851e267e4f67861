"""config.yaml and the presets, merged as Snakemake merges them."""

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def read_yaml(path: Path | str) -> Any:
    """Return the content of a YAML file, by a path from the repository's root; ten times as fast as yaml.safe_load."""
    return yaml.load((ROOT / path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


CONFIG = read_yaml("config.yaml")
SCHEMA = read_yaml("workflow/schemas/config.schema.yaml")


def merge(base: Any, overlay: Any) -> Any:
    """Merge `overlay` over `base`, both copied, as Snakemake does: mappings are merged, all else is replaced."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return copy.deepcopy(overlay)
    return {
        key: merge(base.get(key), overlay[key]) if key in overlay else copy.deepcopy(base[key])
        for key in {**base, **overlay}
    }


def preset(name: str) -> dict[str, Any]:
    """Return the config of `--configfile config/NAME`."""
    merged: dict[str, Any] = merge(CONFIG, read_yaml(Path("config", name)))
    return merged
