"""``report.py``: the runs below a folder as tables, plots and contact sheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from omegaconf import DictConfig, ListConfig

from dv.errors import UserError
from dv.tasks.command import run

if TYPE_CHECKING:
    from dv.report.rows import Row
    from dv.report.runs import Run
    from dv.report.tables import Table


def report(config: DictConfig) -> Path:
    """Write ``report.{md,csv,tex}``, ``runs.csv``, ``plots/`` and ``sheets/``, print the table; returns the folder.

    Raises :class:`UserError` if there are no runs, for keys that no run has, and rather than replace other files.
    """
    from dv.report.columns import differing_keys, named_columns, with_choices
    from dv.report.rows import make_rows, sort_rows
    from dv.report.runs import find_runs
    from dv.report.tables import MEASURES, latex, plain, published_table, table_of, write_csv
    from dv.runtime.files import whole_folder

    folders = [Path(folder) for folder in _names(config.runs)]
    if not folders:
        raise UserError("no folder of runs is given; say runs=DIR")
    output_dir = Path(config.output_dir or folders[0] / "report")
    if output_dir.exists() and not (output_dir / "report.md").is_file():
        raise UserError(f"output_dir={output_dir} is there and holds no report; choose another, or remove it")
    runs = find_runs(folders)
    keys = differing_keys(runs)
    columns = with_choices(keys, runs) if config.group is None else named_columns("group", _names(config.group), runs)
    over = _names(config.over)
    named_columns("over", over, runs)
    if config.sort is not None and config.sort not in (known := [*MEASURES, *columns, *keys]):
        raise UserError(f"sort={config.sort} must be one of {', '.join(known)}")
    singles = sort_rows(make_rows(runs, columns, keys), None)
    rows = sort_rows(make_rows(runs, columns, keys, over), config.sort)
    table, beside = table_of(rows, over), published_table(rows)
    with whole_folder(output_dir) as folder:
        pictures = _plots(folder, singles, rows) + _sheets(folder, singles)
        text = _markdown(folders, runs, over, table, beside)
        (folder / "report.md").write_text("\n\n".join([*text, *pictures]) + "\n")
        tabulars = [latex(table), *([f"% as published beside ours\n{latex(beside)}"] if beside else [])]
        (folder / "report.tex").write_text("% \\usepackage{booktabs}\n" + "\n\n".join(tabulars) + "\n")
        write_csv(folder / "report.csv", rows)
        write_csv(folder / "runs.csv", singles)
    print(plain(table))
    if beside:
        print(f"\n{plain(beside)}")
    print(f"\nreport: {output_dir / 'report.md'}")
    return output_dir


def _names(value: Any) -> list[str]:
    """One name or a list of them."""
    return [] if value is None else [str(v) for v in (value if isinstance(value, ListConfig) else [value])]


def _markdown(
    folders: Sequence[Path], runs: Sequence[Run], over: Sequence[str], table: Table, beside: Table | None
) -> list[str]:
    """The paragraphs above the pictures."""
    from dv.report.published import CITATION, LATER
    from dv.report.tables import escape, markdown

    states = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in runs).items())
    made = {word: sorted({str(r.record[word]) for r in runs if r.record.get(word)}) for word in ("device", "revision")}
    notes = [
        "PSNR in dB. `test`: the best checkpoint, scored by `evaluate.py`; `val`: the best validation of the run. "
        "Time (h:mm:ss) is that of the training, memory the most that its first process took.",
        f"± is the standard deviation (n − 1) of runs that differ in nothing but {', '.join(over)}." if over else "",
        "Bold: the best finished run of the same object." if table.best else "",
        *(f"{word.capitalize()}: {', '.join(values)}." for word, values in made.items() if values),
    ]
    text = [
        f"# {', '.join(folder.resolve().name for folder in folders)}: {len(runs)} run{'s' * (len(runs) > 1)}",
        f"{states}.",
        markdown(table),
        " ".join(note for note in notes if note),
    ]
    failed = {run.name: str(run.record.get("error", "no reason given")) for run in runs if run.state == "failed"}
    if failed:
        text += ["## Failed", "\n".join(f"- {escape(f'{name}: {error}')}" for name, error in failed.items())]
    if beside:
        text += ["## Published numbers", markdown(beside), f"Published: {CITATION}. {LATER}"]
    return text


def _plots(folder: Path, singles: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Write the plots; returns the paragraphs that show them."""
    from dv.report.columns import ABSENT
    from dv.report.plots import plot_courses, plot_sweep
    from dv.report.tables import escape

    text = []
    for against, words in (("steps", "steps"), ("seconds", "training time")):
        if plot_courses(folder / "plots" / f"psnr_{against}", rows, against):
            text.append(_picture(f"Validation PSNR against {words}", f"plots/psnr_{against}.png"))
    if any(run.seconds_estimated for row in rows for run in row.runs):
        text.append("Where `time/elapsed` is missing, times are estimated from `time/step` and leave out validation.")
    if not any(point.seconds is not None for row in rows for run in row.runs for point in run.course):
        text.append("No run has times, so there is no plot against them.")
    ended = [row for row in singles if row.state == "finished"] or list(singles)
    measure = "test/psnr" if all(row.numbers("test/psnr") for row in ended) else "val/psnr"
    scored = [row for row in ended if row.numbers(measure)]
    known = {name: [row for row in scored if row.values[name] != ABSENT] for name in singles[0].values}
    swept = [name for name, having in known.items() if len({row.values[name] for row in having}) > 1]
    for name in [name for name in swept if name != "seed"] or swept:
        plot_sweep(folder / "plots" / f"psnr_by_{name}", known[name], name, measure)
        text.append(_picture(f"PSNR against {escape(name)}", f"plots/psnr_by_{name}.png"))
    if swept and len(ended) < len(singles):
        text.append("Finished runs only are shown against what was swept.")
    return ["## Plots", *text] if text else []


def _sheets(folder: Path, singles: Sequence[Row]) -> list[str]:
    """Write the contact sheets; returns the paragraphs that show them."""
    from dv.report.sheets import telling_views, view_caption, write_sheet
    from dv.report.tables import escape

    text, without = [], []
    for row in singles:
        run = row.runs[0]
        telling = telling_views(run)
        if not write_sheet(folder / "sheets" / f"{run.name}.png", run):
            without.append(run.name)
            continue
        caption = "; ".join(f"{word} {view_caption(view)}" for word, view in telling.items())
        title = run.name if row.label == run.name else f"{run.name}: {row.label}"
        picture = _picture(f"best, median and worst view of {escape(run.name)}", f"sheets/{run.name}.png")
        text += [f"### {escape(title)}", f"{run.split.capitalize()} views: {caption}.", picture]
    if text:
        text.insert(0, "## Best, median and worst views\n\nprediction | truth | depth, where the model has one.")
    if without:
        command = "python evaluate.py ckpt=RUN/checkpoints/best.ckpt"
        text.append(f"Without pictures of views, which `{command}` leaves in the run's folder: {', '.join(without)}.")
    return text


def _picture(words: str, path: str) -> str:
    return f"![{words}]({quote(path)})"


def main() -> None:
    """Command line."""
    run("report", report)


if __name__ == "__main__":
    main()
