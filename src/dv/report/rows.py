"""Rows of a report: runs that are alike but for their seeds, say, become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dv.report.columns import Columns, without
from dv.report.runs import Run, Value, natural

HIGHER_IS_BETTER = ("psnr", "ssim")


@dataclass(frozen=True)
class Row:
    """Runs in the same ``state`` with the same ``values`` of the columns and of the differing leaf ``keys``."""

    runs: list[Run]
    values: dict[str, Value]
    keys: dict[str, Value]

    @property
    def state(self) -> str:
        """Of all its runs."""
        return self.runs[0].state

    @property
    def object(self) -> str:
        """Name of the object of its runs."""
        return str(self.runs[0].config.get("object.name"))

    @property
    def label(self) -> str:
        """Its values with the last words of their keys, or the run's name if nothing tells it apart."""
        return ", ".join(f"{key.split('.')[-1]}={shown(value)}" for key, value in self.values.items()) or self.names

    @property
    def names(self) -> str:
        """Of its runs."""
        return "; ".join(run.name for run in self.runs)

    def numbers(self, measure: str) -> list[float]:
        """``measure`` of every run that has it."""
        return [run.measures[measure] for run in self.runs if measure in run.measures]

    def mean(self, measure: str) -> float | None:
        """Over the runs that have ``measure``."""
        numbers = self.numbers(measure)
        return fmean(numbers) if numbers else None

    def deviation(self, measure: str) -> float | None:
        """Sample standard deviation (n - 1), of two runs or more."""
        numbers = self.numbers(measure)
        return stdev(numbers) if len(numbers) > 1 else None


def make_rows(runs: Sequence[Run], columns: Columns, keys: Columns, over: Sequence[str] = ()) -> list[Row]:
    """A row for each run, or with ``over`` one for all that differ in these keys only and are in the same state."""
    columns, keys = without(columns, over), without(keys, over)
    rows: dict[object, Row] = {}
    for i, run in enumerate(runs):
        values = {name: column[i] for name, column in columns.items()}
        leaves = {name: column[i] for name, column in keys.items()}
        alike = (run.state, *leaves.values()) if over else run.path
        rows.setdefault(alike, Row([], values, leaves)).runs.append(run)
    return list(rows.values())


def sort_rows(rows: list[Row], by: str | None) -> list[Row]:
    """``rows`` by a measure, scores best first, or by a column; by None, by all columns in their order."""
    measure = any(by in run.measures for row in rows for run in row.runs)

    def key(row: Row) -> tuple[object, ...]:
        if by is None:
            return (*map(order, row.values.values()), natural(row.names))
        if not measure:
            return (order({**row.keys, **row.values}.get(by)),)
        mean = row.mean(by)
        sign = -1 if by.endswith(HIGHER_IS_BETTER) else 1
        return mean is None, sign * (mean or 0)

    return sorted(rows, key=key)


def order(value: Value) -> tuple[bool, float, object]:
    """Sorting key of values of one column: numbers by size, before texts."""
    number = as_number(value)
    return (number is None, number or 0, natural(shown(value)))


def as_number(value: Value) -> float | None:
    """Numbers, and texts such as the ``16`` of grid=16."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def shown(value: Value) -> str:
    """As on a command line; a dash for a key that a run does not have."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value) or "–"
