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

from pyro_aevb.errors import InputError
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.priors import Prior

__all__ = ["GenerativeModel", "RecognitionModel"]

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


def _call(part: nn.Module, *arguments: Tensor, batch: torch.Size, event: int) -> Any:
    """What a part returns, checked against its contract.

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


def _plate(x: Tensor, size: int | None) -> pyro.plate:
    """The plate over a minibatch of M out of ``size`` data: it scales log densities by N/M, equation (8)."""
    batch_size = len(x)
    return pyro.plate("data", max(size or 0, batch_size), subsample=torch.arange(batch_size, device=x.device), dim=-1)


class GenerativeModel(nn.Module):
    r"""The generative model, a Pyro function of a minibatch.

    .. math:: z_i \sim p(z), \quad x_i \sim p(x \mid z_i)

    Arguments:
        prior: The prior p(z).
        likelihood: The likelihood p(x|z).
        size: Number N of data that minibatches are drawn from, so that the loss is scaled by N/M (8); ``None`` for 1.

    Raises:
        InputError: If prior and likelihood have different ``latent_dim``.
    """

    def __init__(self, prior: Prior, likelihood: Likelihood, size: int | None = None) -> None:
        super().__init__()
        if prior.latent_dim != likelihood.latent_dim:
            raise InputError(
                f"the prior has {prior.latent_dim} latent dimensions, the likelihood {likelihood.latent_dim}: "
                "give both the same latent_dim"
            )
        self.prior = prior
        self.likelihood = likelihood
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Sample ``"z"`` and observe ``"x"``, x of shape ``(B, D)``; returns z, ``(..., B, K)``."""
        if x.shape[1:] != (self.likelihood.data_dim,):
            raise InputError(
                f"the likelihood is over data_dim={self.likelihood.data_dim}, but the data have shape "
                f"{tuple(x.shape)}: give the likelihood the data's own data_dim"
            )
        _register(self)
        with _plate(x, self.size):
            z = pyro.sample("z", _call(self.prior, batch=torch.Size(), event=self.prior.latent_dim))
            pyro.sample("x", _call(self.likelihood, z, batch=z.shape[:-1], event=self.likelihood.data_dim), obs=x)
        return z


class RecognitionModel(nn.Module):
    r"""The guide, a Pyro function of a minibatch.

    .. math:: z_i \sim q(z \mid x_i)

    Arguments:
        guide: The guide q(z|x).
        size: As for :class:`GenerativeModel`; give both the same.
    """

    def __init__(self, guide: Guide, size: int | None = None) -> None:
        super().__init__()
        self.guide = guide
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Sample ``"z"`` from q(z|x), x of shape ``(B, D)``; returns z, ``(..., B, K)``."""
        if x.shape[1:] != (self.guide.data_dim,):
            raise InputError(
                f"the guide is over data_dim={self.guide.data_dim}, but the data have shape {tuple(x.shape)}: "
                "give the guide the data's own data_dim"
            )
        _register(self)
        with _plate(x, self.size):
            return pyro.sample("z", _call(self.guide, x, batch=x.shape[:-1], event=self.guide.latent_dim))
