"""Likelihoods of pixel values as levels, and of counts."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_aevb.distributions import DiscretizedLogistic as DiscretizedLogisticDistribution
from pyro_aevb.distributions import GridCategorical
from pyro_aevb.errors import whole
from pyro_aevb.likelihoods.base import Likelihood
from pyro_aevb.nn import Activation, Network, make_network

__all__ = ["Categorical", "DiscretizedLogistic", "NegativeBinomial", "Poisson"]


class Categorical(Likelihood):
    r"""Any distribution over pixel values 0, 1/steps, ..., 1, with a logit for each.

    .. math:: P(x_d = k / \text{steps} \mid z) = \mathrm{softmax}_k\, f_\theta(z)_{dk}

    Oracle: closed form, ``scipy.special.log_softmax``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        steps: Number of pixel values less one. The default is for bytes divided by 255; the network then has D x 256
            outputs.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    Raises:
        InputError: If ``steps`` is not positive.

    References:
        | Pixel recurrent neural networks, section 3.1 (van den Oord et al., 2016)
        | https://arxiv.org/abs/1601.06759
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        steps: int = 255,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.steps = whole("steps", steps)
        self.network = make_network(latent_dim, data_dim * (steps + 1), hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """The softmax of f(z)."""
        logits = self.network(z)
        logits = logits.reshape(*logits.shape[:-1], self.data_dim, self.steps + 1)  # (..., D, steps + 1)
        return GridCategorical(logits).to_event(1)


class DiscretizedLogistic(Likelihood):
    r"""Pixel values 0, 1/steps, ..., 1 by a mixture of rounded logistics.

    .. math:: P(x_d \mid z) = \sum_c \pi_{dc} \Big[\sigma\Big(\frac{x_d + \delta/2 - \mu_{dc}}{s_{dc}}\Big)
              - \sigma\Big(\frac{x_d - \delta/2 - \mu_{dc}}{s_{dc}}\Big)\Big], \quad \delta = 1 / \text{steps}

    Oracle: ``scipy.stats.logistic``, its CDF across each bin.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        components: Number of logistics in each pixel's mixture.
        steps: Number of pixel values less one: 255 where bytes were divided by 255, as MNIST's are here, 256 where they
            were divided by 256, as Frey Face's are.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    Raises:
        InputError: If ``components`` or ``steps`` is not positive.

    References:
        | PixelCNN++ (Salimans et al., 2017)
        | https://arxiv.org/abs/1701.05517
    """

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        components: int = 1,
        steps: int = 255,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.components = whole("components", components)
        self.steps = whole("steps", steps)
        self.network = make_network(latent_dim, 3 * components * data_dim, hidden, activation, network)

    def forward(self, z: Tensor) -> TorchDistributionMixin:
        """The mixture, scales in [e^-7, e^10]."""
        outputs = self.network(z)
        outputs = outputs.reshape(*outputs.shape[:-1], 3, self.data_dim, self.components)
        logits, loc, log_scale = outputs.unbind(-3)  # (..., D, C) each
        loc = loc + 0.5
        scale = (log_scale - 2).clamp(-7, 10).exp()
        if self.components == 1:
            return DiscretizedLogisticDistribution(loc[..., 0], scale[..., 0], self.steps).to_event(1)
        components = DiscretizedLogisticDistribution(loc, scale, self.steps)
        return dist.MixtureSameFamily(dist.Categorical(logits=logits), components).to_event(1)


class Poisson(Likelihood):
    r"""Counts: independent Poisson.

    .. math:: x_d \mid z \sim \mathrm{Poisson}(e\, e^{f_\theta(z)_d})

    The exposure :math:`e` of a datum, how long or how much was counted, is 1 unless the model is made with
    ``exposure=True``.

    Oracle: ``scipy.stats.poisson``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | Deep generative modeling for single-cell transcriptomics, for counts in a VAE (Lopez et al., 2018)
    """

    counts = True
    takes_exposure = True

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.network = make_network(latent_dim, data_dim, hidden, activation, network)

    def forward(self, z: Tensor, exposure: Tensor | float = 1.0) -> TorchDistributionMixin:
        """Poisson(exposure * rate), the rate in [e^-10, e^10]; exposure > 0, of a shape that broadcasts to (..., D)."""
        return dist.Poisson(self.network(z).clamp(-10, 10).exp() * exposure).to_event(1)


class NegativeBinomial(Likelihood):
    r"""Counts that vary more than Poisson's: a Poisson whose rate is Gamma.

    .. math:: x_d \mid z \sim \mathrm{NB}(r_d, \mathrm{logit} = f_\theta(z)_d + \log e),
              \quad \mathbb{E}\, x_d = e\, r_d e^{f_d}

    The exposure :math:`e` of a datum, its library size say, is 1 unless the model is made with ``exposure=True``.

    Oracle: ``scipy.stats.nbinom``.

    Arguments:
        latent_dim: Number of latent dimensions K.
        data_dim: Number of observed dimensions D.
        hidden: Number of units in each hidden layer of the default network: a list, or a number for one layer.
        activation: Activation of the default network, by its name in ``torch.nn`` or as a callable that makes it.
        network: Callable ``(in_dim, out_dim) -> nn.Module`` that makes the network, in place of the default ``MLP``.

    References:
        | Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018)
    """

    counts = True
    takes_exposure = True

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        *,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        network: Network | None = None,
    ) -> None:
        super().__init__(latent_dim, data_dim)
        self.network = make_network(latent_dim, data_dim, hidden, activation, network)
        self.log_total_count = nn.Parameter(torch.zeros(data_dim))

    def forward(self, z: Tensor, exposure: Tensor | float = 1.0) -> TorchDistributionMixin:
        """NB(r, logits), r learned for each pixel; exposure > 0, of a shape that broadcasts to (..., D)."""
        total_count = self.log_total_count.clamp(-10, 10).exp()
        logits = self.network(z).clamp(-10, 10) + torch.as_tensor(exposure).log()
        return dist.NegativeBinomial(total_count, logits=logits).to_event(1)
