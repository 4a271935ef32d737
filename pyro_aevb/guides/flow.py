"""A guide by invertible transforms."""

from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import pyro.distributions.transforms as T
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.errors import choice, whole
from pyro_aevb.guides.base import Guide
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Flow"]


class Flow(Guide):
    r"""A diagonal Gaussian pushed through invertible transforms, all conditioned on x.

    .. math:: z = f_T \circ \dots \circ f_1(\mu(x) + \sigma(x)\,\epsilon; h(x)), \quad \epsilon \sim \mathcal{N}(0, I)

    Oracle: the change of variables, with the Jacobian by autograd.

    Arguments:
        data_dim: Number of observed dimensions D.
        latent_dim: Number of latent dimensions K.
        kind: Which transforms: ``iaf``, inverse autoregressive affine ones; ``planar``; ``spline``, autoregressive
            rational splines on [-3, 3].
        transforms: Number of transforms T.
        context_dim: Length of h(x), the outputs of the network that the transforms are conditioned on.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | Inverse autoregressive (Kingma et al., 2016), planar (Rezende & Mohamed, 2015), spline (Durkan et al., 2019)
        | https://arxiv.org/abs/1606.04934
        | https://arxiv.org/abs/1505.05770
        | https://arxiv.org/abs/1906.04032
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        kind: Literal["iaf", "planar", "spline"] = "iaf",
        transforms: int = 2,
        context_dim: int = 20,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(data_dim, latent_dim)
        makers: dict[str, Any] = {
            "iaf": T.conditional_affine_autoregressive,
            "planar": T.conditional_planar,
            "spline": T.conditional_spline_autoregressive,
        }
        make = makers[choice("kind", kind, makers)]
        whole("transforms", transforms)
        self.context_dim = whole("context_dim", context_dim)
        self.network = make_network(data_dim, 2 * latent_dim + context_dim, hidden, activation, network)
        self.transforms = nn.ModuleList(make(latent_dim, context_dim) for _ in range(transforms))

    def forward(self, x: Tensor) -> TorchDistributionMixin:
        """The Gaussian, transformed."""
        mean, log_variance, context = self.network(x).split([self.latent_dim] * 2 + [self.context_dim], dim=-1)
        base = dist.Normal(mean, (log_variance / 2).clamp(-10, 10).exp()).to_event(1)
        conditioned: list[Any] = [transform.condition(context) for transform in self.transforms]  # type: ignore[operator]
        return dist.TransformedDistribution(base, conditioned)
