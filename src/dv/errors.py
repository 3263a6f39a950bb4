"""Errors meant for the user of the program."""


class UserError(Exception):
    """Something the user can put right; its message is shown as one line, without a traceback."""
