"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: one line naming the value, what was allowed, the key or file, the way out."""
