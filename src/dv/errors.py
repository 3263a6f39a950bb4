"""Errors meant for the user of the program."""


class UserError(ValueError):
    """An error that the user can fix; its message is shown as one line, without a traceback."""


class Interrupted(UserError):
    """The user or the system stopped the work with signal ``signum``; it can be resumed from the last checkpoint."""

    def __init__(self, message: str, signum: int = 15) -> None:
        super().__init__(message, signum)
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        return str(self.args[0])
