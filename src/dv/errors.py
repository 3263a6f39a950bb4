"""Errors meant for the user of the program."""

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """An error that the user can fix; its message is shown as one line, without a traceback."""


class Interrupted(UserError):
    """The user or the system stopped the work with signal ``signum``; it can be resumed from the last checkpoint."""

    def __init__(self, message: str, signum: int = 15) -> None:
        super().__init__(message, signum)
        self.exit_code = 128 + signum

    def __str__(self) -> str:
        return str(self.args[0])


def did_you_mean(word: str, known: Sequence[str], before: str = "") -> str:
    """Return the end of a sentence that suggests the most similar of the known words; empty if none is similar.

    Args:
        word: what was typed.
        known: what would be right; of keys with dots, the last part counts too.
        before: what to write before the suggestion.

    >>> did_you_mean("max_steps", ["trainer.max_steps", "seed"])
    '; did you mean trainer.max_steps?'
    """
    last = word.rpartition(".")[2]
    same_end = [key for key in known if key.rpartition(".")[2] == last]
    for words, cutoff in ((known, 0.75), (same_end, 0.0), (known, 0.6)):
        if found := difflib.get_close_matches(word, words, n=1, cutoff=cutoff):
            return f"; did you mean {before}{found[0]}?"
    return ""
