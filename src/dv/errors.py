"""Errors meant for the user of the program."""


class UserError(Exception):
    """Something the user can put right; its message is shown as one line, without a traceback."""


class Interrupted(UserError):
    """The user or the system asked the work to stop, by signal ``signum``; what is needed to go on is written."""

    def __init__(self, message: str, signum: int = 15) -> None:
        super().__init__(message, signum)
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        return str(self.args[0])
