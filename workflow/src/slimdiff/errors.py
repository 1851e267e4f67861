"""The exception whose message is meant for users."""


class UserError(Exception):
    """An error that the user can fix. The message names the value, what is allowed, the key or file, and the fix."""
