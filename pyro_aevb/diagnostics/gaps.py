"""Between the bound and log p(x): what the guide's family cannot reach, and what its network leaves of that."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from pyro_aevb import evidence, traces
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.diagnostics.latents import latent_of
from pyro_aevb.errors import InputError, function, positive, whole
from pyro_aevb.evaluation import AfterBlock, Data, map_blocks
from pyro_aevb.pairs import Pair, own_module
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.traces.sites import describe

__all__ = ["Evidence", "Gaps", "inference_gaps"]

SAMPLES_AT_ONCE = 50

Evidence = Callable[[Pair, Pair, Data], Any]
"""What estimates log p(x) of each datum: its result has ``.log_likelihood`` and ``.standard_error``, ``(B,)`` each."""


class Gaps(NamedTuple):
    """The bound, the bound of the best q, and log p(x), ``(B,)`` each, in nats, with their Monte Carlo standard errors.

    The amortisation gap is what a guide's network loses against the best q of its family for each datum; the
    approximation gap is what that best q still lacks.
    """

    bound: Tensor
    """The bound with the guide as it is."""
    optimised_bound: Tensor
    """The bound with q optimised for each datum by itself, within the guide's family."""
    log_likelihood: Tensor
    """The estimate of log p(x)."""
    bound_error: Tensor
    """Standard error of ``bound``."""
    optimised_bound_error: Tensor
    """Standard error of ``optimised_bound``."""
    log_likelihood_error: Tensor
    """Standard error of ``log_likelihood``."""
    amortisation_error: Tensor
    """Standard error of the difference of the two bounds, whose noise is the same."""
    last_improvement: Tensor
    """How much the last round of the optimisation still raised the bound, ``(B,)``, in nats."""
    tolerance: float
    """Mean improvement in a round, in nats per datum, under which the optimisation has converged."""

    @property
    def approximation(self) -> Tensor:
        """Approximation gap: log p(x) less the optimised bound, KL(q*(z|x) || p(z|x)), ``(B,)``."""
        return self.log_likelihood - self.optimised_bound

    @property
    def approximation_error(self) -> Tensor:
        """Monte Carlo standard error of the approximation gap, ``(B,)``, in nats."""
        return (self.log_likelihood_error**2 + self.optimised_bound_error**2).sqrt()

    @property
    def amortisation(self) -> Tensor:
        """Amortisation gap: the optimised bound less the guide's, ``(B,)``."""
        return self.optimised_bound - self.bound

    @property
    def converged(self) -> bool:
        """Whether the last round of the optimisation raised the mean bound by less than the tolerance."""
        return bool(self.last_improvement.mean() < self.tolerance)


class _Table(nn.Module):
    """Stands for a network: a row of free outputs for each datum, whatever the input."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs.detach().clone())

    def forward(self, *inputs: Any) -> Tensor:
        """The free outputs, whatever the input."""
        return self.outputs


class _Search(NamedTuple):
    """How q is optimised for each datum; the fields are arguments of :func:`inference_gaps`."""

    steps: int
    rounds: int
    num_samples: int
    learning_rate: float
    evaluation_samples: int
    tolerance: float


@takes_any_data
def inference_gaps(
    model: Pair,
    guide: Pair,
    x: Data,
    *,
    steps: int = 250,
    rounds: int = 4,
    num_samples: int = 8,
    learning_rate: float = 0.05,
    evaluation_samples: int = 500,
    tolerance: float = 0.02,
    log_evidence: Evidence | None = None,
    seed: int = 0,
    progress: AfterBlock | None = None,
) -> Gaps:
    r"""Approximation gap and amortisation gap of each datum, in nats.

    .. math:: \log p(x) - \mathcal L(x; q_\phi) = \underbrace{\log p(x) - \mathcal L(x; q^*)}_{\text{approximation}}
              + \underbrace{\mathcal L(x; q^*) - \mathcal L(x; q_\phi)}_{\text{amortisation}}, \quad
              q^* = \arg\max_q \mathcal L(x; q)

    The outputs of the guide's ``.network`` become free parameters of each datum, everything else held fixed. Adam
    moves them in rounds, its step size falling to zero in each, until a round wins less than ``tolerance``. Each datum
    keeps what it had where a round found nothing better by more than a standard error. What is chosen by one set of
    draws is reported by another, so that the amortisation gap is not biased upwards, and is below zero by its Monte
    Carlo error at most. Whatever q the search does not find counts as approximation gap, and whatever of log p(x) the
    estimate misses is missing there.

    Oracle: linear-Gaussian pairs whose guides have a known gap of one kind alone.

    Arguments:
        model: The model, any Pyro function with one latent site.
        guide: Its guide, an ``nn.Module`` with one part that has a ``.network``.
        x: Data, ``(B, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        steps: Number of Adam's steps in a round.
        rounds: Largest number of rounds.
        num_samples: Number of draws per datum in each step.
        learning_rate: Adam's step size at the beginning of a round.
        evaluation_samples: Number of draws per datum that the bounds are reported with.
        tolerance: Mean improvement in a round, in nats per datum, below which the optimisation ends.
        log_evidence: Function that estimates log p(x), called with model, guide and data, whose result has
            ``.log_likelihood`` and ``.standard_error``; by default annealed importance sampling.
        seed: Seed of all draws; the caller's random state is left alone.
        progress: Function that is called with the number of data in each block of data when it is finished; by default
            nothing is called.

    Raises:
        InputError: If a number is not positive, the guide has no ``.network``, or its draws no pathwise gradient.

    References:
        | Inference suboptimality in variational autoencoders (Cremer et al., 2018)
        | https://arxiv.org/abs/1801.03558
    """
    search = _Search(steps, rounds, num_samples, learning_rate, evaluation_samples, tolerance)
    for name, value in search._asdict().items():
        positive(name, value) if name in ("learning_rate", "tolerance") else whole(name, value)
    if log_evidence is not None:
        function("log_evidence", log_evidence)
    function("model", model)
    _network_owner(guide)
    parts = map_blocks(partial(_bounds_of_block, model, guide, search), model, guide, x, seed, progress)
    bound, bound_error, optimised, optimised_error, amortisation_error, last = parts
    estimate = (log_evidence or partial(evidence.annealed_importance_sampling, seed=seed))(model, guide, x)
    return Gaps(
        bound=bound,
        optimised_bound=optimised,
        log_likelihood=estimate.log_likelihood,
        bound_error=bound_error,
        optimised_bound_error=optimised_error,
        log_likelihood_error=estimate.standard_error,
        amortisation_error=amortisation_error,
        last_improvement=last,
        tolerance=tolerance,
    )


def _network_owner(guide: Pair) -> Any:
    """The one part of a guide that has a network."""
    module = own_module(guide)
    parts = [] if module is None else list(module.modules())
    owners = [part for part in parts if isinstance(getattr(part, "network", None), nn.Module)]
    if len(owners) != 1:
        raise InputError(
            f"the guide has {len(owners)} parts with a .network, whose outputs could be optimised for each datum: "
            "the gaps need one, and a guide that is an nn.Module"
        )
    return owners[0]


def _bounds_of_block(model: Pair, guide: Pair, search: _Search, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    store = pyro.get_param_store()
    with store.scope(store.get_state()):  # what pyro.module makes of the table must not outlive it
        free, table = _free(model, guide, args)
        start = table.outputs.detach().clone()
        pair = traces.Particles(model, free)
        last = _optimise(pair, table, search, args)
        best = table.outputs.detach().clone()
        seed = int(torch.randint(2**62, ()))
        ends = []
        for outputs in (start, best):
            _set(table, outputs)
            ends.append(_log_weights(pair, args, search.evaluation_samples, seed))  # (S, B)
    at_start, at_best = ends
    return (*_mean_and_error(at_start), *_mean_and_error(at_best), _mean_and_error(at_best - at_start)[1], last)


def _free(model: Pair, guide: Pair, args: tuple[Tensor, ...]) -> tuple[Pair, _Table]:
    """A copy of the guide whose network's outputs are free, and the table of them."""
    free: Any = deepcopy(guide)
    owner = _network_owner(free)
    outputs: list[Any] = []
    handle = owner.network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        latent = latent_of(model, free, args)
    handle.remove()
    if not latent.guide.has_rsample:
        raise InputError(f"the guide's {describe(latent.guide)} has no pathwise gradient to optimise q by")
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor) or len(outputs[0]) != len(args[0]):
        raise InputError("the guide's .network does not give one row of outputs for each datum: q cannot be freed")
    owner.network = _Table(outputs[0])
    return free, owner.network


def _optimise(pair: traces.Particles, table: _Table, search: _Search, args: tuple[Tensor, ...]) -> Tensor:
    """Leave the best outputs in the table; returns what the last round won, ``(B,)``."""
    weights = partial(_log_weights, pair, args, -(-search.evaluation_samples // 2), int(torch.randint(2**62, ())))
    chosen = table.outputs.detach().clone()
    best = weights()  # (S, B)
    for _ in range(search.rounds):
        _one_round(pair, table, search, args)
        found = weights()
        won, error = _mean_and_error(found - best)
        better = won > error  # less is noise
        chosen[better] = table.outputs.detach()[better]
        best = torch.where(better, found, best)
        _set(table, chosen)
        improvement = torch.where(better, won, 0)
        if improvement.mean() < search.tolerance:
            break
    return improvement


def _one_round(pair: traces.Particles, table: _Table, search: _Search, args: tuple[Tensor, ...]) -> None:
    optimizer = torch.optim.Adam([table.outputs], search.learning_rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / search.steps)
    for _ in range(search.steps):
        with torch.enable_grad():
            log_weight = pair.log_densities(args, search.num_samples).log_weight  # (S, B)
            loss = -log_weight.mean(0).sum()  # a datum's outputs touch its own bound alone
        optimizer.zero_grad()
        loss.backward(inputs=[table.outputs])
        optimizer.step()
        falling.step()


@torch.no_grad()
def _set(table: _Table, outputs: Tensor) -> None:
    table.outputs.copy_(outputs)


@torch.no_grad()
def _log_weights(pair: traces.Particles, args: tuple[Tensor, ...], num_samples: int, seed: int) -> Tensor:
    """log p(x, z) - log q(z|x), ``(S, B)``; the same seed gives the same noise."""
    with seeded(derive(seed, "evaluation"), args[0].device):
        counts = [min(SAMPLES_AT_ONCE, num_samples - start) for start in range(0, num_samples, SAMPLES_AT_ONCE)]
        return torch.cat([pair.log_densities(args, count).log_weight for count in counts])


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over particles and its standard error, ``(B,)`` each; NaN, unknown, of one particle."""
    if len(values) < 2:
        return values.mean(0), torch.full_like(values[0], math.nan)
    return values.mean(0), values.std(0) / len(values) ** 0.5
