"""The cells whose samples the figures and the page show. Standard library only: every dry run asks for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slimdiff.config.cells import Cell, expand
from slimdiff.config.lookup import Config
from slimdiff.report.contents import GALLERIES, MAX_PICTURED_CELLS, GallerySpec


@dataclass(frozen=True)
class Placeholder:
    """The place of one panel, empty if the matrix holds none of its recipes."""

    dataset: str
    model: str
    recipes: tuple[str, ...]  # the first recipe in the matrix is shown
    cell: Cell | None

    def __str__(self) -> str:
        return f"{self.dataset}, {self.model}: {' or '.join(self.recipes)}"


def placeholders(spec: GallerySpec, cells: Sequence[Cell], families: Mapping[str, str]) -> list[Placeholder]:
    """Return the panels of `spec` for each data set: its families in their order, with all models of each.

    A recipe is shown by its first cell, hence by the first seed in the matrix. A family that was not run on a data set
    gets empty placeholders with the family as the model.

    Args:
        cells: the matrix, in its order.
        families: the family of each model in it.
    """
    first: dict[tuple[str, str, str, str], Cell] = {}
    for cell in cells:
        first.setdefault((cell.dataset, families[cell.model], cell.model, cell.optimization), cell)
    run = dict.fromkeys((dataset, family, model) for dataset, family, model, _ in first)
    result = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        for family in dict.fromkeys(panel.family for panel in spec.panels):
            recipes = [panel.recipes for panel in spec.panels if panel.family == family]
            for model in [m for d, f, m in run if (d, f) == (dataset, family)] or [family]:
                for names in recipes:
                    present = [first[key] for name in names if (key := (dataset, family, model, name)) in first]
                    result.append(Placeholder(dataset, model, names, present[0] if present else None))
    return result


def sample_cells(config: Config) -> list[Cell]:
    """Return the cells of `config` whose samples a figure shows, each once, in the order of the figures."""
    cells = expand(config["matrix"])
    families = {name: model["family"] for name, model in config["models"].items()}
    places = [place for spec in GALLERIES for place in placeholders(spec, cells, families)]
    return list(dict.fromkeys(place.cell for place in places if place.cell))


def pictured(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells whose samples the page may show: the first seed of every recipe before any second seed."""
    rank: dict[Cell, int] = {}
    seen: dict[tuple[str, str, str], int] = {}
    for cell in cells:
        recipe = (cell.dataset, cell.model, cell.optimization)
        rank[cell] = seen[recipe] = seen.get(recipe, -1) + 1
    return sorted(cells, key=rank.__getitem__)[:MAX_PICTURED_CELLS]


def pictured_cells(config: Config) -> list[Cell]:
    """Return `pictured` of the matrix of `config`."""
    return pictured(expand(config["matrix"]))
