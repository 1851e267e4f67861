"""Which cells the figures of samples show. Standard library only: the rules ask this at every dry run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimdiff.analysis.contents import GALLERIES, MOST_PICTURED, GallerySpec
from slimdiff.config.resolve import Cell, Config, expand


@dataclass(frozen=True)
class Slot:
    """Room for one panel; empty where the matrix holds none of its recipes."""

    dataset: str
    model: str
    recipes: tuple[str, ...]  # the first that the matrix holds is shown
    cell: Cell | None

    def __str__(self) -> str:
        return f"{self.dataset}, {self.model}: {' or '.join(self.recipes)}"


def slots(spec: GallerySpec, cells: Sequence[Cell], families: Mapping[str, str]) -> list[Slot]:
    """The panels of `spec` for each data set: its families in their order, and of each all models.

    A recipe is shown by the first of its cells, hence by the first seed that the matrix lists. Of a family that was not
    run on a data set there are empty slots, with the family in the place of the model.

    Args:
        cells: the matrix, in its order.
        families: the family of each model in it.
    """
    first: dict[tuple[str, str, str, str], Cell] = {}
    for cell in cells:
        first.setdefault((cell.dataset, families[cell.model], cell.model, cell.optimization), cell)
    ran = dict.fromkeys((dataset, family, model) for dataset, family, model, _ in first)
    found = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        for family in dict.fromkeys(panel.family for panel in spec.panels):
            recipes = [panel.recipes for panel in spec.panels if panel.family == family]
            for model in [m for d, f, m in ran if (d, f) == (dataset, family)] or [family]:
                for names in recipes:
                    held = [first[key] for name in names if (key := (dataset, family, model, name)) in first]
                    found.append(Slot(dataset, model, names, held[0] if held else None))
    return found


def sample_cells(config: Config) -> list[Cell]:
    """The cells of `config` whose samples some figure shows, each once, in the order of the figures."""
    cells = expand(config["matrix"])
    families = {name: model["family"] for name, model in config["models"].items()}
    return list(dict.fromkeys(slot.cell for spec in GALLERIES for slot in slots(spec, cells, families) if slot.cell))


def pictured(cells: Sequence[Cell]) -> list[Cell]:
    """Those of `cells` whose samples the page may hold: every recipe's first seed before any second, in their order."""
    rank: dict[Cell, int] = {}
    seen: dict[tuple[str, str, str], int] = {}
    for cell in cells:
        recipe = (cell.dataset, cell.model, cell.optimization)
        rank[cell] = seen[recipe] = seen.get(recipe, -1) + 1
    return sorted(cells, key=rank.__getitem__)[:MOST_PICTURED]


def pictured_cells(config: Config) -> list[Cell]:
    """`pictured` of the matrix that `config` asks for."""
    return pictured(expand(config["matrix"]))
