"""A pair whose weights are latents: the model samples them from their prior, the guide from their posterior."""

import math
from collections.abc import Iterable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_aevb.bayesian.functions import Lifted, WeightedFunction
from pyro_aevb.errors import InputError, flag, function, instance, positive, told
from pyro_aevb.models import GenerativeModel, RecognitionModel, _register
from pyro_aevb.pairs import Pair, modules_named_by
from pyro_aevb.pyro_internals import constrained_parameters

__all__ = ["BayesianGuide", "BayesianModel", "WeightPosterior", "bayesian"]

Densities = dict[str, TorchDistributionMixin]


def bayesian(
    model: Pair,
    guide: Pair,
    *,
    prior_scale: float = 1.0,
    initial_scale: float = 0.01,
    point_mass: bool = False,
    modules: nn.Module | Iterable[nn.Module] | None = None,
) -> tuple["BayesianModel", "BayesianGuide"]:
    r"""Make any pair Bayesian in its model's weights.

    .. math:: \theta \sim \mathcal{N}(0, s^2 I), \quad q(\theta) = \mathcal{N}(\mu_\theta, \sigma_\theta^2 I)

    The new pair takes the same arguments. Each weight is a site outside the data plate, named as ``Trainer`` names the
    parameter. Both run the functions they were made of, with the sampled weights in place of the model's own, which are
    neither changed nor trained. Buffers, weights with ``requires_grad=False`` and weights that the guide reaches too
    stay as they are; the guide's are trained as before, in place.

    Arguments:
        model: The model, any Pyro function whose weights are in ``nn.Module`` s.
        guide: Its guide.
        prior_scale: Standard deviation s of the prior of each weight.
        initial_scale: Standard deviation of q at the start; its mean starts at the model's present weights.
        point_mass: Whether q is a point, :math:`q(\theta) = \delta(\theta - \mu_\theta)`: maximum a posteriori, a
            weight decay of :math:`1/s^2` in the loss :math:`-\frac NM \sum_i \mathcal L(x_i)`.
        modules: The model's modules whose weights are made Bayesian; by default all of them. Needed where model and
            guide are methods of one module; then all other weights stay points, those made by ``pyro.param`` too.

    Returns:
        The new model and guide, each an ``nn.Module``.

    Raises:
        InputError: If there are no such weights, one of them is constrained, or the pair's ``size`` is ``None``. When
            run: if the model has parameters that are in none of its modules.

    References:
        | Auto-Encoding Variational Bayes, Appendix F (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """
    function("model", model)
    function("guide", guide)
    flag("point_mass", point_mass)
    _check_size(model, guide)
    latents = _find_latents(model, guide, modules)
    _check_unconstrained(model, latents)
    positive("prior_scale", prior_scale)
    if positive("initial_scale", initial_scale) < SMALLEST_SCALE:
        raise InputError(f"initial_scale must be at least e^-10, where log-scales end, not {initial_scale}")
    posterior = WeightPosterior(latents, initial_scale, point_mass)
    return (
        BayesianModel(model, latents, prior_scale, of_guide=_parameters(guide).values(), whole=modules is None),
        BayesianGuide(guide, latents, posterior),
    )


def _check_size(model: Pair, guide: Pair) -> None:
    for part in (model, guide):
        if isinstance(part, GenerativeModel | RecognitionModel) and part.size is None:
            raise InputError(
                f"the {type(part).__name__} has size=None, so that a minibatch would count as all the data against the "
                "weights' prior: give it size=N, the number of data"
            )


def _parameters(function: Pair) -> dict[str, nn.Parameter]:
    """Every parameter behind a function, once, by name."""
    named = [
        (f"{m}.{n}", p) for m, part in modules_named_by(function, function).items() for n, p in part.named_parameters()
    ]
    first = {id(p): name for name, p in reversed(named)}
    return {name: p for name, p in named if first[id(p)] == name}


def _find_latents(model: Pair, guide: Pair, modules: nn.Module | Iterable[nn.Module] | None) -> dict[str, nn.Parameter]:
    own = {name: p for name, p in _parameters(model).items() if p.requires_grad}
    if modules is None:
        excluded = {id(p) for p in _parameters(guide).values()}
        latents = {name: p for name, p in own.items() if id(p) not in excluded}
    else:
        chosen = _modules(modules)
        wanted = {id(p) for part in chosen for p in part.parameters() if p.requires_grad}
        latents = {name: p for name, p in own.items() if id(p) in wanted}
        if len(latents) < len(wanted):
            raise InputError("modules= holds weights that are not the model's: give parts of the model")
    if not latents:
        raise InputError(
            "the model has no weights of its own to be Bayesian: keep them as nn.Parameter of nn.Modules that it is, "
            "is a method of or names, not in pyro.param; where it shares a module with the guide, name its parts with "
            "modules="
        )
    return latents


def _modules(modules: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    if isinstance(modules, nn.Module):
        return [modules]
    if not isinstance(modules, Iterable) or isinstance(modules, str):
        raise InputError(f"modules must be one nn.Module of the model or several, not {told(modules)}")
    return [instance("each of modules", module, nn.Module, "give parts of the model") for module in modules]


def _check_unconstrained(model: Pair, latents: dict[str, nn.Parameter]) -> None:
    sites = {id(parameter): name for name, parameter in latents.items()}
    modules = [module for part in modules_named_by(model, model).values() for module in part.modules()]
    for module in modules:
        if not isinstance(module, PyroModule):
            continue
        for tensor in constrained_parameters(module).values():
            site = sites.get(id(tensor))
            if site is not None:
                raise InputError(
                    f"{site.removesuffix('_unconstrained')} is a PyroParam, whose constraint a Gaussian prior cannot "
                    "keep: make it an nn.Parameter, or name with modules= the parts to be Bayesian"
                )


class BayesianModel(Lifted):
    r"""A model that first samples its weights, :math:`p(\theta) \prod_i p(z_i) p(x_i \mid z_i, \theta)`.

    Made by :func:`bayesian`.

    Arguments:
        model: The model whose weights are sampled.
        latents: The sampled weights, by the name of their site.
        prior_scale: Standard deviation s of the prior of each weight.
        of_guide: Parameters that the model shares with the guide, which are the guide's to train.
        whole: Whether all of the model's weights are to be sampled, so that one in none of its modules is refused.
    """

    prior_scale: Tensor

    def __init__(
        self,
        model: Pair,
        latents: dict[str, nn.Parameter],
        prior_scale: float,
        *,
        of_guide: Iterable[nn.Parameter],
        whole: bool,
    ) -> None:
        super().__init__(WeightedFunction(model, latents), [*latents.values(), *of_guide])
        self.shapes = {site: parameter.shape for site, parameter in latents.items()}
        first = next(iter(latents.values()))
        # A buffer: a recorded step reads it where it lies.
        self.register_buffer("prior_scale", first.new_tensor(prior_scale).detach())
        self.whole = whole

    def prior(self) -> Densities:
        r"""p(theta) of each weight, :math:`\mathcal{N}(0, s^2 I)`, by site."""
        normal = dist.Normal(torch.zeros_like(self.prior_scale), self.prior_scale)
        return {site: normal.expand(shape).to_event(len(shape)) for site, shape in self.shapes.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Sample the weights, then run the model with them; returns what the model returns."""
        weights = {site: pyro.sample(site, p) for site, p in self.prior().items()}
        return self.function.at(weights, args, kwargs, whole=self.whole)


SMALLEST_SCALE = math.exp(-10)


class WeightPosterior(nn.Module):
    r""":math:`q(\theta) = \mathcal{N}(\mu_\theta, \sigma_\theta^2 I)`, or a point mass; log-scales within [-10, 10].

    Arguments:
        latents: The weights, by the name of their site, at whose present values the means start.
        initial_scale: Standard deviation of each weight at the start.
        point_mass: Whether q is a point mass at the means, which has no scales.
    """

    def __init__(self, latents: dict[str, nn.Parameter], initial_scale: float, point_mass: bool) -> None:
        super().__init__()
        self.sites = list(latents)
        self.loc = nn.ParameterList(p.detach().clone() for p in latents.values())
        self.log_scale = nn.ParameterList(torch.full_like(p, math.log(initial_scale)) for p in self.loc)
        if point_mass:
            self.log_scale = nn.ParameterList()

    def forward(self) -> Densities:
        """q(theta) of each weight, by site."""
        if not self.log_scale:
            return {s: dist.Delta(loc, event_dim=loc.dim()) for s, loc in zip(self.sites, self.loc, strict=True)}
        return {
            site: dist.Normal(loc, log_scale.clamp(math.log(SMALLEST_SCALE), 10).exp()).to_event(loc.dim())
            for site, loc, log_scale in zip(self.sites, self.loc, self.log_scale, strict=True)
        }

    @property
    def is_point_mass(self) -> bool:
        """Whether q(theta) has no density."""
        return not self.log_scale


class BayesianGuide(Lifted):
    r"""A guide that first samples the model's weights, :math:`q(\theta) \prod_i q(z_i \mid x_i)`.

    Made by :func:`bayesian`.

    Arguments:
        guide: The guide of each datum's latents.
        latents: The model's weights that are sampled, by the name of their site.
        posterior: The posterior :math:`q(\theta)` that they are sampled from.
    """

    def __init__(self, guide: Pair, latents: dict[str, nn.Parameter], posterior: WeightPosterior) -> None:
        super().__init__(WeightedFunction(guide, latents), latents.values())
        self.posterior = posterior

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Sample the weights, then run the guide, with those that it shares; returns what the guide returns."""
        _register(self.posterior)
        weights = {site: pyro.sample(site, q) for site, q in self.posterior().items()}
        return self.function.at(weights, args, kwargs)
