"""The paper's pair as two Pyro functions: the model p(z) p(x|z) and the guide q(z|x).

A hand-written Pyro pair is as good as these: every estimator, ``Trainer`` and the evidence take any.
"""

import itertools
import math
import weakref
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.conditions import Conditioned, beside
from pyro_aevb.distributions import PartlyObserved
from pyro_aevb.errors import InputError, instance
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.pairs import Pair, copies_of_each, own_module
from pyro_aevb.priors import Prior

__all__ = ["GenerativeModel", "RecognitionModel", "call_part", "check_sizes"]

_counter = itertools.count()
_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()


def _register(module: nn.Module) -> None:
    """Tell Pyro's parameter store of a module's parameters, under a name that no other module ever has.

    A second module under a name already taken would silently not train at all: the store keeps the first one's
    parameters and the optimizer steps those.
    """
    if module not in _names:
        _names[module] = f"{type(module).__name__}{next(_counter)}"
    pyro.module(_names[module], module)


def call_part(part: nn.Module, *arguments: Tensor, batch: torch.Size, event: int) -> Any:
    """The distribution that a prior, likelihood or guide returns, if it is as its base class asks.

    Arguments:
        part: The prior, likelihood or guide.
        arguments: Arguments of its ``forward``.
        batch: The batch shape that its distribution must have.
        event: The length of the vectors that it must be over.

    Raises:
        InputError: Names the part, what it returned, and what was expected.
    """
    try:
        made = part(*arguments)
    except InputError:
        raise
    except ValueError as error:  # a distribution that refuses its parameters
        raise ValueError(f"{type(part).__name__}.forward failed: {error}") from error
    if not isinstance(made, TorchDistributionMixin):
        raise InputError(
            f"{type(part).__name__}.forward returned a {type(made).__module__}.{type(made).__name__}: "
            "return a distribution of pyro.distributions"
        )
    if made.batch_shape == batch and made.event_shape == (event,):
        return made
    forgotten = made.batch_shape == (*batch, event) and made.event_shape == ()
    raise InputError(
        f"{type(part).__name__}.forward returned a {type(made).__name__} with batch shape {tuple(made.batch_shape)} "
        f"and event shape {tuple(made.event_shape)}, not {tuple(batch)} and ({event},)"
        + (": was .to_event(1) forgotten?" if forgotten else "")
    )


def _plate(x: Tensor, size: int | None, training: bool) -> pyro.plate:
    """The plate over a minibatch of M out of ``size`` data: it scales log densities by N/M, equation (8).

    In evaluation, where nothing is scaled, there may be more data than those that were trained on.
    """
    batch_size = len(x)
    if training and size is not None and size < batch_size // copies_of_each():
        raise InputError(
            f"size={size} is less than the {batch_size} data of one minibatch: give size the number of data that "
            "minibatches are drawn from, len(data)"
        )
    return pyro.plate("data", max(size or 0, batch_size), subsample=torch.arange(batch_size, device=x.device), dim=-1)


def check_sizes(count: int, *parts: Pair) -> None:
    """Refuse a model or guide whose ``size`` is less than the number of data to train on: its loss would count fewer.

    Arguments:
        count: Number of data to train on.
        parts: Models and guides. A ``size`` is that of a :class:`GenerativeModel` or :class:`RecognitionModel`, the
            callable itself or a module inside it; somebody's own callables have none, and pass.

    Raises:
        InputError: Names the size and the number of data.
    """
    held = (module for part in parts for own in [own_module(part)] if own is not None for module in own.modules())
    for module in held:
        if isinstance(module, GenerativeModel | RecognitionModel) and module.size is not None and module.size < count:
            raise InputError(
                f"the {type(module).__name__} has size={module.size}, less than the {count} data to train on: give it "
                f"size={count}, len(data)"
            )


class GenerativeModel(Conditioned):
    r"""The generative model, a Pyro function of a minibatch, and of what it is conditioned on.

    .. math:: z_i \sim p(z \mid c_i), \quad x_i \sim p(x \mid z_i, c_i)

    A likelihood takes the condition where its ``latent_dim`` is K + C, that of the latents and the condition's columns
    together: it is given both side by side. With a ``latent_dim`` of K it is given z alone. A prior takes the condition
    where its ``forward`` has an argument for it, as :class:`~pyro_aevb.priors.ConditionalNormal` 's.

    Arguments:
        prior: The prior p(z), or p(z|c).
        likelihood: The likelihood p(x|z), or p(x|z,c).
        size: Number N of data that minibatches are drawn from, so that the loss is scaled by N/M (8); ``None``, the
            default, for a loss that is not scaled.
        condition: Number of columns C of the condition: how many categories there are, or how many covariates; 0, the
            default, for none.
        missing: Whether NaN means that a value is missing: then the density is that of what was observed. The numbers
            of a datum must be independent given z.
        exposure: Whether each datum comes with an exposure, a positive number that multiplies the mean of counts.

    Raises:
        InputError: If prior and likelihood have different ``latent_dim``, or are none; if ``size`` is no whole number
            of at least 1; if the likelihood takes no exposure. When run in training: if ``size`` is less than the
            number of data of the minibatch.

    References:
        | MIWAE: deep generative modelling and imputation of incomplete data (Mattei & Frellsen, 2019)
        | https://arxiv.org/abs/1812.02633
    """

    def __init__(
        self,
        prior: Prior,
        likelihood: Likelihood,
        size: int | None = None,
        *,
        condition: int = 0,
        missing: bool = False,
        exposure: bool = False,
    ) -> None:
        super().__init__(size, condition, missing, exposure)
        instance("prior", prior, Prior, "give one of pyro_aevb.priors, or a subclass of Prior")
        instance("likelihood", likelihood, Likelihood, "give one of pyro_aevb.likelihoods, or a subclass of Likelihood")
        together = prior.latent_dim + condition
        if likelihood.latent_dim not in (prior.latent_dim, together):
            both = f", or the likelihood {together}, with the {condition} columns of the condition" if condition else ""
            raise InputError(
                f"the prior has {prior.latent_dim} latent dimensions, the likelihood {likelihood.latent_dim}: "
                f"give both the same latent_dim{both}"
            )
        if exposure and not likelihood.takes_exposure:
            raise InputError(f"{type(likelihood).__name__} takes no exposure: choose a likelihood of counts")
        if prior.takes_condition and not condition:
            raise InputError(f"{type(prior).__name__} is p(z|c): give the model condition=..., c's number of columns")
        if condition and likelihood.latent_dim != together and not prior.takes_condition:
            raise InputError(
                f"neither prior nor likelihood takes the condition: give the likelihood latent_dim={together}, "
                f"{prior.latent_dim} + {condition}, or a prior p(z|c), or leave condition out"
            )
        self.prior = prior
        self.likelihood = likelihood

    def forward(self, x: Tensor, condition: Tensor | None = None, exposure: Tensor | None = None) -> Tensor:
        """Sample ``"z"`` and observe ``"x"``; returns z, ``(..., B, K)``.

        Arguments:
            x: Data, ``(B, D)``, or of another shape with as many numbers, as images have.
            condition: Whole numbers, ``(B,)``, the categories; or covariates, ``(B, C)``.
            exposure: Positive numbers, ``(B,)``.
        """
        x = _rows(x, self.likelihood.data_dim, "likelihood", self.likelihood)
        _register(self)
        with _plate(x, self.size, self.training):
            z = pyro.sample("z", self.prior_at(condition, x))
            pyro.sample("x", self.likelihood_at(z, condition, exposure), obs=x)
        return z

    def prior_at(self, condition: Tensor | None, like: Tensor) -> Any:
        """The distribution p(z), batch shape ``()``, or p(z|c), ``(B,)``.

        Arguments:
            condition: The condition, as for :meth:`forward`.
            like: A tensor of the precision and device that are wanted.
        """
        event = self.prior.latent_dim
        columns = self.columns_of(condition, like)
        if not self.prior.takes_condition or columns is None:
            return call_part(self.prior, batch=torch.Size(), event=event)
        return call_part(self.prior, columns, batch=columns.shape[:-1], event=event)

    def likelihood_at(self, z: Tensor, condition: Tensor | None = None, exposure: Tensor | None = None) -> Any:
        """The distribution p(x|z,c), batch shape ``(..., B)``, event shape ``(D,)``.

        Arguments:
            z: Latents, ``(..., B, K)``.
            condition: The condition of the B data, as for :meth:`forward`.
            exposure: Their exposure, ``(B,)``.
        """
        given = [self.latents_seen(z, condition)]
        if self.exposure and exposure is None:
            raise InputError("this GenerativeModel has exposure=True: give it (x, None, exposure), or a dictionary")
        if exposure is not None and self.exposure:
            given.append(exposure.reshape(-1, 1).to(z))  # (B, 1)
        made = call_part(self.likelihood, *given, batch=z.shape[:-1], event=self.likelihood.data_dim)
        return PartlyObserved(made) if self.missing else made

    def latents_seen(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the likelihood is given: latents, ``(..., B, K)``, and where it takes it the condition beside them."""
        columns = self.columns_of(condition, z)
        if columns is None or self.likelihood.latent_dim == z.shape[-1]:
            return z
        return beside(z, columns.to(z))


def _rows(x: Tensor, dim: int, role: str, part: nn.Module) -> Tensor:
    """Data as rows of D numbers, in the precision of a part's weights where they are whole numbers."""
    if math.prod(x.shape[1:]) != dim or x.dim() < 2:
        raise InputError(
            f"the {role} is over data_dim={dim}, but the data have shape {tuple(x.shape)}: give the {role} the data's "
            "own data_dim"
        )
    rows = x if x.dim() == 2 else x.flatten(1)
    if rows.is_floating_point():
        return rows
    dtype = next((p.dtype for p in part.parameters() if p.is_floating_point()), torch.get_default_dtype())
    return rows.to(dtype)


class RecognitionModel(Conditioned):
    r"""The guide, a Pyro function of a minibatch, and of what the model is conditioned on.

    .. math:: z_i \sim q(z \mid x_i, c_i)

    The network of the guide is given one vector for each datum: the data, zeros where a value is missing; with
    ``missing`` ones where it is there and zeros where not; the columns of the condition; the logarithm of the exposure.
    So ``data_dim`` of the guide is :meth:`input_dim`, or without the last two that of a guide that takes neither.

    Arguments:
        guide: The guide q(z|x), or q(z|x,c).
        size: Number N of data that minibatches are drawn from, the same as the model's; ``None``, the default, for a
            loss that is not scaled.
        condition: Number of columns C of the condition, the same as the model's.
        missing: Whether NaN means that a value is missing, as for the model.
        exposure: Whether each datum comes with an exposure, as for the model.
        inputs: Module that brings data into the form that the network sees, ``(B, D)`` to ``(B, D')``, what a
            likelihood's ``inputs()`` gives; by default they are seen as they are.

    Raises:
        InputError: If ``guide`` is none, or ``size`` is no whole number of at least 1. When run in training: if
            ``size`` is less than the number of data of the minibatch.
    """

    def __init__(
        self,
        guide: Guide,
        size: int | None = None,
        *,
        condition: int = 0,
        missing: bool = False,
        exposure: bool = False,
        inputs: nn.Module | None = None,
    ) -> None:
        super().__init__(size, condition, missing, exposure)
        self.guide = instance("guide", guide, Guide, "give one of pyro_aevb.guides, or a subclass of Guide")
        self.inputs = None if inputs is None else instance("inputs", inputs, nn.Module)

    @staticmethod
    def input_dim(
        data_dim: int, condition: int = 0, missing: bool = False, exposure: bool = False, inputs: Any = None
    ) -> int:
        """How many numbers the network of a guide is given for each datum: its ``data_dim``.

        >>> RecognitionModel.input_dim(784, condition=10)
        794
        """
        seen = data_dim if inputs is None else int(inputs.out_dim)
        return seen + data_dim * missing + condition + exposure

    def forward(self, x: Tensor, condition: Tensor | None = None, exposure: Tensor | None = None) -> Tensor:
        """Sample ``"z"`` from q(z|x,c); returns z, ``(..., B, K)``.

        Arguments:
            x: Data, ``(B, D)``, or of another shape with as many numbers, as images have.
            condition: Whole numbers, ``(B,)``, the categories; or covariates, ``(B, C)``.
            exposure: Positive numbers, ``(B,)``.
        """
        seen = self.seen(x, condition, exposure)
        _register(self)
        with _plate(x, self.size, self.training):
            return pyro.sample("z", call_part(self.guide, seen, batch=seen.shape[:1], event=self.guide.latent_dim))

    def seen(self, x: Tensor, condition: Tensor | None = None, exposure: Tensor | None = None) -> Tensor:
        """What the guide's network is given, ``(B, data_dim)``, for the arguments of :meth:`forward`."""
        rows = _rows(x, math.prod(x.shape[1:]), "guide", self.guide)
        parts = [rows if self.inputs is None else self.inputs(rows)]
        if self.missing:
            there = ~rows.isnan()
            parts = [torch.where(parts[0].isnan(), torch.zeros_like(parts[0]), parts[0]), there.to(rows)]
        columns = self.columns_of(condition, rows)
        beside = [] if columns is None else [columns]
        if exposure is not None and self.exposure:
            beside.append(exposure.reshape(-1, 1).to(rows).log())
        if sum(part.shape[-1] for part in parts) != self.guide.data_dim:
            parts += beside
        sizes = [part.shape[-1] for part in parts]
        if sum(sizes) != self.guide.data_dim:
            what = "" if len(sizes) == 1 else f" ({' + '.join(map(str, sizes))} numbers with what stands beside them)"
            raise InputError(
                f"the guide is over data_dim={self.guide.data_dim}, but the data have shape {tuple(x.shape)}{what}: "
                f"give the guide the data's own data_dim, {sum(sizes)}"
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
