"""Mixture priors: one matrix product, against torch's mixture, one component at a time."""

import pyro.distributions as dist
import pytest
import torch
from torch import distributions as torch_distributions

import pyro_aevb as aevb


def by_component(prior):
    """torch's own density of the same mixture."""
    mixture = prior()
    parts = mixture.component_distribution
    normal = torch_distributions.Normal(parts.base_dist.loc, parts.base_dist.scale)
    weights = torch_distributions.Categorical(logits=mixture.mixture_distribution.logits)
    return torch_distributions.MixtureSameFamily(weights, torch_distributions.Independent(normal, 1))


def made(name, components=7, latent_dim=5):
    with aevb.seeded(0):
        guide = aevb.guides.DiagonalNormal(9, latent_dim, hidden=4)
        options = {"guide": guide} if name == "VampPrior" else {}
        prior = getattr(aevb.priors, name)(latent_dim, components=components, **options).double()
        for weights in (*prior.parameters(), *guide.double().parameters()):
            weights.data += 0.5 * torch.randn_like(weights)
    return prior, [*prior.parameters(), *(guide.parameters() if name == "VampPrior" else ())]


@pytest.mark.parametrize("shape", [(5,), (3, 5), (4, 3, 5)])
@pytest.mark.parametrize("batch", [(), (3,), (4, 3)])
@pytest.mark.parametrize("name", ["GaussianMixture", "VampPrior"])
def test_a_mixtures_density_and_gradients_are_those_of_its_components(name, batch, shape):
    prior, weights = made(name)
    z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mul(3).requires_grad_()
    expanded = prior().expand(batch[-1:]).expand(batch) if batch else prior()
    ours, theirs = expanded.log_prob(z), by_component(prior).expand(batch).log_prob(z)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for one, other in zip(*(torch.autograd.grad(p.sum(), [z, *weights]) for p in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("log_scale", "far"), [(-4.0, 3.0), (-7.0, 1.0), (2.0, 1e4)])
def test_single_precision_loses_nothing_where_squares_cancel(log_scale, far):
    with aevb.seeded(0):
        prior = aevb.priors.GaussianMixture(20, components=6)
        prior.log_scale.data.fill_(log_scale)
        prior.loc.data *= far
        z = prior.loc.data + prior.log_scale.exp() * torch.randn(6, 20)
    found, exact = prior().log_prob(z), by_component(prior.double()).log_prob(z.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_a_mixture_of_flows_sees_each_component_alone():
    with aevb.seeded(0):
        guide = aevb.guides.Flow(9, 4, hidden=5, transforms=2).double()
        prior = aevb.priors.VampPrior(4, guide=guide, components=3).double()
        z = torch.randn(2, 3, 4, dtype=torch.float64)
    parts = [guide(u[None]).log_prob(z) for u in prior.inputs.sigmoid()]
    expected = torch.stack(parts).logsumexp(0) - torch.tensor(3.0, dtype=torch.float64).log()
    torch.testing.assert_close(prior().expand((2, 3)).log_prob(z), expected, rtol=1e-10, atol=1e-10)


class Shifted(dist.Normal):
    """A normal by name."""

    def log_prob(self, value):
        return super().log_prob(value) - 7


def test_components_with_a_density_of_their_own_keep_it():
    guide = aevb.guides.Family(4, 2, distribution=Shifted)
    prior = aevb.priors.VampPrior(2, guide=guide, components=3)
    z = torch.zeros(5, 2)
    expected = torch.stack([guide(u[None]).log_prob(z) for u in prior.inputs.sigmoid()]).logsumexp(0)
    torch.testing.assert_close(prior().log_prob(z), expected - torch.tensor(3.0).log())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.float64])
def test_a_density_is_as_precise_as_its_weights(dtype):
    prior = aevb.priors.GaussianMixture(20)
    found = prior().log_prob(torch.ones(2, 20, dtype=dtype))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.float(), by_component(prior).log_prob(torch.ones(2, 20)))


def test_a_value_of_another_size_is_refused():
    with pytest.raises(ValueError, match="event_shape"):
        aevb.priors.GaussianMixture(5)().log_prob(torch.zeros(3, 1))
