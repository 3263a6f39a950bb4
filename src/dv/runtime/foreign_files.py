"""Files of other programs and systems: their encodings, line ends and numbers, and what systems leave beside them."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from pydantic import BaseModel, ValidationError

from dv.errors import UserError

_LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}
_MARKS = {  # the longer first: that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
Content = TypeVar("Content", bound=BaseModel)


def is_left_by_system(path: Path) -> bool:
    """Return whether a system leaves such files beside those of people: hidden ones, ``._*``, ``Thumbs.db``.

    >>> is_left_by_system(Path("photos/._0001.jpg")), is_left_by_system(Path("photos/0001.jpg"))
    (True, False)
    """
    return path.name.startswith(".") or path.name.lower() in _LEFT_BY_SYSTEMS


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files of ``folder`` with one of ``suffixes`` (lower case, with dot), sorted, without those of systems.

    Suffixes are compared without case. A folder that does not exist has no files.
    """
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return sorted(path for path in found if not is_left_by_system(path) and path.is_file())


def files_with(path: Path, suffix: str, words: Collection[str]) -> list[Path]:
    """Return the text files with all ``words`` that have a suffix: ``path`` itself, or those in this folder."""
    found = []
    for file in [path] if path.is_file() and path.suffix.lower() == suffix else files_in(path, {suffix}):
        try:
            text = read_text(file)
        except UserError:  # it is not the file that is looked for
            continue
        if all(word in text for word in words):
            found.append(file)
    return found


def read_text(path: Path) -> str:
    """Read a text file as UTF-8, in the encoding that its byte order mark names, or else in that of Windows.

    Line ends become ``\\n``.

    Raises:
        UserError: if the file cannot be read or is not text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    try:
        text = data.decode(marked or "utf-8")
    except UnicodeDecodeError:
        if marked:
            raise UserError(f"{path}: its byte order mark says {marked}, which it is not; save it as UTF-8") from None
        text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise UserError(f"{path}: not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it cannot be read or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); it may be truncated") from error


def checked(schema: type[Content], content: Any, path: Path) -> Content:
    """Return the content of a file as ``schema`` says, which ignores what else the file holds.

    Raises:
        UserError: one line that names up to three places that are wrong.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc'])) or 'the file'}: {_lower(item['msg'])}" for item in error.errors()]
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(f"{path}: {'; '.join(faults[:3])}{more}; it may be truncated or of another format") from None


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def numbers_of(line: str) -> list[float]:
    """Return the numbers of a line, separated by spaces, commas or semicolons; decimal commas are understood.

    A comma is a decimal comma if other separators exist, or if there is only one number.

    Raises:
        ValueError: if something is not a number.

    >>> numbers_of("525,5 320,25 240"), numbers_of("525.5, 320, 240"), numbers_of("1,2,3")
    ([525.5, 320.25, 240.0], [525.5, 320.0, 240.0], [1.0, 2.0, 3.0])
    """
    tokens = re.split(r"[\s;]+|,\s+", line.strip().rstrip(",;"))
    if all(_DECIMAL_COMMA.fullmatch(token) or "," not in token for token in tokens):
        return [_number(token.replace(",", ".")) for token in tokens if token]
    return [_number(token) for part in tokens for token in part.split(",") if token]


def _number(token: str) -> float:
    if "_" in token:  # Python reads 1_000
        raise ValueError(f"{token} is not a number")
    return float(token)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a JSON value is a finite number that a float can hold; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def same_name(name: str) -> str:
    """Return a form of a file's name that is equal for what systems hold to be the same name.

    Letter case does not matter, nor whether an accent is a character of its own, as macOS stores it.
    """
    return unicodedata.normalize("NFC", name).casefold()
