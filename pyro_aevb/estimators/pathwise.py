"""The paper's two estimators, by reparameterisation."""

from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import positive, real
from pyro_aevb.estimators.base import Estimator, with_value
from pyro_aevb.pairs import Pair

__all__ = ["SGVB", "SGVBAnalyticKL"]


class _Annealed(Estimator):
    r"""An estimator whose gradient may weigh the KL by a tensor, ``beta``.

    The gradient then is that of :math:`\log p(x \mid z) - \beta\,(\log q(z \mid x) - \log p(z))`; the value stays the
    bound itself, so that no number shown to anybody is anything else, and evaluation knows nothing of ``beta``. With
    ``warm_up`` the weight rises from 0 to ``beta`` linearly in the number of training data seen; ``Trainer`` sets it
    before each step and reports it. Under ``pyro.infer.SVI`` call :meth:`anneal`.
    """

    def __init__(self, num_particles: int = 1, *, beta: float = 1.0, warm_up: float = 0, **elbo_arguments: Any) -> None:
        super().__init__(num_particles, **elbo_arguments)
        self.final_beta = positive("beta", beta)
        self.warm_up = real("warm_up", warm_up, least=0)
        self.beta: Tensor | None = None if beta == 1 and not warm_up else torch.tensor(float(beta))
        self.anneal(0)

    def anneal(self, samples_seen: int) -> bool:
        """Set ``beta`` for the next step, if there is a ``warm_up``.

        Arguments:
            samples_seen: Number of training data visited since the beginning.

        Returns:
            Whether ``beta`` depends on it.
        """
        if self.beta is None or not self.warm_up:
            return False
        self.beta.fill_(self.final_beta * min(1.0, samples_seen / self.warm_up))
        return True

    def _loss(self, terms: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The loss, a scalar, from each particle's log p(x|z), KL term and bound, scaled sums over the minibatch."""
        bound = torch.as_tensor(sum(bound for _, _, bound in terms))
        if self.beta is not None:
            bound = with_value(torch.as_tensor(sum(a - self.beta * kl for a, kl, _ in terms)), bound)
        return -bound / self.num_particles


class SGVB(_Annealed):
    r"""Estimator A: every term by sampling. Equals ``Trace_ELBO`` at the same noise, without its ``.item()`` calls.

    .. math:: \tilde{\mathcal L}^A(x) = \frac1L \sum_{l=1}^L \log p(x, z_l) - \log q(z_l \mid x),
              \quad z_l = g_\phi(\epsilon_l, x) \tag{6}

    Oracle: ``Trace_ELBO`` at the same noise, and the exact gradient of a linear-Gaussian pair.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        beta: Weight of the KL in the gradient, positive; the value stays the bound, whose weight is 1.
        warm_up: Number of training data over which the weight rises linearly from 0 to ``beta``; 0 for the weight
            ``beta`` from the beginning.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If a guide site has no reparameterisation, model and guide do not count the same latents, scaled and
            masked alike, or the guide has a factor that is not reparameterised.

    References:
        | Auto-Encoding Variational Bayes, equation (6) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/M) sum of (6) over the minibatch, for a pair with any plates."""
        terms = [
            (traces.log_likelihood_sum(p), p.log_prob_sum() - q.log_prob_sum())
            for p, q in self._pairs(model, guide, args, kwargs)
        ]
        return self._loss([(likelihood, likelihood - bound, bound) for likelihood, bound in terms])


class SGVBAnalyticKL(_Annealed):
    r"""Estimator B: the KL in closed form. Equals ``TraceMeanField_ELBO`` at the same noise, but never falls back to A.

    .. math:: \tilde{\mathcal L}^B(x) = -\mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big)
              + \frac1L \sum_{l=1}^L \log p(x \mid z_l) \tag{7}

    With several latents a closed form holds at fixed values of those that came before. Of a latent whose prior may
    depend on one that the guide draws later, as in a guide from the bottom up, the KL's term is sampled as in
    :class:`SGVB`, where ``TraceMeanField_ELBO`` would take the closed form at a wrong value and only warn.

    Oracle: ``TraceMeanField_ELBO`` at the same noise, and the exact gradient of a linear-Gaussian pair.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        beta: Weight of the KL in the gradient, positive; the value stays the bound, whose weight is 1.
        warm_up: Number of training data over which the weight rises linearly from 0 to ``beta``; 0 for the weight
            ``beta`` from the beginning.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If no closed form is registered for a latent's guide and prior, or a guide site has no
            reparameterisation.

    References:
        | Auto-Encoding Variational Bayes, equation (7) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/M) sum of (7) over the minibatch, for a pair with any plates."""
        terms = [
            (traces.log_likelihood_sum(p), traces.analytic_kl(p, q)) for p, q in self._pairs(model, guide, args, kwargs)
        ]
        return self._loss([(likelihood, kl, likelihood - kl) for likelihood, kl in terms])

    def _get_trace(
        self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        """One run of the pair, whose guide has no term but its latents."""
        pair = super()._get_trace(model, guide, args, kwargs)
        traces.check_no_factors(pair[1], "estimator B")
        return pair
