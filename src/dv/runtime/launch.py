"""The processes (ranks) of one job: started and watched over here, or found running under torchrun or SLURM.

Hydra runs in one process alone, so a job has one folder and one log however many ranks compute it. The ranks get the
composed configuration from a store that they share, the one through which PyTorch's process group forms too.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dv.errors import Interrupted, UserError
from dv.runtime.memory import keep_freed_memory
from dv.runtime.watchdog import OUR_PARENT

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Task = Callable[[DictConfig], Any]
GRACE = 10.0  # seconds that the other ranks have to end in order after one has failed
FOREVER, MOMENT = timedelta(days=365), timedelta(seconds=2)
END = "end"
STOPPED = "interrupted; the same command with resume=auto goes on from the last checkpoint"


class Place(NamedTuple):
    """Which of several processes this is: its rank, the ranks in all and those on this machine."""

    rank: int = 0
    ranks: int = 1
    here: int = 1


def place() -> Place:
    """Where torchrun, srun or :func:`run_on_ranks` have put this process."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return Place(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"]))
    if "SLURM_PROCID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        ranks, nodes = int(env.get("SLURM_NTASKS", "1")), int(env.get("SLURM_NNODES", "1"))
        return Place(int(env["SLURM_PROCID"]), ranks, ranks // nodes)
    return Place()


def run_on_ranks(task: Task, config: DictConfig, here: int, nodes: int = 1, keep: Sequence[int] = ()) -> Any:
    """Call ``task``, a function of a module, with ``config`` on ``here`` processes of each of ``nodes``.

    Processes started here inherit the file descriptors ``keep``.

    Returns what rank 0 returns, as JSON keeps it. If a rank fails, the others end within seconds; raises the
    :class:`UserError` of the first that failed, or :class:`RuntimeError` with its traceback.
    """
    found = place()
    if found.ranks > 1:
        if (found.here, found.ranks) != (here, here * nodes):
            raise UserError(
                f"{found.ranks} processes were started, {found.here} on this machine, but trainer.gpus (on CPUs "
                f"trainer.processes) says {here} and trainer.nodes {nodes}; make them agree"
            )
        store = _store()
        store.set(_job(store.add("jobs", 1) - 1), _message(task, config))
        try:
            return task(config)
        except Exception:
            store.set("failure", "shown by rank 0")
            raise
    if nodes > 1:
        raise UserError(
            f"trainer.nodes={nodes} needs its processes started on every node: torchrun --nnodes={nodes} "
            f"--nproc-per-node={here} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT train.py …, or srun python "
            "train.py …"
        )
    return task(config) if here == 1 else _supervise(_message(task, config), here, keep)


def gather(items: list[Any]) -> list[Any]:
    """The items of all ranks on rank 0; what the others get is theirs alone."""
    import torch.distributed as dist

    rank, ranks, _ = place()
    if ranks == 1:
        return items
    group = dist.new_group(backend="gloo") if dist.is_initialized() else dist.init_process_group("gloo")
    parts: list[Any] = [None] * ranks
    dist.gather_object(items, parts if rank == 0 else None, group=group)
    return [item for part in parts for item in part] if rank == 0 else items


def follow() -> None:
    """What a rank other than 0 does under torchrun or srun: the jobs that rank 0 sends, until it sends no more."""
    store, number = _store(), 0
    while (message := _wait_for(store, _job(number))) != END:
        _work(store, message)
        number += 1
    leave()


def dismiss() -> None:
    """Under torchrun or srun, after the last job: tell the ranks that follow this one."""
    if place().ranks > 1:
        store = _store()
        store.set(_job(store.add("jobs", 1) - 1), END)


def leave() -> None:
    """Leave the process group in order, after the last job: its threads abort an interpreter that ends before them.

    Not after a failure, when others may never answer.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _job(number: int) -> str:
    return f"job/{number}"


@cache
def _store() -> Store:
    """The store at MASTER_ADDR:MASTER_PORT; srun does not say where that is."""
    from torch.distributed.rendezvous import rendezvous

    if "TORCHELASTIC_RUN_ID" not in os.environ:
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

        slurm, (rank, ranks, _) = SLURMEnvironment(auto_requeue=False), place()
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


def _message(task: Task, config: DictConfig) -> str:
    """A job for ranks that know nothing of Hydra: all that it has composed, resolved."""
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
    module = sys.modules[task.__module__]
    function = f"{module.__spec__.name if module.__spec__ else module.__name__}:{task.__name__}"  # also under python -m
    plain = OmegaConf.to_container(config, resolve=True)
    return json.dumps({"task": function, "config": plain, "hydra": hydra, "logging": logs})


def _work(store: Store, message: str) -> Any:
    """Do a job on this rank. The first rank that fails says why; its process ends with the error's exit code."""
    job, (rank, *_) = json.loads(message), place()
    mode = {"mode": RunMode[job["hydra"]["mode"]]} if job["hydra"] else {}
    hydra: Any = HydraConfig.instance()
    hydra.cfg = OmegaConf.create({"hydra": job["hydra"] | mode})
    if rank == 0 and job["logging"]:
        logging.config.dictConfig(job["logging"])
    else:
        logging.basicConfig(level=logging.ERROR)
    if rank:  # rank 0 shows them
        warnings.simplefilter("ignore")
        os.environ["TQDM_DISABLE"] = "1"
    keep_freed_memory()
    module, function = job["task"].split(":")
    try:
        return getattr(import_module(module), function)(OmegaConf.create(job["config"]))
    except KeyboardInterrupt:
        failure: dict[str, Any] = {"message": STOPPED, "code": 128 + signal.SIGINT}
    except (UserError, OSError) as error:
        failure = {"message": str(error), "code": getattr(error, "exit_code", 1)}
    except Exception:
        failure = {"message": f"rank {rank} failed\n{traceback.format_exc()}", "code": 1, "traceback": True}
    if OUR_PARENT in os.environ:
        store.compare_set("failure", "", json.dumps(failure | {"rank": rank}))
    elif not _comes(store, "failure", MOMENT):
        print(f"error: {failure['message']}", file=sys.stderr, flush=True)
    sys.exit(failure["code"])


def _comes(store: Store, key: str, within: timedelta) -> bool:
    """Whether another rank writes ``key`` within this time."""
    try:
        store.wait([key], within)
    except RuntimeError:
        return False
    return True


def _supervise(message: str, count: int, keep: Sequence[int]) -> Any:
    """Start ranks that do a job, wait for them, and give back the result of rank 0."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set(_job(0), message)
    source = str(Path(__file__).parents[2])
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_RUN_ID": "dv",  # with what follows: the ranks find the store as those of torchrun do
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        OUR_PARENT: str(os.getpid()),
    }
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    command = [sys.executable, "-m", "dv.runtime.launch"]
    ranks: list[subprocess.Popen[bytes]] = []
    codes: list[int | None] = []
    try:
        with _forwarding_signals(ranks) as received:
            for rank in range(count):  # in sessions of their own: Ctrl-C reaches them through this process, once
                own = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                ranks.append(subprocess.Popen(command, env=own, start_new_session=True, pass_fds=keep))
            if received:  # while not all were there to be told
                raise Interrupted(STOPPED, received[0])
            _wait(ranks)
    finally:
        codes = [process.poll() for process in ranks]
        for process in ranks:
            process.kill()
            process.wait()
    if codes == [0] * count:
        return json.loads(store.get("result"))
    killed = None if received else next((rank for rank, code in enumerate(codes) if code and code < 0), None)
    failure = json.loads(store.get("failure")) if store.check(["failure"]) else None
    # the failures of ranks that miss a killed one say nothing; one that failed first can be killed by its own end
    if failure and killed in (None, failure["rank"]):
        if "traceback" in failure:
            raise RuntimeError(failure["message"])
        code = failure["code"]
        raise Interrupted(failure["message"], code - 128) if code > 128 else UserError(failure["message"])
    if received:
        raise Interrupted(STOPPED, received[0])
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code and killed in (None, rank))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    raise UserError(
        f"rank {rank} of {count} {how} and the others were stopped; resume=auto goes on from the last checkpoint"
    )


@contextmanager
def _forwarding_signals(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """SIGINT and SIGTERM go on to the ranks; a second one kills them. Gives what was received.

    Where a cluster's warning is handled, which queues the job again, the ranks end first.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def forward(signum: int, _frame: object) -> None:
        received.append(signum)
        for process in ranks:
            process.send_signal(signum if len(received) == 1 else signal.SIGKILL)

    def warn(signum: int, frame: object) -> None:
        forward(signal.SIGTERM, frame)
        _wait(ranks)
        previous[signum](signum, frame)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    for asked in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(asked) in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
            previous[asked] = signal.signal(asked, forward)
    for warned in (signal.SIGUSR1, signal.SIGUSR2):
        if callable(signal.getsignal(warned)):
            previous[warned] = signal.signal(warned, warn)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all have ended, a little longer only once one has failed."""
    deadline = float("inf")
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        if deadline == float("inf") and any(process.poll() for process in ranks):
            deadline = time.monotonic() + GRACE
        time.sleep(0.05)


def main() -> None:
    """A rank that :func:`run_on_ranks` has started."""
    store = _store()
    result = _work(store, _wait_for(store, _job(0)))
    if place().rank == 0:
        store.set("result", json.dumps(result))
    leave()


if __name__ == "__main__":
    main()
