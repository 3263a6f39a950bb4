"""``hydra/sweeper=optuna``: a search with Optuna that can prune trials and resumes after interruptions.

It exists because hydra-optuna-sweeper needs Optuna 2, does not let a job report to its trial, and loses the trials that
were running when it was killed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from optuna.trial import Trial

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Sweeper that asks Optuna for values, launches a job per trial, and maximises the jobs' return value.

    Jobs have the numbers of their trials. Overrides are in Hydra's syntax: ``key=a,b,c`` or ``choice(…)``,
    ``range(start,stop,step)``, ``interval(low,high)``, ``int(interval(low,high))`` and ``tag(log,interval(low,high))``.

    Args:
        params: What to search, as key → override; the command line adds to it.
        trials: Total number of trials, including those of an interrupted search.
        trials_at_a_time: Number of jobs per launch.
        storage: Optuna storage URL; None uses ``study.db`` in the sweep's folder.
        study: Name of the study.
        sampler: Configuration of an Optuna sampler that takes a ``seed``.
        seed: Seed of the search.
    """

    def __init__(
        self,
        params: DictConfig | None,
        trials: int,
        trials_at_a_time: int,
        storage: str | None,
        study: str,
        sampler: DictConfig,
        seed: int,
    ) -> None:
        self.params = params
        self.trials = trials
        self.trials_at_a_time = trials_at_a_time
        self.storage = storage
        self.study = study
        self.sampler = sampler
        self.seed = seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Instantiate the launcher; called by Hydra before :meth:`sweep`."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments: list[str]) -> dict[str, Any]:
        """Run the search and write its result to ``search.yaml``.

        Args:
            arguments: Overrides from the command line.

        Returns:
            Value, overrides and folder of the best trial, and the number of trials by state.

        Raises:
            Exception: The first exception of a job, after all trials; :class:`HydraException` if no trial completed.
        """
        import optuna
        from optuna.trial import TrialState

        assert self.config is not None
        assert self.launcher is not None
        params = [f"{key!s}={value}" for key, value in (self.params or {}).items()]
        overrides = OverridesParser.create().parse_overrides([*params, *arguments])
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        storage = self.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(study_name=self.study, storage=storage, direction="maximize", load_if_exists=True)
        interrupted = [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        if interrupted:
            log.info("resuming the interrupted trials %s", ", ".join(map(str, interrupted)))
        failures: list[Exception] = []
        while interrupted or len(study.get_trials(deepcopy=False)) < self.trials:
            count = len(study.get_trials(deepcopy=False))
            if interrupted:  # one by one, because launchers number the jobs of a launch consecutively
                numbers = [interrupted.pop(0)]
            else:
                numbers = list(range(count, min(count + self.trials_at_a_time, self.trials)))
            batch = [self._trial(study, number, overrides) for number in numbers]
            jobs = [[*trial.user_attrs["overrides"], *self._trial_overrides(storage, trial.number)] for trial in batch]
            for trial, job in zip(batch, self.launcher.launch(jobs, initial_job_idx=batch[0].number), strict=True):
                failures += self._report_result(study, trial, job)
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            raise failures[0] if failures else HydraException(f"no trial of the search in {folder} succeeded")
        best = study.best_trial
        result = {
            "value": best.value,
            "overrides": best.params,
            "folder": str(folder / str(best.number)),
            "trials": {state.name.lower(): sum(t.state == state for t in study.trials) for state in TrialState},
        }
        OmegaConf.save(OmegaConf.create(result), folder / "search.yaml")
        log.info("best of %d trials: %.2f with %s in %s", len(study.trials), best.value, best.params, result["folder"])
        if failures:
            raise failures[0]
        return result

    def _trial(self, study: Any, number: int, overrides: Sequence[Override]) -> Trial:
        """Return a new or an interrupted trial with its overrides.

        The sampler is seeded per trial, so a resumed search proposes the same values as an uninterrupted one.
        """
        from hydra.utils import instantiate
        from optuna.trial import Trial

        study.sampler = instantiate(self.sampler, seed=self.seed * 1_000_003 + number)
        trials = study.get_trials(deepcopy=False)
        trial: Trial = Trial(study, trials[number]._trial_id) if number < len(trials) else study.ask()
        if "overrides" not in trial.user_attrs:
            trial.set_user_attr("overrides", [self._sample_override(trial, override) for override in overrides])
        return trial

    @staticmethod
    def _sample_override(trial: Trial, override: Override) -> str:
        """Return the override with a value sampled from its range or choices."""
        if not override.is_sweep_override():
            return str(override.input_line)
        key, sweep = override.get_key_element(), override.value()
        value: Any
        if isinstance(sweep, IntervalSweep):
            assert sweep.start is not None
            assert sweep.end is not None
            logarithmic = "log" in sweep.tags
            if isinstance(sweep.start, int) and isinstance(sweep.end, int):
                value = trial.suggest_int(key, sweep.start, sweep.end, log=logarithmic)
            else:
                value = trial.suggest_float(key, sweep.start, sweep.end, log=logarithmic)
        elif isinstance(sweep, RangeSweep) and all(isinstance(x, int) for x in (sweep.start, sweep.stop, sweep.step)):
            integers = range(int(sweep.start or 0), int(sweep.stop or 0), int(sweep.step))
            value = trial.suggest_int(key, integers[0], integers[-1], step=integers.step)
        else:
            value = trial.suggest_categorical(key, list(override.sweep_string_iterator()))
        return f"{key}={value}"

    def _trial_overrides(self, storage: str, number: int) -> list[str]:
        """Return the overrides that tell a job its trial."""
        return [f"++trial.storage='{storage}'", f"++trial.study='{self.study}'", f"++trial.number={number}"]

    @staticmethod
    def _report_result(study: Any, trial: Trial, job: JobReturn) -> list[Exception]:
        """Tell Optuna the result of a job; return the job's exception if it failed."""
        from optuna.trial import TrialState

        try:
            value = float(job.return_value)
        except Exception as error:
            study.tell(trial, state=TrialState.FAIL)
            return [error]
        if "pruned" in study.trials[trial.number].user_attrs:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
        return []
