"""A training that is kept in a run's folder: its reports, evaluations and states."""

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pyro_aevb import evidence
from pyro_aevb.data import DataSet
from pyro_aevb.errors import InputError
from pyro_aevb.evaluation import Data
from pyro_aevb.process import Deferred
from pyro_aevb.runs.build import Parts, make_pair, make_trainer
from pyro_aevb.runs.folder import Folder
from pyro_aevb.runs.options import Config, Every, config_of
from pyro_aevb.runs.origin import origin, versions
from pyro_aevb.runs.trust import modules_needed
from pyro_aevb.training.early_stopping import EarlyStopping
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer, evaluated

__all__ = ["OnReport", "Training"]

OnReport = Callable[[Progress], object]
"""What is called with each report of a training."""


class Training:
    """A trainer whose reports, evaluations and states are kept in a run's folder.

    Arguments:
        config: The run's options.
        data: Its data.
        trainer: Its trainer, which has model and guide.
        origin: What each saved state remembers of configuration and data.
    """

    folder: Folder
    """The run's folder, once there is one."""
    told: str = ""
    """What the user should know of how the data were taken."""

    def __init__(self, config: Config, data: DataSet, trainer: Trainer, origin: dict[str, Any]) -> None:
        self.config = config
        self.data = data
        self.trainer = trainer
        self.origin = origin
        self.best_bound = float("-inf")
        self.since_save: list[float] = []
        self.samples_seen = trainer.samples_seen
        """Training data seen at the last report, which early stopping may have gone back from."""
        self.early: EarlyStopping | None = None
        if config.early_stopping is not None and data.held_out is not None:
            self.early = EarlyStopping(trainer, data.held_out, config.early_stopping)

    @classmethod
    def of(cls, options: dict[str, Any], parts: Parts, data: DataSet) -> "Training":
        """The training that the options of a ``config.yaml`` want, at its beginning."""
        config = config_of(options)
        trainer = make_trainer(config, parts, data, make_pair(config, parts, data))
        return cls(config, data, trainer, origin(options, data))

    @property
    def target(self) -> int:
        """Training data to see, in all."""
        return int(self.config.samples)

    def state(self) -> dict[str, Any]:
        """What ``last.pt`` and ``best.pt`` hold."""
        return {
            "samples_seen": self.trainer.samples_seen,
            "best_bound": self.best_bound,
            "since_save": list(self.since_save),
            "origin": self.origin,
            "versions": versions(),
            "trainer": self.trainer.state_dict(),
            **({} if self.early is None else {"early_stopping": self.early.state_dict()}),
        }

    def take(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, with early stopping back to the best one of the folder.

        Raises:
            InputError: If it does not fit, or is damaged.
        """
        self.trainer.load_state_dict(state["trainer"])
        self.samples_seen = self.trainer.samples_seen
        self.best_bound = state["best_bound"]
        self.since_save = _bounds(state)
        if self.early is not None:
            there = (self.folder.path / "best.pt").exists()
            best = self.folder.load("best", self.trainer.device) if there else {"best_bound": None, "trainer": None}
            same = best["best_bound"] == self.best_bound  # else of a save that a kill has cut in two
            self.early.load_state_dict(state.get("early_stopping", {}), best["trainer"] if same else None)

    def go_on(self, on_report: OnReport | None = None, until: int | None = None) -> None:
        """Train up to the samples that are wanted; where it is interrupted, save what was done.

        An exception that ``on_report`` raises ends the training as Ctrl-C does: what was done is saved, and the
        exception goes on to the caller, with a note of how to go on.

        Arguments:
            on_report: Function that is called with each report, after it was written.
            until: Training data to see at most, where the run is to be gone on with later: its state is saved there as
                at an interruption, so that nothing differs from a run that did not pause.
        """
        target = self.target if until is None else min(until, self.target)
        began = time.perf_counter()
        signals = Deferred()
        try:
            for progress in (self.early or self.trainer).run(max(0, target - self.samples_seen)):
                with signals:  # to end wait until the report is whole
                    self._report(progress, round(time.perf_counter() - began, 3))
                self._tell(on_report, progress)
                signals.deliver()
        except Exception:  # of the training itself, whose state may be half a step; on_report has its own way out
            raise
        except BaseException as stop:  # KeyboardInterrupt, and what handlers of other signals raise
            if not self.trainer.engine.updating:  # else by the second signal, which did not wait
                with signals:
                    self._keep(stop)
            raise
        if target < self.target and not self.ended:
            self._keep()

    @property
    def ended(self) -> bool:
        """Whether all samples were seen, or patience has ended."""
        return self.samples_seen >= self.target or (self.early is not None and self.early.stopped)

    def _tell(self, on_report: OnReport | None, progress: Progress) -> None:
        if on_report is None:
            return
        try:
            on_report(progress)
        except Exception as stop:  # others are seen to where signals are
            self._keep(stop)
            raise

    def _keep(self, stop: BaseException | None = None) -> None:
        """Save the state as it is, between two saves or not; a note to whatever ends the training says how to go on."""
        self._save_best_held_out()
        self.folder.save("last", self.state())
        if stop is not None:
            stop.add_note(f"{self.trainer.samples_seen:,} samples are saved, go on with: {self.resume_command}")

    @property
    def resume_command(self) -> str:
        """The command that goes on with the run; what was typed for it stands in its config.yaml."""
        needed = modules_needed(asdict(self.config))
        trust = ["--trust", ",".join(needed)] if needed else []
        return shlex.join(["pyro-aevb", "train", "--resume", str(self.folder.path), *trust])

    def _report(self, progress: Progress, seconds: float) -> None:
        before = self.samples_seen
        self.samples_seen = progress.samples_seen
        self.folder.append_metrics({**_record(progress), "seconds": seconds})
        self.since_save.append(progress.bound)
        if _crossed(before, self.samples_seen, self.config.evaluate_every) or self.ended:
            self.folder.append_metrics(_evaluate(progress, self.trainer, self.data.arguments("test")))
        if _crossed(before, self.samples_seen, self.config.save_every) or self.ended:
            self._save()

    def _save_best_held_out(self) -> None:
        """The state of the highest bound of held-out data, if there is a new one since the last save."""
        if self.early is None or self.early.best_state is None or self.early.best == self.best_bound:
            return
        self.best_bound = self.early.best
        best = self.early.best_state
        seen = self.trainer.batches.samples_seen(best["step"])
        self.folder.save("best", {**self.state(), "samples_seen": seen, "since_save": [], "trainer": best})

    def _save(self) -> None:
        """The state, as the best one too if the mean bound since the last save is, or the bound of held-out data."""
        if self.early is not None:
            self._save_best_held_out()
            self.since_save = []
            self.folder.save("last", self.state())
            return
        mean_bound = sum(self.since_save) / len(self.since_save)
        is_best = mean_bound > self.best_bound
        self.best_bound = max(self.best_bound, mean_bound)
        self.since_save = []
        state = self.state()
        if is_best:
            self.folder.save("best", state)
        self.folder.save("last", state)


def _bounds(state: dict[str, Any]) -> list[float]:
    """The bounds since the last save, which a state that was saved at a signal to end brings along."""
    found = state.get("since_save", [])
    if not isinstance(found, list) or not all(type(bound) is float and math.isfinite(bound) for bound in found):
        raise InputError("the state's bounds since the last save are no numbers: it is damaged")
    return found


def _record(progress: Progress) -> dict[str, Any]:
    return {key: value for key, value in progress._asdict().items() if value is not None}


def _crossed(before: int, now: int, every: Every) -> bool:
    every = 10 ** (len(str(now)) - 1) if every == "log" else every
    return before // every != now // every


def _evaluate(progress: Progress, trainer: Trainer, test: Data) -> dict[str, Any]:
    with evaluated(trainer):
        bound = evidence.bound(trainer.model, trainer.guide, test).bound
    standard_error = (bound.std() / len(bound) ** 0.5).item() if len(bound) > 1 else 0.0
    return {"samples_seen": progress.samples_seen, "test_bound": bound.mean().item(), "test_se": standard_error}
