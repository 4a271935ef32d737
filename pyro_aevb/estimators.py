r"""The objectives, side by side, each a :class:`pyro.infer.ELBO`: usable in :class:`pyro.infer.SVI` and in ``Trainer``.

Sign and scale, stated once: an estimator returns a scalar **loss**
:math:`-\frac NM \sum_{i=1}^M \mathcal{L}(x_i)` in nats, to be minimised; N/M is the scale of the pair's plate.

A new estimator is one class here: subclass :class:`Estimator` and write ``differentiable_loss``, without ``.item()``, a
branch on data, or a Python number that should be a tensor, so that it can be recorded as a graph.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import InputError

__all__ = ["SGVB", "SGVBAnalyticKL"]

Pair = Callable[..., Any]


class Estimator(ELBO):
    """Base of all estimators: Pyro's ``ELBO`` with one method to write, ``differentiable_loss``.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        max_plate_nesting: As in :class:`pyro.infer.ELBO`; needed with ``vectorize_particles`` only, guessed if absent.
        vectorize_particles: Draw all particles in one run of the pair, in a plate left of all others, rather than in
            ``num_particles`` runs. Faster, but the pair's networks must accept the extra dimension.
        elbo_arguments: The other arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If ``num_particles`` is not positive.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        max_plate_nesting: float = math.inf,
        vectorize_particles: bool = False,
        **elbo_arguments: Any,
    ) -> None:
        if num_particles < 1:
            raise InputError(f"num_particles must be at least 1, not {num_particles}")
        super().__init__(  # type: ignore[no-untyped-call]  # Pyro's ELBO is untyped
            num_particles=num_particles,
            max_plate_nesting=max_plate_nesting,
            vectorize_particles=vectorize_particles,
            **elbo_arguments,
        )

    @abstractmethod
    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, whose gradient is the estimator's gradient."""

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
        traces.check_reparameterised(pair[1])
        return pair

    def _pairs(self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Traces of all particles: ``num_particles`` runs, or one vectorised run."""
        return self._get_traces(model, guide, args, kwargs)  # type: ignore[no-untyped-call]


class SGVB(Estimator):
    r"""Estimator A: every term by sampling. Equals ``Trace_ELBO`` at the same noise, without its ``.item()`` calls.

    .. math:: \tilde{\mathcal L}^A(x) = \frac1L \sum_{l=1}^L \log p(x, z_l) - \log q(z_l \mid x),
              \quad z_l = g_\phi(\epsilon_l, x) \tag{6}

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        elbo_arguments: As for :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If a guide site has no reparameterisation.

    References:
        | Auto-Encoding Variational Bayes, equation (6) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/M) sum of (6) over the minibatch, for a pair with any plates."""
        bound = sum(p.log_prob_sum() - q.log_prob_sum() for p, q in self._pairs(model, guide, args, kwargs))
        return -torch.as_tensor(bound) / self.num_particles


class SGVBAnalyticKL(Estimator):
    r"""Estimator B: the KL in closed form. Equals ``TraceMeanField_ELBO`` at the same noise, but never falls back to A.

    .. math:: \tilde{\mathcal L}^B(x) = -\mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big)
              + \frac1L \sum_{l=1}^L \log p(x \mid z_l) \tag{7}

    With several latents it is right when no latent's prior depends on a latent that follows it in the guide, as
    ``TraceMeanField_ELBO`` demands too.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        elbo_arguments: As for :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If no closed form is registered for a latent's guide and prior, or a guide site has no
            reparameterisation.

    References:
        | Auto-Encoding Variational Bayes, equation (7) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/M) sum of (7) over the minibatch, for a pair with any plates."""
        bound = sum(
            traces.log_likelihood_sum(p) - traces.analytic_kl(p, q) for p, q in self._pairs(model, guide, args, kwargs)
        )
        return -torch.as_tensor(bound) / self.num_particles
