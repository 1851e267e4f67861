"""config.yaml and the presets, merged as Snakemake merges them."""

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def merge(base: Any, overlay: Any) -> Any:
    """Merge `overlay` over `base` as Snakemake does: mappings are merged, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return copy.deepcopy(overlay)
    return {**base, **{key: merge(base.get(key), value) for key, value in overlay.items()}}


def preset(name: str) -> dict[str, Any]:
    """Return the config of `--configfile config/NAME`."""
    merged: dict[str, Any] = merge(CONFIG, yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8")))
    return merged
