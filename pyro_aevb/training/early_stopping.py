"""A training that ends where held-out training data say that it no longer gets better, at its best state."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from pyro_aevb import evidence
from pyro_aevb.data.batches import Data
from pyro_aevb.errors import InputError, instance, whole
from pyro_aevb.process import Deferred
from pyro_aevb.states import check_kinds
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer, evaluated

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Runs a trainer until the bound of held-out data has not risen for some reports, and goes back to the best state.

    The data are held out of the *training* data, by :func:`pyro_aevb.data.set_aside`: a test set that chose when to
    stop would no longer be one. Their bound is taken at every whole report, at the same noise each time, of the
    averaged weights where the trainer keeps averages; the training's own noise is left alone.

    ::

        train, held_out = aevb.data.set_aside(data.train, 0.1)
        trainer = aevb.Trainer(model, guide, train)  # both made with size=len(train)
        for progress in aevb.EarlyStopping(trainer, held_out, patience=10).run(1e6):
            print(progress.held_out_bound)

    Arguments:
        trainer: Trainer of the pair, on the other data.
        held_out: Data that it does not train on, as :class:`~pyro_aevb.Trainer` takes them, fixed.
        patience: How many reports in a row may be no better than the best before the training ends.
        seed: Seed of the noise of the held-out bound.

    Raises:
        InputError: If an argument is not what it must be.
    """

    def __init__(self, trainer: Trainer, held_out: Data, patience: int = 10, *, seed: int = 0) -> None:
        self.trainer: Trainer = instance("trainer", trainer, Trainer)
        self.held_out = held_out
        self.patience = whole("patience", patience)
        self.seed = whole("seed", seed, least=0)
        self.best = -math.inf
        """Highest bound of the held-out data so far, nats per datum."""
        self.waited = 0
        """Number of reports since then."""
        self.best_state: dict[str, Any] | None = None
        """The trainer's state at the best report that was met here; ``None`` before there is one."""

    @property
    def stopped(self) -> bool:
        """Whether patience is at its end."""
        return self.waited >= self.patience

    def run(self, samples: float) -> Iterator[Progress]:
        """Train on this many more data, or until patience ends; the trainer then is back at its best state.

        Where the samples end first the trainer stays as it is, so that another ``run`` goes on: see :meth:`restore`.

        Arguments:
            samples: As for :meth:`pyro_aevb.Trainer.run`.

        Yields:
            The trainer's reports, with the held-out bound in those at multiples of ``report_every``.
        """
        if self.stopped:
            return
        signals = Deferred()
        seen = self.trainer.samples_seen
        for progress in self.trainer.run(samples):
            every = self.trainer.report_every
            is_whole = progress.samples_seen // every > seen // every
            seen = progress.samples_seen
            with signals:  # an interruption waits until the report is whole
                found = progress._replace(held_out_bound=self._look()) if is_whole else progress
            try:
                yield found
            finally:
                signals.deliver()
            if self.stopped:
                self.restore()
                return

    def restore(self) -> None:
        """Put the trainer back to the best state that was met; where there was none it stays.

        Warns:
            UserWarning: If the best state was met before this was resumed, and not given to it.
        """
        if self.best_state is not None:
            self.trainer.load_state_dict(self.best_state)
        elif self.best > -math.inf:
            warnings.warn(
                "the best state was met before this training was resumed, and is not here, so that the trainer stays "
                "at its last one: give load_state_dict the best_state too",
                stacklevel=2,
            )

    def _look(self) -> float:
        """The held-out bound; what is best, and how long ago, follows it."""
        bound = self._bound()
        better = bound > self.best
        self.best = max(self.best, bound)
        self.waited = 0 if better else self.waited + 1
        if better:
            self.best_state = self.trainer.state_dict()
        return bound

    def _bound(self) -> float:
        with evaluated(self.trainer):
            pair = self.trainer.model, self.trainer.guide
            return evidence.bound(*pair, self.held_out, seed=self.seed).bound.mean().item()

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """The best bound and the reports since: save it beside the trainer's state, and :attr:`best_state` likewise."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any], best_state: dict[str, Any] | None = None) -> None:
        """Go on with the patience of a saved state.

        Arguments:
            state: A state that :meth:`state_dict` gave.
            best_state: The :attr:`best_state` of then, to go back to; by default what comes is compared with the best
                bound all the same, and only a better state is gone back to.

        Raises:
            InputError: If it is none.
        """
        if not isinstance(state, Mapping):
            raise InputError("this is no state of EarlyStopping: give what its state_dict made")
        check_kinds(state, {"best": float, "waited": int})
        if math.isnan(state["best"]):
            raise InputError("the saved best bound of held-out data is NaN: the state is damaged")
        self.best = state["best"]
        self.waited = state["waited"]
        self.best_state = best_state
