"""Running a command: compose and check its configuration, call its function, and print errors as one line."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dv.config import SCHEMAS
from dv.errors import Interrupted, UserError
from dv.runtime.launch import leave_process_group, rank_info, release_ranks, serve_jobs
from dv.runtime.memory import keep_freed_memory
from dv.runtime.watchdog import running_job
from dv.tasks.command_line import explain, hydra_arguments, override_of, quote, resume_sweep
from dv.validation import parse


def config_folder() -> Path:
    """Return ``conf/`` of the clone, or the copy that is part of an installed package.

    Raises:
        UserError: if there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "conf", package / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"no conf/ beside {package}: install dv again, or run from a clone")


def in_sweep() -> bool:
    """Return whether this process runs a job of a Hydra multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def fail(error: BaseException) -> None:
    """Print ``error: …`` and exit with the ``exit_code`` of the error, or 1 if it has none."""
    sys.stdout.flush()
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(getattr(error, "exit_code", 1))


def typed(name: str, config: DictConfig, *, rules: bool = True) -> Any:
    """Parse a composed configuration into the schema of a command.

    Raises:
        UserError: one message that lists every fault.
    """
    groups = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    if not HydraConfig.initialized() and "output_dir" in groups and OmegaConf.is_interpolation(groups, "output_dir"):
        groups.output_dir = ""  # the run's folder is known only once Hydra has started the job
    if "object" in groups:
        for key in ("root", "name"):
            if OmegaConf.is_missing(groups.object, key):
                groups.object[key] = None
    plain = OmegaConf.to_container(groups, resolve=True)
    assert isinstance(plain, dict)
    return parse(SCHEMAS[name], {str(key): value for key, value in plain.items()}, rules=rules)


class CheckConfig(Callback):
    """Hydra callback that checks the configuration before Hydra creates a folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration of a single run."""
        self._check(config, kwargs["config_name"], rules=True)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what all jobs of a sweep share: swept keys have their defaults here, so rules may not hold yet."""
        self._check(config, kwargs["config_name"], rules=False)

    def _check(self, config: DictConfig, command: str, *, rules: bool) -> None:
        """End the process with one line if there are faults; of an exception Hydra would only warn."""
        try:
            typed(command, config, rules=rules)
        except (UserError, OmegaConfBaseException) as error:
            fail(error)


def with_source(arguments: list[str]) -> list[str]:
    """Replace ``source=auto``, the default of ``source.path=…``, by the format that the path holds; print which it is.

    Raises:
        UserError: if there is no such path or nothing that is known.
    """
    source, path = override_of(arguments, "source"), override_of(arguments, "source.path")
    automatic = path is not None if source is None else source.value() == "auto"
    if not automatic:
        return arguments
    if path is None:
        raise UserError("source=auto recognises a path; give source.path=PATH")
    if path.is_sweep_override():
        raise UserError(f"{path.input_line}: source=auto recognises one path; in a sweep over paths give source=FORMAT")
    from dv.tasks.recognition import recognise  # torch and the importers load in seconds

    found, others = recognise(Path(str(path.value())))
    also = f"; it could also be read as {', '.join(map(str, others))}" if others else ""
    print(f"{path.input_line} is {found}{also}", flush=True)
    given = [argument for argument in arguments if argument.partition("=")[0] not in ("source", "source.path")]
    missing = {key: value for key, value in found.overrides().items() if override_of(given, key) is None}
    return [*given, *(f"{key}={quote(value)}" for key, value in missing.items())]


def run(name: str) -> None:
    """Compose ``conf/<name>.yaml`` with the command line and call ``dv.tasks.<name>:<name>`` with the typed result.

    If a job of a sweep fails, it prints its error and the other jobs still run; an interruption, or a failure under
    torchrun or srun, ends the sweep. Ranks other than 0 under torchrun or srun receive their jobs from rank 0.
    """
    if rank_info().rank > 0:
        serve_jobs()
        return
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises errors instead of printing shortened tracebacks

    def job(config: DictConfig) -> Any:
        keep_freed_memory()
        try:
            with running_job():
                # imported here: --help and faulty configurations need not wait for torch
                return resolve_name(f"dv.tasks.{name}:{name}")(typed(name, config))
        except (UserError, OSError) as error:
            if not in_sweep() or isinstance(error, Interrupted) or rank_info().ranks > 1:
                fail(error)  # ranks started by torchrun or srun may still be at this job when the next one starts
            raise _failed_job(error) from None
        except Exception as error:
            if in_sweep() and rank_info().ranks == 1:
                traceback.print_exc()
                raise _failed_job(error) from None
            raise

    try:
        conf = config_folder()
        arguments = hydra_arguments(sys.argv[1:], name, conf)
        if name == "prepare":
            arguments = with_source(arguments)
        sys.argv[1:] = resume_sweep(arguments, name)
        hydra.main(version_base="1.3", config_path=str(conf), config_name=name)(job)()
        if rank_info().ranks > 1:
            leave_process_group()
    except (HydraException, OmegaConfBaseException) as error:
        if "Missing mandatory value: object." in str(error):
            fail(UserError("object.name is not set; give object=… or object=custom object.root=DIR object.name=NAME"))
        fail(UserError(explain(error, arguments, name, conf)))
    except (UserError, OSError) as error:
        fail(error)
    except ValueError as error:
        empty = [a.partition("=")[0] for a in arguments if a.endswith("=null") and (conf / a[:-5]).is_dir()]
        if not empty or "Config group override" not in str(error):
            raise
        values = ", ".join(sorted(path.stem for path in (conf / empty[0]).glob("*.yaml")))
        fail(UserError(f"{empty[0]}=null must be one of {values}"))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        release_ranks()


def _failed_job(error: Exception) -> UserError:
    """Print at once that this job of a sweep has failed; return the error that ends the sweep after its other jobs."""
    hydra = HydraConfig.get()
    message = f"job {hydra.job.num} ({hydra.runtime.output_dir}): {error}"
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return UserError(f"{message}; fix it, then rerun the same command with resume=auto to run the remaining jobs")
