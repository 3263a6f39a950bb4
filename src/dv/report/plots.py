"""Plots of a report: PSNR against steps, wall-clock time and every value that was swept; PNG and PDF."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from dv.report.rows import Row, as_number, order, shown
from dv.report.runs import Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow that is too light for lines
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS, DASHES = "osD^vP*", ("-", "--", ":")
MOST_LINES = len(COLORS) * len(DASHES)  # with a look of their own


def plot_courses(path: Path, rows: Sequence[Row], against: str) -> bool:
    """Validation PSNR of every row against ``steps`` or ``seconds``; merged runs as mean and standard deviation.

    More rows than 21 are coloured by a value that was swept. Returns False, and writes nothing, without data.
    """
    courses = [(row, course) for row in rows if (course := _course(row, against))]
    if not courses:
        return False
    figure, axes = _axes()
    unit, seconds = "steps", 1.0
    if against == "seconds":
        longest = max(point[0] for _, course in courses for point in course)
        units = ("hours", 3600), ("minutes", 60), ("seconds", 1)
        unit, seconds = next((name, size) for name, size in units if longest > 2 * size or size == 1)
    colors, labels = _line_colors(figure, axes, [row for row, _ in courses])
    for i, (_, course) in enumerate(courses):
        x, mean, spread = zip(*((x / seconds, mean, spread) for x, mean, spread in course), strict=True)
        style: dict[str, Any] = {"color": colors[i], "label": labels[i], "linewidth": 1.5}
        if len(courses) <= MOST_LINES:
            style |= {"linestyle": DASHES[i // len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
            style["markevery"] = -(-len(mean) // 10)
        axes.plot(x, mean, **style)
        if any(spread):
            low, high = zip(*((m - s, m + s) for m, s in zip(mean, spread, strict=True)), strict=True)
            axes.fill_between(x, low, high, color=colors[i], alpha=0.2, linewidth=0)
    axes.set(xlabel="steps" if against == "steps" else f"training time ({unit})", ylabel="validation PSNR (dB)")
    _finish(figure, axes, path)
    return True


def plot_sweep(path: Path, rows: Sequence[Row], name: str, measure: str) -> None:
    """``measure`` in dB of each run, a row each, against its value of the column ``name``; mean and standard deviation.

    Numbers have a numeric axis, logarithmic if they span a factor of 8. Other columns get lines of their own while
    these are few; over those that are left, and over seeds, the mean is taken.
    """
    figure, axes = _axes()
    numeric = name != "seed" and all(as_number(row.values[name]) is not None for row in rows)
    values = _ordered(row.values[name] for row in rows)
    places = {value: as_number(value) or 0.0 if numeric else float(i) for i, value in enumerate(values)}
    series: dict[str, dict[Value, list[float]]] = defaultdict(lambda: defaultdict(list))
    apart = _columns_apart(rows, name)
    for row in sorted(rows, key=lambda row: [order(row.values[column]) for column in apart]):
        label = ", ".join(f"{column.split('.')[-1]}={shown(row.values[column])}" for column in apart)
        series[label][row.values[name]] += row.numbers(measure)
    for i, (label, found) in enumerate(series.items()):
        shift = 0.0 if numeric else 0.5 * ((i + 0.5) / len(series) - 0.5)
        scores = {places[value] + shift: found[value] for value in values if value in found}
        spread = [stdev(s) if len(s) > 1 else math.nan for s in scores.values()]
        style = {"color": COLORS[i], "marker": MARKERS[i], "linestyle": "-" if numeric else "none"}
        axes.errorbar(scores.keys(), [fmean(s) for s in scores.values()], spread, capsize=4, label=label, **style)
        dots = [(x, score) for x, several in scores.items() if len(several) > 1 for score in several]
        if dots:
            axes.scatter(*zip(*dots, strict=True), s=10, color=COLORS[i], alpha=0.5, linewidths=0)
    ticks = list(places.values())
    if numeric and min(ticks) > 0 and max(ticks) >= 8 * min(ticks):
        axes.set_xscale("log")
        axes.minorticks_off()
    if not numeric or len(values) <= 8:
        texts = [shown(value) for value in values]
        crowded = sum(map(len, texts)) > 60
        turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
        axes.set_xticks(ticks, texts, **turned)
    if not numeric:
        axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set(xlabel=name, ylabel=f"{measure.partition('/')[0].replace('val', 'best validation')} PSNR (dB)")
    _finish(figure, axes, path)


def _course(row: Row, against: str) -> list[tuple[float, float, float]]:
    """Place on the axis, mean and standard deviation in dB at the steps that all runs of the row were validated at."""
    points = [
        {point.steps: (at, point.psnr) for point in run.course if (at := getattr(point, against)) is not None}
        for run in row.runs
    ]
    course = []
    for steps in sorted(set.intersection(*map(set, points))):
        at, psnr = zip(*(run[steps] for run in points), strict=True)
        course.append((fmean(at), fmean(psnr), stdev(psnr) if len(psnr) > 1 else 0.0))
    return course


def _line_colors(figure: Figure, axes: Any, rows: Sequence[Row]) -> tuple[list[Any], list[str | None]]:
    """A colour and a label for each row; of many rows, those of a swept value, of which the first row has the label."""
    if len(rows) <= MOST_LINES:
        return [COLORS[i % len(COLORS)] for i in range(len(rows))], [row.label for row in rows]
    columns = {name: _ordered(row.values[name] for row in rows) for name in rows[0].values if name != "seed"}
    numeric = {n: values for n, values in columns.items() if None not in map(as_number, values)}
    few = {name: values for name, values in columns.items() if 2 <= len(values) <= len(COLORS)}
    if few:
        name = max(few, key=lambda name: len(few[name]))
        own = [row.values[name] for row in rows]
        labels = [f"{name}={shown(value)}" if value not in own[:i] else None for i, value in enumerate(own)]
        return [COLORS[few[name].index(value)] for value in own], labels
    if not numeric:
        return [COLORS[0]] * len(rows), [None] * len(rows)
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    name = max(numeric, key=lambda name: len(numeric[name]))
    numbers = [as_number(row.values[name]) or 0.0 for row in rows]
    low, high = min(numbers), max(numbers)
    norm = LogNorm(low, high) if low > 0 and high >= 8 * low else Normalize(low, high)
    dark = ListedColormap([colormaps["viridis"](0.9 * i / 255) for i in range(256)])  # its end is too light for lines
    figure.colorbar(ScalarMappable(norm, dark), ax=axes, label=name)
    return [dark(norm(number)) for number in numbers], [None] * len(rows)


def _columns_apart(rows: Sequence[Row], name: str) -> list[str]:
    """The columns beside ``name`` whose values get lines of their own: the object, and those of the fewest values."""
    others = {o: len({row.values[o] for row in rows}) for o in rows[0].values if o not in (name, "seed")}
    apart: list[str] = []
    for other in sorted(others, key=lambda other: (other.partition(".")[0] != "object", others[other])):
        lines = len({tuple(row.values[column] for column in (*apart, other)) for row in rows})
        if others[other] > 1 and lines <= len(COLORS):
            apart.append(other)
    return apart


def _ordered(values: Iterable[Value]) -> list[Value]:
    """The values that there are, once each."""
    return sorted(dict.fromkeys(values), key=order)


def _axes() -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(figure: Figure, axes: Any, path: Path) -> None:
    """Legend beside the axes, and ``path`` with .png and .pdf."""
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        figure.set_figwidth(7 + 0.065 * max(map(len, labels)))
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)
    figure.savefig(path.with_name(f"{path.name}.pdf"), metadata={"CreationDate": None})
