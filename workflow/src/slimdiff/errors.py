"""The exceptions whose messages are meant for users."""

from collections.abc import Iterable, Sequence


class UserError(Exception):
    """An error that the user can fix. The message names the value, what is allowed, the key or file, and the fix."""


class TransientError(UserError):
    """A UserError that may be gone on another try: a full disk, a folder in use, a network that is down."""


def dotted(path: Sequence[str | int]) -> str:
    """Return ("matrix", 0, "seeds") as "matrix[0].seeds"; empty keys and keys with spaces are quoted."""
    shown = (key if isinstance(key, int) or key.split() == [key] else repr(key) for key in path)
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in shown).removeprefix(".")


def refuse(problems: Iterable[tuple[Sequence[str | int], str]], *place: str) -> None:
    """Raise UserError about the first of `problems`, if there is one.

    Args:
        problems: keys below `place`, and the text that follows them, as in "is 16; allowed: …".
    """
    for keys, text in problems:
        raise UserError(f"{dotted((*place, *keys))} {text}")
