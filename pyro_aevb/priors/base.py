"""What every prior p(z) is."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import nn

from pyro_aevb.errors import whole

__all__ = ["Prior"]


@lru_cache
def _named_arguments(function: Callable[..., Any]) -> int:
    """How many arguments a function names and must be given; looked up at each step, so kept."""
    named = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = inspect.signature(function).parameters.values()
    return sum(each.kind in named and each.default is each.empty for each in parameters)


class Prior(nn.Module, ABC):
    """Base of all priors.

    Subclass it, take ``latent_dim`` first and everything else as keywords, keep constants in buffers, and return from
    ``forward`` a Pyro distribution with batch shape ``()`` and event shape ``(latent_dim,)``.

    A prior p(z|c) that depends on the condition of a conditional model takes it, ``forward(self, c)`` with c of shape
    ``(B, C)``, and returns batch shape ``(B,)``; its constructor takes the number ``condition`` of c's columns C as a
    keyword, and keeps it as an attribute.

    Arguments:
        latent_dim: Number of latent dimensions K.

    Raises:
        InputError: If ``latent_dim`` is no whole number of at least 1.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = whole("latent_dim", latent_dim)

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> TorchDistributionMixin:
        """The distribution p(z), batch shape ``()``, or p(z|c), batch shape ``(B,)``; event shape ``(K,)``."""

    @property
    def takes_condition(self) -> bool:
        """Whether it is p(z|c): whether ``forward`` names an argument that has no default."""
        return _named_arguments(type(self).forward) > 1  # self is one
