"""The processes (ranks) of one job: started and supervised here, or started by torchrun or SLURM.

Hydra runs in one process only, so a job has one folder and one log however many ranks compute it. The ranks receive the
composed configuration through a key-value store, the one that also forms PyTorch's process group. torch's
``elastic_launch`` would supervise ranks too, but its ranks do not inherit the lock on the run's folder.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from dv.errors import UserError
from dv.runtime.memory import keep_freed_memory
from dv.runtime.supervise import FIRST_JOB, STOPPED, supervise
from dv.runtime.watchdog import PARENT_VARIABLE
from dv.validation import parse

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

FOREVER, MOMENT = timedelta(days=365), timedelta(seconds=2)
END = "end"


class RankInfo(NamedTuple):
    """Position of this process in its job: its rank, the number of ranks, and the number of ranks on this machine."""

    rank: int = 0
    ranks: int = 1
    ranks_here: int = 1


def rank_info() -> RankInfo:
    """Return the position that torchrun, srun or :func:`run_on_ranks` have given this process."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return RankInfo(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"]))
    if "SLURM_PROCID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        ranks, nodes = int(env.get("SLURM_NTASKS", "1")), int(env.get("SLURM_NNODES", "1"))
        return RankInfo(int(env["SLURM_PROCID"]), ranks, ranks // nodes)
    return RankInfo()


def run_on_ranks(task: str, config: Any, ranks_here: int, nodes: int = 1, keep: Sequence[int] = ()) -> Any:
    """Call ``task`` with ``config`` on every rank.

    Args:
        task: ``module:function`` of a configuration; imported only where it runs.
        config: a dataclass of :mod:`dv.config`.
        ranks_here: number of processes on this machine.
        nodes: number of machines; on several, torchrun or srun must have started the processes.
        keep: file descriptors that processes started here inherit.

    Returns:
        The result of rank 0, as JSON preserves it.

    Raises:
        UserError: the error of the first rank that failed; the other ranks end within seconds.
        RuntimeError: with its traceback, if the first rank that failed raised another exception.
    """
    here = rank_info()
    if here.ranks > 1:
        if (here.ranks_here, here.ranks) != (ranks_here, ranks_here * nodes):
            raise UserError(
                f"{here.ranks} processes were started, {here.ranks_here} on this machine, but trainer.gpus (on CPUs "
                f"trainer.processes) says {ranks_here} and trainer.nodes {nodes}; make them agree"
            )
        store = _store()
        store.set(_job(store.add("jobs", 1) - 1), _message(task, config))
        try:
            return resolve_name(task)(config)
        except Exception:
            store.set("failure", "shown by rank 0")
            raise
    if nodes > 1:
        raise UserError(
            f"trainer.nodes={nodes} needs its processes started on every node: torchrun --nnodes={nodes} "
            f"--nproc-per-node={ranks_here} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT train.py …, or srun python "
            "train.py …"
        )
    return resolve_name(task)(config) if ranks_here == 1 else supervise(_message(task, config), ranks_here, keep)


def gather(items: list[Any]) -> list[Any]:
    """Return the items of all ranks on rank 0, and on other ranks their own."""
    import torch.distributed as dist

    rank, ranks, _ = rank_info()
    if ranks == 1:
        return items
    group = dist.new_group(backend="gloo") if dist.is_initialized() else dist.init_process_group("gloo")
    parts: list[Any] = [None] * ranks
    dist.gather_object(items, parts if rank == 0 else None, group=group)
    return [item for part in parts for item in part] if rank == 0 else items


def serve_jobs() -> None:
    """Do the jobs that rank 0 sends until it sends the end, as the other ranks under torchrun or srun."""
    store, number = _store(), 0
    while (message := _wait_for(store, _job(number))) != END:
        _do_job(store, message)
        number += 1
    leave_process_group()


def release_ranks() -> None:
    """Tell the other ranks under torchrun or srun that there are no more jobs."""
    if rank_info().ranks > 1:
        store = _store()
        store.set(_job(store.add("jobs", 1) - 1), END)


def leave_process_group() -> None:
    """Destroy the process group after the last job; otherwise its threads abort the interpreter at its exit.

    Not to be called after a failure, when other ranks may never answer.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _job(number: int) -> str:
    return f"job/{number}"


@cache
def _store() -> Store:
    """Connect to the store at MASTER_ADDR:MASTER_PORT, which under srun follow from SLURM's variables."""
    from torch.distributed.rendezvous import rendezvous

    if "TORCHELASTIC_RUN_ID" not in os.environ:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        slurm, (rank, ranks, _) = SLURMEnvironment(auto_requeue=False), rank_info()
        os.environ |= {
            "MASTER_ADDR": slurm.main_address,
            "MASTER_PORT": str(slurm.main_port),
            "RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        }
    store: Store = next(rendezvous("env://", timeout=timedelta(minutes=10)))[0]
    return store


def _wait_for(store: Store, key: str) -> str:
    store.wait([key], FOREVER)
    return store.get(key).decode()


def _message(task: str, config: Any) -> str:
    """Encode a job, with everything that Hydra has composed, for ranks that do not run Hydra."""
    hydra: dict[str, Any] = {}
    logs: Any = None
    if HydraConfig.initialized():
        node = HydraConfig.get()
        assert node.mode is not None
        logs = OmegaConf.to_container(node.job_logging, resolve=True)
        hydra = {"mode": node.mode.name, "runtime": {"output_dir": node.runtime.output_dir, "cwd": node.runtime.cwd}}
        hydra["runtime"]["choices"] = OmegaConf.to_container(node.runtime.choices)
        hydra["job"] = {"name": node.job.name, "override_dirname": node.job.override_dirname}
        if node.mode.name == "MULTIRUN":
            hydra["job"]["num"] = node.job.num
            hydra["sweep"] = {"dir": node.sweep.dir}
    schema = f"{type(config).__module__}:{type(config).__name__}"
    job = {"task": task, "schema": schema, "config": asdict(config), "hydra": hydra, "logging": logs}
    return json.dumps(job)


def _do_job(store: Store, message: str) -> Any:
    """Do a job on this rank. The first rank that fails reports why and exits with the error's exit code."""
    job, (rank, *_) = json.loads(message), rank_info()
    mode = {"mode": RunMode[job["hydra"]["mode"]]} if job["hydra"] else {}
    hydra: Any = HydraConfig.instance()
    hydra.cfg = OmegaConf.create({"hydra": job["hydra"] | mode})
    if rank == 0 and job["logging"]:
        logging.config.dictConfig(job["logging"])
    else:
        logging.basicConfig(level=logging.ERROR)
    if rank:  # rank 0 shows warnings and progress
        warnings.simplefilter("ignore")
        os.environ["TQDM_DISABLE"] = "1"
    keep_freed_memory()
    try:
        schema: Any = resolve_name(job["schema"])
        return resolve_name(job["task"])(parse(schema, job["config"]))
    except KeyboardInterrupt:
        failure: dict[str, Any] = {"message": STOPPED, "code": 128 + signal.SIGINT}
    except (UserError, OSError) as error:
        failure = {"message": str(error), "code": getattr(error, "exit_code", 1)}
    except Exception:
        failure = {"message": f"rank {rank} failed\n{traceback.format_exc()}", "code": 1, "traceback": True}
    if PARENT_VARIABLE in os.environ:
        store.compare_set("failure", "", json.dumps(failure | {"rank": rank}))
    elif not _is_set(store, "failure", MOMENT):
        print(f"error: {failure['message']}", file=sys.stderr, flush=True)
    sys.exit(failure["code"])


def _is_set(store: Store, key: str, within: timedelta) -> bool:
    """Return whether another rank sets ``key`` within a time."""
    try:
        store.wait([key], within)
    except RuntimeError:
        return False
    return True


def main() -> None:
    """Run a rank that :func:`run_on_ranks` has started."""
    store = _store()
    result = _do_job(store, _wait_for(store, FIRST_JOB))
    if rank_info().rank == 0:
        store.set("result", json.dumps(result))
    leave_process_group()


if __name__ == "__main__":
    main()
