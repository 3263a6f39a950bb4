"""N processes with one source view each take the same step as one process with N source views, through train.py."""

import csv
from pathlib import Path

import pytest
import torch

NO_DROPOUT = ["model.integration_dropout=0", "model.renderer_dropout=0"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def first_step(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Return the state after the first step: the grid, the norms' running averages and the averaged gradients.

    The gradients are read from Adam's first moment, which is a tenth of the first gradient.
    """
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state = {k: v for k, v in checkpoint["state_dict"].items() if k.endswith(("grid", "running_mean", "running_var"))}
    moments = checkpoint["optimizer_states"][0]["state"]
    return {"state": state, "gradients": {str(k): v["exp_avg"] for k, v in moments.items()}}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the relative distance of all tensors together."""
    assert ours.keys() == theirs.keys()
    a, b = (torch.cat([d[key].flatten().double() for key in ours]) for d in (ours, theirs))
    assert b.norm() > 0
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("loss", "ranks", "batch_size", "rounds", "precision"),
    [
        ("l1_gan", 2, 1, 1, "64"),
        pytest.param("l1", 3, 1, 1, "64", marks=pytest.mark.slow),
        pytest.param("l1", 2, 2, 2, "64", marks=pytest.mark.slow),
        ("l1", 2, 1, 1, "32"),
    ],
)
def test_ranks_take_the_same_step_as_one_process(
    command, ball_overrides, tmp_path, loss, ranks, batch_size, rounds, precision
):
    """The grid is computed before the optimiser's update, from the initial weights, and is compared, too."""
    base = [*ball_overrides, *NO_DROPOUT, f"trainer.precision={precision}-true", f"loss={loss}", "trainer.max_steps=1"]
    base += [f"trainer.accumulate_grad_batches={rounds}"] + ["loss.border=4"] * (loss == "l1_gan")
    single, shared = tmp_path / "alone", tmp_path / "shared"
    result = command("train", *base, f"data.batch_size={batch_size * ranks}", f"hydra.run.dir={single}")
    assert result.code == 0, result.err
    result = command(
        "train", *base, f"data.batch_size={batch_size}", f"trainer.processes={ranks}", f"hydra.run.dir={shared}"
    )
    assert result.code == 0, result.err
    tolerance = 1e-9 if precision == "64" else 1e-5
    ours, theirs = first_step(shared), first_step(single)
    grid = "model.grid"
    assert distance({grid: ours["state"][grid]}, {grid: theirs["state"][grid]}) < tolerance
    assert distance(ours["state"], theirs["state"]) < tolerance
    assert distance(ours["gradients"], theirs["gradients"]) < (1e-9 if precision == "64" else 1e-4)
    for column in ("train/loss/generator", "train/psnr", "train/gradient_norm", "train/range/output_min", "val/psnr"):
        a, b = (float(next(row[column] for row in rows(run) if row[column])) for run in (shared, single))
        assert a == pytest.approx(b, rel=1e-9 if precision == "64" and column != "train/psnr" else 1e-4), column
    columns = [name for name in rows(single)[0] if "loss" in name]
    assert columns == [name for name in rows(shared)[0] if "loss" in name]


@pytest.mark.slow
def test_ranks_write_the_same_files_as_one_process(command, ball_overrides, tmp_path):
    """There is one folder, one log and one image of each kind, and validation counts every view once."""
    base = [
        *ball_overrides,
        *NO_DROPOUT,
        "loss=l1",
        "trainer.max_steps=4",
        "trainer.validation_views=1.0",
        "evaluate=test",
    ]
    base += ["trainer.precision=64-true"]  # rounding differences grow from step to step
    single, shared = tmp_path / "alone", tmp_path / "shared"
    assert command("train", *base, "data.batch_size=3", f"hydra.run.dir={single}").code == 0
    result = command("train", *base, "trainer.processes=3", f"hydra.run.dir={shared}")
    assert result.code == 0, result.err
    names = [{str(path.relative_to(run)) for path in run.rglob("*")} for run in (single, shared)]
    assert names[0] == names[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"]
    assert (shared / "train.log").read_text().count("training ball in") == 1
    for column in ("train/loss/l1", "val/psnr", "val/ssim"):
        ours, theirs = ([(r["step"], float(r[column])) for r in rows(run) if r[column]] for run in (shared, single))
        assert [step for step, _ in ours] == [step for step, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=1e-5), column
