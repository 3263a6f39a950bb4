"""Plots of a report, as PNG and PDF: PSNR against steps, training time and every swept value."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from dv.report.rows import Row, as_number, format_value, sort_key
from dv.report.runs import Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colour-blind safe palette of Okabe and Ito without yellow, which is too light for lines
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS, DASHES = "osD^vP*", ("-", "--", ":")
MAX_DISTINCT_LINES = len(COLORS) * len(DASHES)


def plot_curves(path: Path, rows: Sequence[Row], against: str) -> bool:
    """Plot validation PSNR of every row against steps or training time.

    Merged runs appear as mean and standard deviation. More rows than MAX_DISTINCT_LINES are coloured by a swept value.

    Args:
        path: Path of the files without suffix.
        rows: The rows.
        against: "steps" or "seconds".

    Returns:
        False if there is no data, so that nothing is written.
    """
    curves = [(row, curve) for row in rows if (curve := _mean_curve(row, against))]
    if not curves:
        return False
    figure, axes = _axes()
    unit, seconds = "steps", 1.0
    if against == "seconds":
        longest = max(point[0] for _, curve in curves for point in curve)
        units = ("hours", 3600), ("minutes", 60), ("seconds", 1)
        unit, seconds = next((name, size) for name, size in units if longest > 2 * size or size == 1)
    colors, labels = _line_colors(figure, axes, [row for row, _ in curves])
    for i, (_, curve) in enumerate(curves):
        x, mean, spread = zip(*((x / seconds, mean, spread) for x, mean, spread in curve), strict=True)
        style: dict[str, Any] = {"color": colors[i], "label": labels[i], "linewidth": 1.5}
        if len(curves) <= MAX_DISTINCT_LINES:
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
    """Plot a PSNR against a swept value, as mean and standard deviation over the other columns and seeds.

    Numbers get a numeric axis, which is logarithmic if they span a factor of 8 or more. Other columns get separate
    lines as long as there are few of them.

    Args:
        path: Path of the files without suffix.
        rows: One row per run.
        name: Column with the swept value.
        measure: "test/psnr" or "val/psnr".
    """
    figure, axes = _axes()
    numeric = name != "seed" and all(as_number(row.values[name]) is not None for row in rows)
    values = _sorted_unique(row.values[name] for row in rows)
    positions = {value: as_number(value) or 0.0 if numeric else float(i) for i, value in enumerate(values)}
    series: dict[str, dict[Value, list[float]]] = defaultdict(lambda: defaultdict(list))
    line_columns = _line_columns(rows, name)
    for row in sorted(rows, key=lambda row: [sort_key(row.values[column]) for column in line_columns]):
        label = ", ".join(f"{column.split('.')[-1]}={format_value(row.values[column])}" for column in line_columns)
        series[label][row.values[name]] += row.numbers(measure)
    for i, (label, scores_by_value) in enumerate(series.items()):
        shift = 0.0 if numeric else 0.5 * ((i + 0.5) / len(series) - 0.5)
        scores = {positions[v] + shift: scores_by_value[v] for v in values if v in scores_by_value}
        spread = [stdev(s) if len(s) > 1 else math.nan for s in scores.values()]
        style = {"color": COLORS[i], "marker": MARKERS[i], "linestyle": "-" if numeric else "none"}
        axes.errorbar(scores.keys(), [fmean(s) for s in scores.values()], spread, capsize=4, label=label, **style)
        dots = [(x, score) for x, repeats in scores.items() if len(repeats) > 1 for score in repeats]
        if dots:
            axes.scatter(*zip(*dots, strict=True), s=10, color=COLORS[i], alpha=0.5, linewidths=0)
    ticks = list(positions.values())
    if numeric and min(ticks) > 0 and max(ticks) >= 8 * min(ticks):
        axes.set_xscale("log")
        axes.minorticks_off()
    if not numeric or len(values) <= 8:
        texts = [format_value(value) for value in values]
        crowded = sum(map(len, texts)) > 60
        rotation: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
        axes.set_xticks(ticks, texts, **rotation)
    if not numeric:
        axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set(xlabel=name, ylabel=f"{measure.partition('/')[0].replace('val', 'best validation')} PSNR (dB)")
    _finish(figure, axes, path)


def _mean_curve(row: Row, against: str) -> list[tuple[float, float, float]]:
    """Return (x, mean PSNR, standard deviation) at the steps at which all runs of the row were validated."""
    points = [
        {point.steps: (x, point.psnr) for point in run.history if (x := getattr(point, against)) is not None}
        for run in row.runs
    ]
    curve = []
    for steps in sorted(set.intersection(*map(set, points))):
        x, psnr = zip(*(run[steps] for run in points), strict=True)
        curve.append((fmean(x), fmean(psnr), stdev(psnr) if len(psnr) > 1 else 0.0))
    return curve


def _line_colors(figure: Figure, axes: Any, rows: Sequence[Row]) -> tuple[list[Any], list[str | None]]:
    """Return a colour and a label per row. Many rows get the colours of a swept value, labelled at its first row."""
    if len(rows) <= MAX_DISTINCT_LINES:
        return [COLORS[i % len(COLORS)] for i in range(len(rows))], [row.label for row in rows]
    columns = {name: _sorted_unique(row.values[name] for row in rows) for name in rows[0].values if name != "seed"}
    numeric = {n: values for n, values in columns.items() if None not in map(as_number, values)}
    few = {name: values for name, values in columns.items() if 2 <= len(values) <= len(COLORS)}
    if few:
        name = max(few, key=lambda name: len(few[name]))
        swept = [row.values[name] for row in rows]
        labels = [f"{name}={format_value(value)}" if value not in swept[:i] else None for i, value in enumerate(swept)]
        return [COLORS[few[name].index(value)] for value in swept], labels
    if not numeric:
        return [COLORS[0]] * len(rows), [None] * len(rows)
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize

    name = max(numeric, key=lambda name: len(numeric[name]))
    numbers = [as_number(row.values[name]) or 0.0 for row in rows]
    low, high = min(numbers), max(numbers)
    norm = LogNorm(low, high) if low > 0 and high >= 8 * low else Normalize(low, high)
    dark = ListedColormap([colormaps["viridis"](0.9 * i / 255) for i in range(256)])  # its last colours are too light
    figure.colorbar(ScalarMappable(norm, dark), ax=axes, label=name)
    return [dark(norm(number)) for number in numbers], [None] * len(rows)


def _line_columns(rows: Sequence[Row], name: str) -> list[str]:
    """Return the other columns whose values get separate lines: the object first, then those with the fewest values."""
    others = {o: len({row.values[o] for row in rows}) for o in rows[0].values if o not in (name, "seed")}
    line_columns: list[str] = []
    for other in sorted(others, key=lambda other: (other.partition(".")[0] != "object", others[other])):
        lines = len({tuple(row.values[column] for column in (*line_columns, other)) for row in rows})
        if others[other] > 1 and lines <= len(COLORS):
            line_columns.append(other)
    return line_columns


def _sorted_unique(values: Iterable[Value]) -> list[Value]:
    return sorted(dict.fromkeys(values), key=sort_key)


def _axes() -> tuple[Figure, Any]:
    """Return an empty figure and its axes, without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _finish(figure: Figure, axes: Any, path: Path) -> None:
    """Add a legend beside the axes, and write ``path`` with the suffixes .png and .pdf."""
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        figure.set_figwidth(7 + 0.065 * max(map(len, labels)))
        figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)
    figure.savefig(path.with_name(f"{path.name}.pdf"), metadata={"CreationDate": None})
