"""The contract of priors, likelihoods and guides, rule by rule."""

import copy
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_aevb import traces
from pyro_aevb.errors import InputError
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Gaussian, Likelihood
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.pairs import tensors_of
from pyro_aevb.priors import Prior, StandardNormal
from pyro_aevb.seeds import seeded
from pyro_aevb.testing.case import BATCH, LEADING, PARTICLES, Case, require, rule_repr, told
from pyro_aevb.testing.densities import rule_draws_have_the_density
from pyro_aevb.testing.settings import check, nothing_global_touched, require_unseeded

__all__ = ["check_guide", "check_likelihood", "check_prior"]

ROWS = 32  # so many that not every unit of a small relu layer is dead on all of them


def check_prior(make: Callable[..., Prior], *, latent_dim: int = 3, shares: Sequence[nn.Module] = ()) -> None:
    """Check a prior against its contract: ``prior()`` is a Pyro distribution over K latent dimensions.

    Of a prior p(z|c), whose ``forward`` names an argument, ``prior(c)`` is one for each row of c, ``(B, C)``, C being
    its attribute ``condition``.

    Arguments:
        make: The class, or what else makes the prior when it is called with ``latent_dim``.
        latent_dim: Number of latent dimensions K to build it with.
        shares: Modules in float32 on the CPU that the prior reads and does not own, as a ``VampPrior`` reads its guide:
            they are moved to another dtype or device together with it, and back.

    Raises:
        AssertionError: Names the first rule that is broken, what was found and what to do.
    """
    case = Case(make, {"latent_dim": latent_dim}, Prior, _conditions(make, latent_dim), latent_dim, tuple(shares))
    check(case, *_RULES, _rule_draws_pass_gradients_on, rule_draws_have_the_density)


def _conditions(make: Callable[..., Prior], latent_dim: int) -> Callable[[int], tuple[Tensor, ...]]:
    """What a prior is called with: nothing, or a condition. It is made where a rule asks, which cleans up after it."""

    def given(rows: int) -> tuple[Tensor, ...]:
        """A condition of so many rows, for a prior that names one; nothing for others."""
        with seeded(0):
            made = make(latent_dim)
        if not made.takes_condition:
            return ()
        columns: Any = made.condition
        return (torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)),)

    return given


def check_likelihood(make: Callable[..., Likelihood], *, latent_dim: int = 3, data_dim: int = 6) -> None:
    """Check a likelihood against its contract: ``likelihood(z)`` is a Pyro distribution over D observed dimensions.

    Besides the rules of every part, latents ``(S, B, K)`` must give what each of the S draws ``(B, K)`` gives alone.

    Arguments:
        make: The class, or what else makes the likelihood when it is called with ``latent_dim`` and ``data_dim``.
        latent_dim: Number of latent dimensions K to build it with.
        data_dim: Number of observed dimensions D to build it with.

    Raises:
        AssertionError: Names the first rule that is broken, what was found and what to do.
    """

    def latents(rows: int) -> tuple[Tensor, ...]:
        return (torch.randn(PARTICLES, rows, latent_dim, generator=torch.Generator().manual_seed(0)),)

    sizes = {"latent_dim": latent_dim, "data_dim": data_dim}
    case = Case(make, sizes, Likelihood, latents, data_dim)
    further = (_rule_takes_particles, _rule_treats_particles_alike, _rule_rows_are_independent)
    check(case, *_RULES, *further, _rule_depends_on_its_argument, rule_draws_have_the_density)


def check_guide(
    make: Callable[..., Guide],
    *,
    data_dim: int = 6,
    latent_dim: int = 3,
    prior: Callable[[int], Prior] = StandardNormal,
) -> None:
    """Check a guide against its contract: ``guide(x)`` is a Pyro distribution over K latent dimensions for each datum.

    Besides the rules of every part, its support must be that of the prior that it is meant for.

    Arguments:
        make: The class, or what else makes the guide when it is called with ``data_dim`` and ``latent_dim``.
        data_dim: Number of observed dimensions D to build it with.
        latent_dim: Number of latent dimensions K to build it with.
        prior: What makes a prior that the guide goes with, when it is called with ``latent_dim``; by default N(0, I),
            for guides that can draw any real number.

    Raises:
        AssertionError: Names the first rule that is broken, what was found and what to do.
    """

    def data(rows: int) -> tuple[Tensor, ...]:
        return (torch.rand(rows, data_dim, generator=torch.Generator().manual_seed(0)),)

    case = Case(make, {"data_dim": data_dim, "latent_dim": latent_dim}, Guide, data, latent_dim)
    further = (_rule_rows_are_independent, _rule_draws_pass_gradients_on, rule_draws_have_the_density)
    check(case, *_RULES, *further, partial(_rule_has_the_priors_support, prior=prior))


# ---------------------------------------------------------------- of every part


def _rule_touches_nothing_global(case: Case) -> None:
    """Building a part and running it changes no setting of the process, and seeds nothing."""
    with nothing_global_touched(case.name):
        case.drawn(case.run(case.built()))
    require_unseeded(case.name, lambda: case.drawn(case.run(case.make(*case.sizes.values()))))


def _rule_shapes(case: Case) -> None:
    """Batch shape, event shape, the shapes of draws and of their log densities, which are finite."""
    made = case.run(case.built())
    value = case.drawn(made, (2,))
    expected = (2, *made.batch_shape, *made.event_shape)
    require(
        value.shape == expected,
        f"{case.name}: a draw of sample shape (2,) has shape {tuple(value.shape)}, not {expected}: "
        "make sample return sample shape, batch shape and event shape together",
    )
    log_prob = made.log_prob(value)
    require(
        log_prob.shape == expected[:-1],
        f"{case.name}: log_prob of values {expected} has shape {tuple(log_prob.shape)}, not {expected[:-1]}: "
        "make log_prob sum over the event dimension alone",
    )
    wrong = int((~log_prob.isfinite()).sum())
    require(
        wrong == 0,
        f"{case.name}: log_prob of {wrong} of {log_prob.numel()} values that it has drawn itself is not finite, the "
        f"first {log_prob[~log_prob.isfinite()][:1].tolist()}: make sample and log_prob those of one distribution",
    )


def _rule_can_be_expanded(case: Case) -> None:
    """A plate expands what a part returns, which must stay what it is: whether it has a path, too."""
    made = case.run(case.built())
    try:
        wider = made.expand((2, *made.batch_shape))
    except Exception as error:  # whatever a stranger's distribution raises
        raise AssertionError(
            f"{case.name}: what it returned cannot be expanded, as a plate does, {told(error)}: give its distribution "
            "an expand"
        ) from error
    require(
        wider.has_rsample == made.has_rsample,
        f"{case.name}: has_rsample is {made.has_rsample}, and {wider.has_rsample} once a plate has expanded what it "
        "returned: expand forgets has_rsample_(...); write has_rsample in a subclass of the distribution instead",
    )


def _rule_leaves_its_argument_alone(case: Case) -> None:
    """The data belong to the caller."""
    given = case.arguments(BATCH)
    before = [argument.clone() for argument in given]
    case.run(case.built(), *given)
    require(
        all(torch.equal(one, other) for one, other in zip(before, given, strict=True)),
        f"{case.name}.forward changes its argument in place: compute on a copy",
    )


def _rule_gradient_reaches_every_parameter(case: Case) -> None:
    """Of the log density, by each parameter that is to be trained; what is drawn counts only where no density does."""
    part = case.built()
    _fill_zeros(part)
    parameters = {name: p for name, p in part.named_parameters() if p.requires_grad}
    if not parameters:
        return
    log_prob = _log_prob_to_differentiate(case, case.run(part, *case.arguments(ROWS)))
    require(
        log_prob.requires_grad,
        f"{case.name}: log_prob has no gradient by any of its parameters, {', '.join(map(repr, parameters))}: "
        "compute the distribution from them, without .detach(), .data or torch.no_grad()",
    )
    gradients = torch.autograd.grad(log_prob.sum(), list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        require(
            gradient is not None and bool((gradient != 0).any()),
            f"{case.name}: no gradient of log_prob reaches the parameter {name!r}, it is "
            f"{'None' if gradient is None else 'zero'}: use it in forward without .detach(), or make it a buffer",
        )
        require(
            gradient is not None and bool(gradient.isfinite().all()),
            f"{case.name}: the gradient of log_prob by the parameter {name!r} is not finite: bound what overflows",
        )


def _fill_zeros(part: nn.Module) -> None:
    """Small numbers for initial zeros: behind a layer of zeros no gradient reaches what came before it."""
    with seeded(0), torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.where(parameter == 0, 0.01 * torch.randn_like(parameter), parameter))


def _log_prob_to_differentiate(case: Case, made: Any) -> Tensor:
    """The log density of given values, or where it cannot be told, as of planar flows, of what was just drawn."""
    value = case.drawn(made, () if made.batch_shape else (50,))
    try:
        log_prob: Tensor = made.log_prob(value.clone())  # a copy: the draw's own may be remembered, without a gradient
    except Exception as error:  # whatever a stranger's distribution raises
        require(
            made.has_rsample,
            f"{type(made).__name__}.log_prob of a copy of what it has drawn failed, {told(error)}: make it the "
            "density of any value, or give the distribution an rsample",
        )
        log_prob = made.log_prob(made.rsample())
    return log_prob


def _rule_state_can_be_saved(case: Case) -> None:
    """Saved and loaded without pickle, its state makes another part draw the same and have the same density."""
    first = case.built(seed=0)
    second = case.built(seed=1)
    try:
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
    except Exception as error:  # whatever a stranger's state raises
        raise AssertionError(
            f"{case.name}: its state_dict does not come back from a file that is loaded with weights_only=True, "
            f"{told(error)}: keep tensors alone in it"
        ) from error
    _require_same(
        case,
        first,
        second,
        "whose state was saved and loaded into another one",
        "keep every number that it begins with at random, or learns, in a parameter or a buffer",
    )


def _require_same(case: Case, first: nn.Module, second: nn.Module, words: str, advice: str) -> None:
    value, density = case.draw(first)
    other_value, other_density = case.draw(second)
    for what, one, other in (("draws", value, other_value), ("log densities", density, other_density)):
        same = torch.equal(one, other)
        difference = "" if same else f", by up to {(one - other).abs().max():.3g}"
        require(same, f"{case.name} {words} has other {what} at the same seed{difference}: {advice}")


def _rule_same_seed_same_draws(case: Case) -> None:
    """All chance comes from torch's global generator, as Pyro's own does."""
    part = case.built()
    advice = "draw from torch's global generator alone, and keep no count of calls"
    _require_same(case, part, part, "run twice", advice)
    _require_same(case, part, case.built(), "built twice at the same seed", advice)


def _rule_can_be_copied(case: Case) -> None:
    """A deep copy is the same part, with weights of its own."""
    part = case.built()
    case.run(part)  # what it keeps of a run must not be in a copy's way
    try:
        twin = copy.deepcopy(part)
    except Exception as error:  # whatever a stranger's attributes raise
        raise AssertionError(
            f"copy.deepcopy of {case.name} failed after it has run, {told(error)}: keep no tensor of a run in it"
        ) from error
    _require_same(case, part, twin, "and its deep copy differ: the copy", "let copy.deepcopy copy all that it reads")
    before = case.draw(part)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2).add_(1)
    after = case.draw(part)
    require(
        all(torch.equal(one, other) for one, other in zip(before, after, strict=True)),
        f"{case.name} changes when its deep copy's parameters do: let copy.deepcopy copy them",
    )


def _rule_constants_are_buffers(case: Case) -> None:
    """``.to`` moves parameters and buffers, nothing else."""
    part = case.built()
    moved = {id(tensor) for module in (part, *case.shares) for tensor in (*module.parameters(), *module.buffers())}
    for path, module in part.named_modules():
        if type(module).__module__.startswith(("torch.", "pyro.")):
            continue  # which keep tensors that they do not read, masks of autoregressive networks for one
        for name, value in vars(module).items():
            if name in _OF_TORCH:
                continue
            held = vars(value) if isinstance(value, torch.distributions.Distribution) else value
            left = [tensor for tensor in tensors_of({name: held}).values() if id(tensor) not in moved]
            require(
                not left,
                f"{case.name}: {f'{path}.' if path else ''}{name} holds a tensor that .to(...) does not move: "
                f"make it a buffer, self.register_buffer({name!r}, ...)",
            )


_OF_TORCH = vars(nn.Module()).keys()  # where torch keeps parameters, buffers, modules and hooks


def _rule_moves(case: Case) -> None:
    """Everything follows ``.to(torch.float64)``, and to a GPU where this machine has one."""
    try:
        _require_moved(case, torch.float64, "cpu")
        if torch.cuda.is_available():
            _require_moved(case, torch.float64, "cuda")
    finally:
        for module in case.shares:
            module.to("cpu", torch.float32)


def _require_moved(case: Case, dtype: torch.dtype, device: str) -> None:
    part = case.built().to(device, dtype)
    for module in case.shares:
        module.to(device, dtype)
    advice = "make each constant a buffer, and new tensors of an argument's or a parameter's dtype and device"
    try:
        made = case.run(part, *(argument.to(device, dtype) for argument in case.arguments(BATCH)))
        value = made.sample()
        log_prob = made.log_prob(value)
    except Exception as error:  # whatever a product of two dtypes raises
        raise AssertionError(f"{case.name} does not run after .to({device!r}, {dtype}), {error}: {advice}") from error
    for what, tensor in (("draws", value), ("log densities", log_prob)):
        require(
            tensor.dtype == dtype and tensor.device.type == device,
            f"{case.name}: after .to({device!r}, {dtype}) its {what} are {tensor.dtype} on {tensor.device.type}: "
            f"{advice}",
        )


# ---------------------------------------------------------------- of likelihoods, and of guides


def _rule_takes_particles(case: Case) -> None:
    """Latents may have any leading dimensions: one alone, a minibatch, particles of it, or more."""
    likelihood = case.built().eval()
    for leading in ((), (BATCH,), (PARTICLES, BATCH), (2, PARTICLES, BATCH)):
        z = torch.randn(*leading, case.sizes["latent_dim"], generator=torch.Generator().manual_seed(0))
        case.run(likelihood, z)


def _rule_treats_particles_alike(case: Case) -> None:
    """S draws at once have the densities that each has alone; in evaluation, since dropout and the like draw anew."""
    likelihood = case.built().eval()
    (z,) = case.arguments(BATCH)
    with torch.no_grad():
        x = case.drawn(case.run(likelihood, z[0]))
        together = case.run(likelihood, z).log_prob(x)  # (S, B)
        one_by_one = torch.stack([case.run(likelihood, z_s).log_prob(x) for z_s in z])
    require(
        torch.allclose(together, one_by_one, rtol=1e-4, atol=1e-5),
        f"{case.name}: {PARTICLES} draws of z at once, {tuple(z.shape)}, have other log densities than one by one, by "
        f"up to {(together - one_by_one).abs().max():.3g}: {LEADING}",
    )


def _rule_rows_are_independent(case: Case) -> None:
    """The distribution of a datum depends on its own row alone; in evaluation, where a batch normalisation does too."""
    part = case.built().eval()
    _fill_zeros(part)
    given = tuple(argument.reshape(-1, argument.shape[-1])[:BATCH] for argument in case.arguments(BATCH))
    with torch.no_grad():
        made = case.run(part, *given)
        value = case.drawn(made)
        try:
            together = made.log_prob(value.clone())  # (B,)
            alone = [case.run(part, *(a[i : i + 1] for a in given)).log_prob(value[i : i + 1]) for i in range(BATCH)]
        except (NotImplementedError, KeyError):  # of a planar flow, which tells the density of nothing given
            return
    apart = (together - torch.cat(alone)).abs()
    require(
        bool((apart <= 1e-5 + 1e-4 * together.abs()).all()),
        f"{case.name}: a row alone has another log density than among {BATCH} rows, by up to {apart.max():.3g}: let "
        "each row's distribution depend on that row alone, without means or other statistics over the minibatch",
    )


def _rule_depends_on_its_argument(case: Case) -> None:
    """A likelihood's density has a gradient by the latents: without it no guide learns."""
    part = case.built()
    _fill_zeros(part)
    (z,) = case.arguments(ROWS)
    z = z[0].requires_grad_()
    made = case.run(part, z)
    log_prob = made.log_prob(case.drawn(made))
    gradient = torch.autograd.grad(log_prob.sum(), z, allow_unused=True)[0] if log_prob.requires_grad else None
    require(
        gradient is not None and bool((gradient != 0).any()),
        f"{case.name}: no gradient of log_prob reaches the latents z: compute the distribution from z, without "
        ".detach()",
    )


def _rule_draws_pass_gradients_on(case: Case) -> None:
    """What says that it has a path, by ``has_rsample``, has one: a draw's gradient reaches a parameter."""
    part = case.built()
    _fill_zeros(part)
    parameters = [p for p in part.parameters() if p.requires_grad]
    made = case.run(part, *case.arguments(ROWS))
    if not parameters or not made.has_rsample:
        return
    drawn = made.rsample()
    gradients = torch.autograd.grad(drawn.sum(), parameters, allow_unused=True) if drawn.requires_grad else []
    require(
        any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients),
        f"{case.name} has has_rsample=True, and no gradient of a draw reaches any of its parameters: draw by a path, "
        "without .detach(), or set has_rsample to False",
    )


def _rule_is_a_function(case: Case) -> None:
    """Called twice in evaluation, it returns one distribution, whatever noise is drawn on the way."""
    part = case.built().eval()
    given = case.arguments(BATCH)
    with torch.no_grad():
        found = []
        for seed in (1, 2):
            with seeded(seed):
                found.append(case.run(part, *given))
        first, second = found
        value = case.drawn(first)
        try:
            same = torch.equal(first.log_prob(value.clone()), second.log_prob(value.clone()))
        except (NotImplementedError, KeyError):  # as above
            return
    require(
        same,
        f"{case.name}: called twice in eval() it returns two distributions: draw nothing in forward, or only in "
        "training",
    )


def _rule_has_the_priors_support(case: Case, prior: Callable[[int], Prior]) -> None:
    """The guide draws where its prior has a density, everywhere there and nowhere else."""
    latent_dim = case.sizes["latent_dim"]
    data_dim = case.sizes["data_dim"]
    model = GenerativeModel(prior(latent_dim), Gaussian(latent_dim, data_dim, hidden=[]))
    guide = RecognitionModel(case.built())
    try:
        traces.check_guide(model, guide, case.arguments(BATCH))
    except InputError as error:
        raise AssertionError(
            f"{case.name} does not go with the prior {type(model.prior).__name__}: {error}; or check it "
            "with the prior that it is meant for, check_guide(..., prior=...)"
        ) from error


_RULES = (
    _rule_touches_nothing_global,
    _rule_shapes,
    _rule_can_be_expanded,
    _rule_leaves_its_argument_alone,
    _rule_constants_are_buffers,
    _rule_moves,
    _rule_gradient_reaches_every_parameter,
    _rule_same_seed_same_draws,
    _rule_is_a_function,
    _rule_state_can_be_saved,
    _rule_can_be_copied,
    rule_repr,
)
