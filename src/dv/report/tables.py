"""The rows of a report as Markdown, LaTeX, CSV and text for the terminal."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dv.report.published import published
from dv.report.rows import HIGHER_IS_BETTER, Row, shown

MEASURES = {  # in the order of their columns, with their headings
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
    """Headings and lines of text; ``best`` are the (line, column) of the best values."""

    headings: list[str]
    lines: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()


def table_of(rows: Sequence[Row], over: Sequence[str]) -> Table:
    """What tells the rows apart, state where not all are finished, n where runs are merged, and the measures.

    The best of a column is the best finished row of the same object, if they are not all alike.
    """
    measures = [measure for measure in MEASURES if any(row.numbers(measure) for row in rows)]
    states = any(row.state != "finished" for row in rows)
    tells = ["n"] if over else ["run"]
    headings = [*tells, *rows[0].values, *(["state"] if states else []), *(MEASURES[measure] for measure in measures)]
    lines = []
    for row in rows:
        tell = [str(len(row.runs)) if over else row.names]
        values = [shown(value) for value in row.values.values()]
        cells = [_cell(row, measure) for measure in measures]
        lines.append([*tell, *values, *([row.state] if states else []), *cells])
    best = set()
    for j, measure in enumerate(measures, len(headings) - len(measures)):
        for name in {row.object for row in rows} if measure != "steps" else ():
            finished = [i for i, row in enumerate(rows) if row.object == name and row.state == "finished"]
            scored = {i: mean for i in finished if (mean := rows[i].mean(measure)) is not None}
            if len(scored) > 1:
                extreme = (max if measure.endswith(HIGHER_IS_BETTER) else min)(scored, key=scored.__getitem__)
                text = lines[extreme][j].split(" ")[0]
                alike = {(i, j) for i in scored if lines[i][j].split(" ")[0] == text}
                best |= alike if len(alike) < len(scored) else set()
    return Table(headings, lines, frozenset(best))


def published_table(rows: Sequence[Row]) -> Table | None:
    """Rows whose object and resolution are the paper's beside its numbers."""
    headings = ["run", "object", "test PSNR, ours", "test PSNR, published", "test SSIM, ours", "test SSIM, published"]
    lines = []
    for row in rows:
        if theirs := published(row.runs):
            ours = [_cell(row, "test/psnr"), _cell(row, "test/ssim")]
            lines.append([row.label, row.object, ours[0], f"{theirs[0]:.2f}", ours[1], f"{theirs[1]:.2f}"])
    return Table(headings, lines) if lines else None


def _cell(row: Row, measure: str) -> str:
    mean, deviation = row.mean(measure), row.deviation(measure)
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
    """A GitHub table, best values bold."""
    escaped = [[escape(cell) for cell in line] for line in [table.headings, *table.lines]]
    for i, j in table.best:
        escaped[i + 1][j] = f"**{escaped[i + 1][j]}**"
    head, *body = [f"| {' | '.join(line)} |" for line in escaped]
    return "\n".join([head, "|" + "---|" * len(table.headings), *body])


def escape(text: str) -> str:
    """``text`` that Markdown shows as it is."""
    return re.sub(r"([|*_`<\[\\])", r"\\\1", text)


def latex(table: Table) -> str:
    """A ``tabular`` with the rules of booktabs, best values bold."""
    escaped = [[_latex(cell) for cell in line] for line in [table.headings, *table.lines]]
    for i, j in table.best:
        escaped[i + 1][j] = rf"\textbf{{{escaped[i + 1][j]}}}"
    head, *body = [" & ".join(line) + r" \\" for line in escaped]
    begin = rf"\begin{{tabular}}{{{'l' * len(table.headings)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def _latex(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"}
    return "".join(words.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def plain(table: Table) -> str:
    """Columns aligned with spaces."""
    lines = [table.headings, *table.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A line for each row: leaf keys, and every measure in full precision with its standard deviation."""
    columns = dict.fromkeys([*rows[0].keys, *rows[0].values])
    measures = [measure for measure in MEASURES if any(row.numbers(measure) for row in rows)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        spread = [f"{measure}_std" for measure in measures]
        writer.writerow(["run", "state", "n", *columns, *measures, *spread, "published/psnr", "published/ssim"])
        for row in rows:
            values = [{**row.values, **row.keys}[column] for column in columns]
            told = [shown(value) if value is None or isinstance(value, bool) else value for value in values]
            numbers = [*map(row.mean, measures), *map(row.deviation, measures)]
            theirs = published(row.runs) or (None, None)
            writer.writerow([row.names, row.state, len(row.runs), *told, *numbers, *theirs])
