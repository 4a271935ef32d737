"""The evidence lower bound, and the paper's two estimators of it."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.errors import InputError, choice, flag, positive, real, whole
from pyro_aevb.estimators.base import Estimator, with_value
from pyro_aevb.estimators.baselines import BASELINES, Baseline, score_sum
from pyro_aevb.pairs import Pair

__all__ = ["SGVB", "EvidenceLowerBound", "SGVBAnalyticKL"]


class _Particle(NamedTuple):
    """One particle's bound, a scaled sum over the minibatch, and what its gradient is made of."""

    bound: Tensor
    path: Tensor
    scores: list[traces.Score]


class EvidenceLowerBound(Estimator):
    r"""Base of estimators of the evidence lower bound, for a pair with any latents in any plates.

    A latent's gradient is taken by its path where it has one (4), and by its score where it has none, as a discrete one
    has not, or where it was switched off (``has_rsample_(False)``). Scores are weighed by the bound's terms in the same
    plates, as ``Trace_ELBO`` does. At a site with a baseline of its own, ``infer={"baseline": {...}}`` with the options
    of ``TraceGraph_ELBO``, they are weighed as that does, by what the latent's value was seen to reach, less the
    baseline.

    The gradient may weigh the KL by a tensor, ``beta``: it then is that of
    :math:`\log p(x \mid z) - \beta\,(\log q(z \mid x) - \log p(z))`; the value stays the bound itself, so that no
    number shown to anybody is anything else, and evaluation knows nothing of ``beta``. With ``warm_up`` the weight
    rises from 0 to ``beta`` linearly in the number of training data seen, once or in ``cycles`` (Fu et al., 2019,
    https://aclanthology.org/N19-1021); ``Trainer`` sets it before each step and reports it. Under ``pyro.infer.SVI``
    call :meth:`anneal`.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        beta: Weight of the KL in the gradient, positive; the value stays the bound, whose weight is 1.
        warm_up: Number of training data over which the weight rises linearly from 0 to ``beta``; 0 for the weight
            ``beta`` from the beginning.
        cycles: How many times it rises so, each time from 0; after the last it stays.
        ramp: Part of a cycle in which the weight rises, in (0, 1]; for the rest of it the weight is ``beta``, so that a
            cycle is ``warm_up / ramp`` training data long.
        baseline: What a score's weight f is compared with, unless the latent's site has a baseline of its own: ``none``
            for 0, ``mean`` for the mean of f over the *other* data of the minibatch, ``leave_one_out`` for its mean
            over the datum's other samples. All leave the gradient unbiased.
        downstream: Whether all scores are weighed by those terms alone that the latent's value was seen to reach. What
            Python computes from a value, by an ``if`` or ``.item()``, is not seen: the gradient would be biased.
        elbo_arguments: Further arguments of :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If ``leave_one_out`` has one sample only, or if model and guide do not count the same latents,
            scaled and masked alike.
    """

    without_paths: ClassVar[bool] = False
    """Whether all latents are drawn as constants, so that all gradients are scores."""
    free_bits: float = 0.0
    """What each latent dimension's mean KL may be at no cost in the gradient, nats."""

    def __init__(
        self,
        num_particles: int = 1,
        *,
        beta: float = 1.0,
        warm_up: float = 0,
        cycles: int = 1,
        ramp: float = 0.5,
        baseline: Baseline = "none",
        downstream: bool = False,
        **elbo_arguments: Any,
    ) -> None:
        super().__init__(num_particles, **elbo_arguments)
        self.final_beta = positive("beta", beta)
        self.warm_up = real("warm_up", warm_up, least=0)
        self.cycles = whole("cycles", cycles)
        self.ramp = positive("ramp", real("ramp", ramp, most=1))
        if cycles > 1 and not warm_up:
            raise InputError("cycles need warm_up, the number of training data over which the weight rises each time")
        self.beta: Tensor | None = None if beta == 1 and not warm_up else torch.tensor(float(beta))
        self.baseline = choice("baseline", baseline, BASELINES)
        self.downstream = flag("downstream", downstream)
        if baseline == "leave_one_out" and num_particles < 2:
            raise InputError("baseline='leave_one_out' needs num_particles of at least 2")
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
        length = self.warm_up / self.ramp
        risen = samples_seen % length if self.cycles > 1 and samples_seen < self.cycles * length else samples_seen
        self.beta.fill_(self.final_beta * min(1.0, risen / self.warm_up))
        return True

    def differentiable_loss(self, model: Pair, guide: Pair, *args: Any, **kwargs: Any) -> Tensor:
        """-(N/M) sum of the bound over the minibatch, for a pair with any plates."""
        particles = [self._particle(p, q) for p, q in self._pairs(model, guide, args, kwargs)]
        bound = torch.as_tensor(sum(particle.bound for particle in particles))
        if self.beta is not None or self.free_bits or any(particle.scores for particle in particles):
            path = torch.as_tensor(sum(particle.path for particle in particles))
            scores = score_sum([particle.scores for particle in particles], self.baseline)
            bound = traces.untracked(with_value(path + scores, bound))
        return -bound / self.num_particles

    @abstractmethod
    def bound(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """The bound of one run of the pair, a scaled sum over the minibatch, in nats."""

    @abstractmethod
    def terms(self, model_trace: Trace, guide_trace: Trace) -> Iterator[traces.Term]:
        """The terms that the bound is the sum of."""

    def _particle(self, model_trace: Trace, guide_trace: Trace) -> _Particle:
        bound = self.bound(model_trace, guide_trace)
        terms = self.terms(model_trace, guide_trace)
        scores = traces.scores(guide_trace, terms, self.beta, self.downstream, self.without_paths)
        path = bound
        if scores:
            path = sum((torch.as_tensor(t.path).sum() for t in self.terms(model_trace, guide_trace)), torch.zeros(()))
        if self.beta is not None or self.free_bits:
            likelihood = traces.log_likelihood_sum(model_trace)
            kl = self._counted_kl(model_trace, guide_trace, scores) if self.free_bits else likelihood - path
            path = likelihood - (kl if self.beta is None else self.beta * kl)
        return _Particle(bound, path, scores)

    def _counted_kl(self, model_trace: Trace, guide_trace: Trace, scores: list[traces.Score]) -> Tensor:
        """The KL as the gradient counts it, with the free bits of each latent dimension."""
        if scores:
            name = scores[0].site["name"]
            raise InputError(f"free_bits need a path, and latent {name!r} has a score alone: leave free_bits out")
        return traces.kl_with_free_bits(model_trace, guide_trace, self.free_bits)

    def _get_trace(
        self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        """One run of the pair, the method that Pyro's ``ELBO`` asks for."""
        with traces.Tracked(self.downstream, self.without_paths):
            guide = traces.without_gradient(guide) if self.without_paths else guide
            pair = super()._get_trace(model, guide, args, kwargs)
        traces.check_factors(pair[1])
        return pair


class SGVB(EvidenceLowerBound):
    r"""Estimator A: every term by sampling. Equals ``Trace_ELBO`` at the same noise, without its ``.item()`` calls.

    .. math:: \tilde{\mathcal L}^A(x) = \frac1L \sum_{l=1}^L \log p(x, z_l) - \log q(z_l \mid x),
              \quad z_l = g_\phi(\epsilon_l, x) \tag{6}

    Oracle: ``Trace_ELBO``, or ``TraceGraph_ELBO``, at the same noise, and the exact gradient of a linear-Gaussian pair.

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
        InputError: If model and guide do not count the same latents, scaled and masked alike.

    References:
        | Auto-Encoding Variational Bayes, equation (6) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def bound(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """log p(x, z) - log q(z|x)."""
        return traces.log_weight_sum(model_trace, guide_trace)

    def terms(self, model_trace: Trace, guide_trace: Trace) -> Iterator[traces.Term]:
        """Each site's log density."""
        return traces.sampled_terms(model_trace, guide_trace)


class SGVBAnalyticKL(EvidenceLowerBound):
    r"""Estimator B: the KL in closed form. Equals ``TraceMeanField_ELBO`` at the same noise, but never falls back to A.

    .. math:: \tilde{\mathcal L}^B(x) = -\mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big)
              + \frac1L \sum_{l=1}^L \log p(x \mid z_l) \tag{7}

    With several latents a closed form holds at fixed values of those that came before. Of a latent whose prior may
    depend on one that the guide draws later, as in a guide from the bottom up, the KL's term is sampled as in
    :class:`~pyro_aevb.estimators.SGVB`, where ``TraceMeanField_ELBO`` would take the closed form at a wrong
    value and only warn.

    With ``free_bits`` :math:`\lambda` the gradient, and it alone, is that of a bound whose KL is

    .. math:: \sum_k \max\Big(\lambda, \tfrac1M \sum_{i=1}^M
              \mathrm{KL}\big(q(z_k \mid x_i) \,\|\, p(z_k)\big)\Big)

    for each datum of a minibatch of M, so that a latent dimension may carry so much before it costs anything. The value
    stays the bound (7). ``beta`` and ``warm_up`` weigh that KL as they do the other.

    Oracle: ``TraceMeanField_ELBO`` at the same noise, and the exact gradient of a linear-Gaussian pair.

    Arguments:
        num_particles: Number of samples per datum, the paper's L.
        beta: Weight of the KL in the gradient, positive; the value stays the bound, whose weight is 1.
        warm_up: Number of training data over which the weight rises linearly from 0 to ``beta``; 0 for the weight
            ``beta`` from the beginning.
        cycles: How many times it rises so, each time from 0; after the last it stays.
        ramp: Part of a cycle in which the weight rises, in (0, 1]; for the rest of it the weight is ``beta``, so that a
            cycle is ``warm_up / ramp`` training data long.
        free_bits: KL of a latent dimension, a mean over the minibatch, that costs nothing in the gradient, in nats.
        baseline: What scores' weights are compared with: ``none`` for 0, ``mean`` for the mean over the *other* data
            of the minibatch, ``leave_one_out`` for the mean over the datum's other samples.
        downstream: Whether all scores are weighed by those terms alone that the latent's value was seen to reach.
        elbo_arguments: Those above but for ``num_particles`` and ``free_bits``, and further ones of
            :class:`pyro.infer.ELBO`.

    Raises:
        InputError: If no closed form is registered for a latent's guide and prior; with ``free_bits``, if it is not
            known for each dimension by itself, as it is for independent ones.

    References:
        | Auto-Encoding Variational Bayes, equation (7) (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
        | Improved variational inference with inverse autoregressive flow, appendix C.8 (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934
    """

    def __init__(self, num_particles: int = 1, *, free_bits: float = 0.0, **elbo_arguments: Any) -> None:
        super().__init__(num_particles, **elbo_arguments)
        self.free_bits = real("free_bits", free_bits, least=0)

    def bound(self, model_trace: Trace, guide_trace: Trace) -> Tensor:
        """log p(x|z) - KL(q(z|x) || p(z))."""
        terms = self.terms(model_trace, guide_trace)
        return sum((term.value.sum() for term in terms), torch.zeros(()))

    def terms(self, model_trace: Trace, guide_trace: Trace) -> Iterator[traces.Term]:
        """Each observed site's log density, and each latent's KL."""
        return traces.analytic_terms(model_trace, guide_trace)

    def _get_trace(
        self, model: Pair, guide: Pair, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Trace, Trace]:
        """One run of the pair, whose guide has no term but its latents."""
        pair = super()._get_trace(model, guide, args, kwargs)
        traces.check_no_factors(pair[1], "estimator B")
        return pair
