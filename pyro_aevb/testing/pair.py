"""The pair that estimators are tried on: linear and Gaussian, so that what they estimate is known."""

from typing import Any

import torch
from torch import Tensor, nn

from pyro_aevb.guides import DiagonalNormal
from pyro_aevb.likelihoods import Gaussian
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.priors import StandardNormal
from pyro_aevb.seeds import seeded

__all__ = ["KnownPair"]

SIGMA = 0.5


class KnownPair:
    """Probabilistic PCA and a guide that is its posterior, or lies ``off`` it: log p(x) is known, in float64.

    Its likelihood is N(W z + b, s^2 I) with orthogonal columns in W, so that the posterior,
    N(M^-1 W'(x - b), s^2 M^-1) with M = W'W + s^2 I, has a diagonal covariance.

    Arguments:
        size: Number N of data, as model and guide take it.
        off: Standard deviation of what is added to each weight of the guide.
    """

    def __init__(self, size: int | None = None, off: float = 0.0) -> None:
        weight = torch.tensor([[0.8, 0.6], [0.6, -0.8], [0.5, 0.0]], dtype=torch.float64)  # (D, K)
        bias = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
        precision = (weight**2).sum(0) + SIGMA**2  # the diagonal of M, (K,)
        gain = weight.T / precision.unsqueeze(-1)  # (K, D)
        log_variance = (SIGMA**2 / precision).log()
        with seeded(0):
            likelihood = Gaussian(2, 3, hidden=[], scale=SIGMA).double()
            guide = DiagonalNormal(3, 2, hidden=[]).double()
        _set(likelihood, weight, bias)
        _set(guide, torch.cat([gain, torch.zeros_like(gain)]), torch.cat([-gain @ bias, log_variance]))
        with torch.no_grad(), seeded(0):
            for parameter in guide.parameters():
                parameter.add_(off * torch.randn_like(parameter))
        self.model = GenerativeModel(StandardNormal(2).double(), likelihood, size)
        self.guide = RecognitionModel(guide, size)
        self.x = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of both parts, by name."""
        return {
            f"{part}.{name}": parameter
            for part, module in (("model", self.model), ("guide", self.guide))
            for name, parameter in module.named_parameters()
        }

    def loss(self, estimator: Any, x: Tensor | None = None, seed: int = 1) -> Tensor:
        """An estimator's differentiable loss at a seed."""
        with seeded(seed):
            loss: Tensor = estimator.differentiable_loss(self.model, self.guide, self.x if x is None else x)
        return loss

    def loss_and_gradients(self, estimator: Any, x: Tensor | None = None, seed: int = 1) -> tuple[Tensor, list[Tensor]]:
        """The loss, and its gradient by each parameter; zero where it does not depend on one."""
        loss = self.loss(estimator, x, seed)
        found = torch.autograd.grad(loss, list(self.parameters.values()), materialize_grads=True, allow_unused=True)
        return loss.detach(), list(found)

    @property
    def log_evidence(self) -> Tensor:
        """The sum of log p(x), N(b, W W' + s^2 I), as a function of the model's weight and bias."""
        weight, bias = self.model.likelihood.parameters()
        covariance = weight @ weight.T + SIGMA**2 * torch.eye(len(weight), dtype=weight.dtype)
        log_prob: Tensor = torch.distributions.MultivariateNormal(bias, covariance).log_prob(self.x)
        return log_prob.sum()


def _set(part: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """The parameters of a part whose network is one linear layer."""
    own_weight, own_bias = part.parameters()
    with torch.no_grad():
        own_weight.copy_(weight)
        own_bias.copy_(bias)
