"""Places for the names of points, so that none covers a point, a line or another name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]  # x to the right, y down, in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels

POINT_RADIUS = 7.0
LEADER = 18.0  # a name further from its point than this needs a line to it
# Where a name may go, nearest first: distance from its point, then direction of its nearest edge.
DISTANCES = (9.0, 20.0, 34.0, 50.0, 70.0)
DIRECTIONS = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.8, -0.8), (-0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))


@dataclass(frozen=True)
class Place:
    """Where a name goes."""

    left: float
    middle: float  # of its height
    near: float  # x of the end of a line from the point
    leader: bool  # the line is needed: the name is far away, or nearer to another point


def place(
    points: Sequence[Point], widths: Sequence[float], height: float, area: Point, obstacles: Sequence[Box] = ()
) -> list[Place | None]:
    """The place of each point's name, or None where none is free.

    Args:
        points: earlier ones choose first.
        widths: width of each name.
        height: height of a name.
        area: width and height of the panel; names stay inside.
        obstacles: what else no name may cover.
    """
    taken = [(x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS) for x, y in points]
    taken += obstacles
    places: list[Place | None] = []
    for point, width in zip(points, widths, strict=True):
        box = next((box for box in _candidates(point, width, height) if _free(box, taken, area)), None)
        if box is None:
            places.append(None)
            continue
        taken.append(box)
        own = _distance(box, point)
        leader = own > LEADER or any(_distance(box, other) < own for other in points)
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


def _free(box: Box, taken: Sequence[Box], area: Point) -> bool:
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > area[0] or bottom > area[1]:
        return False
    return all(right <= other[0] or left >= other[2] or bottom <= other[1] or top >= other[3] for other in taken)


def _distance(box: Box, point: Point) -> float:
    """How far `point` lies outside `box`."""
    across = max(box[0] - point[0], 0, point[0] - box[2])
    down = max(box[1] - point[1], 0, point[1] - box[3])
    return math.hypot(across, down)
