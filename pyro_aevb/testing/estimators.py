"""The contract of estimators, rule by rule."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_aevb.engines.recording import Recording, record
from pyro_aevb.pairs import tensors_of
from pyro_aevb.seeds import seeded
from pyro_aevb.testing.case import Case, require, rule_repr, told
from pyro_aevb.testing.pair import KnownPair
from pyro_aevb.testing.settings import check, nothing_global_touched, require_unseeded

__all__ = ["check_estimator"]

LossAndGradients = tuple[Tensor, list[Tensor]]


SEVERAL = 4  # particles that a bound is also checked with


def check_estimator(make: Callable[..., ELBO], *, bound: bool = True) -> None:
    """Check an estimator against its contract: a ``pyro.infer.ELBO`` with a loss that can be recorded as a graph.

    The pair that it is tried on is linear and Gaussian, so that log p(x), its gradient and the posterior are known.

    Arguments:
        make: The class, or what else makes the estimator when it is called with nothing, or with ``num_particles``.
        bound: Whether its gradient, where the guide is the posterior, is in expectation that of log p(x), as any
            bound's is. ``False`` for an estimator that is biased on purpose, such as ``SGVB`` with ``beta``: its loss
            is checked there all the same.

    Raises:
        AssertionError: Names the first rule that is broken, what was found and what to do.
    """
    at_the_posterior = partial(_rule_is_right_at_the_posterior, bound=bound)
    of_several = partial(at_the_posterior, num_particles=SEVERAL)  # a sum for a mean is right with one
    check(Case(make, {}, ELBO), *_RULES, at_the_posterior, of_several)


def _rule_touches_nothing_global(case: Case) -> None:
    """Building an estimator and computing a loss changes no setting of the process, and seeds nothing."""
    pair = KnownPair(off=0.1)
    for part in (pair.model, pair.guide):
        part(pair.x)  # which puts its own parameters into Pyro's store
    with nothing_global_touched(case.name):
        _try(case, case.built(), pair)
    require_unseeded(case.name, lambda: case.make().differentiable_loss(pair.model, pair.guide, pair.x))


def _try(case: Case, estimator: Any, pair: KnownPair) -> Tensor:
    """A loss, or in one sentence why there is none."""
    try:
        return pair.loss(estimator)
    except Exception as error:  # whatever a stranger's estimator raises
        raise AssertionError(
            f"{case.name}.differentiable_loss failed for a linear Gaussian pair, {told(error)}: it is called with "
            "model, guide and their arguments, and returns the loss"
        ) from error


def _rule_takes_the_arguments_of_elbo(case: Case) -> None:
    """The constructor takes the number of particles, and what ``pyro.infer.ELBO`` takes."""
    for options in ({"num_particles": 4}, {"retain_graph": True, "strict_enumeration_warning": False}):
        estimator = case.built(**options)
        for name, value in options.items():
            found = getattr(estimator, name, None)
            require(
                found == value,
                f"{case.name} built with {name}={value} has {name} {found}: pass it on to super().__init__",
            )
        _try(case, estimator, KnownPair(off=0.1))


def _rule_loss_is_a_scalar(case: Case) -> None:
    """One finite number of the pair's dtype, with a finite gradient by every parameter of model and guide."""
    for dtype in (torch.float64, torch.float32):
        estimator = case.built()
        pair = KnownPair(off=0.1)
        pair.model.to(dtype)
        pair.guide.to(dtype)
        pair.x = pair.x.to(dtype)
        loss = _try(case, estimator, pair)
        found = (
            f"a {type(loss).__name__}" if not isinstance(loss, Tensor) else f"shape {tuple(loss.shape)}, {loss.dtype}"
        )
        require(
            isinstance(loss, Tensor) and loss.shape == () and loss.dtype == dtype,
            f"{case.name}.differentiable_loss returned {found}, not a scalar tensor of the pair's {dtype}: "
            "return -(N/M) times the bound's sum over the minibatch, without .item()",
        )
        require(bool(loss.isfinite()), f"{case.name}.differentiable_loss is {loss}, not finite, for a Gaussian pair")
        _require_gradients(case, pair, loss)


def _require_gradients(case: Case, pair: KnownPair, loss: Tensor) -> None:
    require(
        loss.requires_grad,
        f"{case.name}.differentiable_loss has no gradient: compute it from the traces without .item() or .detach()",
    )
    parameters = pair.parameters
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        require(
            gradient is not None and bool(gradient.isfinite().all()),
            f"{case.name}: the loss's gradient by the parameter {name!r} is "
            f"{'None' if gradient is None else 'not finite'}: model and guide must both learn from it",
        )


def _rule_same_seed_same_loss(case: Case) -> None:
    """All noise comes from torch's generator, and an estimator is the same at each call, as its deep copy is."""
    estimator = case.built()
    pair = KnownPair(off=0.1)
    expected = pair.loss_and_gradients(estimator)
    advice = "draw from torch's global generator alone, and keep nothing between calls that changes the loss"
    _require_equal(f"{case.name}: a second call at the same seed", pair.loss_and_gradients(estimator), expected, advice)
    twin = copy.deepcopy(estimator)
    _require_equal(f"{case.name}: its deep copy", pair.loss_and_gradients(twin), expected, advice)


def _require_equal(
    what: str, found: LossAndGradients, expected: LossAndGradients, advice: str, tolerance: float = 0.0
) -> None:
    """A loss and its gradients, to a relative tolerance."""
    loss, gradients = found
    expected_loss, expected_gradients = expected
    require(
        torch.allclose(loss, expected_loss, rtol=tolerance, atol=tolerance),
        f"{what} gives the loss {loss:.10g}, not {expected_loss:.10g}: {advice}",
    )
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        require(
            torch.allclose(gradient, other, rtol=tolerance, atol=tolerance),
            f"{what} gives another gradient, by up to {(gradient - other).abs().max():.3g}: {advice}",
        )


def _rule_drops_into_svi(case: Case) -> None:
    """``loss``, ``loss_and_grads`` and a step of ``pyro.infer.SVI`` are those of ``differentiable_loss``."""
    estimator = case.built()
    pair = KnownPair(off=0.1)
    loss, gradients = pair.loss_and_gradients(estimator)
    arguments = (pair.model, pair.guide, pair.x)
    with seeded(1):
        plain = torch.as_tensor(estimator.loss(*arguments), dtype=torch.float64)
    _require_equal(f"{case.name}.loss", (plain, []), (loss, []), "make it differentiable_loss as a number", 1e-10)
    before = [parameter.detach().clone() for parameter in pair.parameters.values()]
    svi = SVI(pair.model, pair.guide, PyroOptim(torch.optim.SGD, {"lr": 1.0}), estimator)
    with seeded(1):
        stepped = torch.as_tensor(svi.step(pair.x), dtype=torch.float64)
    moved = [old - new.detach() for old, new in zip(before, pair.parameters.values(), strict=True)]
    advice = "make loss_and_grads put the gradient of differentiable_loss into every parameter's .grad"
    _require_equal(f"{case.name} in a step of pyro.infer.SVI", (stepped, moved), (loss, gradients), advice, 1e-10)


def _rule_loss_is_scaled_by_n_over_m(case: Case) -> None:
    """With N data, of which M are in the minibatch, loss and gradient are N/M times those without a size."""
    plain = KnownPair(off=0.1)
    scaled = KnownPair(size=70, off=0.1)
    loss, gradients = plain.loss_and_gradients(case.built())
    expected = (7 * loss, [7 * gradient for gradient in gradients])
    found = scaled.loss_and_gradients(case.built())
    ratio = found[0] / loss
    advice = "scale every term by its plate's N/M, outside of any logarithm"
    what = (
        f"{case.name} with N = 70 data, M = 10 of them in the minibatch, is {ratio:.6g} times that without a size: it"
    )
    _require_equal(what, found, expected, advice, 1e-10)


def _rule_is_right_at_the_posterior(case: Case, bound: bool, **options: int) -> None:
    """Where the guide is the posterior, the loss is -log p(x) in expectation, and so is its gradient.

    Every bound on log p(x) touches it there, whatever it is elsewhere. The mean is over twenty losses, each of which
    sees every datum a hundred times, and must lie within seven of its standard errors.
    """
    repeats = 100
    settings = ", ".join(f"{key}={value}" for key, value in options.items())
    name = f"{case.name}({settings})" if options else case.name
    estimator = case.built(**options)
    pair = KnownPair()
    parameters = list(pair.parameters.values())
    exact = -pair.log_evidence
    exact_gradients = torch.autograd.grad(exact, parameters, materialize_grads=True, allow_unused=True)
    many = pair.x.repeat(repeats, 1)
    draws = [pair.loss_and_gradients(estimator, many, seed) for seed in range(20)]
    losses = torch.stack([loss for loss, _ in draws]) / repeats
    _require_mean(f"{name}: the mean loss", losses, exact.detach(), "return -(N/M) times the sum of the bound")
    if not bound:
        return
    for i, parameter in enumerate(pair.parameters):
        gradients = torch.stack([each[i] for _, each in draws]) / repeats
        advice = "make its gradient unbiased, or where it is biased on purpose check it with bound=False"
        _require_mean(f"{name}: the mean gradient by {parameter!r}", gradients, exact_gradients[i], advice)


def _require_mean(what: str, draws: Tensor, exact: Tensor, advice: str) -> None:
    """Of draws ``(R, ...)``: within seven standard errors of the exact value, in each of its elements."""
    mean = draws.mean(0)
    error = draws.std(0) / len(draws) ** 0.5
    excess = (mean - exact).abs() / (error + 1e-8)
    worst = int(excess.argmax())
    require(
        bool(excess.max() < 7),
        f"{what} where the guide is the posterior is {mean.flatten()[worst]:.5g} +- {error.flatten()[worst]:.2g}, not "
        f"{exact.flatten()[worst]:.5g}: {advice}",
    )


def _rule_can_be_recorded(case: Case) -> None:
    """The step as a graph of tensor operations is the step, bit for bit: at other rows, other noise, annealed."""
    estimator = case.built()
    pair = KnownPair(size=20, off=0.1)
    recording = _recorded(case, estimator, pair)
    what = f"{case.name} recorded as a graph"
    _require_replayed(what, recording, estimator, pair, torch.arange(5))
    _require_replayed(f"{what}, at other rows and noise,", recording, estimator, pair, torch.tensor([7, 2, 9, 4, 0]))
    if hasattr(estimator, "anneal") and estimator.anneal(7):
        _require_replayed(f"{what} and then annealed", recording, estimator, pair, torch.arange(5))


def _recorded(case: Case, estimator: Any, pair: KnownPair) -> Recording:
    parameters: list[Tensor] = list(pair.parameters.values())
    others = [*pair.model.buffers(), *pair.guide.buffers(), *tensors_of(estimator).values()]

    def loss(rows: Tensor, _: Tensor) -> Tensor:
        value: Tensor = estimator.differentiable_loss(pair.model, pair.guide, pair.x[rows])
        return value

    visit = (torch.arange(5), torch.zeros((), dtype=torch.int64))
    loss(*visit)  # a first step with validation on, in which an estimator may find out how to run the pair
    try:
        with pyro.validation_enabled(False):  # which reads numbers out of tensors
            return record(loss, visit, parameters, (pair.x,), others, compiled=False)
    except Exception as error:  # whatever the tracer raises
        raise AssertionError(
            f"{case.name} cannot be recorded as a graph, {told(error)}: compute the loss without .item(), without a "
            "branch on data, and without a Python number that should be a tensor"
        ) from error


def _require_replayed(what: str, recording: Recording, estimator: Any, pair: KnownPair, rows: Tensor) -> None:
    """Loss and gradients of the recording are those of the estimator, at noise that goes with the rows."""
    seed = int(rows[0])
    with seeded(seed):
        loss, gradients = recording((rows, torch.zeros((), dtype=torch.int64)))
    parameters = pair.parameters.values()
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    expected = pair.loss_and_gradients(estimator, pair.x[rows], seed)
    advice = "make every number that varies a tensor of the estimator, changed in place, and branch on no data"
    _require_equal(what, (loss, found), expected, advice)


_RULES = (
    _rule_touches_nothing_global,
    _rule_loss_is_a_scalar,
    _rule_takes_the_arguments_of_elbo,
    _rule_same_seed_same_loss,
    _rule_drops_into_svi,
    _rule_loss_is_scaled_by_n_over_m,
    _rule_can_be_recorded,
    rule_repr,
)
