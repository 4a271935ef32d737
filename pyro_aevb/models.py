"""The paper's pair as two Pyro functions: the model p(z) p(x|z) and the guide q(z|x).

A hand-written Pyro pair is as good as these: every estimator, ``Trainer`` and the evidence take any.
"""

import itertools
import weakref
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import InputError, instance, whole
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
        arguments: What its ``forward`` takes.
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


class GenerativeModel(nn.Module):
    r"""The generative model, a Pyro function of a minibatch.

    .. math:: z_i \sim p(z), \quad x_i \sim p(x \mid z_i)

    Arguments:
        prior: The prior p(z).
        likelihood: The likelihood p(x|z).
        size: Number N of data that minibatches are drawn from, so that the loss is scaled by N/M (8); ``None``, the
            default, for a loss that is not scaled.

    Raises:
        InputError: If prior and likelihood have different ``latent_dim``, or are none; if ``size`` is no whole number
            of at least 1. When run in training: if ``size`` is less than the number of data of the minibatch.
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, size: int | None = None) -> None:
        super().__init__()
        instance("prior", prior, Prior, "give one of pyro_aevb.priors, or a subclass of Prior")
        instance("likelihood", likelihood, Likelihood, "give one of pyro_aevb.likelihoods, or a subclass of Likelihood")
        if prior.latent_dim != likelihood.latent_dim:
            raise InputError(
                f"the prior has {prior.latent_dim} latent dimensions, the likelihood {likelihood.latent_dim}: "
                "give both the same latent_dim"
            )
        self.prior = prior
        self.likelihood = likelihood
        self.size = None if size is None else whole("size", size)

    def forward(self, x: Tensor) -> Tensor:
        """Sample ``"z"`` and observe ``"x"``, x of shape ``(B, D)``; returns z, ``(..., B, K)``."""
        if x.shape[1:] != (self.likelihood.data_dim,):
            raise InputError(
                f"the likelihood is over data_dim={self.likelihood.data_dim}, but the data have shape "
                f"{tuple(x.shape)}: give the likelihood the data's own data_dim"
            )
        _register(self)
        with _plate(x, self.size, self.training):
            z = pyro.sample("z", call_part(self.prior, batch=torch.Size(), event=self.prior.latent_dim))
            pyro.sample("x", call_part(self.likelihood, z, batch=z.shape[:-1], event=self.likelihood.data_dim), obs=x)
        return z


class RecognitionModel(nn.Module):
    r"""The guide, a Pyro function of a minibatch.

    .. math:: z_i \sim q(z \mid x_i)

    Arguments:
        guide: The guide q(z|x).
        size: Number N of data that minibatches are drawn from, the same as the model's; ``None``, the default, for a
            loss that is not scaled.

    Raises:
        InputError: If ``guide`` is none, or ``size`` is no whole number of at least 1. When run in training: if
            ``size`` is less than the number of data of the minibatch.
    """

    def __init__(self, guide: Guide, size: int | None = None) -> None:
        super().__init__()
        self.guide = instance("guide", guide, Guide, "give one of pyro_aevb.guides, or a subclass of Guide")
        self.size = None if size is None else whole("size", size)

    def forward(self, x: Tensor) -> Tensor:
        """Sample ``"z"`` from q(z|x), x of shape ``(B, D)``; returns z, ``(..., B, K)``."""
        if x.shape[1:] != (self.guide.data_dim,):
            raise InputError(
                f"the guide is over data_dim={self.guide.data_dim}, but the data have shape {tuple(x.shape)}: "
                "give the guide the data's own data_dim"
            )
        _register(self)
        with _plate(x, self.size, self.training):
            return pyro.sample("z", call_part(self.guide, x, batch=x.shape[:-1], event=self.guide.latent_dim))
