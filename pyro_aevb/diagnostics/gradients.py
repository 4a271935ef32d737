r"""Estimators side by side: bias, variance and signal-to-noise of their gradients, and what a step costs.

For one minibatch, gradients of the same quantity are drawn many times. All numbers are of the gradient of the bound per
datum, for the model's parameters :math:`\theta` and the guide's :math:`\phi` separately.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_aevb import evidence, traces
from pyro_aevb.data import as_tensors, taken_apart
from pyro_aevb.data.arguments import takes_any_data
from pyro_aevb.errors import InputError, function, instance, positive, real, told, whole
from pyro_aevb.estimators import SGVB, Estimator, Reference, Renyi
from pyro_aevb.evaluation import Data
from pyro_aevb.pairs import Pair, modules_named_by, own_module
from pyro_aevb.seeds import derive, seeded, unchanged_random_state
from pyro_aevb.training.trainer import Trainer

__all__ = [
    "GradientStatistics",
    "Moments",
    "TrainedBound",
    "TrainingStatistics",
    "TrainingSummary",
    "compare",
    "compare_training",
    "gradient_moments",
    "label",
    "reference_of",
    "training_summary",
]

EVIDENCE_LOWER_BOUND = Reference(SGVB, 1)  # a mean over samples has the same expected gradient for any number of them


class Moments(NamedTuple):
    """Mean and variance of a gradient's coordinates over draws, for all parameters of the model, or of the guide."""

    mean: Tensor
    """Mean of each coordinate, one vector for all parameters, in nats per datum and unit of the parameter"""
    variance: Tensor
    """Unbiased variance of each coordinate"""
    draws: int
    """Number of gradients"""
    milliseconds: float
    """Median time of one loss and its gradient"""


class GradientStatistics(NamedTuple):
    """One row of a comparison: an estimator's gradient by the model's parameters, or by the guide's."""

    estimator: str
    """Name of the estimator, with its baseline where it has one"""
    num_particles: int
    """Number of samples per datum"""
    part: str
    """Whose parameters the gradient is by: ``model`` for theta, ``guide`` for phi"""
    bias: float
    """Length of the bias over the length of the reference gradient, less what noise alone would show."""
    bias_error: float
    """Standard error of ``bias``: the length that noise alone would show."""
    variance: float
    """Sum over coordinates of the variance of one gradient."""
    snr: float
    """Mean over coordinates of abs(mean) / standard deviation."""
    milliseconds: float
    """Median time of one loss and its gradient."""


class TrainingStatistics(NamedTuple):
    """What an estimator trains to, from the same start: estimator A's bound on test data, whatever trained."""

    estimator: str
    """Name of the estimator, with its baseline where it has one"""
    num_particles: int
    """Number of samples per datum"""
    bound_at_samples: float
    """Bound in nats per datum after as many training data as all estimators get"""
    bound_at_seconds: float
    """Bound in nats per datum at the first report after as many seconds of training as all estimators get"""
    seed: int = 0
    """Seed of the training: of its initial weights, order of data and noise"""


class TrainedBound(NamedTuple):
    """A bound after training, over seeds, and how far it is from the first estimator's; all in nats per datum."""

    bound: float
    """Mean over seeds"""
    bound_error: float
    """Standard error of this mean over seeds; NaN of one seed"""
    difference: float
    """Mean over seeds of the difference to the first estimator's bound, each seed's to that of the same seed"""
    difference_error: float
    """Standard error of the mean difference over seeds; NaN of one seed"""


class TrainingSummary(NamedTuple):
    """What trainings with an estimator from several seeds come to, beside those with the first estimator."""

    estimator: str
    """Name of the estimator"""
    num_particles: int
    """Number of samples per datum"""
    seeds: int
    """Number of seeds"""
    at_samples: TrainedBound
    """The bound after as many training data as all estimators get"""
    at_seconds: TrainedBound
    """The bound after as many seconds of training as all estimators get"""


def reference_of(estimator: ELBO) -> Reference:
    """The plainest estimator of the same bound, against which an estimator's bias is measured.

    It is what the estimator itself says, by its ``reference``, else :class:`~pyro_aevb.estimators.SGVB`.

    Arguments:
        estimator: The estimator, one of ours or of Pyro's.
    """
    own = estimator.reference if isinstance(estimator, Estimator) else None
    return own or EVIDENCE_LOWER_BOUND


@takes_any_data
def gradient_moments(
    model: Pair, guide: Pair, estimator: ELBO, x: Data, draws: int, seed: int = 0
) -> dict[str, Moments]:
    """Moments of the gradients by the model's and by the guide's parameters, at fixed data.

    Arguments:
        model: The model, an ``nn.Module``.
        guide: Its guide, an ``nn.Module``.
        estimator: The estimator whose gradients are drawn, one of ours or of Pyro's.
        x: The minibatch, ``(M, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        draws: Number of gradients, at least 2.
        seed: Seed of the noise; the caller's random state is left alone.

    Raises:
        InputError: If ``draws`` is below 2, model or guide is no module, or the data do not fit the pair.
    """
    whole("draws", draws, least=2)  # of which a variance can be taken
    _estimator("estimator", estimator)
    parameters = _parameters(model, guide)
    args = _checked(model, guide, x)
    device = args[0].device
    everything = [p for group in parameters.values() for p in group]
    sums = {part: torch.zeros(2, _count(group), dtype=torch.float64) for part, group in parameters.items()}
    with torch.no_grad(), unchanged_random_state(device):
        per_datum = len(args[0]) * float(traces.log_densities(model, guide, args).scale)  # undoes (N/M) sum
    seconds: list[float] = []
    firsts: dict[str, Tensor] = {}
    with seeded(derive(seed, "noise"), device):
        for _ in range(draws):
            start = time.perf_counter()
            loss = estimator.differentiable_loss(model, guide, *args)  # type: ignore[attr-defined]  # every ELBO has it
            gradients = torch.autograd.grad(loss, everything, allow_unused=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
            by_parameter = {id(p): g for p, g in zip(everything, gradients, strict=True)}
            for part, group in parameters.items():
                flat = _flat(group, by_parameter).double().cpu() / -per_datum
                # Less the first draw: equal draws then have a variance of exactly zero.
                flat = flat - firsts.setdefault(part, flat)
                sums[part] += torch.stack([flat, flat**2])
    milliseconds = 1e3 * sorted(seconds)[len(seconds) // 2]
    return {part: _moments(total, firsts[part], draws, milliseconds) for part, total in sums.items()}


@takes_any_data
def compare(
    model: nn.Module,
    guide: nn.Module,
    x: Data,
    chosen: Iterable[Estimator],
    *,
    draws: int = 100,
    reference_draws: int = 1000,
    seed: int = 0,
    progress: Callable[[str], Any] | None = None,
) -> list[GradientStatistics]:
    """Statistics of each estimator's gradient, against a long run of its bound's reference with other noise.

    Arguments:
        model: The model.
        guide: Its guide.
        x: One minibatch, ``(M, ...)``, or what else :func:`~pyro_aevb.data.taken_apart` takes.
        chosen: The estimators to compare.
        draws: Number of gradients of each estimator, at least 2.
        reference_draws: Number of gradients of each bound's reference, which the bias is told against, at least 2.
        seed: Seed of the noise, at least 0; the references' is another.
        progress: Function that is called before an estimator's gradients are drawn, with its name and number of
            particles; by default nothing is called.

    Returns:
        A row for each estimator's gradient by the model's parameters, and one by the guide's.

    Raises:
        InputError: If a number of draws is below 2, model or guide is no module, the data do not fit the pair, or
            something else than estimators is chosen.
    """
    whole("draws", draws, least=2)
    whole("reference_draws", reference_draws, least=2)
    whole("seed", seed, least=0)
    chosen = _estimators(chosen)
    if progress is not None:
        function("progress", progress)
    rows: list[GradientStatistics] = []
    references: dict[Reference, dict[str, Moments]] = {}
    for estimator in chosen:
        particles = int(estimator.num_particles)
        reference = reference_of(estimator)
        if reference not in references:
            if progress:
                progress(f"reference {_words(reference)}")
            references[reference] = gradient_moments(model, guide, reference.make(), x, reference_draws, seed + 1)
        if progress:
            progress(f"{type(estimator).__name__} {particles}")
        found = gradient_moments(model, guide, estimator, x, draws, seed)
        rows += [_row(label(estimator), particles, part, found[part], references[reference][part]) for part in found]
    return rows


def _words(reference: Reference) -> str:
    """A bound's name for people: its plainest estimator, and what the bound depends on."""
    numbers = () if reference == EVIDENCE_LOWER_BOUND else (reference.num_particles, *dict(reference.others).values())
    return " ".join(map(str, (reference.kind.__name__, *numbers)))


def compare_training(
    make_trainer: Callable[..., Trainer],
    chosen: Iterable[Estimator],
    test: Data,
    *,
    samples: int,
    seconds: float,
    seeds: Sequence[int] | None = None,
    progress: Callable[[str], Any] | None = None,
) -> list[TrainingStatistics]:
    """Train with each estimator, for equally many data and equally many seconds, from each of several seeds.

    Arguments:
        make_trainer: Function that makes a trainer with an estimator, with the same parameters and data in each call;
            where ``seeds`` are given it is called with an estimator and a seed, and the parameters depend on the seed
            alone.
        chosen: The estimators to compare.
        test: Test data, ``(B, ...)``, on which the bound is evaluated.
        samples: Number of training data after which the bounds are compared.
        seconds: Seconds of training after which they are compared too; evaluation does not count.
        seeds: Seeds, each of which every estimator is trained from once; by default each is trained once, and the row's
            seed is 0.
        progress: Function that is called before a training, with the name and number of particles of its estimator; by
            default nothing is called.

    Returns:
        A row for each estimator, and for each seed of it. :func:`training_summary` takes them together over seeds.

    Raises:
        InputError: If an argument is not what is said above.
    """
    function("make_trainer", make_trainer)
    positive("samples", samples)
    real("seconds", seconds, least=0)
    taken_apart(test, evaluated=True)
    chosen = _estimators(chosen)
    if progress is not None:
        function("progress", progress)
    starts = [()] if seeds is None else [(seed,) for seed in _seeds(seeds)]
    rows = []
    for estimator, start in itertools.product(chosen, starts):
        if progress:
            of_seed = "".join(f", seed {seed}" for seed in start)
            progress(f"training with {label(estimator)} {int(estimator.num_particles)}{of_seed}")
        bounds = _bounds(make_trainer(estimator, *start), test, samples, seconds)
        rows.append(TrainingStatistics(label(estimator), int(estimator.num_particles), *bounds, *start))
    return rows


def _seeds(seeds: Sequence[int]) -> list[int]:
    if isinstance(seeds, str) or not isinstance(seeds, Sequence) or not seeds:
        raise InputError(f"seeds must be whole numbers in a list, one at least, not {told(seeds)}: give [0, 1, 2]")
    found = [whole("each of seeds", seed, least=0) for seed in seeds]
    if len(set(found)) < len(found):
        raise InputError(
            f"seeds must differ from one another, not {told(seeds)}: a training repeated tells nothing new"
        )
    return found


def training_summary(rows: Sequence[TrainingStatistics]) -> list[TrainingSummary]:
    r"""Bounds after training with each estimator, over seeds, and their paired differences to the first estimator's.

    .. math:: \bar d = \frac1n \sum_{i=1}^n (b_i - b^{(1)}_i), \qquad
              \mathrm{se}(\bar d) = \sqrt{\frac{\sum_i (d_i - \bar d)^2}{n (n - 1)}}

    Oracle: ``scipy.stats.sem`` and ``scipy.stats.ttest_rel``.

    Arguments:
        rows: What :func:`compare_training` returned.

    Raises:
        InputError: If there are none, or the estimators were not trained from the same seeds.
    """
    if not isinstance(rows, Sequence) or not rows or not all(isinstance(row, TrainingStatistics) for row in rows):
        raise InputError(f"rows must be what compare_training returned, one row at least, not {told(rows)}")
    groups: dict[tuple[str, int], list[TrainingStatistics]] = {}
    for row in rows:
        groups.setdefault(row[:2], []).append(row)
    first = next(iter(groups.values()))
    seeds = [row.seed for row in first]
    if any([row.seed for row in group] != seeds for group in groups.values()):
        raise InputError("rows must have the same seeds for each estimator, in one order, to be paired")
    return [
        TrainingSummary(
            *name, len(seeds), *(_against(first, group, field) for field in TrainingStatistics._fields[2:4])
        )
        for name, group in groups.items()
    ]


def _against(first: Sequence[TrainingStatistics], group: Sequence[TrainingStatistics], field: str) -> TrainedBound:
    bounds = torch.tensor([getattr(row, field) for row in group], dtype=torch.float64)
    firsts = torch.tensor([getattr(row, field) for row in first], dtype=torch.float64)
    return TrainedBound(*_mean_and_error(bounds), *_mean_and_error(bounds - firsts))


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and its standard error; NaN of one value."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error


def _bounds(trainer: Trainer, test: Data, samples: int, seconds: float) -> tuple[float, float]:
    spent = 0.0
    at_samples = None
    at_seconds = None
    stream = trainer.run(10**12)
    while at_samples is None or at_seconds is None:
        start = time.perf_counter()
        seen = next(stream).samples_seen
        spent += time.perf_counter() - start
        with trainer.param_store():
            bound = evidence.bound(trainer.model, trainer.guide, test).bound.mean().item()
        at_seconds = bound if at_seconds is None and spent >= seconds else at_seconds
        at_samples = bound if at_samples is None and seen >= samples else at_samples
    return at_samples, at_seconds


def label(estimator: Estimator) -> str:
    """An estimator's name for tables and figures, ``ScoreFunction (mean)`` with its baseline, ``Renyi(0.5)``."""
    baseline = getattr(_estimator("estimator", estimator), "baseline", "none")
    alpha = f"({float(estimator.alpha):g})" if isinstance(estimator, Renyi) else ""
    return type(estimator).__name__ + alpha + ("" if baseline == "none" else f" ({baseline})")


def _estimator(name: str, estimator: ELBO) -> ELBO:
    return instance(name, estimator, ELBO, "give one of pyro_aevb.estimators, SGVB() for one")


def _estimators(chosen: Iterable[Estimator]) -> list[Estimator]:
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        raise InputError(f"chosen must be estimators in a list, not {told(chosen)}: give [SGVB()], for one")
    chosen = list(chosen)
    for estimator in chosen:
        _estimator("each of chosen", estimator)
    return chosen


@torch.no_grad()
def _checked(model: Pair, guide: Pair, x: Data) -> tuple[Tensor, ...]:
    """The minibatch, if the pair has a density for it."""
    args: Any = as_tensors(x, evaluated=True)
    if len(args[0]) == 0:
        raise InputError("there are no data: the minibatch is empty")
    with traces.refused_in_one_line("model and guide cannot be run on these data", args, model, guide):
        traces.check_observed(model, guide, args, torch.arange(len(args[0])))
    return args


def _row(name: str, particles: int, part: str, found: Moments, reference: Moments) -> GradientStatistics:
    noise = (found.variance / found.draws + reference.variance / reference.draws).sum().item()
    squared = (found.mean - reference.mean).square().sum().item() - noise
    length = reference.mean.norm().item()
    moving = found.variance > 0
    # Where one gradient has no noise at all, signal-to-noise is not defined: such coordinates are left out.
    snr = (found.mean[moving].abs() / found.variance[moving].sqrt()).mean().item() if moving.any() else math.inf
    return GradientStatistics(
        estimator=name,
        num_particles=particles,
        part=part,
        bias=math.sqrt(max(0.0, squared)) / length,
        bias_error=math.sqrt(noise) / length,
        variance=found.variance.sum().item(),
        snr=snr,
        milliseconds=found.milliseconds,
    )


def _parameters(model: Pair, guide: Pair) -> dict[str, list[Tensor]]:
    module = own_module(guide)
    if module is None or own_module(model) is None:
        raise InputError("model and guide must be nn.Modules, so that their gradients can be told apart")
    of_guide = list(module.parameters())
    known = {id(p) for p in of_guide}
    others = [p for m in modules_named_by(model, guide).values() for p in m.parameters() if id(p) not in known]
    trained: dict[str, list[Tensor]] = {
        part: [p for p in group if p.requires_grad] for part, group in (("model", others), ("guide", of_guide))
    }
    return {part: group for part, group in trained.items() if group}  # a part held fixed has no gradient


def _count(parameters: list[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def _flat(parameters: list[Tensor], gradients: Mapping[int, Tensor | None]) -> Tensor:
    parts = [torch.zeros_like(p) if gradients[id(p)] is None else gradients[id(p)] for p in parameters]
    return torch.cat([part.flatten() for part in parts if part is not None])


def _moments(sums: Tensor, first: Tensor, draws: int, milliseconds: float) -> Moments:
    mean = sums[0] / draws
    variance = (sums[1] / draws - mean**2).clamp(min=0) * draws / (draws - 1)
    return Moments(first + mean, variance, draws, milliseconds)
