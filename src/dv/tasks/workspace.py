"""A W&B workspace for training runs: ``python -m dv.tasks.workspace entity=NAME project=dv``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from omegaconf import OmegaConf

from dv.errors import UserError
from dv.tasks.command import fail

CHARTS = {  # section → charts → logged names
    "train": [
        ["train/psnr"],
        ["train/loss/generator", "train/loss/discriminator"],
        ["train/loss/l1"],
        ["train/loss/generator_gan"],
        ["train/gradient_norm"],
        ["train/learning_rate/generator", "train/learning_rate/discriminator"],
        ["train/range/output_min", "train/range/output_max", "train/range/target_min", "train/range/target_max"],
    ],
    "grid": [
        ["grid/mean", "grid/std"],
        ["grid/zero_voxels"],
        ["grid/update_gate", "grid/reset_gate"],
        ["grid/change_norm"],
    ],
    "time": [["time/step"], ["time/elapsed"]],
}
STEP, ELAPSED = "trainer/global_step", "time/elapsed"
COMPARED_KEYS = (
    "grid.side",
    "grid.features",
    "loss.gan_weight",
    "optimizer.learning_rate",
    "model.occlusion_net",
    "seed",
)


def workspace(entity: str, project: str, name: str = "DeepVoxels") -> Any:
    """Build a workspace that shows validation first, then a comparison of the runs; runs are grouped by sweep.

    Args:
        entity: W&B user or team.
        project: W&B project.
        name: title of the workspace.

    Returns:
        A ``wandb_workspaces.workspaces.Workspace`` that is not saved to W&B yet.

    Raises:
        UserError: if wandb-workspaces is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise UserError("a workspace needs wandb-workspaces: pip install 'dv[dashboards]'")
    import wandb_workspaces.reports.v2 as panels
    import wandb_workspaces.workspaces as w

    def line_plot(names: list[str], x: str = STEP) -> Any:
        return panels.LinePlot(title=", ".join(names) if x == STEP else f"{names[0]} over {x}", x=x, y=list(names))

    columns = [
        panels.ParallelCoordinatesPlotColumn(metric=panels.Config(key), log=key.endswith("rate"))
        for key in COMPARED_KEYS
    ]
    columns.append(panels.ParallelCoordinatesPlotColumn(metric=panels.SummaryMetric("val/best_psnr")))
    validation = [
        line_plot(["val/psnr"]),
        line_plot(["val/psnr"], ELAPSED),
        line_plot(["val/ssim"]),
        panels.MediaBrowser(title="source | prediction | ground truth | depth", media_keys=["views"], num_columns=1),
        panels.MediaBrowser(title="trajectory", media_keys=["trajectory"]),
        panels.WeavePanelSummaryTable(table_name="validation"),
    ]
    comparison = [
        panels.ParallelCoordinatesPlot(title="differences between runs", columns=columns),
        panels.BarPlot(title="best validation PSNR", metrics=["val/best_psnr"]),
        panels.RunComparer(diff_only="split"),
    ]
    sections = {section: [line_plot(names) for names in charts] for section, charts in CHARTS.items()}
    sections["grid"] += [
        panels.MediaBrowser(title="update and reset gates", media_keys=["gates"]),
        panels.MediaBrowser(title="strongest voxels", media_keys=["voxels"]),
    ]
    return w.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            w.Section(name="val", panels=validation, is_open=True, pinned=True),
            w.Section(name="runs", panels=comparison, is_open=True),
            *(w.Section(name=section, panels=charts) for section, charts in sections.items()),
        ],
        settings=w.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=w.RunsetSettings(
            groupby=[w.Metric("Group")],
            order=[w.Ordering(w.Summary("val/best_psnr"), ascending=False)],
            pinned_columns=["run:displayName", "summary:val/best_psnr", "summary:time/elapsed", "config:grid.side"],
        ),
    )


def main() -> None:
    """Command line: save the workspace to W&B, which requires being logged in."""
    import wandb

    arguments = OmegaConf.to_container(OmegaConf.from_cli())
    assert isinstance(arguments, dict)
    try:
        unknown = {str(key) for key in arguments} - {"entity", "project", "name"}
        if unknown or not arguments.get("entity"):
            raise UserError(
                "usage: python -m dv.tasks.workspace entity=NAME project=dv name=DeepVoxels; entity is required"
            )
        built = workspace(**{"project": "dv", **{str(key): str(value) for key, value in arguments.items()}})
        try:
            built.save()
        except wandb.errors.Error as error:
            raise UserError(f"W&B: {error}") from error
        print(built.url)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
