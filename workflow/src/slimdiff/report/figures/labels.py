"""Placement of the names of points, so that none covers a point, a line or another name."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from slimdiff.analysis.measures import BASELINE
from slimdiff.report.figures.style import CHARACTER_PX, FONT_PX, LogAxis

Point = tuple[float, float]  # x to the right, y down, in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

POINT_RADIUS = 7.0
MAX_DISTANCE = 18.0  # beyond, a name needs a leader line to its point
# Candidate places, nearest first: distance from the point to the nearest edge, then direction.
DISTANCES = (9.0, 20.0, 34.0, 50.0, 70.0)
DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.8, -0.8), (-0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))


@dataclass(frozen=True)
class Place:
    """The place of a name."""

    left: float
    middle: float  # of its height
    near: float  # x of the end of the leader line
    leader: bool  # the line is needed: the name is far away, or nearer to another point


def place_names(frame: pd.DataFrame, column: str, axes: tuple[LogAxis, LogAxis], area: tuple[int, int]) -> pd.DataFrame:
    """Return the rows whose name fits, in data units: label_x, label_y, and near_x, near_y, the end of a leader line.

    `leader` says whether the line is needed. Points of the front (column `front`) are placed first.

    Args:
        column: of the horizontal axis; the vertical axis shows fid_indomain.
        area: width and height of the panel in pixels.
    """
    x_axis, y_axis = axes
    width, height = area
    frame = frame.sort_values(["front", column], ascending=[False, True])
    points = [
        (x_axis.pixel(x, width), height - y_axis.pixel(y, height))
        for x, y in zip(frame[column], frame["fid_indomain"], strict=True)
    ]
    lines: list[Box] = []
    for (x, y), is_baseline in zip(points, frame["optimization"] == BASELINE, strict=True):
        if is_baseline:
            lines += [(0, y, width, y), (x, 0, x, height)]
    front = points[: int(frame["front"].sum())]
    for (x, y), (next_x, next_y) in itertools.pairwise(front):
        lines += [(x, y, next_x, y), (next_x, y, next_x, next_y)]
    widths = [CHARACTER_PX * len(name) for name in frame["name"]]
    rows = []
    for (_, row), place in zip(frame.iterrows(), place_boxes(points, widths, FONT_PX, area, lines), strict=True):
        if place is not None:
            level = y_axis.value(height - place.middle, height)
            rows.append(
                {
                    **row[[column, "fid_indomain", "name", "front"]],
                    "label_x": x_axis.value(place.left, width),
                    "label_y": level,
                    "near_x": x_axis.value(place.near, width),
                    "near_y": level,
                    "leader": place.leader,
                }
            )
    return pd.DataFrame(rows)


def place_boxes(
    points: Sequence[Point], widths: Sequence[float], height: float, area: Point, obstacles: Sequence[Box] = ()
) -> list[Place | None]:
    """Return the place of each point's name, or None if no candidate is free. Quadratic in the number of points.

    Args:
        points: earlier points are placed first.
        widths: width of each name.
        height: height of a name.
        area: width and height of the panel; names stay inside.
        obstacles: further boxes that names must not cover.
    """
    taken = [(x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS) for x, y in points]
    taken += obstacles
    places: list[Place | None] = []
    for point, width in zip(points, widths, strict=True):
        box = next((box for box in _candidates(point, width, height) if _is_free(box, taken, area)), None)
        if box is None:
            places.append(None)
            continue
        taken.append(box)
        own = _distance(box, point)
        leader = own > MAX_DISTANCE or any(_distance(box, other) < own for other in points)
        places.append(Place(box[0], (box[1] + box[3]) / 2, min(max(point[0], box[0]), box[2]), leader))
    return places


def _candidates(point: Point, width: float, height: float) -> list[Box]:
    boxes = []
    for distance in DISTANCES:
        for across, down in DIRECTIONS:
            middle_x = point[0] + across * distance + (width / 2 if across > 0 else -width / 2 if across < 0 else 0)
            middle_y = point[1] + down * distance + (height / 2 if down > 0 else -height / 2 if down < 0 else 0)
            left, top = middle_x - width / 2, middle_y - height / 2
            boxes.append((left, top, left + width, top + height))
    return boxes


def _is_free(box: Box, taken: Sequence[Box], area: Point) -> bool:
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > area[0] or bottom > area[1]:
        return False
    return all(right <= other[0] or left >= other[2] or bottom <= other[1] or top >= other[3] for other in taken)


def _distance(box: Box, point: Point) -> float:
    """Return the distance from `point` to `box`; 0 inside."""
    across = max(box[0] - point[0], 0, point[0] - box[2])
    down = max(box[1] - point[1], 0, point[1] - box[3])
    return math.hypot(across, down)
