r"""log p(x) by annealed importance sampling, and from both sides by bidirectional Monte Carlo.

Distributions :math:`f_t(z) = f_0(z)^{1-\beta_t}\, p(x, z)^{\beta_t}` lead from one that can be sampled, the prior or
the guide, to the posterior. A chain begins at :math:`z_1 \sim f_0` and is moved by Hamiltonian Monte Carlo, which
leaves :math:`f_t` as it is; its weight estimates p(x) without bias, and its logarithm log p(x) from below:

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \big[\log p(x, z_t) - \log f_0(z_t)\big],
          \qquad \mathbb E[w] = p(x)

From an exact draw of the posterior, which is at hand for data dreamt by the model itself, the same chain backwards
estimates 1/p(x) without bias, and log p(x) from above.

References:
    | Annealed importance sampling (Neal, 2001); On the quantitative analysis of decoder-based generative models
    | (Wu et al., 2017), https://arxiv.org/abs/1611.04273
    | Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015)
    | https://arxiv.org/abs/1511.02543
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_aevb import hmc, traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.errors import InputError, choice, whole
from pyro_aevb.evaluation import AfterBlock, Data, map_blocks, not_nan
from pyro_aevb.pairs import Pair
from pyro_aevb.traces import LatentSpace
from pyro_aevb.views import NATS, html_table, mean_row

__all__ = ["AnnealedWeights", "Bracket", "annealed_importance_sampling", "bidirectional"]

Start = Literal["guide", "prior"]

TARGET = 0.8  # acceptance rate that the transitions' step sizes are adapted to reach
FIRST_STEP_SIZE = 0.1


class AnnealedWeights(NamedTuple):
    """What annealed importance sampling estimates for each datum, ``(B,)`` each."""

    log_likelihood: Tensor
    """Estimate of log p(x), the log of the mean weight over chains, in nats: in expectation a lower bound, but an upper
    bound where the chains run backwards"""
    standard_error: Tensor
    """Monte Carlo standard error of the estimate, in nats, to first order"""
    acceptance: Tensor
    """Mean acceptance rate of the transitions, between 0 and 1"""

    def _repr_html_(self) -> str:
        """As a notebook shows it: means over data."""
        title = f"Annealed importance sampling of {len(self.log_likelihood):,} data"
        return html_table([mean_row("log p(x)", self.log_likelihood)], NATS, title, [_accepted(self.acceptance)])


def _accepted(acceptance: Tensor) -> str:
    return f"acceptance rate of the transitions: {acceptance.mean().item():.2f}"


class Bracket(NamedTuple):
    """log p(x) from both sides, for data that the model has dreamt."""

    data: tuple[Tensor, ...]
    """The dreamt data, a tuple of what the model takes"""
    lower: AnnealedWeights
    """The estimate by chains that run forwards, to the posterior: in expectation a lower bound"""
    upper: AnnealedWeights
    """The estimate by chains that run backwards from the posterior, at the latents that the data were dreamt with: in
    expectation an upper bound. All chains of a datum begin at the same latents, so that their spread, and with it the
    standard error, is too small while they remember these; the spread over data is right"""

    def _repr_html_(self) -> str:
        """As a notebook shows it: means over data."""
        lower, upper = self.lower.log_likelihood, self.upper.log_likelihood
        ends = {"log p(x) from below": lower, "log p(x) from above": upper, "difference": upper - lower}
        rows = [mean_row(name, values) for name, values in ends.items()]
        notes = [_accepted(torch.cat([self.lower.acceptance, self.upper.acceptance]))]
        return html_table(rows, NATS, f"Bidirectional Monte Carlo of {len(lower):,} dreamt data", notes)


class _Path:
    """The distributions f_0, ..., f_T of annealed importance sampling, and chains along them, for one block of data."""

    def __init__(
        self, model: Pair, guide: Pair | None, args: tuple[Tensor, ...], start: Start, steps: int, leapfrog_steps: int
    ) -> None:
        self.model = model
        self.guide = guide
        self.args = args
        self.start = start
        if start == "guide" and guide is not None:
            traces.check_guide(model, guide, args)
        self.space: LatentSpace = traces.latent_space(model, args)
        self.betas = torch.sigmoid(torch.linspace(-4, 4, steps + 1))  # denser at both ends, as Wu et al. have it
        self.betas = (self.betas - self.betas[0]) / (self.betas[-1] - self.betas[0])
        self.leapfrog_steps = leapfrog_steps
        self.step_sizes: list[Tensor] = []

    def draw(self, chains: int) -> Tensor:
        """Draws from f_0, as many as chains for each datum, ``(C, B, K)``."""
        return self.space.draw(self.guide if self.start == "guide" and self.guide else self.model, self.args, chains)

    def parts(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log f_0(u) and log p(x, u) - log f_0(u), ``(C, B)`` each."""
        likelihood, prior = self.space.log_joint(self.model, self.args, u)
        if self.start == "prior":
            return prior, likelihood
        first = self.space.log_guide(self.guide, self.args, u)  # type: ignore[arg-type]  # checked by the caller
        return first, likelihood + prior - first

    def transition(self, u: Tensor, t: int, step_size: Tensor) -> tuple[Tensor, hmc.Info]:
        """One transition by Hamiltonian Monte Carlo, which leaves f_t as it is.

        Arguments:
            u: Where the chains are, ``(C, B, K)``.
            t: Number of the distribution, 0 to T.
            step_size: Step size for each datum, ``(B,)``.
        """
        beta = float(self.betas[t])

        def log_density(v: Tensor) -> Tensor:
            first, more = self.parts(v)
            return first + beta * more

        state = hmc.State(u, *hmc.with_gradient(log_density, u))  # where p(x|z) = 0 the weight is zero: no error
        state, info = hmc.step(log_density, state, step_size, self.leapfrog_steps)
        return state.position, info

    def find_step_sizes(self, chains: int = 2) -> None:
        """Adapt the step sizes by chains of their own: no transition of a chain that counts may depend on its past."""
        u = self.draw(chains)
        not_nan(self.parts(u)[1], "log p(x, z) at a first draw")  # later a diverging path's end may be
        size = torch.full(u.shape[1:2], FIRST_STEP_SIZE).to(u)
        for t in range(1, len(self.betas) - 1):
            self.step_sizes.append(size)
            u, info = self.transition(u, t, size)
            size = hmc.adapted(size, info.acceptance, TARGET, rate=0.3)

    def weights(self, u: Tensor, backward: bool = False) -> AnnealedWeights:
        """The estimate by chains that begin at u, ``(C, B, K)``, and run from f_0 to f_T, or backwards."""
        log_weight = u.new_zeros(u.shape[:-1])
        acceptance = u.new_zeros(u.shape[:-1])
        for t in self._times(backward):
            log_weight += (self.betas[t] - self.betas[t - 1]).to(u) * self.parts(u)[1].nan_to_num(nan=-math.inf)
            after = t - 1 if backward else t
            if 0 < after < len(self.betas) - 1:
                u, info = self.transition(u, after, self.step_sizes[after - 1])
                acceptance += info.acceptance / max(1, len(self.betas) - 2)
        return self._summed(-log_weight if backward else log_weight, acceptance, backward)

    def both_sides(self, latents: dict[str, Tensor], chains: int) -> tuple[Tensor, ...]:
        """Estimates by forward chains, and by backward ones that begin at exact draws of the posterior, ``(B, ...)`` by
        site.
        """
        self.find_step_sizes()
        lower = self.weights(self.draw(chains))
        exact = self.space.vector({name: value.unsqueeze(0) for name, value in latents.items()})  # (1, B, K)
        return *lower, *self.weights(exact.expand(chains, -1, -1), backward=True)

    def _times(self, backward: bool) -> Iterator[int]:
        times = range(1, len(self.betas))
        return iter(reversed(times) if backward else times)

    @staticmethod
    def _summed(log_weight: Tensor, acceptance: Tensor, backward: bool) -> AnnealedWeights:
        count = len(log_weight)
        log_mean = log_weight.logsumexp(0) - math.log(count)  # over chains, never over steps
        spread = (log_weight - log_mean).exp().std(0) if count > 1 else torch.full_like(log_mean, math.nan)
        return AnnealedWeights(-log_mean if backward else log_mean, spread / math.sqrt(count), acceptance.mean(0))


@takes_any_data
@torch.no_grad()
def annealed_importance_sampling(
    model: Pair,
    guide: Pair | None,
    x: Data,
    *,
    steps: int = 500,
    chains: int = 8,
    leapfrog_steps: int = 5,
    start: Start = "guide",
    seed: int = 0,
    progress: AfterBlock | None = None,
    keep: str | Path | None = None,
) -> AnnealedWeights:
    r"""log p(x) of each datum by annealed importance sampling (AIS), in expectation a lower bound, ``(B,)``, in nats.

    Chains lead from the start :math:`f_0`, the guide or the prior, over T distributions to the posterior; a transition
    of Hamiltonian Monte Carlo moves them at each. The weight of a chain is

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \big[\log p(x, z_t) - \log f_0(z_t)\big],
              \qquad \mathbb E[w] = p(x)

    Oracle: the exact log p(x) of a linear-Gaussian pair, and of a Poisson count whose rate is Gamma.

    Arguments:
        model: The model, any Pyro function with continuous latents.
        guide: Its guide; may be ``None`` with ``start="prior"``.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        steps: Number T of distributions on the way from the start to the posterior.
        chains: Number of chains of each datum, over which weights are averaged.
        leapfrog_steps: Number of leapfrog steps in each transition.
        start: Distribution whose draws chains begin at: ``guide``, which is nearer to the posterior, or ``prior``.
        seed: Seed of all draws; the caller's random state is left alone.
        progress: Function that is called after each block of data with the number of data in it; by default nothing is
            called.
        keep: File that the result of each block of data is kept in, so that a computation that was stopped goes on
            where it was when it is called again; by default nothing is kept.

    Raises:
        InputError: If a count is not positive, there is no guide to start from, or a latent is discrete or global.
    """
    _check(steps, chains, leapfrog_steps, start, guide)

    def of_block(args: tuple[Tensor, ...]) -> AnnealedWeights:
        """The estimate for a block of data."""
        path = _Path(model, guide, args, start, steps, leapfrog_steps)
        with pyro.validation_enabled(False):  # far ends of diverging paths are rejected, not refused
            path.find_step_sizes()
            return path.weights(path.draw(chains))

    settings = f"ais {steps} {chains} {leapfrog_steps} {start}"
    return AnnealedWeights(*map_blocks(of_block, model, guide or model, x, seed, progress, keep, settings))


@takes_any_data
@torch.no_grad()
def bidirectional(
    model: Pair,
    guide: Pair | None,
    x: Data,
    *,
    steps: int = 500,
    chains: int = 8,
    leapfrog_steps: int = 5,
    start: Start = "guide",
    seed: int = 0,
    progress: AfterBlock | None = None,
    keep: str | Path | None = None,
) -> Bracket:
    """log p(x) from below and from above, for as many data as ``x`` has, dreamt by the model.

    Only for dreams is a draw from the posterior at hand, from which the backward chains begin: the latents that they
    were dreamt with. The gap between both sides tells what the same settings are worth on data like these.

    Oracle: the exact log p(x) of a linear-Gaussian pair.

    Arguments:
        model: The model, any Pyro function with continuous latents.
        guide: Its guide; may be ``None`` with ``start="prior"``.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes, which give the dreamt data's
            number, shape and type; arguments that no site observes are kept.
        steps: Number T of distributions on the way from the start to the posterior.
        chains: Number of chains of each datum and direction, over which weights are averaged.
        leapfrog_steps: Number of leapfrog steps in each transition.
        start: Distribution whose draws forward chains begin at: ``guide``, nearer to the posterior, or ``prior``.
        seed: Seed of all draws; the caller's random state is left alone.
        progress: Function that is called after each block of data with the number of data in it; by default nothing is
            called.
        keep: File that the result of each block of data is kept in, so that a computation that was stopped goes on
            where it was when it is called again; by default nothing is kept.

    Raises:
        InputError: If a count is not positive, there is no guide to start from, a latent is discrete or global, or what
            the model observes is no argument.
    """
    _check(steps, chains, leapfrog_steps, start, guide)

    def of_block(args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Dreams, as many as the block has data, and the estimates of both directions for them."""
        dream = traces.dream(model, args)
        path = _Path(model, guide, dream.args, start, steps, leapfrog_steps)
        with pyro.validation_enabled(False):
            return *path.both_sides(dream.latents, chains), *dream.args

    settings = f"bidirectional {steps} {chains} {leapfrog_steps} {start}"
    found = map_blocks(of_block, model, guide or model, x, seed, progress, keep, settings)
    return Bracket(tuple(found[6:]), AnnealedWeights(*found[:3]), AnnealedWeights(*found[3:6]))


def _check(steps: int, chains: int, leapfrog_steps: int, start: Start, guide: Pair | None) -> None:
    for name, count in {"steps": steps, "chains": chains, "leapfrog_steps": leapfrog_steps}.items():
        whole(name, count)
    if choice("start", start, ("guide", "prior")) == "guide" and guide is None:
        raise InputError("there is no guide to start from: give start='prior'")
