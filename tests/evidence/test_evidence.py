"""Evidence against the linear-Gaussian pair, where everything is known."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import InputError, evidence, traces
from pyro_aevb.evidence.importance import _khat
from pyro_aevb.seeds import derive, seeded
from tests.pairs import LinearGaussian, binary, hand_written_pair, paper_pair


def test_bound_equals_the_evidence_at_the_optimum():
    pair = LinearGaussian()
    parts = evidence.bound(pair.model, pair.guide, pair.x, num_samples=2000)
    # log p(x|z) is averaged over 2000 draws with standard deviation about 1.2: 4.5 s.e. is 0.12; 37 data, p < 3e-4
    torch.testing.assert_close(parts.bound, pair.log_evidence, atol=0.12, rtol=0)


def test_bound_is_below_the_evidence_by_the_kl_to_the_posterior():
    shift, widen = 0.3, 1.3
    pair, exact = LinearGaussian(shift=shift, widen=widen), LinearGaussian()
    q, p = (pair_.guide.guide(pair.x) for pair_ in (pair, exact))
    gap = torch.distributions.kl_divergence(q, p)
    parts = evidence.bound(pair.model, pair.guide, pair.x, num_samples=4000)
    torch.testing.assert_close(parts.bound, pair.log_evidence - gap, atol=0.15, rtol=0)  # about 5 s.e. each


def test_kl_is_exact_where_a_closed_form_is_registered():
    pair = LinearGaussian(shift=0.3)
    q = pair.guide.guide(pair.x)
    closed = torch.distributions.kl_divergence(q, pair.model.prior())
    torch.testing.assert_close(evidence.bound(pair.model, pair.guide, pair.x).kl, closed, rtol=1e-12, atol=1e-12)


def test_importance_sampling_is_exact_at_the_posterior_with_one_sample():
    pair = LinearGaussian()
    sums = evidence.importance_weights(pair.model, pair.guide, pair.x, 1)
    torch.testing.assert_close(sums.log_likelihood, pair.log_evidence, rtol=1e-12, atol=1e-10)


def test_importance_sampling_converges_to_the_exact_evidence():
    pair = LinearGaussian(shift=0.1, widen=1.2)
    sums = evidence.importance_weights(pair.model, pair.guide, pair.x, 5000)
    error = (sums.log_likelihood - pair.log_evidence) / sums.standard_error
    assert sums.standard_error.max() < 0.03
    assert error.abs().max() < 4.5  # 37 z-scores: fails by chance with p < 3e-4
    assert 0.6 < error.std() < 1.5  # the error bars are neither too wide nor too narrow


def test_standard_error_is_zero_at_the_posterior():
    pair = LinearGaussian()
    assert evidence.importance_weights(pair.model, pair.guide, pair.x, 10).standard_error.max() < 1e-6


@pytest.mark.parametrize(
    ("num_samples", "chunk_size"), [(1000, 300), (7, 3), (1, 50), (1001, 1000), (2500, 999), (23, None)]
)
def test_draws_exactly_the_samples_asked_for(num_samples, chunk_size, monkeypatch):
    pair, asked, log_joint = LinearGaussian(shift=0.2), [], traces.Particles.log_joint

    def counting(self, args, latents, count):
        found = log_joint(self, args, latents, count)
        asked.append(count)
        assert found[0].shape == latents["z"].shape[:2] == (count, 37)
        return found

    monkeypatch.setattr(traces.Particles, "log_joint", counting)
    evidence.importance_weights(pair.model, pair.guide, pair.x, num_samples, chunk_size=chunk_size)
    assert sum(asked) == num_samples
    assert max(asked) == min(num_samples, chunk_size or 500 // 37, 1000)


def test_chunks_change_nothing():
    pair = LinearGaussian(shift=0.3, widen=1.3)
    whole, chunked = (
        evidence.importance_weights(pair.model, pair.guide, pair.x, 1000, chunk_size=c) for c in (1000, 300)
    )
    torch.testing.assert_close(chunked.log_sum, whole.log_sum, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(chunked.log_sum_squares, whole.log_sum_squares, rtol=1e-13, atol=1e-12)


def test_one_chunk_equals_the_definition():
    pair = LinearGaussian(shift=0.3)
    with seeded(derive(0, "evaluation", 0)), torch.no_grad():
        weights = traces.log_densities(pair.model, pair.guide, (pair.x,), 50).log_weight
    expected = weights.exp().mean(0).log()
    torch.testing.assert_close(
        evidence.importance_sampling(pair.model, pair.guide, pair.x, 50, chunk_size=50), expected
    )


def test_other_data_in_the_batch_change_nothing():
    pair = LinearGaussian(data_dim=5, shift=0.3)
    x = pair.marginal.sample((250,))
    whole = evidence.bound(pair.model, pair.guide, x, num_samples=3).bound
    part = evidence.bound(pair.model, pair.guide, x[:200], num_samples=3).bound
    torch.testing.assert_close(whole[:200], part, rtol=0, atol=0)


def test_evaluation_leaves_the_random_state_and_training_switches_alone():
    model, guide = paper_pair()
    model.train()
    guide.eval()
    before = torch.get_rng_state()
    first = evidence.importance_sampling(model, guide, binary(), 20)
    assert torch.equal(before, torch.get_rng_state())
    assert model.likelihood.training
    assert not guide.guide.training
    torch.rand(3)
    assert torch.equal(first, evidence.importance_sampling(model, guide, binary(), 20))
    assert not first.requires_grad


def test_dropout_is_off():
    model, guide = paper_pair()
    plain = evidence.bound(model, guide, binary()).bound
    model.likelihood.network.insert(1, torch.nn.Dropout(0.5))
    torch.testing.assert_close(evidence.bound(model, guide, binary()).bound, plain)


def test_a_hand_written_pair_evaluates():
    model, guide = hand_written_pair(size=50)
    x = torch.randn(7, 4)
    parts = evidence.bound(model, guide, x, num_samples=500)
    log_px = evidence.importance_sampling(model, guide, x, num_samples=2000)
    assert parts.bound.shape == log_px.shape == (7,)
    assert (log_px > parts.bound - 0.5).all()


def test_a_dependent_second_latent_has_no_closed_form():
    """b's prior depends on a: only for one latent site is the KL per datum one closed form."""
    model, guide = hand_written_pair(size=50)
    assert traces.per_datum_kl(model, guide, (torch.randn(7, 4),)) is None


def test_bad_counts_and_empty_data():
    pair = LinearGaussian()
    with pytest.raises(InputError, match="num_samples"):
        evidence.importance_sampling(pair.model, pair.guide, pair.x, 0)
    with pytest.raises(InputError, match="empty"):
        evidence.bound(pair.model, pair.guide, pair.x[:0])


def test_active_units_counts_dimensions_that_follow_the_data():
    pair = LinearGaussian(latent_dim=3)
    assert evidence.active_units(pair.guide, pair.x) == 3
    with torch.no_grad():
        pair.guide.guide.gain[1] = 0
    assert evidence.active_units(pair.guide, pair.x) == 2


def test_bernoulli_with_zero_weights():
    """paper.md's floor: all weights zero gives -D ln 2."""
    model, guide = paper_pair()
    for p in (*model.parameters(), *guide.parameters()):
        torch.nn.init.zeros_(p)
    bound = evidence.bound(model, guide, binary()).bound
    torch.testing.assert_close(bound, torch.full_like(bound, -6 * math.log(2)))


@pytest.mark.parametrize("k", [0.3, 0.7, 1.0])
def test_khat_is_the_index_of_the_tail(k):
    """Weights u^-k have a generalized Pareto tail of index k; the fit of a tail of 200 has s.d. (1 + k) / sqrt(200)."""
    from pyro_aevb.evidence.importance import _khat

    uniform = torch.rand(5000, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert _khat(-k * uniform.log()).mean().item() == pytest.approx(k, abs=0.06)


def test_khat_of_equal_of_few_and_of_bounded_weights():
    pair = LinearGaussian()
    assert evidence.importance_weights(pair.model, pair.guide, pair.x, 10).khat.isnan().all()
    wide = LinearGaussian(widen=1.3)
    sums = evidence.importance_weights(wide.model, wide.guide, wide.x, 2000)
    assert sums.khat.max() < 0.5
    assert ((sums.effective_samples > 1) & (sums.effective_samples < 2000)).all()
    narrow = LinearGaussian(widen=0.5)
    assert (evidence.importance_weights(narrow.model, narrow.guide, narrow.x, 2000).khat > 0.7).double().mean() > 0.5


def test_stopped_and_gone_on_equals_whole(tmp_path, monkeypatch):
    """Blocks of 10 data; the first attempt is stopped after the second block."""
    from pyro_aevb import evaluation
    from pyro_aevb.evidence import importance

    monkeypatch.setattr(evaluation, "DATA_BLOCK", 10)
    pair, kept = LinearGaussian(shift=0.3), tmp_path / "evidence.pt"
    whole = evidence.importance_weights(pair.model, pair.guide, pair.x, 100)

    finished = []

    def stop(count):
        finished.append(count)
        if len(finished) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evidence.importance_weights(pair.model, pair.guide, pair.x, 100, keep=kept, progress=stop)
    drawn = []
    draw = importance.weighted_draws
    monkeypatch.setattr(importance, "weighted_draws", lambda *a: drawn.append(a[1][0]) or draw(*a))
    again = evidence.importance_weights(pair.model, pair.guide, pair.x, 100, keep=kept)
    assert torch.equal(torch.cat(drawn), pair.x[20:])
    assert all(torch.equal(a, b) for a, b in zip(whole[:3], again[:3], strict=True))
    for changed in ({"num_samples": 99}, {"seed": 1}):
        with pytest.raises(InputError, match="other data, weights or settings"):
            evidence.importance_weights(pair.model, pair.guide, pair.x, **{"num_samples": 100, "keep": kept, **changed})
    kept.write_bytes(b"damaged")
    with pytest.raises(InputError, match="damaged"):
        evidence.importance_weights(pair.model, pair.guide, pair.x, 100, keep=kept)


def test_without_a_guide_importance_sampling_says_what_serves():
    pair = LinearGaussian()
    with pytest.raises(InputError, match="annealed_importance_sampling"):
        evidence.importance_weights(pair.model, None, pair.x, 10)


def test_linear_gaussian_is_exact_and_refuses_the_rest():
    pair = LinearGaussian(latent_dim=2, data_dim=7)
    torch.testing.assert_close(evidence.linear_gaussian(pair.model, pair.x), pair.log_evidence, rtol=1e-12, atol=1e-12)
    for family, said in (("Bernoulli", "no Gaussian"), ("Gaussian", "not linear")):
        model, _ = paper_pair(family)
        with pytest.raises(InputError, match=said):
            evidence.linear_gaussian(model, binary())


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_what_bends_is_not_linear_however_small_or_large(size):
    def model(x, bend):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(size * (z + bend * z.tanh()), 1.0).to_event(1), obs=x)

    x = torch.linspace(-2, 2, 5).unsqueeze(-1)
    exact = dist.Normal(0.0, (1 + size**2) ** 0.5).log_prob(x[:, 0])
    torch.testing.assert_close(evidence.linear_gaussian(partial(model, bend=0.0), x), exact)
    with pytest.raises(InputError, match="not linear"):
        evidence.linear_gaussian(partial(model, bend=0.01), x)


def test_a_flow_that_ignores_the_data_has_no_active_units():
    """It tells no mean: an average of draws, whose own variance is not activity."""
    with aevb.seeded(0):
        guide = aevb.guides.Flow(6, 3, hidden=7).double()
    with torch.no_grad():
        for parameter in guide.network.parameters():
            parameter.zero_()
    pair = aevb.RecognitionModel(guide)
    assert evidence.active_units(pair, binary(200)) == 0
    assert evidence.activity(pair, binary(200)).abs().max() < 0.01


def test_the_bound_is_per_datum_summed_over_dimensions():
    """Not an average over pixels beside a sum over latents: each term is a sum over its dimensions, and duplicating the
    batch changes nothing per datum."""
    model, guide = paper_pair()
    x = binary(10)
    torch.manual_seed(0)
    once = traces.log_densities(model, guide, (x,))
    torch.manual_seed(0)
    noise = torch.randn(10, 2, dtype=torch.float64)
    q = guide.guide(x)
    z = q.mean + q.stddev * noise
    torch.testing.assert_close(once.log_likelihood[0], model.likelihood(z).base_dist.log_prob(x).sum(-1))
    torch.testing.assert_close(once.log_prior[0], dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    torch.testing.assert_close(once.log_guide[0], q.base_dist.log_prob(z).sum(-1))
    single, double = (evidence.bound(model, guide, d, num_samples=4000).bound.mean() for d in (x, torch.cat([x, x])))
    assert double.item() == pytest.approx(single.item(), abs=0.05)  # standard error of each about 0.004


def test_importance_sampling_has_the_right_sign_whatever_the_chunks():
    pair = LinearGaussian(shift=0.2, widen=1.1)
    exact = pair.log_evidence
    for chunk_size in (1000, 300):
        estimate = evidence.importance_sampling(pair.model, pair.guide, pair.x, 1000, chunk_size=chunk_size)
        assert (estimate - exact).abs().max() < 0.15  # s.e. at most 0.03


def test_evaluation_ignores_training_switches_and_batches():
    """The values of each datum, whatever the batch that it is in; without gradients, in ``eval()``."""
    model, guide = paper_pair()
    x = binary(250)
    whole = evidence.bound(model, guide, x).bound
    assert not whole.requires_grad
    model.train()
    assert torch.equal(whole[:100], evidence.bound(model, guide, x[:100]).bound)


def test_a_zero_weight_is_no_part_of_the_tail():
    weights = torch.randn(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with_zero = torch.cat([weights, torch.full((1, 4), -math.inf, dtype=torch.float64)])
    torch.testing.assert_close(_khat(with_zero), _khat(weights), rtol=0, atol=0)
    assert _khat(weights).isfinite().all()


def test_masked_sites_have_no_closed_form():
    pair = LinearGaussian()

    def masked(x):
        with pyro.poutine.mask(mask=False):
            pair.model(x)

    with pytest.raises(InputError, match="masked"):
        evidence.linear_gaussian(masked, pair.x)
