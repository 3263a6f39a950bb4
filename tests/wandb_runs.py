"""Read W&B's offline runs."""

import json
from pathlib import Path

from dv.lightning.wandb_file import nested_values, records


class Run:
    """Content of a folder ``offline-run-DATE-ID``."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        (path,) = folder.glob("run-*.wandb")
        all_records = list(records(path))
        self.run = next(record.run for record in all_records if record.HasField("run"))
        self.config = {item.key: json.loads(item.value_json) for item in self.run.config.update}
        self.history = [nested_values(record.history.item) for record in all_records if record.HasField("history")]
        self.summary: dict = {}
        for record in all_records:
            if record.HasField("summary"):
                self.summary |= nested_values(record.summary.update)
        self.artifacts = {
            record.artifact.type: record.artifact for record in all_records if record.HasField("artifact")
        }
        self.exit_codes = [record.exit.exit_code for record in all_records if record.HasField("exit")]

    def rows(self, name: str) -> list[tuple[int, object]]:
        """Return step and value of every row that has ``name``."""
        return [(row["trainer/global_step"], row[name]) for row in self.history if name in row]

    def names(self) -> set[str]:
        """Return all logged names except W&B's own."""
        return {name for row in self.history for name in row if not name.startswith("_")}


def runs(run_dir: Path) -> list[Run]:
    """Return the offline runs in a training's folder, oldest first."""
    return [Run(folder) for folder in sorted((run_dir / "wandb").glob("offline-run-*"))]
