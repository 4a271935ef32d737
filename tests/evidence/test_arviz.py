"""ArviZ's statistics against their published formulas, the same numbers in each of its majors.

Python 3.11 gets arviz-stats 0.8, later ones 1.x. The values below were computed by the formulas of this file, which
were written from the papers and share no code with ArviZ; continuous integration runs this file with both majors.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import rankdata

from pyro_aevb.evidence.importance import _khat
from pyro_aevb.evidence.posterior_density import _relative_error
from pyro_aevb.hmc.posterior import Samples

GOLDEN = (math.sqrt(5) - 1) / 2


def uniforms(count, step=GOLDEN):
    """Evenly spread numbers in (0, 1), out of order, equal on every machine: multiples of an irrational, modulo 1."""
    return (np.arange(1, count + 1) * step) % 1


def chains(shift=0.0, draws=200, count=4):
    """Autocorrelated chains ``(draws, chains)``: x = 0.6 x + noise, the last chain moved by ``shift``."""
    noise = ndtri(uniforms(draws * count, math.sqrt(2) - 1)).reshape(draws, count)
    found = np.zeros((draws, count))
    found[0] = noise[0]
    for row in range(1, draws):
        found[row] = 0.6 * found[row - 1] + noise[row]
    found[:, -1] += shift
    return found


# ---------------------------------------------------------------- the formulas


def pareto_khat(log_weight):
    """Vehtari et al. (2024): Zhang and Stephens' fit (2009) to the largest weights, with a prior worth ten weights."""
    weight = np.exp(log_weight - log_weight.max())
    count = len(weight)
    tail = int(min(count / 5, 3 * math.sqrt(count)))
    ordered = np.sort(weight)
    excess = ordered[-tail:] - ordered[-tail - 1]
    guesses = 30 + int(math.sqrt(tail))
    quartile = excess[int(tail / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt(guesses / (np.arange(1, guesses + 1) - 0.5))) / (3 * quartile)
    shape = np.log1p(-theta[:, None] * excess).mean(1)
    log_likelihood = tail * (np.log(-theta / shape) - shape - 1)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    mean_theta = (theta * posterior).sum() / posterior.sum()
    return (tail * np.log1p(-mean_theta * excess).mean() + 5) / (tail + 10)


def split(values):
    """Each chain's halves as chains of their own, ``(draws / 2, 2 chains)``."""
    half = len(values) // 2
    return np.concatenate([values[:half], values[-half:]], axis=1)


def ranked(values):
    """Normal scores of the ranks over all chains."""
    return ndtri((rankdata(values).reshape(values.shape) - 3 / 8) / (values.size + 1 / 4))


def potential(values):
    """Gelman and Rubin's ratio of standard deviations: of all draws, and within chains."""
    draws = len(values)
    within = values.var(0, ddof=1).mean()
    total = (draws - 1) / draws * within + values.mean(0).var(ddof=1)
    return math.sqrt(total / within)


def rhat(values):
    """Vehtari et al. (2021): the larger of the values' and of their distances' from the median."""
    halves = split(values)
    return max(potential(ranked(halves)), potential(ranked(abs(halves - np.median(halves)))))


def effective(values):
    """Geyer's (1992) initial monotone sequence over several chains, as Vehtari et al. (2021) sum it."""
    draws, count = values.shape
    centred = values - values.mean(0)
    lags = [(centred[: draws - lag] * centred[lag:]).sum(0) / draws for lag in range(draws)]
    covariance = np.mean(lags, axis=1) * draws / (draws - 1)
    total = (draws - 1) / draws * covariance[0] + values.mean(0).var(ddof=1)
    correlation = 1 - (covariance[0] - covariance * (draws - 1) / draws) / total
    correlation[0] = 1
    pairs = [correlation[0] + correlation[1]]
    for lag in range(2, draws - 2, 2):
        pair = correlation[lag] + correlation[lag + 1]
        if pair <= 0:
            break
        pairs.append(min(pairs[-1], pair))
    else:
        pairs.pop()  # of the last pair that there is its first member counts, as in Stan
    odd_one_out = max(correlation[lag], 0)
    time = -1 + 2 * sum(pairs) + odd_one_out
    return draws * count / max(time, 1 / math.log10(draws * count))


# ---------------------------------------------------------------- what the package gives


KHAT = [
    (0.3, 1000, 0.33885192598256686),
    (0.7, 1000, 0.6880435903633623),
    (1.2, 1000, 1.1227202911421408),
    (0.5, 80, 0.46361208578305574),
]
CHAINS = [  # shift, draws, R-hat, bulk effective sample size, effective sample size of the mean
    (0.0, 200, 0.9960979070538706, 179.62413589800514, 178.83646955269253),
    (0.0, 60, 1.001666234565784, 64.36841794225532, 63.307917762620804),
    (1.5, 200, 1.2003919658707691, 27.318336593307656, 28.740662485960627),
]


@pytest.mark.parametrize(("tail", "count", "expected"), KHAT)
def test_khat_of_weights_with_a_pareto_tail(tail, count, expected):
    log_weight = -tail * np.log1p(-uniforms(count))
    assert pareto_khat(log_weight) == pytest.approx(expected, rel=1e-10)
    both = torch.as_tensor(np.stack([log_weight, log_weight + 300], axis=1))  # a constant factor changes no tail
    assert _khat(both).tolist() == pytest.approx([expected, expected], rel=1e-8)


def test_khat_where_there_is_no_tail():
    assert math.isnan(_khat(torch.zeros(24, 1, dtype=torch.float64)))  # too few
    assert _khat(torch.zeros(100, 1, dtype=torch.float64)) == -math.inf  # all equal
    far = torch.as_tensor(-0.3 * np.log1p(-uniforms(1000)))
    far = torch.cat([far, torch.full((50,), -math.inf, dtype=torch.float64)])  # a weight of zero is no part of the tail
    assert float(_khat(far.unsqueeze(1))) == pytest.approx(KHAT[0][2], rel=1e-8)


@pytest.mark.parametrize(("shift", "draws", "ratio", "bulk", "mean"), CHAINS)
def test_what_samples_tell_of_their_chains(shift, draws, ratio, bulk, mean):
    values = chains(shift, draws)
    halves = split(values)
    assert rhat(values) == pytest.approx(ratio, rel=1e-10)
    assert effective(ranked(halves)) == pytest.approx(bulk, rel=1e-10)
    assert effective(halves) == pytest.approx(mean, rel=1e-10)

    position = torch.as_tensor(values)[..., None, None].expand(-1, -1, 2, 3)  # (S, C, B, K)
    samples = Samples(position, *[None] * (len(Samples._fields) - 1))
    torch.testing.assert_close(samples.rhat, torch.full((2, 3), ratio, dtype=torch.float64), rtol=1e-8, atol=0)
    torch.testing.assert_close(
        samples.effective_samples, torch.full((2, 3), bulk, dtype=torch.float64), rtol=1e-8, atol=0
    )


def test_one_chain_is_compared_with_itself():
    values = chains(draws=200)[:, :1]
    samples = Samples(torch.as_tensor(values)[..., None, None], *[None] * (len(Samples._fields) - 1))
    assert float(samples.rhat) == pytest.approx(rhat(split(values)), rel=1e-8)
    assert float(samples.effective_samples) == pytest.approx(effective(ranked(split(split(values)))), rel=1e-8)


@pytest.mark.parametrize(("shift", "draws", "ratio", "bulk", "mean"), CHAINS)
def test_error_of_a_mean_over_chains(shift, draws, ratio, bulk, mean):
    values = torch.as_tensor(chains(shift, draws))
    expected = values.std() / math.sqrt(min(mean, values.numel()))
    torch.testing.assert_close(_relative_error(values.unsqueeze(-1)), expected.reshape(1), rtol=1e-8, atol=0)
