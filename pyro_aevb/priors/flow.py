"""A prior by invertible transforms."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import InputError, choice, whole, wholes
from pyro_aevb.priors.base import Prior

__all__ = ["Flow"]


class Flow(Prior):
    r"""A standard normal pushed through invertible learned transforms.

    .. math:: z = f_\theta(\epsilon), \quad \epsilon \sim \mathcal{N}(0, I)

    Oracle: the change of variables, with the Jacobian by autograd.

    Arguments:
        latent_dim: Number of latent dimensions K.
        kind: Which transforms: ``coupling``, affine functions of one half of the latents whose coefficients a network
            makes of the other half, halves in turn; ``spline``, the same with rational splines on [-3, 3]. Both are
            cheap to draw from and to evaluate.
        transforms: Number of transforms.
        hidden: Number of units in each hidden layer of the transforms' networks: a list, or a number for one layer.

    Raises:
        InputError: If there is one latent only, or an argument is not what is said above.

    References:
        | Density estimation using Real NVP (Dinh et al., 2017); Neural spline flows (Durkan et al., 2019)
        | https://arxiv.org/abs/1605.08803
        | https://arxiv.org/abs/1906.04032
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        latent_dim: int,
        *,
        kind: Literal["coupling", "spline"] = "coupling",
        transforms: int = 4,
        hidden: int | Sequence[int] = 50,
    ) -> None:
        super().__init__(latent_dim)
        whole("transforms", transforms)
        if latent_dim < 2:
            raise InputError("a flow prior needs at least two latent dimensions: each half transforms the other")
        units = wholes("hidden", hidden)
        make: dict[str, Any] = {
            "coupling": T.affine_coupling,
            "spline": partial(T.spline_coupling, count_bins=8, bound=3.0),
        }
        chosen = make[choice("kind", kind, make)]
        self.transforms = nn.ModuleList(chosen(latent_dim, hidden_dims=units) for _ in range(transforms))
        self.register_buffer("loc", torch.zeros(latent_dim))
        self.register_buffer("scale", torch.ones(latent_dim))
        self.register_buffer("reversed", torch.arange(latent_dim - 1, -1, -1))

    def forward(self) -> TorchDistributionMixin:
        """The normal, transformed; latents are reversed between transforms."""
        steps = [t for transform in self.transforms for t in (transform, T.Permute(self.reversed))][:-1]
        return dist.TransformedDistribution(dist.Normal(self.loc, self.scale).to_event(1), steps)
