"""The gaps against the linear-Gaussian pair, where all of them are known; and the warnings in words."""

from functools import partial
from types import SimpleNamespace

import pyro
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import InputError, diagnostics, evidence, guides
from tests.diagnosed_pairs import Amortised, Registered, ignoring
from tests.pairs import LinearGaussian, binary, paper_pair

FEW = {"log_evidence": partial(evidence.importance_weights, num_samples=200)}


def gaps_of(pair, **options):
    return diagnostics.inference_gaps(pair.model, pair.guide, pair.x, **{**FEW, **options})


# ---------------------------------------------------------------- known gaps


def test_the_exact_posterior_leaves_no_gap():
    pair = Amortised()
    gaps = gaps_of(pair)
    for level in (gaps.bound, gaps.log_likelihood):
        torch.testing.assert_close(level, pair.log_evidence, rtol=0, atol=1e-9)
    torch.testing.assert_close(gaps.optimised_bound, pair.log_evidence, rtol=0, atol=0.02)
    assert (gaps.amortisation.abs() <= 4.5 * gaps.amortisation_error + 1e-9).all()
    assert gaps.converged


def test_a_shifted_and_wide_guide_leaves_an_amortisation_gap_alone():
    pair = Amortised(shift=0.4, widen=1.5)
    gaps = gaps_of(pair, evaluation_samples=2000)
    exact = pair.posterior_kl()
    assert exact.min() > 0.5
    z = (gaps.amortisation - exact) / gaps.amortisation_error
    assert z.abs().max() < 4.5  # 37 z-scores: fails by chance with p < 3e-4, and the seed is fixed
    assert gaps.amortisation_error.max() < 0.1
    assert 0.6 < z.std() < 1.4  # the error bars are neither too wide nor too narrow
    # What the optimisation leaves is far below a nat: the optimised q is nearly the posterior.
    torch.testing.assert_close(gaps.optimised_bound, pair.log_evidence, rtol=0, atol=0.03)
    assert gaps.converged


def test_a_correlated_posterior_leaves_an_approximation_gap_alone():
    """The guide is the best of its family, so that Adam has nothing to gain."""
    pair = Amortised(rotate=True)
    covariance = pair.likelihood.weight @ pair.likelihood.weight.T + 0.25 * torch.eye(5, dtype=torch.float64)
    pair.marginal = torch.distributions.MultivariateNormal(pair.likelihood.bias.detach(), covariance.detach())
    known = SimpleNamespace(log_likelihood=pair.log_evidence, standard_error=torch.zeros(37))
    gaps = gaps_of(pair, evaluation_samples=2000, log_evidence=lambda *pair_and_x: known)
    exact = pair.family_kl()
    torch.testing.assert_close(pair.posterior_kl(), torch.full((37,), exact, dtype=torch.float64))
    assert exact > 0.1
    z = (gaps.approximation - exact) / gaps.approximation_error
    assert z.abs().max() < 4.5  # 37 z-scores: fails by chance with p < 3e-4, and the seed is fixed
    assert gaps.approximation_error.max() < 0.1
    assert gaps.amortisation.abs().max() < 0.02
    assert (gaps.amortisation > -4.5 * gaps.amortisation_error - 1e-12).all()


def test_annealed_importance_sampling_gives_log_p_by_default(monkeypatch):
    pair = Amortised(shift=0.3)
    pair.x = pair.x[:5]
    annealed = partial(evidence.annealed_importance_sampling, steps=30)
    monkeypatch.setattr(evidence, "annealed_importance_sampling", annealed)
    gaps = diagnostics.inference_gaps(pair.model, pair.guide, pair.x, steps=50, seed=3)
    expected = annealed(pair.model, pair.guide, pair.x, seed=3)
    assert torch.equal(gaps.log_likelihood, expected.log_likelihood)
    assert torch.equal(gaps.log_likelihood_error, expected.standard_error)
    torch.testing.assert_close(gaps.log_likelihood, pair.log_evidence, rtol=0, atol=0.4)  # few steps: 0.1 s.e. each


def test_more_than_one_block_of_data_and_a_name_of_pyro_module():
    """The name must not carry the first block's free outputs over to the second."""
    pair = Amortised(shift=0.4)
    pair.x = pair.marginal.sample((200,))
    ours = gaps_of(pair, steps=5, rounds=1)
    users = diagnostics.inference_gaps(pair.model, Registered(pair.guide.guide), pair.x, steps=5, rounds=1, **FEW)
    torch.testing.assert_close(users, ours, rtol=1e-9, atol=1e-9)
    assert ours.amortisation.shape == (200,)


@pytest.mark.parametrize(
    "make",
    [
        guides.FullCovarianceNormal,
        guides.LowRankNormal,
        guides.Mixture,
        guides.Flow,
        partial(guides.Flow, kind="planar"),
    ],
)
def test_every_family_is_searched(make):
    """An untrained guide gains, and log p(x) by importance sampling is above the optimised bound."""
    with aevb.seeded(0):
        model, _ = paper_pair()
        guide = aevb.RecognitionModel(make(6, 2, hidden=5)).double()
        for p in model.parameters():
            p.data.mul_(3)
    gaps = diagnostics.inference_gaps(
        model, guide, binary(), log_evidence=partial(evidence.importance_weights, num_samples=5_000)
    )
    assert (gaps.amortisation > 4 * gaps.amortisation_error).float().mean() > 0.5
    assert (gaps.approximation > -4.5 * gaps.approximation_error - 0.01).all()


# ---------------------------------------------------------------- what is refused, what is left alone


def test_a_guide_without_one_network_is_refused_and_told_of():
    pair = LinearGaussian()
    with pytest.raises(InputError, match=r"0 parts with a \.network"):
        gaps_of(pair)
    found = diagnostics.diagnose(pair.model, pair.guide, pair.x, **FEW)
    assert found.gaps is None
    assert any(r"0 parts with a .network" in note for note in found.notes)


def test_a_guide_without_a_pathwise_gradient_is_refused():
    family = guides.Family(6, 2, distribution="Poisson", hidden=5)
    prior = aevb.priors.Family(2, distribution="Poisson")
    model = aevb.GenerativeModel(prior, aevb.likelihoods.Bernoulli(2, 6, hidden=5)).double()
    with pytest.raises(InputError, match=r"Poisson.* no pathwise gradient"):
        diagnostics.inference_gaps(model, aevb.RecognitionModel(family).double(), binary(), **FEW)


@pytest.mark.parametrize("option", ["steps", "rounds", "num_samples", "learning_rate", "evaluation_samples"])
def test_numbers_that_are_not_positive_are_refused(option):
    with pytest.raises(InputError, match=option):
        gaps_of(Amortised(), **{option: 0})


def test_the_pair_is_left_as_it_was_and_the_numbers_repeat():
    pair = Amortised(shift=0.4)
    state = {name: p.clone() for name, p in pair.guide.state_dict().items()}
    before, store = torch.get_rng_state(), set(pyro.get_param_store().keys())
    first = gaps_of(pair, steps=20)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert torch.equal(first.optimised_bound, gaps_of(pair, steps=20).optimised_bound)
    assert not torch.equal(first.optimised_bound, gaps_of(pair, steps=20, seed=1).optimised_bound)
    assert set(pyro.get_param_store().keys()) == store
    assert all(torch.equal(p, state[name]) for name, p in pair.guide.state_dict().items())
    assert all(p.grad is None for p in (*pair.guide.parameters(), *pair.model.parameters()))
    assert not first.bound.requires_grad
    assert not first.optimised_bound.requires_grad


def test_the_bound_is_the_bound():
    pair = Amortised(shift=0.4)
    gaps = gaps_of(pair, steps=2, evaluation_samples=2000)
    exact = pair.log_evidence - pair.posterior_kl()
    assert ((gaps.bound - exact) / gaps.bound_error).abs().max() < 4.5  # 37 z-scores: p < 3e-4, seed fixed


# ---------------------------------------------------------------- warnings, in words


def warnings_of(pair, **options):
    found = diagnostics.diagnose(pair.model, pair.guide, pair.x, **{"gap_count": 0, **FEW, **options})
    return [warning for warning in found.warnings if "ceiling" not in warning]


def test_a_healthy_pair_has_no_warnings():
    pair = Amortised()
    assert warnings_of(pair, gap_count=100) == []


def test_posterior_collapse_is_named_on_a_decoder_that_ignores_z():
    pair = ignoring(LinearGaussian())
    assert diagnostics.decoder_use(pair.model, pair.guide, pair.x).abs().max() < 1e-12
    assert any("posterior collapse: the decoder ignores z" in warning for warning in warnings_of(pair))


def test_posterior_collapse_is_named_on_a_guide_that_ignores_x():
    pair = Amortised()
    with torch.no_grad():
        pair.guide.guide.network.weight.zero_()
        pair.guide.guide.network.bias.zero_()  # the prior
    warnings = warnings_of(pair)
    assert any("posterior collapse: none of 3 latent dimensions is active" in warning for warning in warnings)
    assert any("posterior collapse: KL(q(z|x) || p(z)) is 0.000 nats" in warning for warning in warnings)


def test_few_active_dimensions_are_named():
    pair = Amortised()
    with torch.no_grad():
        for k in (0, 2):
            pair.guide.guide.network.weight[k].zero_()
    assert any("only 1 of 3 latent dimensions are active" in warning for warning in warnings_of(pair))


def test_an_aggregate_far_from_the_prior_is_named():
    pair = Amortised(shift=2.0, widen=3.0)
    pair.x = pair.marginal.sample((1000,))
    warnings = warnings_of(pair)
    assert any("far from the prior in 3 of 3 dimensions" in warning for warning in warnings)
    wide = Amortised(latent_dim=2, shift=2.0, widen=6.0)
    wide.x = wide.marginal.sample((1000,))
    assert any("KL(q(z) || p(z)) is" in warning for warning in warnings_of(wide))


def test_large_gaps_and_unfinished_searches_are_named():
    pair = Amortised(shift=3.0)
    assert any("amortisation gap is large" in warning for warning in warnings_of(pair, gap_count=37))
    found = gaps_of(pair, steps=5, rounds=1)
    assert not found.converged
    kl = diagnostics.latent_kl(pair.model, pair.guide, pair.x)
    told = list(diagnostics.diagnosis._gap_warnings(kl, found))
    assert any("has not converged" in warning for warning in told)
    assert any("approximation gap is large" in warning for warning in told)
    below = found._replace(log_likelihood=found.optimised_bound - 1)
    assert any("below the optimised bound" in w for w in diagnostics.diagnosis._gap_warnings(kl, below))


def test_scales_on_a_floor_are_named():
    with aevb.seeded(0):
        model, guide = paper_pair("Gaussian", min_scale=10.0)
    found = diagnostics.diagnose(model, guide, torch.rand(20, 6).double(), gap_count=0)
    assert any("floor of 10" in warning for warning in found.warnings)
