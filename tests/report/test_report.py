"""Reports of generated run folders and of real runs, through the command line."""

import csv
import json
import re
import shutil
from pathlib import Path
from statistics import mean, stdev
from urllib.parse import unquote

import imageio.v3 as iio
import numpy as np
import pytest

CONFIG = {
    "object": {"root": "data/deepvoxels", "name": "vase", "how_to_get": "?"},
    "grid": {"side": 16, "features": 8},
    "loss": {"l1_weight": 200, "gan_weight": 1, "border": 5},
    "trainer": {"max_steps": 100, "progress_bar": True},
    "logger": {"name": "csv"},
    "data": {"skip": 0, "image_side": 64},
    "optimizer": {"learning_rate": 4e-4},
    "seed": 0,
    "resume": None,
}
CHOICES = {"object": "vase", "grid": "16", "loss": "l1_gan", "trainer": "default", "experiment": None, "hydra/env": "x"}


def write_run(
    folder: Path,
    overrides: dict | None = None,
    choices: dict | None = None,
    *,
    psnr: float = 20.0,
    test: float | None = None,
    state: str | None = "finished",
    typed: tuple[str, ...] = (),
) -> Path:
    """Write the files of a run of 100 steps, 0.5 s each, whose validations are logged as ``psnr - 2`` and ``psnr``.

    ``run.json`` records a final and best PSNR of ``psnr + 0.1``.
    """
    config = json.loads(json.dumps(CONFIG)) | {"output_dir": str(folder)}
    for key, value in (overrides or {}).items():
        *above, last = key.split(".")
        (config[above[0]] if above else config)[last] = value
    (folder / ".hydra").mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    if choices is not None:
        hydra = {"runtime": {"choices": CHOICES | choices}, "overrides": {"task": list(typed)}}
        (folder / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": hydra}))
    steps = 100 if state == "finished" else 60
    lines = ["step,train/psnr,val/psnr,val/ssim,time/step,time/elapsed"]
    for step in range(9, steps, 10):
        lines.append(f"{step},{psnr},,,0.5,{0.5 * (step + 1)}")
        if step in (49, 99):
            lines.append(f"{step},,{psnr - (2 if step == 49 else 0)},0.7,,")
    (folder / "metrics.csv").write_text("\n".join([*lines, ""]))
    if state == "finished":
        best = {"psnr": psnr + 0.1, "ssim": 0.8, "step": 100}
        record = {"state": state, "steps": 100, "seconds": 52.5, "memory_gb": 0.75, "ranks": 1, "device": "a CPU",
                  "revision": "abc", "best": best, "final": {"psnr": psnr + 0.1, "ssim": 0.8}}  # fmt: skip
        (folder / "run.json").write_text(json.dumps(record))
    elif state == "failed":
        (folder / "run.json").write_text(json.dumps({"state": "failed", "error": "out of *memory*"}))
    if test is not None:
        views = [{"name": f"{i:06d}", "psnr": test + i - 1, "ssim": 0.9} for i in range(3)]
        scores = {"mean": {"psnr": test, "ssim": 0.9}, "views": views, "split": "test"}
        (folder / "metrics.json").write_text(json.dumps(scores))
        (folder / "test_views").mkdir()
        for i in range(3):
            iio.imwrite(folder / "test_views" / f"{i:06d}.png", np.full((32, 96, 3), 60 * i, np.uint8))
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def markdown_table(text: str) -> list[dict[str, str]]:
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def linked_images(report: Path) -> list[str]:
    return [unquote(link) for link in re.findall(r"!\[.*\]\((.*)\)", (report / "report.md").read_text())]


def test_seeds_of_a_sweep_are_averaged_in_every_format(command, tmp_path):
    runs, psnr = tmp_path / "runs", {}
    for i, (side, seed) in enumerate((side, seed) for side in (16, 32) for seed in range(3)):
        psnr[side, seed] = 20.123456789 + side / 16 + 0.3 * seed**2
        write_run(runs / str(i), {"grid.side": side, "seed": seed}, {"grid": str(side)}, psnr=psnr[side, seed] - 1,
                  test=psnr[side, seed])  # fmt: skip
    result = command("report", f"runs={runs}", "over=seed")
    assert result.code == 0, result.err
    report = runs / "report"
    expected = {side: [psnr[side, seed] for seed in range(3)] for side in (16, 32)}
    rows = table(report / "report.csv")
    assert [(row["grid.side"], row["n"], row["state"]) for row in rows] == [
        (side, "3", "finished") for side in ("16", "32")
    ]
    assert "seed" not in rows[0]
    for row in rows:
        scores = expected[int(row["grid.side"])]
        assert float(row["test/psnr"]) == pytest.approx(mean(scores), rel=1e-14)
        assert float(row["test/psnr_std"]) == pytest.approx(stdev(scores), rel=1e-12)
        assert float(row["val/psnr"]) == pytest.approx(mean(scores) - 1 + 0.1, rel=1e-14)
        assert (row["steps"], row["seconds"], row["memory_gb"]) == ("100.0", "52.5", "0.75")
    shown = {side: f"{mean(scores):.2f} ± {stdev(scores):.2f}" for side, scores in expected.items()}
    rows = markdown_table((report / "report.md").read_text())
    assert [row["test PSNR"] for row in rows] == [shown[16], f"**{shown[32]}**"]
    assert [(row["grid"], row["n"], row["time"]) for row in rows] == [(s, "3", "0:00:52") for s in ("16", "32")]
    assert "seed" not in rows[0]
    tex = (report / "report.tex").read_text()
    assert all(rule in tex for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\usepackage{booktabs}"))
    assert r"\textbf{" + shown[32].replace("±", r"$\pm$") + "}" in tex
    assert all(text in result.out for text in (*shown.values(), "report.md"))
    run_rows = table(report / "runs.csv")
    assert [float(row["test/psnr"]) for row in run_rows] == pytest.approx(list(psnr.values()), rel=1e-14)
    assert [row["seed"] for row in run_rows] == ["0", "1", "2"] * 2
    assert {"plots/psnr_steps.png", "plots/psnr_seconds.png", "plots/psnr_by_grid.png"} <= {*linked_images(report)}
    for image in linked_images(report):
        assert iio.imread(report / image).std() > 0, image
    assert (report / "plots" / "psnr_steps.pdf").read_bytes().startswith(b"%PDF")
    # best, median and worst view from top to bottom; views 0, 1 and 2 have the greys 0, 60 and 120
    sheet = iio.imread(report / "sheets" / "0.png")
    greys = [int(grey) for grey in sheet[:, -1, 0] if grey != 255]
    assert list(dict.fromkeys(greys)) == [120, 60, 0]


def test_group_choices_replace_the_keys_that_they_explain(command, tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", {"loss.gan_weight": 0}, {"loss": "l1"}, typed=("loss=l1",))
    write_run(runs / "b", {"data.skip": 1}, {}, typed=("data.skip=1",))
    write_run(runs / "c", {"grid.side": 32, "grid.features": 4}, {"grid": "32"}, typed=("grid=32", "grid.features=4"))
    cube = {"object.name": "cube", "object.root": "elsewhere", "object.how_to_get": "!", "trainer.progress_bar": False}
    write_run(runs / "d", cube | {"logger.name": "wandb"}, {"object": "cube", "logger": "wandb"})
    assert command("report", f"runs={runs}").code == 0
    rows = markdown_table((runs / "report" / "report.md").read_text())
    keys = ["object", "grid", "loss", "data.skip", "grid.features"]
    assert {row["run"]: [row[key] for key in keys] for row in rows} == {
        "a": ["vase", "16", "l1", "0", "8"],
        "b": ["vase", "16", "l1\\_gan", "1", "8"],
        "c": ["vase", "32", "l1\\_gan", "0", "4"],
        "d": ["cube", "16", "l1\\_gan", "0", "8"],
    }
    assert set(rows[0]) == {"run", *keys, "val PSNR", "val SSIM", "steps", "time", "memory (GB)"}
    assert r"grid.features & data.skip" in (runs / "report" / "report.tex").read_text()
    assert r"l1\_gan" in (runs / "report" / "report.tex").read_text()
    shutil.rmtree(runs / "b" / ".hydra")  # a run that was not started by Hydra
    assert command("report", f"runs={runs}").code == 0
    rows = markdown_table((runs / "report" / "report.md").read_text())
    assert {"object.name", "grid.side", "loss.gan\\_weight", "data.skip", "grid.features"} < set(rows[0])
    assert not {"object", "grid", "loss", "object.root", "output\\_dir"} & set(rows[0])
    assert command("report", f"runs={runs}", "group=[loss.gan_weight,seed]", "sort=loss.gan_weight").code == 0
    rows = markdown_table((runs / "report" / "report.md").read_text())
    assert [(row["loss.gan\\_weight"], row["seed"]) for row in rows] == [("0", "0")] + [("1", "0")] * 3


@pytest.mark.parametrize("group", ["experiment", "ablation"])
def test_an_experiment_explains_keys_that_no_command_line_sets(command, tmp_path, group):
    runs = tmp_path / "runs"
    for i in range(4):
        demo = {"grid.features": 16, "optimizer.learning_rate": 2e-3, "loss.gan_weight": 0} if i % 2 else {}
        typed = (*([f"{group}=demo"] if i % 2 else []), f"seed={i // 2}")
        chosen = {group: "demo", "loss": "l1"} if i % 2 else {}
        write_run(runs / str(i), demo | {"seed": i // 2}, chosen, typed=typed)
    assert command("report", f"runs={runs}").code == 0
    rows = markdown_table((runs / "report" / "report.md").read_text())
    assert [(row[group], row["seed"], row["run"]) for row in rows] == [
        ("demo", "0", "1"), ("demo", "1", "3"), ("null", "0", "0"), ("null", "1", "2"),
    ]  # fmt: skip
    assert "loss" not in rows[0]
    assert "learning\\_rate" not in "".join(rows[0])


def test_unfinished_failed_and_damaged_runs(command, tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "deep" / "down" / "good", {"seed": 1}, psnr=21.0)
    unfinished = write_run(runs / "going", {"seed": 2}, psnr=23.456, state=None)
    with (unfinished / "metrics.csv").open("a") as file:
        file.write("59,,99.")  # the process was killed while writing this line
    failed = write_run(runs / "failed", {"seed": 3}, state="failed")
    (failed / "metrics.csv").write_bytes(b"step,val/psnr\n\x00\xff,x\n5,nan\n")
    early = write_run(runs / "early", {"seed": 4}, state="failed")
    (early / "metrics.csv").unlink()
    (early / "config.yaml").rename(early / ".hydra" / "config.yaml")
    broken = write_run(runs / "broken", {"seed": 5}, psnr=19.0)
    (broken / "metrics.json").write_text('{"mean": {"ps')
    (runs / "link").symlink_to(runs / "deep")
    (runs / "deep" / "up").symlink_to(runs)
    (runs / "other").mkdir()
    (runs / "other" / "metrics.csv").write_text("hello")
    (runs / "notes.txt").write_text("hello")
    result = command("report", f"runs=[{runs},{runs / 'going'}]")
    assert result.code == 0, result.err
    rows = {row["run"]: row for row in table(runs / "report" / "report.csv")}
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"deep/down/good": "finished", "going": "unfinished", "failed": "failed", "early": "failed",
                      "broken": "finished"}  # fmt: skip
    assert (rows["going"]["steps"], rows["going"]["val/psnr"], rows["going"]["seconds"]) == ("60.0", "21.456", "30.0")
    assert rows["early"]["seed"] == "4"
    assert rows["early"]["val/psnr"] == ""
    text = (runs / "report" / "report.md").read_text()
    assert "2 finished" in text
    assert r"- early: out of \*memory\*" in text
    assert "**21.10**" in text  # best of the finished runs; the unfinished run is better
    assert "unfinished" in result.out
    assert re.search(r"cannot read \S*metrics\.json", result.out)
    assert command("report", f"runs={runs}", "over=seed").code == 0
    merged = {row["state"]: row for row in table(runs / "report" / "report.csv")}
    assert {state: row["n"] for state, row in merged.items()} == {"finished": "2", "unfinished": "1", "failed": "2"}
    assert float(merged["finished"]["val/psnr"]) == pytest.approx(20.1)


def test_a_report_replaces_a_report_but_nothing_else(command, tmp_path):
    write_run(tmp_path / "runs" / "a b")
    report = tmp_path / "runs" / "report"
    report.mkdir()
    (report / "thesis.txt").write_text("precious")
    result = command("report", f"runs={tmp_path / 'runs'}")
    assert result.code == 1
    assert "holds no report" in result.err
    assert (report / "thesis.txt").is_file()
    (report / "thesis.txt").rename(report / "report.md")
    (report / "stale.png").touch()
    assert command("report", f"runs={tmp_path / 'runs'}").code == 0
    assert "a b" in (report / "report.md").read_text()
    names = {path.name for path in report.iterdir()}
    assert names == {"report.md", "report.csv", "report.tex", "runs.csv", "plots"}
    assert {path.name for path in report.parent.iterdir()} == {"a b", "report"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["runs={empty}"], "no runs below"),
        (["runs={empty}/nowhere"], "is not a folder"),
        (["runs={runs}", "group=[grid.sidee]"], "group: no run has grid.sidee; keys that differ: seed"),
        (["runs={runs}", "over=sead"], "over: no run has sead"),
        (["runs={runs}", "sort=psnr"], "sort=psnr must be one of test/psnr"),
    ],
)
def test_error_messages_have_one_line(command, tmp_path, arguments, expected):
    (tmp_path / "empty").mkdir()
    for seed in range(2):
        write_run(tmp_path / "runs" / str(seed), {"seed": seed})
    result = command("report", *(a.format(empty=tmp_path / "empty", runs=tmp_path / "runs") for a in arguments))
    assert result.code == 1
    (line,) = [line for line in result.err.splitlines() if line]
    assert line.startswith("error: ")
    assert expected in line
    assert not (tmp_path / "runs" / "report").exists()


def test_published_scores_are_compared_with_runs_on_the_same_images(command, tmp_path):
    runs, data = tmp_path / "runs", tmp_path / "data"
    objects = ["vase 512 real", "greek 512 real", "cube 128 real", "cube 512 made", "mug 512 real"]
    for i, (name, side, root) in enumerate(map(str.split, objects)):
        config = {"object.name": name, "data.image_side": int(side), "object.root": str(data / root)}
        write_run(runs / str(i), config, test=25)
    write_run(runs / "5", {"object.name": "armchair", "data.image_side": 512})  # not evaluated
    (data / "made" / "test" / "cube").mkdir(parents=True)
    (data / "made" / "test" / "cube" / "dataset.json").write_text('{"source": "synthetic"}')
    result = command("report", f"runs={runs}")
    assert result.code == 0, result.err
    text = (runs / "report" / "report.md").read_text()
    published = markdown_table(text.partition("## Published")[2])
    compared = {row["object"]: (row["test PSNR, ours"], row["test PSNR, published"]) for row in published}
    assert compared == {"vase": ("25.00", "27.99"), "greek": ("25.00", "32.35")}
    assert "CVPR 2019" in text
    assert "27.99" not in text.partition("## Published")[0]
    in_csv = {row["run"]: row["published/psnr"] for row in table(runs / "report" / "report.csv")}
    assert in_csv == {"0": "27.99", "1": "32.35", "2": "", "3": "", "4": "", "5": ""}


def test_times_of_older_runs_are_estimated(command, tmp_path):
    run = write_run(tmp_path / "runs" / "old", state=None)
    lines = [line.rpartition(",")[0] for line in (run / "metrics.csv").read_text().splitlines()]
    (run / "metrics.csv").write_text("\n".join([*lines, ""]))
    assert command("report", f"runs={run}", f"output_dir={tmp_path / 'out'}").code == 0
    (row,) = table(tmp_path / "out" / "report.csv")
    assert (row["run"], row["seconds"]) == ("old", "30.0")
    assert "estimated" in (tmp_path / "out" / "report.md").read_text()


def test_many_runs_are_coloured_by_the_swept_value(command, tmp_path):
    for i in range(22):
        write_run(tmp_path / "runs" / str(i), {"optimizer.learning_rate": 1e-4 * 2**i}, psnr=20 + i % 5)
    assert command("report", f"runs={tmp_path / 'runs'}", "sort=val/psnr").code == 0
    rows = table(tmp_path / "runs" / "report" / "report.csv")
    scores = [float(row["val/psnr"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert "plots/psnr_by_optimizer.learning_rate.png" in linked_images(tmp_path / "runs" / "report")


def test_every_evaluated_view_is_written_as_an_image(command, ball, trained, tmp_path):
    stale = tmp_path / "out" / "test_views" / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    result = command("evaluate", f"ckpt={trained}", f"output_dir={tmp_path / 'out'}")
    assert result.code == 0, result.err
    assert {path.name for path in stale.parent.iterdir()} == {f"{i:06d}.png" for i in range(3)}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["image_size"] == [32, 32]
    strip, truth = iio.imread(stale.with_name("000002.png")), iio.imread(ball / "test" / "ball" / "rgb" / "000002.png")
    assert (strip[2:34, 36 + 2 : 36 + 34] == truth).all()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "test_views", "test_views.png"}


def test_real_runs(command, ball_overrides, trained, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(trained.parents[1], runs / "0")
    result = command("train", *ball_overrides, "loss=l1", "seed=1", f"hydra.run.dir={runs / '1'}")
    assert result.code == 0, result.err
    assert command("evaluate", f"ckpt={runs / '1' / 'checkpoints' / 'best.ckpt'}").code == 0
    result = command("report", f"runs={runs}")
    assert result.code == 0, result.err
    rows = table(runs / "report" / "report.csv")
    assert [row["seed"] for row in rows] == ["0", "1"]
    metrics = json.loads((runs / "1" / "metrics.json").read_text())
    assert float(rows[1]["test/psnr"]) == metrics["mean"]["psnr"]
    for row in rows:
        scores = [float(line["val/psnr"]) for line in table(runs / row["run"] / "metrics.csv") if line["val/psnr"]]
        record = json.loads((runs / row["run"] / "run.json").read_text())
        assert float(row["val/psnr"]) == record["best"]["psnr"] >= max(scores)
        assert float(row["seconds"]) == record["seconds"]
        assert float(row["steps"]) == 4
    assert "sheets/1.png" in linked_images(runs / "report")
    assert not [key for key in rows[0] if key.startswith(("object.", "trainer.", "output_dir"))]
