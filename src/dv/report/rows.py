"""Rows of a report: one per run, or one per group of runs that differ only in given keys, such as the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dv.report.columns import Columns, drop_columns
from dv.report.runs import Run, Value, natural_key

HIGHER_IS_BETTER = ("psnr", "ssim")


@dataclass(frozen=True)
class Row:
    """Runs in the same state that have equal values."""

    runs: list[Run]
    values: dict[str, Value]  # of the report's columns
    leaf_values: dict[str, Value]  # of the leaf configuration keys that differ between the report's runs

    @property
    def state(self) -> str:
        """State of all its runs."""
        return self.runs[0].state

    @property
    def object(self) -> str:
        """Name of the object of its runs."""
        return str(self.runs[0].config.get("object.name"))

    @property
    def label(self) -> str:
        """Values with the last part of their keys; the runs' names if there are no columns."""
        return (
            ", ".join(f"{key.split('.')[-1]}={format_value(value)}" for key, value in self.values.items()) or self.names
        )

    @property
    def names(self) -> str:
        """Names of its runs."""
        return "; ".join(run.name for run in self.runs)

    def numbers(self, measure: str) -> list[float]:
        """Return ``measure`` of every run that has it."""
        return [run.measures[measure] for run in self.runs if measure in run.measures]

    def mean(self, measure: str) -> float | None:
        """Return the mean over the runs that have ``measure``; None if none has."""
        numbers = self.numbers(measure)
        return fmean(numbers) if numbers else None

    def standard_deviation(self, measure: str) -> float | None:
        """Return the sample standard deviation (n - 1); None of less than two runs."""
        numbers = self.numbers(measure)
        return stdev(numbers) if len(numbers) > 1 else None


def make_rows(runs: Sequence[Run], columns: Columns, keys: Columns, over: Sequence[str] = ()) -> list[Row]:
    """Make one row per run, or merge runs that differ only in the keys ``over`` and are in the same state.

    Args:
        runs: The runs.
        columns: Columns of the report.
        keys: All leaf keys that differ, which decide what runs are merged.
        over: Keys to merge over; empty keeps every run apart.
    """
    columns, keys = drop_columns(columns, over), drop_columns(keys, over)
    rows: dict[object, Row] = {}
    for i, run in enumerate(runs):
        values = {name: column[i] for name, column in columns.items()}
        leaves = {name: column[i] for name, column in keys.items()}
        group = (run.state, *leaves.values()) if over else run.path
        rows.setdefault(group, Row([], values, leaves)).runs.append(run)
    return list(rows.values())


def sort_rows(rows: list[Row], by: str | None) -> list[Row]:
    """Sort by a measure (scores in descending order), by a column, or with None by all columns in their order."""
    measure = any(by in run.measures for row in rows for run in row.runs)

    def key(row: Row) -> tuple[object, ...]:
        if by is None:
            return (*map(sort_key, row.values.values()), natural_key(row.names))
        if not measure:
            return (sort_key({**row.leaf_values, **row.values}.get(by)),)
        mean = row.mean(by)
        sign = -1 if by.endswith(HIGHER_IS_BETTER) else 1
        return mean is None, sign * (mean or 0)

    return sorted(rows, key=key)


def sort_key(value: Value) -> tuple[bool, float, object]:
    """Return a key that sorts the values of a column: numbers in ascending order, then texts."""
    number = as_number(value)
    return (number is None, number or 0, natural_key(format_value(value)))


def as_number(value: Value) -> float | None:
    """Return a number, also of a text such as the ``16`` of ``grid=16``; None for other values."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def format_value(value: Value) -> str:
    """Format a value as on a command line; a dash stands for a key that a run lacks."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value) or "–"
