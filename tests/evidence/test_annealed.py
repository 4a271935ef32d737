"""Annealed importance sampling, from both sides, and appendix D, where log p(x) is known."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

import pyro_aevb as aevb
from pyro_aevb import InputError, evidence
from pyro_aevb.evidence import posterior_density as module
from tests.pairs import LinearGaussian, paper_pair

D = torch.float64


def make(count=300, **options):
    """A linear-Gaussian pair and data of its own."""
    pair = LinearGaussian(**{"shift": 0.3, "widen": 1.3, **options})
    with aevb.seeded(1):
        pair.x = pair.marginal.sample((count,))
    return pair


@pytest.mark.parametrize("start", ["guide", "prior"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_weights_are_unbiased_whatever_the_steps(start, steps):
    """E[w] = p(x), one chain, few steps: where weights were averaged over steps, or a step was left out, it is not.

    The mean of 1500 ratios w / p(x), z-test at 4.5: fails by chance with p < 1e-5 for each.
    """
    pair = make(1500, widen=1.6)
    found = evidence.annealed_importance_sampling(
        pair.model, pair.guide, pair.x, steps=steps, chains=1, leapfrog_steps=2, start=start
    )
    ratio = (found.log_likelihood - pair.log_evidence).exp()
    assert ratio.std() > 0.05
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / 1500**0.5
    assert steps == 1 or 0.7 < found.acceptance.mean() <= 1  # one step has no transition


@pytest.mark.slow
@pytest.mark.parametrize(("start", "steps", "widen"), [("guide", 20, 1.1), ("prior", 40, 1.6)])
def test_backward_weights_are_unbiased_for_the_inverse(start, steps, widen):
    """From the prior in few steps it would be the harmonic mean, whose variance is infinite.

    A path run forwards from the same latents has a mean of 1.37, at 9 standard errors, from this guide.
    """
    pair = make(1500, widen=widen)
    found = evidence.bidirectional(pair.model, pair.guide, pair.x, steps=steps, chains=1, leapfrog_steps=2, start=start)
    ratio = (pair.marginal.log_prob(found.data[0]) - found.upper.log_likelihood).exp()
    assert ratio.std() > 0.05
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / 1500**0.5


def test_one_step_is_importance_sampling():
    """Without a distribution between there is no transition, and the estimate is the exact one within its error."""
    pair = make(50)
    annealed = evidence.annealed_importance_sampling(pair.model, pair.guide, pair.x, steps=1, chains=40)
    assert annealed.acceptance.abs().max() == 0
    z = (annealed.log_likelihood - pair.log_evidence) / annealed.standard_error
    assert z.abs().max() < 5


def test_annealing_reaches_the_exact_evidence_where_the_guide_does_not():
    pair = make(100, shift=0.5, widen=0.7)
    importance = evidence.importance_weights(pair.model, pair.guide, pair.x, 8)
    annealed = evidence.annealed_importance_sampling(pair.model, pair.guide, pair.x, steps=60, chains=8)
    assert 0.75 < annealed.acceptance.mean() < 0.9
    z = (annealed.log_likelihood - pair.log_evidence) / annealed.standard_error
    assert z.abs().mean() < 1.6
    near, far = ((e.log_likelihood - pair.log_evidence).abs().mean() for e in (annealed, importance))
    assert near < far / 3


def test_both_sides_meet():
    pair = make(100)
    found = evidence.bidirectional(pair.model, pair.guide, pair.x, steps=60, chains=8)
    exact = pair.marginal.log_prob(found.data[0])
    lower, upper = (side.log_likelihood - exact for side in (found.lower, found.upper))
    assert found.data[0].shape == pair.x.shape
    assert not torch.equal(found.data[0], pair.x)
    for side, error in ((lower, found.lower.standard_error), (upper, found.upper.standard_error)):
        assert abs(side.mean()) < 4 * error.square().sum().sqrt() / 100
    assert (upper - lower).mean().abs() < 0.1
    covariance = torch.cov(found.data[0].T)  # dreams come from the model: 100 of them
    assert (covariance - pair.marginal.covariance_matrix).norm() < 0.5 * covariance.norm()


def test_constrained_latents_are_annealed():
    """A gamma latent whose evidence is known: x ~ Poisson(z), z ~ Gamma is negative binomial."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(torch.tensor(3.0, dtype=D), 2.0))
            pyro.sample("x", dist.Poisson(z), obs=x)

    x = torch.arange(8, dtype=D).repeat(5)
    exact = torch.as_tensor(stats.nbinom(3, 2 / 3).logpmf(x.numpy()))
    annealed = evidence.annealed_importance_sampling(model, None, x, steps=60, chains=32, start="prior")
    assert ((annealed.log_likelihood - exact).abs() < 5 * annealed.standard_error).all()
    assert annealed.standard_error.max() < 0.15
    density = evidence.appendix_d(model, x, 200, chains=2)
    assert ((density.log_likelihood - exact).abs() < 5 * density.standard_error).all()


@pytest.mark.slow
def test_appendix_d_is_exact_within_its_error_bars():
    pair = make(60)
    found = evidence.appendix_d(pair.model, pair.x, 300, chains=2, leapfrog_steps=10)
    z = (found.log_likelihood - pair.log_evidence) / found.standard_error
    assert found.standard_error.mean() < 0.02
    assert z.abs().max() < 4.5
    assert 0.6 < z.std() < 1.5
    assert found.rhat.max() < 1.1
    assert found.kernel.mean() < 0.3  # the posterior is Gaussian


def test_the_two_densities_against_scipy():
    draws, points = (torch.randn(2, n, 3, dtype=D, generator=torch.Generator().manual_seed(n)) for n in (50, 20))
    kernel, gaussian = (f(draws, points) for f in (module._log_kernel_density, module._log_gaussian))
    for b in range(2):
        own = stats.gaussian_kde(draws[b].T.numpy()).logpdf(points[b].T.numpy())
        torch.testing.assert_close(kernel[b], torch.as_tensor(own), rtol=1e-5, atol=1e-5)  # the ridge
        fitted = MultivariateNormal(draws[b].mean(0), torch.cov(draws[b].T))
        torch.testing.assert_close(gaussian[b], fitted.log_prob(points[b]), rtol=1e-5, atol=1e-5)


def test_the_better_density_is_chosen():
    """Two far modes: a kernel density; one Gaussian: a Gaussian."""
    noise = torch.randn(2, 400, 2, dtype=D, generator=torch.Generator().manual_seed(0))
    sign = torch.tensor([1.0, -1.0], dtype=D).repeat(200)[None, :, None]
    assert module._kernel_is_better(torch.stack([noise[0], noise[1] + 20 * sign[0]])).tolist() == [False, True]


def test_appendix_d_warns_and_refuses():
    model, guide = paper_pair(latent_dim=6)
    x = (torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=D) > 0.5).to(D)
    with pytest.warns(UserWarning, match="6 latents"):
        evidence.appendix_d(model, x, 30, guide=guide)
    with pytest.raises(InputError, match="at least 16"):
        evidence.appendix_d(model, x, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = make(3)
        evidence.appendix_d(pair.model, pair.x, 10)


@pytest.mark.parametrize("method", ["annealed_importance_sampling", "appendix_d", "bidirectional"])
def test_a_function_of_seed_and_data_and_kept(method, tmp_path):
    """The same again from a file of kept blocks, whatever the global generator and the training switches."""
    pair = make(7)
    guide = {} if method == "appendix_d" else {"guide": pair.guide}
    options = {"num_samples": 10} if method == "appendix_d" else {"steps": 3, "chains": 2}

    def run(**more):
        return getattr(evidence, method)(model=pair.model, x=pair.x, **guide, **options, **more)

    def flat(found):
        return [t for part in found for t in (part if isinstance(part, tuple) else (part,))]

    first = run(keep=tmp_path / "kept.pt")
    state = torch.get_rng_state()
    torch.rand(3)
    for again in (run(), run(keep=tmp_path / "kept.pt")):
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(flat(first), flat(again), strict=True))
    assert not torch.equal(flat(first)[0], flat(run(seed=1))[0])
    torch.set_rng_state(state)
    assert pair.model.training
    with pytest.raises(InputError, match="other data, weights or settings"):
        run(keep=tmp_path / "kept.pt", leapfrog_steps=3)


def test_bad_input_is_named():
    pair = make(3)
    with pytest.raises(InputError, match="start='prior'"):
        evidence.annealed_importance_sampling(pair.model, None, pair.x)
    with pytest.raises(InputError, match="give one of guide, prior"):
        evidence.annealed_importance_sampling(pair.model, pair.guide, pair.x, start="posterior")
    for name in ("steps", "chains", "leapfrog_steps"):
        with pytest.raises(InputError, match=name):
            evidence.annealed_importance_sampling(pair.model, pair.guide, pair.x, **{name: 0})
