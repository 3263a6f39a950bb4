"""Types of configuration keys: numbers with ranges, colors and vectors."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BeforeValidator, Strict

from dv.validation import Affects, Requirement, one_of


def _power_of_two(value: int) -> int:
    if value < 2 or value & (value - 1):
        raise ValueError
    return value


def _color(value: Any) -> Any:
    if isinstance(value, str) and value not in ("white", "grey", "gray", "black"):
        raise ValueError
    if isinstance(value, list) and (len(value) != 3 or not all(0 <= x <= 1 for x in value)):
        raise ValueError
    return value


def _color_or_transparent(value: Any) -> Any:
    return value if value == "transparent" else _color(value)


def _duration(value: str) -> str:
    if not re.fullmatch(r"\d+:\d+:\d+:\d+", value):
        raise ValueError
    return value


def _vector(value: list[float]) -> list[float]:
    if len(value) != 3:
        raise ValueError
    return value


def _direction(value: list[float]) -> list[float]:
    if len(value) != 3 or not any(value):
        raise ValueError
    return value


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError
    return value


def _text(value: Any) -> Any:
    """Convert numbers to text: Hydra parses a name such as 7 as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Ge(1)]
Supersampling = Annotated[int, Strict(), Ge(1), Le(8)]
NonNegativeInt = Annotated[int, Strict(), Ge(0)]
NonNegative = Annotated[float, Strict(), Ge(0)]
Positive = Annotated[float, Strict(), Gt(0)]
Fraction = Annotated[float, Strict(), Ge(0), Le(1)]
Probability = Annotated[float, Strict(), Ge(0), Lt(1)]
Degree = Annotated[int, Strict(), Ge(0), Le(4)]  # of spherical harmonics
PowerOfTwo = Annotated[int, Strict(), AfterValidator(_power_of_two), Requirement("a power of two")]
AS_TEXT = BeforeValidator(_text)
Text = Annotated[str, AS_TEXT]
Duration = Annotated[str, AfterValidator(_duration), Requirement("a duration, DD:HH:MM:SS")]
Sha256 = Annotated[str, AfterValidator(_sha256), Requirement("64 hexadecimal digits")]
Vector = Annotated[list[Float], AfterValidator(_vector), Requirement("three numbers, [x,y,z]")]
Direction = Annotated[list[Float], AfterValidator(_direction), Requirement("three numbers, not all 0")]
Color = Annotated[
    str | list[Float], AfterValidator(_color), Requirement("white, grey, black or three numbers from 0 to 1, [r,g,b]")
]
RenderedBackground = Annotated[
    str | list[Float],
    AfterValidator(_color_or_transparent),
    Requirement("transparent, white, grey, black or three numbers from 0 to 1, [r,g,b]"),
]
PixelCenter = Annotated[float, Strict(), *one_of(0, 0.5)]
Gpus = Annotated[NonNegativeInt | Literal["auto"], Affects("execution")]
EXECUTION, BOOKKEEPING, RESUMABLE = Affects("execution"), Affects("bookkeeping"), Affects("resumable")
