"""``report.py``: the runs below a folder as tables, plots and contact sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from dv.config.report import ReportConfig
from dv.errors import UserError
from dv.report.columns import ABSENT, differing_keys, named_columns, with_group_choices
from dv.report.plots import plot_curves, plot_sweep
from dv.report.published import CITATION, LATER_METHODS
from dv.report.rows import Row, make_rows, sort_rows
from dv.report.runs import Run, find_runs
from dv.report.sheets import best_median_worst, view_caption, write_sheet
from dv.report.tables import (
    MEASURES,
    Table,
    escape,
    latex,
    markdown,
    plain_text,
    published_table,
    report_table,
    write_csv,
)
from dv.runtime.files import atomic_folder
from dv.tasks.command import run


def report(config: ReportConfig) -> Path:
    """Write ``report.{md,csv,tex}``, ``runs.csv``, ``plots/`` and ``sheets/``, and print the table.

    Returns:
        The folder of the report.

    Raises:
        UserError: if there are no runs, no run has a given key, or the folder holds files that are not a report.
    """
    folders = [Path(folder) for folder in _names(config.runs)]
    if not folders:
        raise UserError("runs is empty; give runs=DIR")
    output_dir = Path(config.output_dir or folders[0] / "report")
    if output_dir.exists() and not (output_dir / "report.md").is_file():
        raise UserError(f"output_dir={output_dir} exists but holds no report; choose another folder or remove it")
    runs = find_runs(folders)
    keys = differing_keys(runs)
    columns = (
        with_group_choices(keys, runs) if config.group is None else named_columns("group", _names(config.group), runs)
    )
    over = _names(config.over)
    named_columns("over", over, runs)
    if config.sort is not None and config.sort not in (known := [*MEASURES, *columns, *keys]):
        raise UserError(f"sort={config.sort} must be one of {', '.join(known)}")
    run_rows = sort_rows(make_rows(runs, columns, keys), None)
    rows = sort_rows(make_rows(runs, columns, keys, over), config.sort)
    table, published = report_table(rows, over), published_table(rows)
    with atomic_folder(output_dir) as folder:
        figures = _plots(folder, run_rows, rows) + _sheets(folder, run_rows)
        text = _markdown(folders, runs, over, table, published)
        (folder / "report.md").write_text("\n\n".join([*text, *figures]) + "\n")
        tabulars = [latex(table), *([f"% published and our scores\n{latex(published)}"] if published else [])]
        (folder / "report.tex").write_text("% \\usepackage{booktabs}\n" + "\n\n".join(tabulars) + "\n")
        write_csv(folder / "report.csv", rows)
        write_csv(folder / "runs.csv", run_rows)
    print(plain_text(table))
    if published:
        print(f"\n{plain_text(published)}")
    print(f"\nreport: {output_dir / 'report.md'}")
    return output_dir


def _names(value: str | list[str] | None) -> list[str]:
    """Return one name, several or none as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _markdown(
    folders: Sequence[Path], runs: Sequence[Run], over: Sequence[str], table: Table, published: Table | None
) -> list[str]:
    """Return the paragraphs before the plots."""
    states = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in runs).items())
    origin = {key: sorted({str(r.record[key]) for r in runs if r.record.get(key)}) for key in ("device", "revision")}
    notes = [
        "PSNR is in dB. `test`: scores of the best checkpoint by `evaluate.py`; `val`: the run's best validation. "
        "`time` (h:mm:ss) is the training time, `memory` the peak of the first process.",
        f"± is the standard deviation (n − 1) of runs that differ only in {', '.join(over)}." if over else "",
        "Bold: the best finished run of the same object." if table.best else "",
        *(f"{key.capitalize()}: {', '.join(values)}." for key, values in origin.items() if values),
    ]
    text = [
        f"# {', '.join(folder.resolve().name for folder in folders)}: {len(runs)} run{'s' * (len(runs) > 1)}",
        f"{states}.",
        markdown(table),
        " ".join(note for note in notes if note),
    ]
    failed = {run.name: str(run.record.get("error", "unknown error")) for run in runs if run.state == "failed"}
    if failed:
        text += ["## Failed", "\n".join(f"- {escape(f'{name}: {error}')}" for name, error in failed.items())]
    if published:
        text += ["## Published scores", markdown(published), f"Published: {CITATION}. {LATER_METHODS}"]
    return text


def _plots(folder: Path, run_rows: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Write the plots; return the paragraphs that show them."""
    text = []
    for against, description in (("steps", "steps"), ("seconds", "training time")):
        if plot_curves(folder / "plots" / f"psnr_{against}", rows, against):
            text.append(_image(f"Validation PSNR against {description}", f"plots/psnr_{against}.png"))
    if any(run.seconds_estimated for row in rows for run in row.runs):
        text.append("Where `time/elapsed` is missing, times are estimated from `time/step` and exclude validation.")
    if not any(point.seconds is not None for row in rows for run in row.runs for point in run.history):
        text.append("No run has logged times, so there is no plot against training time.")
    finished = [row for row in run_rows if row.state == "finished"] or list(run_rows)
    measure = "test/psnr" if all(row.numbers("test/psnr") for row in finished) else "val/psnr"
    scored = [row for row in finished if row.numbers(measure)]
    known = {name: [row for row in scored if row.values[name] != ABSENT] for name in run_rows[0].values}
    swept = [name for name, with_value in known.items() if len({row.values[name] for row in with_value}) > 1]
    for name in [name for name in swept if name != "seed"] or swept:
        plot_sweep(folder / "plots" / f"psnr_by_{name}", known[name], name, measure)
        text.append(_image(f"PSNR against {escape(name)}", f"plots/psnr_by_{name}.png"))
    if swept and len(finished) < len(run_rows):
        text.append("Plots against swept values show finished runs only.")
    return ["## Plots", *text] if text else []


def _sheets(folder: Path, run_rows: Sequence[Row]) -> list[str]:
    """Write the contact sheets; return the paragraphs that show them."""
    text, missing = [], []
    for row in run_rows:
        run = row.runs[0]
        if not write_sheet(folder / "sheets" / f"{run.name}.png", run):
            missing.append(run.name)
            continue
        caption = "; ".join(f"{rank} {view_caption(view)}" for rank, view in best_median_worst(run).items())
        title = run.name if row.label == run.name else f"{run.name}: {row.label}"
        image = _image(f"Best, median and worst view of {escape(run.name)}", f"sheets/{run.name}.png")
        text += [f"### {escape(title)}", f"{run.split.capitalize()} views: {caption}.", image]
    if text:
        text.insert(
            0, "## Best, median and worst views\n\nPrediction | ground truth | depth, if the model predicts it."
        )
    if missing:
        command = "python evaluate.py ckpt=RUN/checkpoints/best.ckpt"
        text.append(f"Runs without images of views, which `{command}` writes: {', '.join(missing)}.")
    return text


def _image(description: str, path: str) -> str:
    return f"![{description}]({quote(path)})"


if __name__ == "__main__":
    run("report")
