"""A mixture of Gaussians whose draws carry the right gradient of every parameter, the weights' too."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_aevb.distributions.precision import wide
from pyro_aevb.errors import tensors
from pyro_aevb.torch_internals import checked, drawn_shape, expanded

__all__ = ["NormalMixture"]

# In standard deviations. No draw lies so far from the component it comes from, and a component as far from a draw has a
# relative weight of e^-450: it counts for nothing, and its square must not overflow.
FAR = 30.0


class NormalMixture(dist.TorchDistribution):
    r"""A mixture of C Gaussians with diagonal covariances over vectors of any length K.

    .. math:: p(z) = \sum_c \pi_c \prod_d \mathcal N(z_d; \mu_{cd}, \sigma_{cd}^2)

    A draw is a component's, and moves with the parameters so that all its conditional CDFs stay what they are:

    .. math:: F_d(z_d \mid z_{<d}) = \sum_c w_{cd}\, \Phi\Big(\frac{z_d - \mu_{cd}}{\sigma_{cd}}\Big), \quad
              w_{cd} \propto \pi_c \prod_{j<d} \mathcal N(z_j; \mu_{cj}, \sigma_{cj}^2), \qquad
              \frac{\partial z}{\partial \theta} = -J^{-1} \frac{\partial F}{\partial \theta}

    with the lower triangular :math:`J = \partial F / \partial z`. Pathwise gradients are so unbiased in weights, means
    and scales alike. (Pyro's ``MixtureOfDiagNormals`` has biased ones in the weights: with components at (-1, 1) and
    (1, 1), the gradient of :math:`\mathbb E[z_1 z_2]` by a logit is 1/2; Pyro's averages 0.0007.) A weight moves draws
    from one component to another through what lies between: where that is nearly empty, few draws move, each by much.
    With components s standard deviations apart the variance of the weights' gradient grows as :math:`e^{s^2 / 8}`.

    Oracle: closed-form moments, and the CDFs solved for z by SciPy.

    Arguments:
        logits: Logarithms of the weights :math:`\pi`, up to a constant, ``(..., C)``.
        loc: Means :math:`\mu`, ``(..., C, K)``.
        scale: Standard deviations :math:`\sigma > 0`, ``(..., C, K)``.
        validate_args: Whether parameters, and values whose density is asked for, are checked; ``None`` for torch's
            default, which Pyro's ``enable_validation`` sets.

    References:
        | Stochastic backpropagation through mixture density distributions (Graves, 2016)
        | https://arxiv.org/abs/1607.05690
        | Implicit reparameterization gradients (Figurnov et al., 2018)
        | https://arxiv.org/abs/1805.08498

    >>> NormalMixture(torch.zeros(5, 3), torch.zeros(5, 3, 2), torch.ones(5, 3, 2)).rsample().shape
    torch.Size([5, 2])
    """

    arg_constraints = {  # noqa: RUF012  # as torch writes it
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        tensors(logits=logits, loc=loc, scale=scale)
        shape = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        matrix = torch.broadcast_shapes(loc.shape[-2:], scale.shape[-2:], (logits.shape[-1], 1))
        self.logits = logits.expand(*shape, -1)
        self.loc = loc.expand(*shape, *matrix)
        self.scale = scale.expand(*shape, *matrix)
        super().__init__(shape, matrix[-1:], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """log sum_c exp(log pi_c + sum_d log N(z_d))."""
        u = (checked(self, value).unsqueeze(-2) - self.loc) / self.scale  # (..., C, K)
        each = -(u * u / 2 + self.scale.log()).sum(-1) - u.shape[-1] * math.log(2 * math.pi) / 2  # (..., C)
        return (self.logits.log_softmax(-1) + each).logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of z, each from one of the components, without gradients."""
        with torch.no_grad():
            return self._draw(drawn_shape(self, sample_shape)).to(self.loc.dtype)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of z, each from one of the components, with gradients as in the class's docstring."""
        return self._moving(self._draw(drawn_shape(self, sample_shape))).to(self.loc.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distributions as a batch of shape ``batch_shape``, which their own must broadcast to."""
        return expanded(
            self,
            NormalMixture,
            _instance,
            batch_shape,
            logits=self.logits.expand(*batch_shape, -1),
            loc=self.loc.expand(*batch_shape, -1, -1),
            scale=self.scale.expand(*batch_shape, -1, -1),
        )

    @property
    def mean(self) -> Tensor:
        """sum_c pi_c mu_c."""
        return (self.logits.softmax(-1).unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """sum_c pi_c (sigma_c^2 + (mu_c - mean)^2)."""
        spread = self.scale**2 + (self.loc - self.mean.unsqueeze(-2)) ** 2
        return (self.logits.softmax(-1).unsqueeze(-1) * spread).sum(-2)

    @torch.no_grad()
    def _draw(self, shape: torch.Size) -> Tensor:
        """A component by the weights, and its mean plus noise, ``(..., K)``."""
        logits, loc, scale = wide(self.logits, self.loc, self.scale)  # a rounded draw may lie far from its component
        below = logits.softmax(-1).cumsum(-1)[..., :-1]  # (..., C - 1)
        uniform = torch.rand(shape[:-1], dtype=logits.dtype, device=logits.device).unsqueeze(-1)
        which = (uniform >= below).sum(-1)[..., None, None].expand(*shape[:-1], 1, shape[-1])
        noise = torch.randn(shape, dtype=self.loc.dtype, device=loc.device)
        mean, width = (p.expand(*shape[:-1], *p.shape[-2:]).gather(-2, which).squeeze(-2) for p in (loc, scale))
        return mean + width * noise

    def _moving(self, z: Tensor) -> Tensor:
        """These draws, ``(..., K)``, with the gradients of the class's docstring."""
        logits, loc, scale = wide(self.logits, self.loc, self.scale)
        u = ((z.unsqueeze(-2) - loc) / scale).clamp(-FAR, FAR)  # (..., C, K)
        log_normal = -u * u / 2 - scale.log() - math.log(2 * math.pi) / 2
        before = log_normal.cumsum(-1) - log_normal  # of the dimensions before
        weight = (logits.log_softmax(-1).unsqueeze(-1) + before).softmax(-2)
        below = torch.erfc(-u / math.sqrt(2)) / 2
        cdf = (weight * below).sum(-2)  # (..., K)
        with torch.no_grad():
            density = (weight * log_normal.exp()).sum(-2)
            slope = (weight * (below - cdf.unsqueeze(-2))).mT @ (-u / scale)  # (..., K, K), right below the diagonal
            jacobian = slope.tril(-1) + torch.diag_embed(density)
        change = (cdf - cdf.detach()).unsqueeze(-1)
        return z - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)
