"""Hydra entry points: finding ``conf/``, and errors as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from dv.errors import UserError
from dv.memory import keep_freed_memory


def config_folder() -> Path:
    """``conf/`` of the clone, or the copy that travels with an installed package. Raises :class:`UserError`."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"no conf/ beside {package}: install dv again, or run from a clone")


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
    """Compose ``conf/<config_name>.yaml`` with the command line and call ``task``."""
    # Hydra would print its own mixture of messages and stack frames; here errors are sorted by who can mend them.
    full = os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    def job(config: DictConfig) -> Any:
        keep_freed_memory()
        try:
            return task(config)
        except (UserError, OSError) as error:
            fail(error)

    try:
        conf = config_folder()
        sys.argv[1:] = quote_group_numbers(sys.argv[1:], conf)
        hydra.main(version_base="1.3", config_path=str(conf), config_name=config_name)(job)()
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
