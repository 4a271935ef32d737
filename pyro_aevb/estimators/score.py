"""Gradients without reparameterisation: the paper's naive estimator, and VIMCO."""

import math
from typing import Any, Literal

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import InputError, choice, whole
from pyro_aevb.estimators.base import MultiSample, Reference, with_value
from pyro_aevb.estimators.importance import IWAE, log_mean_exp
from pyro_aevb.pairs import Pair

__all__ = ["VIMCO", "ScoreFunction"]

Baseline = Literal["none", "mean", "leave_one_out"]


class ScoreFunction(MultiSample):
    r"""The paper's naive estimator: any latents, discrete ones too, at the price of a very high variance.

    .. math:: \nabla_\phi\, \mathbb{E}_{q_\phi(z)}[f(z)] = \mathbb{E}\big[(f(z) - b)\, \nabla_\phi \log q_\phi(z)\big],
              \quad f(z) = \log p(x, z) - \log q(z \mid x)

    Without a baseline it takes every structure of plates that ``Trace_ELBO`` takes. Both baselines are independent of
    the sample whose score they weigh, so that the gradient stays unbiased.

    Oracle: ``Trace_ELBO`` at the same noise, and the exact gradient of a linear-Gaussian pair.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        baseline: The baseline b that f is compared with: ``none`` for 0, ``mean`` for the mean of f over the *other*
            data of the minibatch, ``leave_one_out`` for its mean over the datum's other samples.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If ``leave_one_out`` has one sample only; with a baseline, if a latent lies outside the one data
            plate.

    References:
        | Variational Bayesian inference with stochastic search (Blei et al., 2012), [BJP12] of the paper
        | https://arxiv.org/abs/1206.6430
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        baseline: Baseline = "none",
        vectorize_particles: bool = False,
        **elbo_arguments: Any,
    ) -> None:
        super().__init__(num_particles, vectorize_particles=vectorize_particles, **elbo_arguments)
        choice("baseline", baseline, ("none", "mean", "leave_one_out"))
        if baseline == "leave_one_out" and num_particles < 2:
            raise InputError("baseline='leave_one_out' needs num_particles of at least 2")
        self.baseline = baseline

    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/M) sum of the bound over the minibatch, for a pair with any plates if there is no baseline."""
        if self.baseline != "none":
            return super().differentiable_loss(model, guide, *args, **kwargs)
        loss = torch.zeros(())
        for p, q in self._pairs(model, guide, args, kwargs):
            bound = p.log_prob_sum() - q.log_prob_sum()
            loss = loss - with_value(p.log_prob_sum() + traces.score_function_sum(p, q), bound)
        return loss / self.num_particles

    def loss_of_weights(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of the bound over the minibatch, for a baseline that compares data or samples.

        Arguments:
            pair: Model and guide, which tell each datum's and particle's log densities.
            args: The pair's arguments, batch first.
        """
        densities = pair.log_densities(args, self.num_particles, constant=True)
        weight = densities.log_weight  # (S, B)
        signal = (weight - self._baseline(weight)).detach()
        surrogate = densities.log_likelihood + densities.log_prior + signal * densities.log_guide
        return -densities.scaled_sum(with_value(surrogate.mean(0), weight.mean(0)))

    def _baseline(self, weight: Tensor) -> Tensor:
        """Mean of all log-weights but its own for each, ``(S, B)`` to ``(S, B)``."""
        dim = 0 if self.baseline == "leave_one_out" else 1
        others = weight.shape[dim] - 1
        if others == 0:  # a last minibatch of one datum: no baseline is unbiased too
            return torch.zeros_like(weight)
        return (weight.sum(dim, keepdim=True) - weight) / others

    def _get_trace(
        self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        """One run of the pair, its latents constants."""
        pair = traces.pair_trace(model, traces.without_gradient(guide), args, kwargs, self.max_plate_nesting)
        traces.check_agreement(*pair)
        traces.check_no_factors(pair[1], "the score-function estimator")
        return pair


class VIMCO(MultiSample):
    r""":class:`IWAE`'s bound for any latents, discrete ones too: each sample's score is weighed by what it adds.

    .. math:: \nabla_\phi \mathcal{L}_S \approx \sum_s \big(\hat L - \hat L_{-s}\big) \nabla_\phi \log q(z_s \mid x)
              + \nabla_\phi \hat L \big|_z, \quad \hat L = \log \tfrac1S \sum_s w_s

    In :math:`\hat L_{-s}` the weight of sample s is replaced by the geometric mean of the others, or where one of them
    is zero by their arithmetic mean.

    Oracle: the exact gradient of a pair whose latents can be enumerated.

    Arguments:
        num_particles: Number of samples :math:`S` per datum, at least 2.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If ``num_particles`` is below 2, or a latent lies outside the one data plate.

    References:
        | Variational inference for Monte Carlo objectives (Mnih & Rezende, 2016)
        | https://arxiv.org/abs/1602.06725
    """

    least_particles = 2

    def __init__(self, num_particles: int = 2, **elbo_arguments: Any) -> None:
        least = self.least_particles  # each sample is compared with the others
        super().__init__(whole("num_particles", num_particles, least=least), **elbo_arguments)

    @property
    def reference(self) -> Reference:
        """The bound of :class:`IWAE` with as many samples."""
        return Reference(IWAE, int(self.num_particles))

    def loss_of_weights(self, pair: traces.Particles, args: tuple[Any, ...]) -> Tensor:
        """-(N/M) sum of log-mean-weights."""
        densities = pair.log_densities(args, self.num_particles, constant=True)
        weight = densities.log_weight  # (S, B)
        bound = log_mean_exp(weight)  # (B,)
        signal = (bound - self._without_each(weight)).detach()
        return -densities.scaled_sum(with_value(bound + (signal * densities.log_guide).sum(0), bound))

    @staticmethod
    def _without_each(weight: Tensor) -> Tensor:
        """The bound with each sample's weight replaced, ``(S, B)``; zero where the others' weights are all zero.

        The geometric mean of the others is zero where one of them is; their arithmetic mean stands for it there.
        Whatever is made of the others alone leaves the gradient unbiased.
        """
        count = len(weight)
        zero = weight == -math.inf
        logs = torch.where(zero, 0, weight)
        zeros_of_others = zero.sum(0) - zero.to(torch.int64)  # (S, B)
        geometric = (logs.sum(0) - logs) / (count - 1)
        each = torch.eye(count, dtype=torch.bool, device=weight.device).unsqueeze(-1)  # (S, S, 1)
        arithmetic = torch.where(each, -math.inf, weight).logsumexp(1) - math.log(count - 1)
        replacement = torch.where(zeros_of_others > 0, arithmetic, geometric)
        without = torch.where(each, replacement, weight).logsumexp(1) - math.log(count)
        return torch.where(zeros_of_others == count - 1, 0, without)
