"""Places to get a data set from, tried in order: load from the first that has it, or only look."""

import http.client
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from slimdiff.errors import TransientError

T = TypeVar("T")

TIMEOUT_S = 10.0  # per connection and per read: a compute node without internet fails soon instead of hanging
PROBE_TIMEOUT_S = 5.0
INDEX_TIMEOUT_S = 60.0  # of one look into the package index


class Unavailable(Exception):
    """Why this place does not have the data."""


@dataclass(frozen=True)
class Place(Generic[T]):
    """One place to get a data set from."""

    name: str
    load: Callable[[], T]  # raises Unavailable
    probe: Callable[[], bool]  # whether `load` should work; downloads nothing


@dataclass(frozen=True)
class Availability:
    """Where a data set is available, or why nowhere and what to do."""

    place: str = ""
    problem: str = ""
    fix: str = ""


def first_available(dataset: str, places: Sequence[Place[T]], fix: str) -> tuple[T, str]:
    """Load `dataset` from the first place that has it; return the data and the place's name.

    Raises:
        TransientError: no place has it; names every place with its reason, and the `fix`.
    """
    reasons = []
    for place in places:
        try:
            return place.load(), place.name
        except Unavailable as reason:
            reasons.append(f"{place.name} ({reason})")
            print(f"{dataset}: not from {place.name}: {reason}", file=sys.stderr, flush=True)
    raise TransientError(f"data set {dataset!r} is not available; tried {'; '.join(reasons)}. {fix}")


def first_probed(places: Sequence[Place[T]], fix: str) -> Availability:
    """Return the first place whose probe succeeds."""
    for place in places:
        if place.probe():
            return Availability(place.name)
    return Availability(problem=f"not available from {', '.join(place.name for place in places)}", fix=fix)


def fetch(url: str, max_bytes: int) -> bytes:
    """Download `url`.

    Raises:
        Unavailable: the URL is unreachable or holds more than `max_bytes`.
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


def url_exists(url: str) -> bool:
    """Return whether a server has `url`, from its headers alone."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_TIMEOUT_S):
            return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


def package_on_index(requirement: str) -> bool:
    """Return whether pip's package index has NAME==VERSION, without downloading it."""
    name, _, version = requirement.partition("==")
    command = [sys.executable, "-P", "-m", "pip", "index", "versions", name, "--disable-pip-version-check"]
    command += ["--no-input", "--retries", "0", "--timeout", str(int(PROBE_TIMEOUT_S))]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=INDEX_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    versions = result.stdout.replace(",", " ").replace("(", " ").replace(")", " ").split()
    return result.returncode == 0 and version in versions
