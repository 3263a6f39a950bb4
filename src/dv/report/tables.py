"""Tables of a report as Markdown, LaTeX, CSV and plain text."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dv.report.published import published_scores
from dv.report.rows import HIGHER_IS_BETTER, Row, format_value

MEASURES = {  # measure → heading, in the order of the columns
    "test/psnr": "test PSNR",
    "test/ssim": "test SSIM",
    "test/lpips": "test LPIPS",
    "val/psnr": "val PSNR",
    "val/ssim": "val SSIM",
    "steps": "steps",
    "seconds": "time",
    "memory_gb": "memory (GB)",
}


@dataclass(frozen=True)
class Table:
    """Headings and lines of text; ``best`` has the (line, column) of the best values."""

    headings: list[str]
    lines: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()


def report_table(rows: Sequence[Row], over: Sequence[str]) -> Table:
    """Make the main table: run names or their number, distinguishing columns, state unless all finished, and measures.

    The best value of a column is that of the best finished row of the same object, unless all of them are equal.

    Args:
        rows: The rows.
        over: Keys over which runs were merged.
    """
    measures = [measure for measure in MEASURES if any(row.numbers(measure) for row in rows)]
    show_state = any(row.state != "finished" for row in rows)
    first = ["n"] if over else ["run"]
    headings = [
        *first,
        *rows[0].values,
        *(["state"] if show_state else []),
        *(MEASURES[measure] for measure in measures),
    ]
    lines = []
    for row in rows:
        first = [str(len(row.runs)) if over else row.names]
        values = [format_value(value) for value in row.values.values()]
        cells = [_cell(row, measure) for measure in measures]
        lines.append([*first, *values, *([row.state] if show_state else []), *cells])
    best = set()
    for j, measure in enumerate(measures, len(headings) - len(measures)):
        for name in {row.object for row in rows} if measure != "steps" else ():
            finished = [i for i, row in enumerate(rows) if row.object == name and row.state == "finished"]
            scored = {i: mean for i in finished if (mean := rows[i].mean(measure)) is not None}
            if len(scored) > 1:
                extreme = (max if measure.endswith(HIGHER_IS_BETTER) else min)(scored, key=scored.__getitem__)
                text = lines[extreme][j].split(" ")[0]
                equal = {(i, j) for i in scored if lines[i][j].split(" ")[0] == text}
                best |= equal if len(equal) < len(scored) else set()
    return Table(headings, lines, frozenset(best))


def published_table(rows: Sequence[Row]) -> Table | None:
    """Compare rows with the paper's scores; None if no row has its objects and resolution."""
    headings = ["run", "object", "test PSNR, ours", "test PSNR, published", "test SSIM, ours", "test SSIM, published"]
    lines = []
    for row in rows:
        if scores := published_scores(row.runs):
            ours = [_cell(row, "test/psnr"), _cell(row, "test/ssim")]
            lines.append([row.label, row.object, ours[0], f"{scores[0]:.2f}", ours[1], f"{scores[1]:.2f}"])
    return Table(headings, lines) if lines else None


def _cell(row: Row, measure: str) -> str:
    """Format the mean, and for scores of merged runs also the standard deviation."""
    mean, deviation = row.mean(measure), row.standard_deviation(measure)
    if mean is None:
        return "–"
    if measure == "steps":
        return f"{mean:.0f}"
    if measure == "seconds":
        return f"{mean // 3600:.0f}:{mean % 3600 // 60:02.0f}:{mean % 60 // 1:02.0f}"
    digits = 2 if measure in ("memory_gb", "test/psnr", "val/psnr") else 3
    spread = f" ± {deviation:.{digits}f}" if deviation is not None and measure != "memory_gb" else ""
    return f"{mean:.{digits}f}{spread}"


def markdown(table: Table) -> str:
    """Format as a GitHub table with the best values in bold."""
    escaped = [[escape(cell) for cell in line] for line in [table.headings, *table.lines]]
    for i, j in table.best:
        escaped[i + 1][j] = f"**{escaped[i + 1][j]}**"
    head, *body = [f"| {' | '.join(line)} |" for line in escaped]
    return "\n".join([head, "|" + "---|" * len(table.headings), *body])


def escape(text: str) -> str:
    """Escape the characters that have a meaning in Markdown."""
    return re.sub(r"([|*_`<\[\\])", r"\\\1", text)


def latex(table: Table) -> str:
    """Format as a ``tabular`` with the rules of booktabs and the best values in bold."""
    escaped = [[_latex(cell) for cell in line] for line in [table.headings, *table.lines]]
    for i, j in table.best:
        escaped[i + 1][j] = rf"\textbf{{{escaped[i + 1][j]}}}"
    head, *body = [" & ".join(line) + r" \\" for line in escaped]
    begin = rf"\begin{{tabular}}{{{'l' * len(table.headings)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def _latex(text: str) -> str:
    commands = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
    }
    return "".join(commands.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def plain_text(table: Table) -> str:
    """Format with columns aligned by spaces."""
    lines = [table.headings, *table.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a line per row: leaf keys, and every measure in full precision with its standard deviation."""
    columns = dict.fromkeys([*rows[0].leaf_values, *rows[0].values])
    measures = [measure for measure in MEASURES if any(row.numbers(measure) for row in rows)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        deviations = [f"{measure}_std" for measure in measures]
        writer.writerow(["run", "state", "n", *columns, *measures, *deviations, "published/psnr", "published/ssim"])
        for row in rows:
            values = [{**row.values, **row.leaf_values}[column] for column in columns]
            cells = [format_value(value) if value is None or isinstance(value, bool) else value for value in values]
            numbers = [*map(row.mean, measures), *map(row.standard_deviation, measures)]
            published = published_scores(row.runs) or (None, None)
            writer.writerow([row.names, row.state, len(row.runs), *cells, *numbers, *published])
