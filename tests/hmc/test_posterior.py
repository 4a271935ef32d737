"""Hamiltonian dynamics and annealing on pairs of many kinds: they work, or are refused by name."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional

import pyro_aevb as aevb
from pyro_aevb import InputError, MonteCarloEM, evidence, hmc
from tests.oracles import RECIPES, build
from tests.pairs import LinearGaussian, paper_pair

D = torch.float64
PRIORS = [
    (name, options)
    for (family, name), all_ in RECIPES.items()
    if family == "priors" and name != "ConditionalNormal"  # of a pair that has a condition: test_models.py
    for options in all_
]


def tensor(value):
    return torch.tensor(value, dtype=D)


@pytest.mark.parametrize(("name", "options"), PRIORS, ids=[f"{n}{i}" for i, (n, _) in enumerate(PRIORS)])
def test_every_prior_of_the_package(name, options):
    """Annealed importance sampling from the prior agrees with importance sampling from it, within their errors."""
    with aevb.seeded(0):
        prior = build("priors", name, options, latent_dim=2).double()
        likelihood = aevb.likelihoods.Gaussian(2, 3, hidden=5, scale=0.7).double()
    for guide in getattr(prior, "_shared", ()):  # a VampPrior's, which is no part of it
        guide.double()
    model = aevb.GenerativeModel(prior, likelihood)

    def draws_from_the_prior(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", prior())

    x = torch.randn(4, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    known = evidence.importance_weights(model, draws_from_the_prior, x, 4000)
    found = evidence.annealed_importance_sampling(model, None, x, steps=10, chains=64, start="prior")
    error = (found.standard_error**2 + known.standard_error**2).sqrt()
    assert ((found.log_likelihood - known.log_likelihood).abs() < 5 * error + 0.02).all()
    with aevb.seeded(0):
        assert hmc.sample_posterior(model, (x,), 5, burn_in=20).acceptance.mean() > 0.5


def plated(sites):
    """A model of ``sites(x)`` in one plate."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            sites(x)

    return model


def test_supports_that_depend_on_the_datum():
    """z ~ Uniform(-1, 1 + |x|), x ~ N(0, 1): the posterior is the prior, and its mean |x| / 2."""

    def sites(x):
        pyro.sample("z", dist.Uniform(-torch.ones_like(x), 1 + x.abs()))
        pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    x = torch.linspace(-3, 3, 40, dtype=D)
    with aevb.seeded(0):
        samples = hmc.sample_posterior(plated(sites), (x,), 200, chains=4)
    assert samples.position.shape == (200, 4, 40, 1)
    z = samples.space.latents(samples.position.flatten(0, 1))[0]["z"]
    effective = samples.effective_samples[:, 0]
    error = (2 + x.abs()) / 12**0.5 / effective.sqrt()
    assert ((z.mean(0) - x.abs() / 2).abs() < 5 * error).all()
    found = evidence.annealed_importance_sampling(plated(sites), None, x, steps=10, chains=8, start="prior")
    torch.testing.assert_close(found.log_likelihood, dist.Normal(tensor(0.0), 1.0).log_prob(x))


def test_several_sites_of_several_shapes():
    """A scalar and a vector: x = a + sum b + noise is Gaussian."""

    def sites(x):
        a = pyro.sample("a", dist.Normal(torch.zeros_like(x), 1.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(3, dtype=D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(a + b.sum(-1), 1.0), obs=x)

    x = torch.linspace(-4, 4, 9, dtype=D)
    exact = dist.Normal(tensor(0.0), 5**0.5).log_prob(x)
    found = evidence.annealed_importance_sampling(plated(sites), None, x, steps=50, chains=64, start="prior")
    assert ((found.log_likelihood - exact).abs() < 5 * found.standard_error).all()


def latent_support(x):
    a = pyro.sample("a", dist.Uniform(torch.zeros_like(x), 1.0))
    pyro.sample("b", dist.Uniform(torch.zeros_like(x), a))
    pyro.sample("x", dist.Normal(a, 1.0), obs=x)


def masked(x):
    with pyro.poutine.mask(mask=x > 0):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
    pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)


@pytest.mark.parametrize(
    ("sites", "said"), [(latent_support, "'b' depends on another latent"), (masked, "'z' is masked")]
)
def test_what_has_no_fixed_space_is_refused(sites, said):
    with pytest.raises(InputError, match=said):
        hmc.sample_posterior(plated(sites), (torch.ones(5, dtype=D),), 5)


def test_a_plate_that_chooses_rows_is_refused():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=3, dim=-1) as rows:
            z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=3, dim=-1):
            pyro.sample("z", dist.Normal(tensor(0.0), 1.0))

    x = torch.ones(5, dtype=D)
    for evaluate in (
        lambda: evidence.importance_sampling(model, guide, x, 5),
        lambda: evidence.annealed_importance_sampling(model, None, x, start="prior"),
    ):
        with pytest.raises(InputError, match="no subsample_size"):
            evaluate()


def test_a_guide_with_other_sites_than_the_models_is_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def more(x):
        with pyro.plate("data", len(x), dim=-1):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("z", dist.Normal(h, 1.0))

    def positive(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Gamma(torch.ones_like(x), 1.0))

    x = torch.ones(5, dtype=D)
    with pytest.raises(InputError, match="'h', which the model does not"):
        evidence.importance_sampling(model, more, x, 5)
    with pytest.raises(InputError, match="'h'"):
        evidence.annealed_importance_sampling(model, more, x, steps=3)
    with pytest.raises(InputError, match="support"):
        evidence.annealed_importance_sampling(model, positive, x, steps=3)
    with pytest.raises(InputError, match="'z'"):
        evidence.annealed_importance_sampling(model, lambda x: None, x, steps=3)


def test_a_diverging_path_is_rejected_whatever_the_validation():
    """float32, a likelihood so narrow and steep that first steps overflow; Pyro's checks on, as by default."""

    def sites(x):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Poisson((3 * z).exp()), obs=x)

    x = torch.tensor([0.0, 3.0, 50.0])
    with aevb.seeded(0), pyro.validation_enabled(True):
        samples = hmc.sample_posterior(plated(sites), (x,), 30, step_size=50.0, burn_in=100)
        assert samples.log_joint.isfinite().all()
        annealed = evidence.annealed_importance_sampling(plated(sites), None, x, steps=50, start="prior")
    assert annealed.log_likelihood.isfinite().all()


def test_infinite_log_density_at_the_end_is_rejected():
    def spike(u):
        return torch.where(u[..., 0] > 0, torch.inf, 0.0) + 0 * u.sum(-1)

    state = hmc.init(spike, torch.full((50, 1, 1), -0.5, dtype=D))
    with aevb.seeded(0):
        moved, info = hmc.step(spike, state, tensor(1.0), 3)
    assert (moved.position <= 0).all()
    assert 0 < info.accepted.double().mean() < 1


def test_where_the_likelihood_is_zero_the_weight_is():
    """x ~ Uniform(z, z + 1): most draws from the prior have p(x|z) = 0; the rest estimate p(x) without bias."""

    def sites(x):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Uniform(z, z + 1, validate_args=False), obs=x)

    x = torch.zeros(30, dtype=D)
    exact = math.log(dist.Normal(tensor(0.0), 1.0).cdf(tensor(0.0)) - dist.Normal(tensor(0.0), 1.0).cdf(tensor(-1.0)))
    found = evidence.annealed_importance_sampling(plated(sites), None, x, steps=1, chains=500, start="prior")
    assert abs((found.log_likelihood.exp() - math.exp(exact)).mean()) < 4.5 * 0.48 / (500 * 30) ** 0.5


@pytest.mark.slow
def test_a_narrow_posterior_among_wide_ones_is_visited_or_told():
    """One datum of 60 with a posterior a thousand times as narrow: no error bar claims what was not seen."""
    noise = torch.ones(60, dtype=D)
    noise[7] = 1e-3

    def model(x, noise):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, noise), obs=x)

    x = torch.linspace(-1, 1, 60, dtype=D)
    exact = dist.Normal(tensor(0.0), (1 + noise**2).sqrt()).log_prob(x)
    found = evidence.appendix_d(model, (x, noise), 200, burn_in=200, leapfrog_steps=10)
    error = (found.log_likelihood - exact).abs()
    assert (error < 5 * found.standard_error + 0.2).all()
    assert error[7] < 1
    with aevb.seeded(0):
        stuck = hmc.sample_posterior(model, (x, noise), 40, burn_in=0, step_size=0.5, leapfrog_steps=4)
    from pyro_aevb.evidence.posterior_density import _estimate

    assert _estimate(stuck, 20)[1][7] == math.inf


def test_training_switches_do_not_matter():
    """Dropout would make another posterior at every call."""
    model, _ = paper_pair(latent_dim=2)
    model.likelihood.network = nn.Sequential(model.likelihood.network, nn.Dropout(0.5))
    x = (torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=D) > 0.5).to(D)
    sizes = []
    for training in (True, False):
        model.train(training)
        with aevb.seeded(0):
            sizes.append(hmc.sample_posterior(model, (x,), 5).step_size.item())
        assert model.training == training
    assert sizes[0] == sizes[1]


def test_kept_blocks_are_of_the_same_network(tmp_path):
    pair = paper_pair(latent_dim=2)
    x = (torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=D) > 0.5).to(D)
    kept = tmp_path / "kept.pt"
    evidence.importance_weights(*pair, x, 20, keep=kept)
    evidence.importance_weights(*pair, x, 20, keep=kept)
    with pyro.get_param_store().scope():
        pyro.param("another's", torch.ones(3))
        evidence.importance_weights(*pair, x, 20, keep=kept)
    for i, layer in enumerate(pair[0].likelihood.network):
        if isinstance(layer, nn.Tanh):
            pair[0].likelihood.network[i] = nn.ReLU()
    with pytest.raises(InputError, match="other data, weights or settings"):
        evidence.importance_weights(*pair, x, 20, keep=kept)


def test_monte_carlo_em_refuses_what_it_would_not_train():
    pair = LinearGaussian()
    x, likelihood = pair.x, pair.likelihood

    def with_param(x):
        pyro.module("likelihood", likelihood)
        scale = pyro.param("scale", torch.ones((), dtype=D))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=D), scale).to_event(1))
            pyro.sample("x", likelihood(z), obs=x)

    with pytest.raises(InputError, match=r"'scale' is made by pyro\.param"):
        MonteCarloEM(with_param, x, batch_size=37, device="cpu")
    net = nn.Linear(1, 1).double()

    def moving(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Uniform(tensor(0.0), 2 + net(torch.ones(1, 1, dtype=D)).squeeze()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    trainer = MonteCarloEM(moving, torch.ones(20, dtype=D), batch_size=10, device="cpu")
    with pytest.raises(InputError, match="support moves with the weights"):
        list(trainer.run(20))

    def of_data(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(x), 1 + functional.relu(x) + 0 * net.weight.squeeze()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InputError, match="depends on the data"):
        MonteCarloEM(of_data, torch.linspace(0, 1, 20, dtype=D), batch_size=10, device="cpu")


def test_monte_carlo_em_steps_shared_weights_once():
    net = nn.Sequential(nn.Linear(2, 3)).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z) + 0 * net[0].bias, 1.0).to_event(1), obs=x)

    first = net[0]

    def naming_both(x):
        assert first is net[0]
        return model(x)

    trainer = MonteCarloEM(naming_both, torch.zeros(10, 3, dtype=D), batch_size=10, device="cpu")
    assert len(trainer.parameters) == len({id(p) for p in trainer.parameters.values()}) == 2
