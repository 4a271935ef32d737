r"""Equations (6), (7), (10), (21) to (24) and Algorithm 1 by hand, in plain PyTorch: the deliberate second derivation.

Nothing here imports Pyro. The rest of the package is tested against it, and it is what speed is compared with.
All log densities are in nats, per datum, summed over the last dimension. An encoder maps x ``(M, D)`` to
``(M, 2K)`` and a decoder z ``(M, K)`` to logits ``(M, D)`` or, for a Gaussian, ``(M, 2D)``: mean and log variance side
by side.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from pyro_aevb.errors import InputError, function, instance, whole

__all__ = [
    "algorithm_1",
    "bernoulli_log_likelihood",
    "estimator_a",
    "estimator_b",
    "full_bayes_a",
    "full_bayes_b",
    "gaussian_kl",
    "gaussian_log_density",
    "gaussian_log_likelihood",
    "reparameterise",
]

Network = Callable[[Tensor], Tensor]
"""An encoder, from x ``(M, D)`` to ``(M, 2K)``, or a decoder, from z ``(M, K)`` to outputs."""

WeightedNetwork = Callable[[Tensor, Tensor], Tensor]
"""A decoder whose weights are an argument: from weights ``(P,)`` and z ``(M, K)`` to outputs."""

LogLikelihood = Callable[[Tensor, Tensor], Tensor]
"""From x ``(M, D)`` and a decoder's outputs to log p(x|z), ``(M,)``: one of the two functions below, say."""

Estimator = Callable[[Tensor, Tensor, Network, Network, LogLikelihood], Tensor]
"""From x, noise, encoder, decoder and log-likelihood to each datum's estimate of the bound, ``(M,)``."""


def gaussian_log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Log density of a Gaussian with diagonal covariance, ``(M,)``, in nats.

    .. math:: -\tfrac12 \sum_j \log 2\pi + \log\sigma_j^2 + (x_j - \mu_j)^2 / \sigma_j^2

    Arguments:
        x: Values, ``(M, J)``.
        mean: Means :math:`\mu`, ``(M, J)``.
        log_variance: Logarithms of the variances :math:`\sigma^2`, ``(M, J)``.
    """
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x - mean) ** 2 / log_variance.exp()).sum(-1)


def bernoulli_log_likelihood(x: Tensor, outputs: Tensor) -> Tensor:
    r"""Equation (11): log p(x|z) of binary x, ``(M,)``, in nats.

    .. math:: \sum_d x_d \log y_d + (1 - x_d) \log(1 - y_d), \quad y = \mathrm{sigmoid}(\text{outputs})

    Arguments:
        x: A minibatch of zeros and ones, ``(M, D)``.
        outputs: Logits of p(x|z), ``(M, D)``.
    """
    return -functional.binary_cross_entropy_with_logits(outputs, x, reduction="none").sum(-1)


def gaussian_log_likelihood(x: Tensor, outputs: Tensor) -> Tensor:
    """Equation (12): log p(x|z) of real x ``(M, D)``, with a mean and a log variance for each of its numbers.

    Arguments:
        x: A minibatch, ``(M, D)``.
        outputs: Mean and log variance of p(x|z) side by side, ``(M, 2D)``.

    Returns:
        log p(x|z) of each datum, ``(M,)``, in nats.
    """
    mean, log_variance = outputs.chunk(2, dim=-1)
    return gaussian_log_density(x, mean, log_variance)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Appendix B: the KL of a Gaussian with diagonal covariance from N(0, I), ``(M,)``, in nats.

    .. math:: \mathrm{KL}(\mathcal N(\mu, \sigma^2 I) \,\|\, \mathcal N(0, I))
              = -\frac12 \sum_j 1 + \log\sigma_j^2 - \mu_j^2 - \sigma_j^2

    Arguments:
        mean: Means :math:`\mu`, ``(M, K)``.
        log_variance: Logarithms of the variances :math:`\sigma^2`, ``(M, K)``.

    >>> gaussian_kl(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
    tensor([0.5000])
    """
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1)


def reparameterise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    r"""Equation (4), the reparameterisation: latents z as a function of noise, ``(M, K)``.

    .. math:: z = \mu + \sigma \odot \epsilon

    Arguments:
        mean: Means :math:`\mu`, ``(M, K)``.
        log_variance: Logarithms of the variances :math:`\sigma^2`, ``(M, K)``.
        noise: Draws :math:`\epsilon` from N(0, I), ``(M, K)``.
    """
    return mean + (log_variance / 2).exp() * noise


def estimator_a(x: Tensor, noise: Tensor, encoder: Network, decoder: Network, log_likelihood: LogLikelihood) -> Tensor:
    r"""Estimator A, equation (6), with one sample, a standard normal prior and a Gaussian guide.

    .. math:: \tilde{\mathcal L}^A(x) = \log p(x \mid z) + \log p(z) - \log q(z \mid x)

    Arguments:
        x: A minibatch, ``(M, D)``.
        noise: Draws from N(0, I) that become the latents, ``(M, K)``.
        encoder: From x to mean and log variance of q(z|x) side by side, ``(M, 2K)``.
        decoder: From latents to what ``log_likelihood`` takes as outputs.
        log_likelihood: From x and outputs to log p(x|z), ``(M,)``.

    Returns:
        The estimate of each datum's bound, ``(M,)``, in nats.
    """
    mean, log_variance = encoder(x).chunk(2, dim=-1)
    z = reparameterise(mean, log_variance, noise)
    log_prior = gaussian_log_density(z, torch.zeros_like(z), torch.zeros_like(z))
    log_guide = gaussian_log_density(z, mean, log_variance)
    return log_likelihood(x, decoder(z)) + log_prior - log_guide


def estimator_b(x: Tensor, noise: Tensor, encoder: Network, decoder: Network, log_likelihood: LogLikelihood) -> Tensor:
    r"""Estimator B, equation (7), with one sample and the KL in closed form: equation (10).

    .. math:: \tilde{\mathcal L}^B(x) = \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    Arguments:
        x: A minibatch, ``(M, D)``.
        noise: Draws from N(0, I) that become the latents, ``(M, K)``.
        encoder: From x to mean and log variance of q(z|x) side by side, ``(M, 2K)``.
        decoder: From latents to what ``log_likelihood`` takes as outputs.
        log_likelihood: From x and outputs to log p(x|z), ``(M,)``.

    Returns:
        The estimate of each datum's bound, ``(M,)``, in nats.
    """
    mean, log_variance = encoder(x).chunk(2, dim=-1)
    z = reparameterise(mean, log_variance, noise)
    return log_likelihood(x, decoder(z)) - gaussian_kl(mean, log_variance)


def full_bayes_a(
    x: Tensor,
    noise: Tensor,
    weights_noise: Tensor,
    encoder: Network,
    decoder: WeightedNetwork,
    log_likelihood: LogLikelihood,
    weights: Tensor,
    size: int,
) -> Tensor:
    r"""Equation (22) with one sample, a standard normal prior and a Gaussian posterior over the decoder's weights.

    .. math:: \frac1M \sum_{i=1}^M N \big(\log p(x_i \mid z_i, \theta) + \log p(z_i) - \log q(z_i \mid x_i)\big)
              + \log p(\theta) - \log q(\theta)

    Arguments:
        x: A minibatch, ``(M, D)``.
        noise: Draws from N(0, I) that become the latents, ``(M, K)``.
        weights_noise: Draws from N(0, I) that become the decoder's weights, ``(P,)``.
        encoder: From x to mean and log variance of q(z|x) side by side, ``(M, 2K)``.
        decoder: From weights ``(P,)`` and latents ``(M, K)`` to what ``log_likelihood`` takes as outputs.
        log_likelihood: From x and outputs to log p(x|z), ``(M,)``.
        weights: Mean and log variance of q(theta) side by side, ``(2P,)``.
        size: Number N of all data.

    Returns:
        The estimate of the bound on log p(X) of all data, a scalar, in nats.
    """
    mean, log_variance = weights.chunk(2)
    theta = reparameterise(mean, log_variance, weights_noise)
    bounds = estimator_a(x, noise, encoder, partial(decoder, theta), log_likelihood)
    log_prior = gaussian_log_density(theta, torch.zeros_like(theta), torch.zeros_like(theta))
    return size * bounds.mean() + log_prior - gaussian_log_density(theta, mean, log_variance)


def full_bayes_b(
    x: Tensor,
    noise: Tensor,
    weights_noise: Tensor,
    encoder: Network,
    decoder: WeightedNetwork,
    log_likelihood: LogLikelihood,
    weights: Tensor,
    size: int,
) -> Tensor:
    r"""Equation (24) with one sample, both KLs in closed form.

    .. math:: \frac1M \sum_{i=1}^M N \Big(\tfrac12 \sum_j (1 + \log\sigma_{z,j}^2 - \mu_{z,j}^2 - \sigma_{z,j}^2)
              + \log p(x_i \mid z_i, \theta)\Big)
              + \tfrac12 \sum_j (1 + \log\sigma_{\theta,j}^2 - \mu_{\theta,j}^2 - \sigma_{\theta,j}^2)

    Its arguments are those of :func:`full_bayes_a`, and so is its result: an estimate of the bound on log p(X) of all
    data, a scalar, in nats.
    """
    mean, log_variance = weights.chunk(2)
    theta = reparameterise(mean, log_variance, weights_noise)
    bounds = estimator_b(x, noise, encoder, partial(decoder, theta), log_likelihood)
    return size * bounds.mean() - gaussian_kl(mean, log_variance)


def algorithm_1(
    data: Tensor,
    encoder: Network,
    decoder: Network,
    optimizer: torch.optim.Optimizer,
    *,
    latent_dim: int,
    steps: int,
    estimator: Estimator = estimator_b,
    log_likelihood: LogLikelihood = bernoulli_log_likelihood,
    batch_size: int = 100,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    r"""Algorithm 1: minibatches drawn at random with replacement, one sample each, one optimizer step.

    The loss is :math:`-\frac NM \sum_i \tilde{\mathcal L}(x_i)` (8), so the prior N(0, I) on the weights is an
    optimizer's ``weight_decay=1``.

    Arguments:
        data: All data, ``(N, D)``.
        encoder: From x to mean and log variance of q(z|x) side by side, ``(M, 2K)``.
        decoder: From latents ``(M, K)`` to what ``log_likelihood`` takes as outputs.
        optimizer: Optimizer of the encoder's and decoder's parameters.
        latent_dim: Number of latent dimensions K.
        steps: Number of steps.
        estimator: Estimator of each datum's bound: :func:`estimator_b`, the default, or :func:`estimator_a`.
        log_likelihood: From x and outputs to log p(x|z), ``(M,)``; by default of binary data.
        batch_size: Number M of data in a minibatch, 100 by default as in the paper.
        generator: Source of the minibatches and the noise; ``None`` for torch's global one.

    Yields:
        The minibatch's mean bound of each step, in nats per datum, before the step; a tensor, so nothing waits for it.

    Raises:
        InputError: If an argument is not what is said above; at the first step.
    """
    function("encoder", encoder)
    function("decoder", decoder)
    function("estimator", estimator)
    function("log_likelihood", log_likelihood)
    for name, count in {"latent_dim": latent_dim, "steps": steps, "batch_size": batch_size}.items():
        whole(name, count)
    instance("optimizer", optimizer, torch.optim.Optimizer)
    if generator is not None:
        instance("generator", generator, torch.Generator)
    if instance("data", data, Tensor).dim() == 0 or len(data) == 0:
        raise InputError(f"the data must be rows, (N, D), at least one, not of shape {tuple(data.shape)}")
    for _ in range(steps):
        rows = torch.randint(len(data), (batch_size,), generator=generator, device=data.device)
        noise = torch.randn(batch_size, latent_dim, generator=generator, dtype=data.dtype, device=data.device)
        bound = estimator(data[rows], noise, encoder, decoder, log_likelihood).mean()
        optimizer.zero_grad()
        (-len(data) * bound).backward()
        optimizer.step()
        yield bound.detach()
