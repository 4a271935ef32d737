"""Gradients without reparameterisation: the paper's naive estimator, and VIMCO."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import whole
from pyro_aevb.estimators.base import MultiSample, Reference, with_value
from pyro_aevb.estimators.importance import IWAE, log_mean_exp
from pyro_aevb.estimators.pathwise import EvidenceLowerBound
from pyro_aevb.pairs import Pair

__all__ = ["VIMCO", "ScoreFunction"]


class ScoreFunction(EvidenceLowerBound):
    r"""The paper's naive estimator: any latents, at the price of a very high variance; no path is used.

    .. math:: \nabla_\phi\, \mathbb{E}_{q_\phi(z)}[f(z)] = \mathbb{E}\big[(f(z) - b)\, \nabla_\phi \log q_\phi(z)\big],
              \quad f(z) = \log p(x, z) - \log q(z \mid x)

    :class:`~pyro_aevb.estimators.SGVB` does the same where a latent has no path, and better where it has one.

    Oracle: ``Trace_ELBO`` at the same noise, and the exact gradient of a linear-Gaussian pair.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        beta: Weight of the KL in the gradient, positive; the value stays the bound, whose weight is 1.
        warm_up: Number of training data over which the weight rises linearly from 0 to ``beta``; 0 for the weight
            ``beta`` from the beginning.
        cycles: How many times it rises so, each time from 0; after the last it stays.
        ramp: Part of a cycle in which the weight rises, in (0, 1]; for the rest of it the weight is ``beta``, so that a
            cycle is ``warm_up / ramp`` training data long.
        baseline: What scores' weights are compared with: ``none`` for 0, ``mean`` for the mean over the *other* data
            of the minibatch, ``leave_one_out`` for the mean over the datum's other samples.
        downstream: Whether all scores are weighed by those terms alone that the latent's value was seen to reach.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If ``leave_one_out`` has one sample only; with ``mean``, if a latent lies outside the data plate; if
            the guide is a point mass, which has no score.

    References:
        | Variational Bayesian inference with stochastic search (Blei et al., 2012), [BJP12] of the paper
        | https://arxiv.org/abs/1206.6430
    """

    without_paths = True

    def bound(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """log p(x, z) - log q(z|x)."""
        return traces.log_weight_sum(model_trace, guide_trace)

    def _get_trace(
        self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        """One run of the pair, whose latents have scores."""
        pair = super()._get_trace(model, guide, args, kwargs)
        traces.check_no_point_masses(traces.latent_sites(pair[1]))
        return pair

    def terms(self, model_trace: Trace, guide_trace: Trace) -> Iterator[traces.Term]:
        """Each site's log density."""
        return traces.sampled_terms(model_trace, guide_trace, without_paths=True)


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
        InputError: If ``num_particles`` is below 2; if a latent lies outside the plate of the data, of which only some
            are there.

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
