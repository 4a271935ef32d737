"""What each density is checked against: SciPy, a closed form, or autograd. Every part's docstring names its own."""

import numpy as np
import torch
from scipy import special, stats

from pyro_aevb import distributions, guides, likelihoods, nn, priors


def numpy(tensor):
    return tensor.detach().double().numpy()


def halves(f):
    return np.split(f, 2, axis=-1)


def multivariate_normal(mean, covariance, v):
    flat = zip(mean.reshape(-1, mean.shape[-1]), covariance.reshape(-1, *covariance.shape[-2:]), strict=True)
    values = v.reshape(-1, v.shape[-1])
    logs = [stats.multivariate_normal(m, c).logpdf(x) for (m, c), x in zip(flat, values, strict=True)]
    return np.array(logs).reshape(mean.shape[:-1])


def full_covariance(part, f, v):
    k = v.shape[-1]
    mean, square = f[..., :k], f[..., k:].reshape(*f.shape[:-1], k, k)
    tril = np.tril(square, -1) + np.exp(square.diagonal(axis1=-2, axis2=-1))[..., None] * np.eye(k)
    return multivariate_normal(mean, tril @ np.swapaxes(tril, -1, -2), v)


def low_rank(part, f, v):
    k = v.shape[-1]
    factor = f[..., 2 * k :].reshape(*f.shape[:-1], k, part.rank)
    diagonal = np.exp(f[..., k : 2 * k])[..., None] * np.eye(k)
    return multivariate_normal(f[..., :k], diagonal + factor @ np.swapaxes(factor, -1, -2), v)


def guide_mixture(part, f, v):
    c, k = part.components, v.shape[-1]
    logits, rest = f[..., :c], f[..., c:].reshape(*f.shape[:-1], c, 2 * k)
    parts = stats.norm(rest[..., :k], np.exp(rest[..., k:] / 2)).logpdf(v[..., None, :]).sum(-1)
    return special.logsumexp(special.log_softmax(logits, -1) + parts, axis=-1)


def prior_mixture(part, f, v):
    weights = special.log_softmax(numpy(part.logits))
    parts = stats.norm(numpy(part.loc), np.exp(numpy(part.log_scale))).logpdf(v[..., None, :]).sum(-1)
    return special.logsumexp(weights + parts, axis=-1)


def vamp(part, f, v):
    inputs, guide = part.inputs.sigmoid(), part._shared[0]
    parts = [numpy(guide(u[None]).log_prob(torch.as_tensor(v, dtype=u.dtype))) for u in inputs]
    return special.logsumexp(np.stack(parts), axis=0) - np.log(len(parts))


def categorical(part, f, v):
    logits = special.log_softmax(f.reshape(*f.shape[:-1], v.shape[-1], -1), axis=-1)
    index = np.rint(v * part.steps).astype(int)[..., None]
    return np.take_along_axis(logits, np.broadcast_to(index, (*logits.shape[:-1], 1)), -1)[..., 0].sum(-1)


def discretized_logistic(part, f, v):
    logits, loc, log_scale = np.moveaxis(f.reshape(*f.shape[:-1], 3, v.shape[-1], part.components), -3, 0)
    family, half, x = stats.logistic(loc + 0.5, np.exp(log_scale - 2)), 0.5 / part.steps, v[..., None]
    upper = np.where(x > 1 - half, 1, family.cdf(x + half))
    lower = np.where(x < half, 0, family.cdf(x - half))
    return np.log((special.softmax(logits, -1) * (upper - lower)).sum(-1)).sum(-1)


def beta(part, f, v):
    logit, log_precision = halves(f)
    precision, mean, m = np.exp(log_precision), special.expit(logit), part.margin
    return stats.beta(mean * precision, (1 - mean) * precision, -m, 1 + 2 * m).logpdf(v).sum(-1)


def gamma_of(f, v):
    concentration, rate = np.exp(halves(f))
    return stats.gamma(concentration, scale=1 / rate).logpdf(v).sum(-1)


def location_scale(family):
    def log_density(part, f, v):
        if getattr(part, "scale", "network") == "network":
            loc, log_variance = halves(f)
        else:
            loc, log_variance = f, numpy(part.log_variance)
        log_variance = getattr(part, "log_variance_scale", 1) * log_variance
        loc = special.expit(loc) if getattr(part, "sigmoid_mean", False) else loc
        scale = np.maximum(np.exp(log_variance / 2), getattr(part, "min_scale", 0))
        return family(loc, scale).logpdf(v).sum(-1)

    return log_density


def columns(part, f, v):
    """Reals in float units of the columns, counts, categories: each part against its own oracle."""
    total = 0
    for i, each in enumerate(part.parts):
        index = numpy(getattr(part, f"columns{i}")).astype(int)
        loc = numpy(part.loc)[index]
        scale = numpy(part.scale)[index]
        f = numpy(each.network(part.z))
        name, x = type(each).__name__, v[..., index]
        if name == "NegativeBinomial":
            f, loc, scale = f + np.log(scale), 0, 1
        jacobian = np.log(scale).sum() if name == "Gaussian" else 0
        total = total + DENSITIES["likelihoods", name](each, f, (x - loc) / scale) - jacobian
    return total


JACOBIAN = "change of variables"

# (part, its network's output as an array, value) -> log density; JACOBIAN: the change of variables.
DENSITIES = {
    ("priors", "StandardNormal"): lambda part, f, v: stats.norm(0, 1).logpdf(v).sum(-1),
    ("priors", "LearnedNormal"): lambda part, f, v: (
        stats.norm(numpy(part.loc), np.exp(numpy(part.log_scale))).logpdf(v).sum(-1)
    ),
    ("priors", "Laplace"): lambda part, f, v: stats.laplace(0, numpy(part.scale)).logpdf(v).sum(-1),
    ("priors", "StudentT"): lambda part, f, v: stats.t(numpy(part.df)).logpdf(v).sum(-1),
    ("priors", "GaussianMixture"): prior_mixture,
    ("priors", "VampPrior"): vamp,
    ("priors", "ConditionalNormal"): location_scale(stats.norm),
    ("priors", "Flow"): JACOBIAN,
    ("priors", "Family"): lambda part, f, v: gamma_of(numpy(part.unconstrained), v),
    ("likelihoods", "Bernoulli"): lambda part, f, v: (v * f - np.logaddexp(0, f)).sum(-1),
    ("likelihoods", "ContinuousBernoulli"): lambda part, f, v: (f * v - np.log(np.expm1(f) / f)).sum(-1),
    ("likelihoods", "Gaussian"): location_scale(stats.norm),
    ("likelihoods", "Laplace"): location_scale(stats.laplace),
    ("likelihoods", "Beta"): beta,
    ("likelihoods", "Categorical"): categorical,
    ("likelihoods", "DiscretizedLogistic"): discretized_logistic,
    ("likelihoods", "Poisson"): lambda part, f, v: stats.poisson(np.exp(f)).logpmf(v).sum(-1),
    ("likelihoods", "NegativeBinomial"): lambda part, f, v: (
        stats.nbinom(np.exp(numpy(part.log_total_count)), special.expit(-f)).logpmf(v).sum(-1)
    ),
    ("likelihoods", "Columns"): columns,
    ("likelihoods", "Family"): lambda part, f, v: stats.gumbel_r(halves(f)[0], np.exp(halves(f)[1])).logpdf(v).sum(-1),
    ("guides", "DiagonalNormal"): location_scale(stats.norm),
    ("guides", "FullCovarianceNormal"): full_covariance,
    ("guides", "LowRankNormal"): low_rank,
    ("guides", "Mixture"): guide_mixture,
    ("guides", "Flow"): JACOBIAN,
    ("guides", "Family"): lambda part, f, v: gamma_of(f, v),
}

# How to build each part, by (family, name): keyword arguments.
MLP = {"hidden": 7}
RECIPES = {
    ("priors", "StandardNormal"): [{}],
    ("priors", "LearnedNormal"): [{}],
    ("priors", "Laplace"): [{}, {"scale": 2.0}],
    ("priors", "StudentT"): [{}, {"df": 3.0}],
    ("priors", "GaussianMixture"): [{"components": 4}],
    ("priors", "VampPrior"): [{"components": 4}],
    ("priors", "ConditionalNormal"): [{**MLP, "condition": 2}],
    ("priors", "Flow"): [{"hidden": 5}, {"kind": "spline", "hidden": [5]}],
    ("priors", "Family"): [{"distribution": "Gamma"}],
    ("likelihoods", "Bernoulli"): [MLP, {"hidden": [7, 5], "activation": "relu", "relaxed": True}],
    ("likelihoods", "ContinuousBernoulli"): [MLP],
    ("likelihoods", "Gaussian"): [
        MLP,
        {"hidden": [], "sigmoid_mean": True, "min_scale": 0.1},
        {**MLP, "scale": "shared"},
        {**MLP, "scale": "pixel"},
        {**MLP, "scale": 0.5},
    ],
    ("likelihoods", "Laplace"): [MLP, {**MLP, "scale": "pixel", "sigmoid_mean": True}],
    ("likelihoods", "Beta"): [MLP],
    ("likelihoods", "Categorical"): [{**MLP, "steps": 4}],
    ("likelihoods", "DiscretizedLogistic"): [{**MLP, "steps": 15}, {**MLP, "components": 3}],
    ("likelihoods", "Poisson"): [MLP],
    ("likelihoods", "NegativeBinomial"): [MLP],
    ("likelihoods", "Columns"): [
        {**MLP, "kinds": "real"},
        {**MLP, "kinds": ["real", "count", "binary", "category:3", "real", "category:4"]},
    ],
    ("likelihoods", "Family"): [{**MLP, "distribution": "Gumbel"}],
    ("guides", "DiagonalNormal"): [
        MLP,
        {"network": lambda i, o: nn.MLP(i, o, [4, 4], "ELU", 0.1)},
        {**MLP, "log_variance_scale": 0.1},
    ],
    ("guides", "FullCovarianceNormal"): [MLP],
    ("guides", "LowRankNormal"): [MLP, {**MLP, "rank": 1}],
    ("guides", "Mixture"): [MLP, {**MLP, "components": 2}],
    ("guides", "Flow"): [MLP, {**MLP, "kind": "planar"}, {**MLP, "kind": "spline"}],
    ("guides", "Family"): [{**MLP, "distribution": "Gamma"}],
}
FAMILIES = {"priors": priors, "likelihoods": likelihoods, "guides": guides, "distributions": distributions}


def build(family, name, options, latent_dim=3, data_dim=6):
    """A part; a prior that takes a guide gets one."""
    sizes = {"priors": (latent_dim,), "likelihoods": (latent_dim, data_dim), "guides": (data_dim, latent_dim)}[family]
    if (family, name) == ("priors", "VampPrior"):
        options = {"guide": guides.DiagonalNormal(data_dim, latent_dim, hidden=7), **options}
    return getattr(FAMILIES[family], name)(*sizes, **options)
