"""Hamiltonian Monte Carlo against what is known: the dynamics' invariants, SciPy's distributions, exact posteriors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_aevb as aevb
from pyro_aevb import InputError, hmc
from tests.pairs import LinearGaussian

D = torch.float64


def quartic(u):
    """No Gaussian: -sum u^4 / 4 - (u_1 u_2)^2 / 2."""
    return -(u**4).sum(-1) / 4 - (u[..., 0] * u[..., 1]) ** 2 / 2


def start(chains=3, data=4, dim=2):
    return torch.randn(chains, data, dim, dtype=D, generator=torch.Generator().manual_seed(0))


def test_leapfrog_is_reversible_to_rounding():
    state, size = hmc.init(quartic, start()), torch.tensor(0.1, dtype=D)
    momentum = start().flip(0)
    there, end = hmc.leapfrog(quartic, state, momentum, size, 20)
    back, begin = hmc.leapfrog(quartic, there, -end, size, 20)
    assert (there.position - state.position).abs().min() > 1e-3
    torch.testing.assert_close(back.position, state.position, rtol=0, atol=1e-12)
    torch.testing.assert_close(-begin, momentum, rtol=0, atol=1e-12)


def test_leapfrog_keeps_volumes():
    """The determinant of its Jacobian, by central differences, whose error here is about 1e-9."""
    size, step = torch.tensor(0.2, dtype=D), 1e-5

    def flow(v):
        state, momentum = hmc.leapfrog(quartic, hmc.init(quartic, v[:, None, :2]), v[:, None, 2:], size, 7)
        return torch.cat([state.position, momentum], -1)[:, 0]

    point, eye = torch.tensor([[0.3, -0.8, 0.5, 1.1]], dtype=D), torch.eye(4, dtype=D)
    jacobian = (flow(point + step * eye) - flow(point - step * eye)) / (2 * step)
    assert jacobian.det().item() == pytest.approx(1.0, abs=1e-8)


def test_energy_is_kept_to_second_order():
    def error(size, steps):
        state, momentum = hmc.init(quartic, start()), start().flip(0)
        there, end = hmc.leapfrog(quartic, state, momentum, torch.tensor(size, dtype=D), steps)
        energy = [p.log_density - m.square().sum(-1) / 2 for p, m in ((state, momentum), (there, end))]
        return (energy[1] - energy[0]).abs().mean().item()

    assert error(0.02, 50) / error(0.01, 100) == pytest.approx(4.0, rel=0.1)


def prior_only(latent):
    """A pair whose posterior is the prior: what is observed does not depend on the latent."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", latent)
            pyro.sample("x", dist.Normal(torch.zeros((), dtype=D), 1.0), obs=x)

    return model


def scalar(name, *parameters):
    return getattr(dist, name)(*(torch.tensor(p, dtype=D) for p in parameters))


TARGETS = {
    "Normal": (scalar("Normal", 1.0, 2.0), stats.norm(1, 2)),
    "Logistic": (scalar("Logistic", 1.0, 0.5), stats.logistic(1, 0.5)),
    "StudentT": (scalar("StudentT", 5.0, 0.0, 1.0), stats.t(5)),
    "Gamma": (scalar("Gamma", 3.0, 2.0), stats.gamma(3, scale=0.5)),
    "Beta": (scalar("Beta", 2.0, 3.0), stats.beta(2, 3)),
    "LogNormal": (scalar("LogNormal", 0.2, 0.5), stats.lognorm(0.5, scale=torch.tensor(0.2).exp().item())),
    "Uniform": (scalar("Uniform", -1.0, 2.0), stats.uniform(-1, 3)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets_against_scipy(name):
    """Constrained latents move unconstrained; one draw of each of 3000 chains; fails by chance once in 10,000."""
    target, known = TARGETS[name]
    x = torch.zeros(3000, dtype=D)
    with aevb.seeded(0):
        # Begin in a wrong place, so that it is the transitions that lead to the target.
        samples = hmc.sample_posterior(prior_only(target), (x,), 10, burn_in=50)
        narrow = samples.state._replace(position=samples.state.position * 0.1)
        density = lambda u: samples.space.log_joint(prior_only(target), (x,), u)[1]  # noqa: E731
        state = hmc.init(density, narrow.position)
        for _ in range(25):
            state, _ = hmc.step(density, state, samples.step_size * (0.8 + 0.4 * torch.rand(())), 10)
    values, _ = samples.space.latents(state.position)
    assert stats.kstest(values["z"].flatten().numpy(), known.cdf).pvalue > 1e-4


def test_a_simplex_moves_too():
    target = dist.Dirichlet(torch.tensor([2.0, 3.0, 5.0], dtype=D))
    x = torch.zeros(2000, dtype=D)
    with aevb.seeded(0):
        samples = hmc.sample_posterior(prior_only(target), (x,), 20, burn_in=60)
    assert samples.space.dim == 2
    z = samples.space.latents(samples.position[-1])[0]["z"][0]
    for k, (a, b) in enumerate(((2, 8), (3, 7), (5, 5))):  # 3 tests, each fails by chance once in 10,000
        assert stats.kstest(z[:, k].numpy(), stats.beta(a, b).cdf).pvalue > 1e-4


@pytest.mark.parametrize("adaptation", ["global", "datum"])
def test_exact_posterior_of_the_linear_gaussian_pair(adaptation):
    """1000 data, 3 latents: acceptance as asked for; means and covariances within 4 standard errors."""
    pair = LinearGaussian()
    with aevb.seeded(1):
        x = pair.marginal.sample((1000,))
    with aevb.seeded(0):
        samples = hmc.sample_posterior(pair.model, (x,), 70, adaptation=adaptation, burn_in=60)
    assert samples.acceptance.mean().item() == pytest.approx(0.9, abs=0.02)
    q = pair.guide.guide(x).base_dist
    effective = samples.effective_samples  # (B, K)
    draws = (samples.position[:, 0] - q.mean) / q.stddev  # (S, B, K), standard normal
    z = draws.mean(0) * effective.sqrt()
    assert z.std().item() == pytest.approx(1.0, abs=0.1)
    assert z.abs().max() < 5  # 3000 of them: fails by chance with p < 2e-3; seeded
    assert (z.mean(0) * 1000**0.5).abs().max() < 4
    covariance = torch.einsum("sbj,sbk->bjk", draws, draws) / len(draws)
    error = covariance.mean(0) - torch.eye(3, dtype=D)
    assert (error.abs() < 4 * covariance.std(0) / 1000**0.5).all()


def test_rhat_tells_chains_that_have_not_met():
    pair = LinearGaussian()
    with aevb.seeded(0):
        samples = hmc.sample_posterior(pair.model, (pair.x,), 60, chains=4)
        assert samples.rhat.median() < 1.05
        apart = samples._replace(position=samples.position + torch.arange(4.0)[:, None, None])
        assert apart.rhat.min() > 1.5
        one = hmc.sample_posterior(pair.model, (pair.x,), 40)
    assert one.rhat.isfinite().all()


def test_global_and_per_datum_step_sizes():
    """Posteriors a hundred times as wide want steps so much longer, which one size for all cannot give."""
    scales = torch.tensor([0.1, 10.0], dtype=D).repeat(50)
    model = prior_only(dist.Normal(torch.zeros(100, dtype=D), scales))
    with aevb.seeded(0):
        samples = hmc.sample_posterior(model, (torch.zeros(100, dtype=D),), 50, adaptation="datum", burn_in=300)
    ratio = samples.step_size[1::2] / samples.step_size[::2]
    assert ratio.median().item() == pytest.approx(100, rel=0.3)


def test_a_far_end_is_rejected_and_the_caller_is_left_alone():
    state = hmc.init(quartic, start())
    before = torch.get_rng_state()
    with aevb.seeded(0):
        moved, info = hmc.step(quartic, state, torch.tensor(1e6, dtype=D), 10)
    assert not info.accepted.any()
    assert torch.equal(moved.position, state.position)
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_input_is_named():
    pair = LinearGaussian()
    args = (pair.x,)
    discrete = prior_only(dist.Bernoulli(torch.tensor(0.5, dtype=D)))
    with pytest.raises(InputError, match=r"'z'.*discrete"):
        hmc.sample_posterior(discrete, (torch.zeros(3, dtype=D),), 5)
    with pytest.raises(InputError, match="not finite where the chains begin, for 1 data, number 2"):
        hmc.sample_posterior(pair.model, (torch.cat([pair.x[:2], pair.x[:1] * 0 + 1e200]),), 5)
    with pytest.raises(InputError, match="NaN or infinite values, in row 2 first"):
        hmc.sample_posterior(pair.model, (torch.cat([pair.x[:2], pair.x[:1] * torch.inf]),), 5)
    with pytest.raises(InputError, match="no chain moved"):
        hmc.sample_posterior(pair.model, args, 5, burn_in=0, step_size=1e6)
    for wrong in ({"num_samples": 0}, {"chains": 0}, {"leapfrog_steps": 0}, {"target_acceptance": 1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            hmc.sample_posterior(pair.model, args, **{"num_samples": 5, **wrong})

    def global_latent(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(InputError, match=r"'w'.*outside the data plate"):
        hmc.sample_posterior(global_latent, (torch.zeros(3),), 5)
