"""Text that others wrote, put into a message: one line, and nothing that a terminal obeys."""


def one_line(text: object) -> str:
    """`text` with spaces for its line breaks and tabs, and with every character that cannot be seen written out.

    Control characters could move a terminal's cursor or change its colours, and marks of writing direction could show
    a name in another order than it has: they come as escapes, `\\x1b`, as a Python literal has them.
    """
    spaced = "".join(" " if character in "\t\n\r" else character for character in str(text))
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in spaced
    )
