"""Pairs with several latent sites: each site's part, each dimension's, and what is the same for them all."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

import pyro_aevb as aevb
from pyro_aevb import diagnostics
from pyro_aevb.errors import InputError
from pyro_aevb.plots.diagnostics import draw_diagnostics
from tests.pairs import plate

ROWS = 150


def data(seed=0):
    return 1.5 * torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(loc, scale):
    return dist.Normal(loc, loc.new_tensor(scale)).to_event(1)


def together(x):
    """One vector of four latents."""
    with plate(x):
        z = pyro.sample("z", normal(x.new_zeros(len(x), 4), 1.0))
        pyro.sample("x", normal(z[..., :2] + z[..., 2:], 0.5), obs=x)


def together_guide(x):
    with plate(x):
        means = torch.cat([0.4 * x, 0.3 * x], -1)
        pyro.sample("z", normal(means, 0.6))


def apart(x):
    """The same latents in three sites, one of them a scalar and one a matrix."""
    with plate(x):
        a = pyro.sample("a", normal(x.new_zeros(len(x), 2), 1.0))
        b = pyro.sample("b", dist.Normal(x.new_zeros(len(x)), 1.0))
        c = pyro.sample("c", dist.Normal(x.new_zeros(len(x), 1, 1), 1.0).to_event(2))
        pyro.sample("x", normal(a + torch.stack([b, c[..., 0, 0]], -1), 0.5), obs=x)


def apart_guide(x):
    with plate(x):
        pyro.sample("a", normal(0.4 * x, 0.6))
        pyro.sample("b", dist.Normal(0.3 * x[..., 0], 0.6))
        pyro.sample("c", dist.Normal(0.3 * x[..., 1:].unsqueeze(-1), 0.6).to_event(2))


def test_a_latent_cut_into_sites_is_diagnosed_as_one():
    x = data()
    one = diagnostics.diagnose(together, together_guide, x, gap_count=0)
    several = diagnostics.diagnose(apart, apart_guide, x, gap_count=0)
    torch.testing.assert_close(several.kl.total, one.kl.total)
    torch.testing.assert_close(several.kl.per_dimension, one.kl.per_dimension)
    torch.testing.assert_close(several.kl.activity, one.kl.activity)
    assert several.kl.dimensions == ["a[0]", "a[1]", "b", "c[0, 0]"]
    assert one.kl.dimensions == ["z[0]", "z[1]", "z[2]", "z[3]"]
    parts = several.kl.by_site
    torch.testing.assert_close(parts["a"], one.kl.per_dimension[:, :2].sum(-1))
    torch.testing.assert_close(sum(parts.values()), several.kl.total)
    assert several.kl.factorised
    for found in (several, one):
        assert not found.notes
        torch.testing.assert_close(found.aggregate.mutual_information + found.aggregate.marginal_kl, found.kl.total)
    # The same numbers from other draws: within their errors.
    for name in ("mutual_information", "marginal_kl"):
        first, second = (diagnostics.mean_of(getattr(found.aggregate, name)) for found in (one, several))
        assert abs(first.mean - second.mean) < 4 * math.hypot(first.se, second.se)
    first, second = (diagnostics.mean_of(found.decoder_use) for found in (one, several))
    assert abs(first.mean - second.mean) < 4 * math.hypot(first.se, second.se)
    torch.testing.assert_close(several.aggregate.distances, one.aggregate.distances, atol=0.1, rtol=0)
    assert "a[" in str([axes.get_title() for axes in draw_diagnostics(several).get_axes()])


def test_mutual_information_is_exact_at_the_guides_own_density():
    """Each log q(z|x) of the mixture over data, against the densities by hand at the same draws."""
    x = data()[:12]
    found = diagnostics.aggregate_posterior(apart, apart_guide, x, 3)
    z = found.draws.view(12, 3, 4)
    means = torch.cat([0.4 * x, 0.3 * x], -1)
    log_q = dist.Normal(means, 0.6).log_prob(z.unsqueeze(2)).sum(-1)  # of datum i's draws under datum j, (12, 3, 12)
    own = torch.stack([log_q[i, :, i] for i in range(12)])
    expected = (own - log_q.logsumexp(-1) + math.log(12)).mean(-1)
    torch.testing.assert_close(found.mutual_information, expected)


def chain(order):
    """A hierarchy b -> a -> x, and a guide that draws its latents in the given order."""

    def model(x):
        with plate(x):
            b = pyro.sample("b", normal(x.new_zeros(len(x), 2), 1.0))
            a = pyro.sample("a", normal(0.8 * b, 0.7))
            pyro.sample("x", normal(a, 0.5), obs=x)

    def top_down(x):
        with plate(x):
            b = pyro.sample("b", normal(0.5 * x, 0.8))
            pyro.sample("a", normal(0.5 * x + 0.2 * b, 0.4))

    def bottom_up(x):
        with plate(x):
            a = pyro.sample("a", normal(0.6 * x, 0.45))
            pyro.sample("b", normal(0.5 * a, 0.7))

    return model, {"top down": top_down, "bottom up": bottom_up}[order]


def joint_kl(order, x):
    """KL of the two joint Gaussians of (b, a), by PyTorch's closed form."""
    if order == "top down":  # a = 0.5 x + 0.2 b + 0.4 e
        means, variances = (0.5 * x, 0.5 * x + 0.2 * 0.5 * x), (0.8**2, 0.2 * 0.8**2, 0.2**2 * 0.8**2 + 0.4**2)
    else:  # b = 0.5 a + 0.7 e
        means, variances = (0.5 * 0.6 * x, 0.6 * x), (0.25 * 0.45**2 + 0.7**2, 0.5 * 0.45**2, 0.45**2)

    def gaussian(means, variances):
        bb, ba, aa = variances
        covariance = torch.tensor([[bb, ba], [ba, aa]], dtype=torch.float64)
        return torch.distributions.MultivariateNormal(torch.stack(means, -1), covariance)  # for each of x's columns

    prior = gaussian((torch.zeros_like(x), torch.zeros_like(x)), (1.0, 0.8, 0.8**2 + 0.7**2))
    return torch.distributions.kl_divergence(gaussian(means, variances), prior).sum(-1)


@pytest.mark.parametrize("order", ["top down", "bottom up"])
def test_a_hierarchys_parts_add_up_to_its_joint_kl(order):
    """Bottom up a is drawn before b, which its prior is given: the closed form of a's KL at that b is not its part."""
    x = data()
    found = diagnostics.latent_kl(*chain(order), x, 400)
    exact = joint_kl(order, x)
    assert abs((found.total - exact).mean()) < 0.02
    assert (found.total - exact).abs().max() < 0.6
    torch.testing.assert_close(sum(found.by_site.values()), found.total)
    torch.testing.assert_close(found.per_dimension.sum(-1), found.total)
    assert set(found.by_site) == {"a", "b"}


def mixture(x):
    with plate(x):
        y = pyro.sample("y", dist.OneHotCategorical(x.new_tensor([0.5, 0.3, 0.2])))
        z = pyro.sample("z", normal(y[..., :2], 1.0))
        pyro.sample("x", normal(z + y[..., 1:], 0.5), obs=x)


def mixture_guide(x):
    with plate(x):
        y = pyro.sample("y", dist.OneHotCategorical(logits=torch.cat([x, 0 * x[..., :1]], -1)))
        pyro.sample("z", normal(0.5 * x + 0.1 * y[..., :2], 0.6))


def test_discrete_and_continuous_latents():
    x = data()
    found = diagnostics.diagnose(mixture, mixture_guide, x, gap_count=50)
    q = dist.OneHotCategorical(logits=torch.cat([x, torch.zeros(ROWS, 1)], -1))
    prior = x.new_tensor([0.5, 0.3, 0.2])
    torch.testing.assert_close(found.kl.by_site["y"], (q.probs * (q.probs / prior).log()).sum(-1))
    by_hand = dist.Bernoulli(q.probs), dist.Bernoulli(prior.expand(ROWS, 3))
    torch.testing.assert_close(found.kl.per_dimension[:, :3], torch.distributions.kl_divergence(*by_hand))
    assert not found.kl.factorised
    assert found.kl.dimensions == ["y[0]", "y[1]", "y[2]", "z[0]", "z[1]"]
    assert found.aggregate.mutual_information.isfinite().all()
    assert any("no gaps" in note for note in found.notes)
    assert found.decoder_use.mean() > 0


def test_a_scalar_latent_alone():
    def model(x):
        with plate(x):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0)), 1.0), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = data()[:, 0]
    found = diagnostics.diagnose(model, guide, x, gap_count=0)
    exact = torch.distributions.kl_divergence(dist.Normal(x / 2, 0.5**0.5), dist.Normal(0 * x, 1.0))
    torch.testing.assert_close(found.kl.total, exact)
    assert found.kl.dimensions == ["z"]


def test_absent_latents_count_for_nothing_and_have_no_aggregate():
    lengths = torch.arange(ROWS) % 3

    def steps(x, lengths, sample):
        with plate(x):
            for t in range(2):
                with pyro.poutine.mask(mask=t < lengths):
                    sample(t)

    def model(x, lengths):
        def sample(t):
            z = pyro.sample(f"z{t}", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[..., t])

        steps(x, lengths, sample)

    def guide(x, lengths):
        steps(x, lengths, lambda t: pyro.sample(f"z{t}", dist.Normal(x[..., t] / 2, 0.5**0.5)))

    x = data()
    found = diagnostics.diagnose(model, guide, (x, lengths), gap_count=0)
    each = torch.distributions.kl_divergence(dist.Normal(x / 2, 0.5**0.5), dist.Normal(0 * x, 1.0))
    there = torch.arange(2) < lengths.unsqueeze(-1)
    torch.testing.assert_close(found.kl.per_dimension, torch.where(there, each, 0))
    torch.testing.assert_close(found.kl.total, torch.where(there, each, 0).sum(-1))
    for t in range(2):  # of those that have it: a latent that nobody has would be as active as any
        torch.testing.assert_close(found.kl.activity[t], (x[there[:, t], t] / 2).var())
    assert found.aggregate is None
    assert any("no aggregate posterior: site 'z0' is masked" in note for note in found.notes)
    assert "is masked" in draw_diagnostics(found).subfigs[1].texts[0].get_text().replace("\n", " ")


def local(x):
    with plate(x):
        z = pyro.sample("z", dist.Gamma(x.new_ones(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", normal(z.log(), 1.0), obs=x)


def test_latents_made_from_auxiliary_ones_are_told_in_all():
    """``AutoNormal`` makes each value from a site of its own, whose density is not told apart."""
    x = data()[:30]
    guide = AutoNormal(local)
    with pyro.get_param_store().scope(), aevb.seeded(0):
        guide(x)
        found = diagnostics.latent_kl(local, guide, x, 400)
        bound = aevb.evidence.bound(local, guide, x, 400)
    assert found.by_site == {}
    assert found.per_dimension is None
    assert found.dimensions == ["z[0]", "z[1]"]
    assert abs(found.total.mean() - bound.kl.mean()) < 0.2


def test_a_vector_of_all_datas_latents_is_refused():
    x = data()[:30]
    guide = AutoDiagonalNormal(local)
    with pyro.get_param_store().scope(), aevb.seeded(0):
        guide(x)
        with pytest.raises(InputError, match=r"'z'|_AutoDiagonalNormal_latent") as refused:
            diagnostics.latent_kl(local, guide, x)
    assert "\n" not in str(refused.value)


def test_a_latent_that_the_guide_leaves_out_is_refused_by_name():
    def guide(x):
        with plate(x):
            pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(len(x), 3)))

    for function in (diagnostics.latent_kl, diagnostics.decoder_use, diagnostics.diagnose):
        with pytest.raises(InputError, match="the guide does not sample the model's site 'z': add it to the guide"):
            function(mixture, guide, data())


def test_what_is_one_for_all_data_is_refused_by_name():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with plate(x):
            z = pyro.sample("z", normal(x.new_zeros(len(x), 2), 1.0))
            pyro.sample("x", normal(z * w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with plate(x):
            pyro.sample("z", normal(x, 1.0))

    for function in (diagnostics.latent_kl, diagnostics.decoder_use, diagnostics.diagnose):
        with pytest.raises(InputError, match=r"latents of each datum.*site 'w' has batch shape \(\)"):
            function(model, guide, data())


class Shifted(dist.Normal):
    """Extends a class whose closed form is registered, and has a density of its own."""

    def log_prob(self, value):
        return super().log_prob(value - 1)

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape) + 1


class Correlated(dist.MultivariateNormal):
    """Its marginals are not those of the class that it extends."""

    def log_prob(self, value):
        return super().log_prob(value - 1)


def test_marginals_of_a_strangers_class_are_not_known():
    made = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert diagnostics.latents.marginals(made) is not None
    assert diagnostics.latents.marginals(Correlated(torch.zeros(2), torch.eye(2))) is None


@pytest.mark.parametrize("sites", [1, 2])
def test_a_density_of_its_own_is_no_closed_form_s(sites):
    """KL(N(1, 1) || N(0, 1)) is a half in each dimension; of the class that is extended it would be 0."""

    def model(x):
        with plate(x):
            for i in range(sites):
                pyro.sample(f"z{i}", normal(x.new_zeros(len(x), 2), 1.0))
            pyro.sample("x", normal(x, 1.0), obs=x)

    def guide(x):
        with plate(x):
            for i in range(sites):
                pyro.sample(f"z{i}", Shifted(x.new_zeros(len(x), 2), 1.0).to_event(1))

    found = diagnostics.latent_kl(model, guide, data(), 500)
    torch.testing.assert_close(found.per_dimension.mean(0), torch.full((2 * sites,), 0.5).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found.total.mean(), torch.tensor(float(sites)).double(), atol=0.03, rtol=0)
