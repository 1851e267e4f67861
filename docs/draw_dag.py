"""Draw docs/dag.svg, the rules and what each waits for, from Snakemake's own graph: `make figures`.

    snakemake --rulegraph --forceall | python docs/draw_dag.py docs/dag.svg

Graphviz is not needed. A rule stands right of all that it waits for; lines that a longer way implies are left out.
"""

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

BOX = (94, 34)  # width and height of a rule, in pixels
PITCH = (122, 52)  # from one rule to the next
MARGIN = 16
LEFT_OUT = {"all"}  # it waits for everything, which says nothing

Edges = dict[str, set[str]]  # rule → the rules that it waits for
Point = tuple[str, int]  # a rule, or a line that passes, with its column
Step = tuple[Point, Point]  # from one column to the next
Rows = dict[Point, float]


def read(dot: str) -> Edges:
    """The rules of a graph in the dot language with what each waits for, in the order of the text."""
    names = dict(re.findall(r'^\s*(\d+)\[label = "([^"]+)"', dot, re.MULTILINE))
    edges: Edges = {name: set() for name in names.values() if name not in LEFT_OUT}
    for before, after in re.findall(r"^\s*(\d+) -> (\d+)\s*$", dot, re.MULTILINE):
        if {names[before], names[after]} <= edges.keys():
            edges[names[after]].add(names[before])
    if not edges:
        raise SystemExit("error: no rules on the standard input; pipe `snakemake --rulegraph --forceall` into this")
    return edges


def ancestors(edges: Edges, rule: str) -> set[str]:
    """All that `rule` waits for, directly or through others."""
    return edges[rule].union(*(ancestors(edges, before) for before in edges[rule]))


def reduced(edges: Edges) -> Edges:
    """The same order with the fewest lines."""
    return {
        rule: {one for one in waits if not any(one in ancestors(edges, other) for other in waits)}
        for rule, waits in edges.items()
    }


def columns(edges: Edges) -> dict[str, int]:
    """The column of each rule, by the longest way to it."""
    found: dict[str, int] = {}

    def column(rule: str) -> int:
        if rule not in found:
            found[rule] = 1 + max((column(before) for before in edges[rule]), default=-1)
        return found[rule]

    return {rule: column(rule) for rule in edges}


def ways(edges: Edges) -> dict[tuple[str, str], list[Point]]:
    """For each line what it passes, with the columns: its ends, and a place of its own in every column between."""
    found = columns(edges)
    return {
        (before, rule): [
            (before, found[before]),
            *((f"{before} → {rule}", column) for column in range(found[before] + 1, found[rule])),
            (rule, found[rule]),
        ]
        for rule, waits in edges.items()
        for before in sorted(waits)
    }


def places(edges: Edges) -> Rows:
    """The row of each rule and of each place that a line passes, by name and column.

    Of all orders of the columns the one with the fewest crossings, and of these the one with the shortest lines.
    """
    steps = {step for way in ways(edges).values() for step in itertools.pairwise(way)}
    points = sorted({*columns(edges).items(), *(point for step in steps for point in step)})
    numbers = range(max(column for _, column in points) + 1)
    orders = [itertools.permutations(point for point in points if point[1] == number) for number in numbers]
    tried = [stacked(order, steps) for order in itertools.product(*orders)]
    best = min(tried, key=lambda rows: (crossings(steps, rows), sum(abs(rows[one] - rows[two]) for one, two in steps)))
    return {point: row - min(best.values()) for point, row in best.items()}


def stacked(order: Sequence[Sequence[Point]], steps: set[Step]) -> Rows:
    """The rows of columns in that order, each column about the height of what comes before it."""
    rows: Rows = {}
    for column in order:
        first = mean([rows[before] for before, after in steps if after in column]) - (len(column) - 1) / 2
        rows |= {point: first + number for number, point in enumerate(column)}
    return rows


def crossings(steps: set[Step], rows: Rows) -> int:
    """How many pairs of lines cross between two columns."""
    return sum(
        one[0][1] == other[0][1] and (rows[one[0]] - rows[other[0]]) * (rows[one[1]] - rows[other[1]]) < 0
        for one, other in itertools.combinations(steps, 2)
    )


def mean(values: list[float]) -> float:
    """Their mean, 0 where there are none."""
    return sum(values) / len(values) if values else 0.0


def draw(edges: Edges) -> str:
    """The picture as SVG, on white, so that it can be read on any page."""
    found = places(edges)
    corners = {
        (name, column): (MARGIN + column * PITCH[0], MARGIN + row * PITCH[1]) for (name, column), row in found.items()
    }
    width = max(x for x, _ in corners.values()) + BOX[0] + MARGIN
    height = max(y for _, y in corners.values()) + BOX[1] + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="Liberation Sans, Arial, Helvetica, sans-serif" font-size="14">',
        "<title>The rules of the workflow and what each waits for</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#666666"/></marker></defs>',
    ]
    for way in ways(edges).values():
        path = ""
        for before, after in itertools.pairwise(way):
            (x1, y1), (x2, y2) = corners[before], corners[after]
            start, bend = x1 + BOX[0], (x2 - x1 - BOX[0]) / 2
            y1, y2 = y1 + BOX[1] / 2, y2 + BOX[1] / 2
            path += f"M{start:g} {y1:g}C{start + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"
            path += f"H{x2 + BOX[0]:g}" if after != way[-1] else ""  # straight on, where a rule of that column would be
        parts.append(f'<path d="{path}" fill="none" stroke="#666666" stroke-width="1.4" marker-end="url(#tip)"/>')
    for (name, _), (x, y) in corners.items():
        if name in edges:
            parts.append(
                f'<rect x="{x:g}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}" rx="8" fill="#e8f1f8" stroke="#0072B2"/>'
                f'<text x="{x + BOX[0] / 2:g}" y="{y + BOX[1] / 2 + 5:g}" text-anchor="middle">{escape(name)}</text>'
            )
    return "\n".join(part for part in parts if part) + "\n</svg>\n"


if __name__ == "__main__":
    picture = draw(reduced(read(sys.stdin.read())))
    Path(sys.argv[1]).write_text(picture, encoding="utf-8")
