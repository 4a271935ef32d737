"""What every estimator is."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_aevb import traces
from pyro_aevb.errors import flag, whole
from pyro_aevb.pairs import Pair

__all__ = ["Estimator", "MultiSample", "Reference", "with_value"]


class Reference(NamedTuple):
    """The plainest estimator of a bound: equal for two estimators exactly if they estimate the same bound."""

    kind: type["Estimator"]
    """The plainest estimator's class."""
    num_particles: int
    """Number of samples per datum that the bound is made of."""
    others: tuple[tuple[str, Any], ...] = ()
    """Name and value of each other argument that the bound depends on."""

    def make(self) -> "Estimator":
        """The plainest estimator of the bound."""
        return self.kind(self.num_particles, **dict(self.others))


class Estimator(ELBO):
    """Base of all estimators: Pyro's ``ELBO`` with one method to write, ``differentiable_loss``.

    An estimator of another bound than the evidence lower bound also says what its bound is, by :attr:`reference`.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        max_plate_nesting: Number of plates around a site at most, needed with ``vectorize_particles`` only; by default
            Pyro finds it out in a first run.
        vectorize_particles: Whether to draw all particles in one run of the pair, in a plate left of all others, which
            is faster than ``num_particles`` runs. A pair whose networks would take the extra dimension for something
            else is run ``num_particles`` times all the same.
        elbo_arguments: The other arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If ``num_particles`` is no whole number of at least 1, or another argument not what it must be.
    """

    least_particles: ClassVar[int] = 1
    """Fewest samples per datum with which the estimator is worth comparing: with fewer it is refused, or its bound is
    the evidence lower bound."""

    def __init__(
        self,
        num_particles: int = 1,
        *,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **elbo_arguments: Any,
    ) -> None:
        if max_plate_nesting != math.inf:  # which Pyro guesses for
            is_whole = isinstance(max_plate_nesting, float) and max_plate_nesting.is_integer()  # typed for a float
            nesting: Any = int(max_plate_nesting) if is_whole else max_plate_nesting
            max_plate_nesting = whole("max_plate_nesting", nesting, least=0)
        super().__init__(  # type: ignore[no-untyped-call]  # Pyro's ELBO is untyped
            num_particles=whole("num_particles", num_particles),
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=flag("vectorize_particles", vectorize_particles),
            **elbo_arguments,
        )
        self._choices = traces.Choices()

    @abstractmethod
    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, whose gradient is the estimator's gradient."""

    @property
    def reference(self) -> Reference | None:
        """The plainest estimator of the same bound, by which bias is told; ``None`` for the evidence lower bound (3),
        whose plainest estimator is :class:`~pyro_aevb.estimators.SGVB`.
        """
        return None

    def anneal(self, samples_seen: int) -> bool:
        """Called by ``Trainer`` before each step: set tensors that depend on the number of training data seen.

        Arguments:
            samples_seen: Number of training data visited since the beginning.

        Returns:
            Whether there are such tensors.
        """
        return False

    def to(self, device: torch.device) -> None:
        """Move the tensors and modules that are attributes to a device: a recorded step reads them where they lie."""
        for name, value in vars(self).items():
            if isinstance(value, (Tensor, nn.Module)):
                setattr(self, name, value.to(device))

    def loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> float:
        """The loss as a number, its gradient added to every parameter's ``.grad``: what ``pyro.infer.SVI`` calls."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def _get_trace(
        self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        """One run of the pair, the method that Pyro's ``ELBO`` asks for."""
        pair = traces.pair_trace(model, guide, args, kwargs, self.max_plate_nesting)
        traces.check_agreement(*pair)
        return pair

    def _pairs(self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Traces of all particles: ``num_particles`` runs, or one vectorised run where networks see nothing else."""
        if self.vectorize_particles and self.num_particles > 1 and not self._broadcasts(model, guide, args, kwargs):
            return (self._get_trace(model, guide, args, kwargs) for _ in range(self.num_particles))
        return self._get_traces(model, guide, args, kwargs)  # type: ignore[no-untyped-call]

    def _broadcasts(self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Does a plate of particles give what one at a time gives? Of what cannot be tried it is the user's word."""
        parts = (partial(model, **kwargs), partial(guide, **kwargs)) if kwargs else (model, guide)
        try:
            ways = self._choices.ways(*parts, args, self.num_particles, (model, guide, *kwargs.items()))
        except Exception:  # of several plates, or of functions that take no single particle
            return True
        return ways.guide == ways.model == "broadcast"


class MultiSample(Estimator):
    """Base of estimators that need log-weights: each datum's, or where a latent belongs to no datum those of all.

    The latter are ``(S, 1)``, of all data at once, as of a model with a global latent; they are refused where only some
    of the data are there.

    Particles are drawn in one run of the pair, in a plate or as so many more rows, whichever is found to give what one
    particle at a time gives; in as many runs where neither does, and with ``vectorize_particles=False``. In training, a
    batch normalisation sees all rows of that run at once, and is updated once a step.

    Arguments:
        num_particles: Number of samples S per datum.
        vectorize_particles: Whether to draw all particles in one run, where that gives what one at a time gives.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.
    """

    def __init__(self, num_particles: int = 1, *, vectorize_particles: bool = True, **elbo_arguments: Any) -> None:
        super().__init__(num_particles, vectorize_particles=vectorize_particles, **elbo_arguments)

    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/M) sum of the bound over the minibatch."""
        parts = (partial(model, **kwargs), partial(guide, **kwargs)) if kwargs else (model, guide)
        how = {"choices": self._choices, "vectorised": self.vectorize_particles, "scaled": True}
        return self.loss_of_weights(traces.Particles(*parts, of=(model, guide, *kwargs.items()), **how), args)

    @abstractmethod
    def loss_of_weights(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """The loss, a scalar: -(N/M) sum of the bound over the minibatch, in nats.

        Arguments:
            pair: Model and guide, which tell each datum's and particle's log densities.
            args: The pair's arguments, batch first; keyword arguments are given to it already.
        """


def with_value(surrogate: Tensor, value: Tensor) -> Tensor:
    """A number with the value of ``value`` and the gradient of ``surrogate``."""
    return surrogate + (value - surrogate).detach()
