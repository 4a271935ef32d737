"""What every likelihood p(x|z) is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import whole

__all__ = ["Likelihood"]


class Likelihood(nn.Module, ABC):
    """Base of all likelihoods.

    Subclass it, take ``latent_dim`` and ``data_dim`` first and everything else as keywords, and return from ``forward``
    a Pyro distribution with batch shape ``z.shape[:-1]`` and event shape ``(data_dim,)``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.

    Raises:
        InputError: If a size is no whole number of at least 1.
    """

    counts: ClassVar[bool] = False
    """Whether data are counts, so that a file's bytes are taken as they are and not for grey values."""

    takes_exposure: bool = False
    """Whether ``forward`` takes a second argument ``exposure``, which multiplies the mean of counts."""

    def __init__(self, latent_dim: int, data_dim: int) -> None:
        super().__init__()
        self.latent_dim = whole("latent_dim", latent_dim)
        self.data_dim = whole("data_dim", data_dim)

    @abstractmethod
    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """The distribution p(x|z) for z of shape ``(..., K)``."""

    def start_from(self, x: Tensor, names: Sequence[str] = ()) -> None:  # most have nothing to set
        """Set constants, such as the units of columns, from training data.

        Arguments:
            x: The data, ``(N, D)``, NaN where a value is missing.
            names: Names of the D columns, for messages; by default their numbers.
        """

    def inputs(self) -> nn.Module | None:
        """What brings data into the form that a guide's network sees them in; ``None`` for as they are.

        It maps ``(..., D)`` to ``(..., D')``, D' being its ``out_dim``.
        """
        return None

    def warning(self, z: Tensor) -> str | None:
        """What a reader of the numbers should know about p(x|z) at these latents; ``None`` if nothing."""
        return None
