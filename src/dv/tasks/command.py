"""Hydra entry points: finding ``conf/``, and errors as one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dv.errors import Interrupted, UserError
from dv.runtime.launch import dismiss, follow, leave, place
from dv.runtime.memory import keep_freed_memory
from dv.runtime.watchdog import at_work

MULTIRUN = ("-m", "--multirun")


def config_folder() -> Path:
    """``conf/`` of the clone, or the copy that travels with an installed package. Raises :class:`UserError`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"no conf/ beside {package}: install dv again, or run from a clone")


def in_sweep() -> bool:
    """Whether this is a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def fail(error: BaseException) -> None:
    """Print ``error: …`` and leave with the exit code of the error, 1 unless it has one."""
    sys.stdout.flush()
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(getattr(error, "exit_code", 1))


def quote_group_numbers(arguments: list[str], conf: Path) -> list[str]:
    """``grid=16,32`` as ``grid='16','32'``: Hydra takes bare numbers for int, and refuses them as a group's value."""
    quoted = []
    for argument in arguments:
        group, equals, choice = argument.partition("=")
        values = choice.split(",")
        if equals and (conf / group).is_dir() and all(value.isdigit() for value in values):
            argument = f"{group}=" + ",".join(f"'{value}'" for value in values)
        quoted.append(argument)
    return quoted


def run(config_name: str, task: Callable[[DictConfig], Any]) -> None:
    """Compose ``conf/<config_name>.yaml`` with the command line and call ``task``.

    In a sweep a job that fails says why, and the others go on. The ranks that torchrun or srun start besides rank 0
    take their configuration from it.
    """
    if place().rank > 0:
        follow()
        return
    # Hydra would print its own mixture of messages and stack frames; here errors are sorted by who can mend them.
    full = os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    def job(config: DictConfig) -> Any:
        keep_freed_memory()
        try:
            with at_work():
                return task(config)
        except (UserError, OSError) as error:
            if not in_sweep() or isinstance(error, Interrupted) or place().ranks > 1:
                fail(error)  # of ranks started from outside some would still be at this job when the next begins
            raise _failed_job(error) from None
        except Exception as error:
            if in_sweep() and place().ranks == 1:
                traceback.print_exc()
                raise _failed_job(error) from None
            raise

    try:
        conf = config_folder()
        arguments = sorted(sys.argv[1:], key=lambda a: a not in MULTIRUN)  # Hydra wants -m before the overrides
        sys.argv[1:] = same_sweep(quote_group_numbers(arguments, conf))
        hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(job)()
        if place().ranks > 1:
            leave()
    except (HydraException, OmegaConfBaseException) as error:
        cause = f" {error.__cause__}" if error.__cause__ else ""
        fail(UserError(" ".join(f"{error}{cause}".split())))
    except (UserError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = full
        dismiss()


def _failed_job(error: Exception) -> UserError:
    """Say at once that this job of a sweep has failed; gives what ends the sweep when the others are done."""
    hydra = HydraConfig.get()
    message = f"job {hydra.job.num} ({hydra.runtime.output_dir}): {error}"
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return UserError(f"{message}; when that is mended, the same command with resume=auto makes what is missing")


def same_sweep(arguments: list[str], sweeps: Path = Path("outputs/sweep")) -> list[str]:
    """With ``resume=auto``: go on in the folder of the newest sweep that was begun with the same command.

    Nothing is added if ``hydra.sweep.dir`` is given or there is no such sweep.
    """
    if "resume=auto" not in arguments or any(a.startswith("hydra.sweep.dir=") for a in arguments):
        return arguments
    wanted = sorted("hydra.mode=MULTIRUN" if a in MULTIRUN else a for a in arguments if a != "resume=auto")
    for record in sorted(sweeps.glob("*/multirun.yaml"), key=lambda path: path.stat().st_mtime, reverse=True):
        overrides = OmegaConf.load(record).hydra.overrides
        begun = [
            o for o in (*overrides.task, *overrides.hydra) if not o.startswith(("resume=auto", "hydra.sweep.dir="))
        ]
        if sorted(begun) == wanted:
            return [*arguments, f"hydra.sweep.dir={record.parent}"]
    return arguments
