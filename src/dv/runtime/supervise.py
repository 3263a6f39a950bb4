"""Starting and supervising the ranks of a job on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dv.errors import Interrupted, UserError
from dv.runtime.watchdog import PARENT_VARIABLE

GRACE_SECONDS = 10.0  # time for the other ranks to end cleanly after one has failed
FIRST_JOB = "job/0"  # key in the store
STOPPED = "interrupted; the same command with resume=auto continues from the last checkpoint"


def supervise(message: str, count: int, keep: Sequence[int]) -> Any:
    """Start ranks that do a job, wait for them and return the result of rank 0."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set(FIRST_JOB, message)
    source = str(Path(__file__).parents[2])
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_RUN_ID": "dv",  # from here on: the ranks find the store as those of torchrun do
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        PARENT_VARIABLE: str(os.getpid()),
    }
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    command = [sys.executable, "-m", "dv.runtime.launch"]
    ranks: list[subprocess.Popen[bytes]] = []
    codes: list[int | None] = []
    try:
        with _forwarding_signals(ranks) as received:
            for rank in range(count):  # in their own sessions: Ctrl-C reaches them once, through this process
                own = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                ranks.append(subprocess.Popen(command, env=own, start_new_session=True, pass_fds=keep))
            if received:  # possibly before all ranks were started
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
    # if a rank is killed, the others only report a lost connection; a rank that has failed can be killed as it exits
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
        f"rank {rank} of {count} {how} and the others were stopped; resume=auto continues from the last checkpoint"
    )


@contextmanager
def _forwarding_signals(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Forward SIGINT and SIGTERM to the ranks, a second one as SIGKILL; yield the list of received signals.

    If a handler for a cluster's warning exists, which requeues the job, it is called after the ranks have ended.
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
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler):
            previous[number] = signal.signal(number, forward)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if callable(signal.getsignal(number)):
            previous[number] = signal.signal(number, warn)
    try:
        yield received
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all ranks have ended, or until the grace period after the first failure is over."""
    deadline = float("inf")
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        if deadline == float("inf") and any(process.poll() for process in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        time.sleep(0.05)
