"""Ask one source after another for a data set, and say what became of each when none has it."""

import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from typing import TypeVar

from slimdiff.errors import UserError

T = TypeVar("T")

TIMEOUT_S = 10.0  # per connection and per read: a compute node without internet should fail soon, not hang


class Unavailable(Exception):
    """This source does not have the data, and why; the next one is asked."""


def first_available(dataset: str, sources: Iterable[tuple[str, Callable[[], T]]], way_out: str) -> tuple[T, str]:
    """What the first source that has `dataset` returns, and that source's name.

    Args:
        sources: name and function of each source, in the order to ask; a function raises Unavailable to pass.
        way_out: what the user can do when there is none.

    Raises:
        UserError: no source has it; names every source with its reason.
    """
    reasons = []
    for name, load in sources:
        try:
            return load(), name
        except Unavailable as reason:
            reasons.append(f"{name} ({reason})")
            print(f"{dataset}: not from {name}: {reason}", file=sys.stderr, flush=True)
    raise UserError(f"data set {dataset!r} is nowhere to be had; tried {'; '.join(reasons)}. {way_out}")


def fetch(url: str, max_bytes: int) -> bytes:
    """The bytes at `url`.

    Raises:
        Unavailable: not reachable, or more than `max_bytes`.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read(max_bytes + 1)
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Unavailable(f"{url}: {reason or type(error).__name__}") from None
    if len(content) > max_bytes:
        raise Unavailable(f"{url}: more than the expected {max_bytes} bytes")
    return content
