"""Appendix F against Bayesian linear regression, whose posterior and log p(X) are known, and against plain training."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import evidence, sgvb
from pyro_aevb.bayesian import (
    bayesian,
    draw_model,
    marginal_likelihood_bound,
    posterior_predictive,
    predictive_log_likelihood,
)
from pyro_aevb.estimators import SGVB, ScoreFunction, SGVBAnalyticKL
from tests.pairs import binary, paper_pair
from tests.trainings import assert_equal

SIGMA, PRIOR_SCALE = 0.6, 0.8


class Regression(nn.Module):
    """x = W z + noise with z given: orthogonal columns, so that the weights' posterior factorises."""

    def __init__(self, size=40, data_dim=3, local=False):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        basis, _ = torch.linalg.qr(torch.randn(size, 2, generator=generator, dtype=torch.float64))
        self.z = basis * torch.tensor([2.0, 5.0], dtype=torch.float64)
        noise = torch.randn(size, data_dim, generator=generator, dtype=torch.float64)
        true = torch.randn(2, data_dim, generator=generator, dtype=torch.float64)
        self.x = self.z @ true + SIGMA * noise
        self.weight = nn.Parameter(torch.zeros(data_dim, 2, dtype=torch.float64))
        self.local = local

    def forward(self, x, z):
        with pyro.plate("data", len(self.x), subsample=torch.arange(len(x)), dim=-1):
            if self.local:  # a latent that nothing depends on: its log p - log q is zero
                pyro.sample("h", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z @ self.weight.T, SIGMA).to_event(1), obs=x)

    def guide(self, x, z):
        if self.local:
            with pyro.plate("data", len(self.x), subsample=torch.arange(len(x)), dim=-1):
                pyro.sample("h", dist.Normal(0.0, 1.0))

    def posterior(self):
        """Mean and standard deviation of each weight, ``(D, K)``."""
        precision = self.z.square().sum(0) / SIGMA**2 + 1 / PRIOR_SCALE**2  # (K,)
        mean = (self.x.T @ self.z) / SIGMA**2 / precision
        return mean, precision.rsqrt().expand_as(mean)

    def log_evidence(self):
        """log p(X): each column of X is Gaussian."""
        covariance = PRIOR_SCALE**2 * self.z @ self.z.T + SIGMA**2 * torch.eye(len(self.z), dtype=torch.float64)
        marginal = torch.distributions.MultivariateNormal(torch.zeros(len(self.z)).double(), covariance)
        return marginal.log_prob(self.x.T).sum()

    def bayesian(self, exact=False, **options):
        pair = bayesian(self, self.guide, prior_scale=PRIOR_SCALE, modules=self, **options)
        if exact:
            posterior, (mean, scale) = pair[1].posterior, self.posterior()
            posterior.loc[0].data.copy_(mean)
            posterior.log_scale[0].data.copy_(scale.log())
        return pair

    @property
    def data(self):
        return self.x, self.z


def set_posterior(guide, loc, scale):
    with torch.no_grad():
        guide.posterior.loc[0].copy_(loc)
        guide.posterior.log_scale[0].copy_(torch.as_tensor(scale).log())


def small(seed=0, likelihood="Bernoulli", size=60, **options):
    """The paper's pair made Bayesian, and the pair itself."""
    with aevb.seeded(seed):
        plain = paper_pair(likelihood, size=size)
    return bayesian(*plain, **options), plain


def loss_and_gradients(estimator, model, guide, *args, seed=5):
    model.zero_grad()
    guide.zero_grad()
    with aevb.seeded(seed):
        loss = estimator.differentiable_loss(model, guide, *args)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for part in (model, guide) for n, p in part.named_parameters()}


# ---------------------------------------------------------------- Bayesian linear regression: everything is known


def test_at_the_exact_posterior_every_draw_is_the_log_evidence():
    regression = Regression()
    model, guide = regression.bayesian(exact=True)
    bound = marginal_likelihood_bound(model, guide, regression.data, 7)
    expected = regression.log_evidence().item()
    torch.testing.assert_close(bound.draws, torch.full((7,), expected, dtype=torch.float64), rtol=1e-11, atol=1e-9)
    assert bound.per_datum == pytest.approx(expected / 40, rel=1e-11)
    assert bound.standard_error < 1e-9
    loss = SGVB(3).differentiable_loss(model, guide, *regression.data)
    assert loss.item() == pytest.approx(-expected, rel=1e-11)
    minibatches = [tuple(part[rows] for part in regression.data) for rows in torch.arange(40).split(10)]
    with_same_weights = [loss_and_gradients(SGVB(), model, guide, *batch)[0] for batch in minibatches]
    assert torch.stack(with_same_weights).mean().item() == pytest.approx(-expected, rel=1e-11)


def exact_bound(regression, loc, scale):
    """log p(X) - KL(q || exact posterior)."""
    mean, sd = regression.posterior()
    kl = (sd / scale).log() + (scale**2 + (loc - mean) ** 2) / (2 * sd**2) - 0.5
    return regression.log_evidence() - kl.sum()


@pytest.mark.parametrize("estimator", [SGVB, SGVBAnalyticKL, ScoreFunction])
def test_the_estimators_equal_the_exact_bound_in_mean(estimator):
    """Away from the posterior; 800 draws, |z| < 4, which chance fails once in 16,000."""
    regression = Regression()
    model, guide = regression.bayesian()
    mean, sd = regression.posterior()
    loc, scale = mean + 0.7 * sd, 1.6 * sd
    set_posterior(guide, loc, scale)
    with aevb.seeded(3), torch.no_grad():
        draws = torch.stack([-estimator().differentiable_loss(model, guide, *regression.data) for _ in range(800)])
    z = (draws.mean() - exact_bound(regression, loc, scale)) / (draws.std() / math.sqrt(len(draws)))
    assert abs(z) < 4
    bound = marginal_likelihood_bound(model, guide, regression.data, 300)
    assert abs(bound.bound - exact_bound(regression, loc, scale)) < 4 * bound.standard_error
    assert bound.standard_error == pytest.approx(draws.std().item() / math.sqrt(300), rel=0.5)


@pytest.mark.slow
def test_training_finds_the_exact_posterior():
    """Minibatches of 20 out of 40, the last 1500 steps averaged: to a tenth of a posterior standard deviation."""
    regression = Regression()
    model, guide = regression.bayesian()
    optimizer = partial(torch.optim.Adam, lr=0.03)
    trainer = aevb.Trainer(
        model, guide, regression.data, SGVB(), optimizer, 20, engine="captured", device="cpu", report_every=100
    )
    trainer.engine.gradients.compiled = False
    list(trainer.run(30_000))
    trainer.engine.optimizer.param_groups[0]["lr"] = 0.003
    list(trainer.run(30_000))
    seen = [(guide.posterior.loc[0].detach().clone(), guide.posterior.log_scale[0].detach().clone())
            for _ in trainer.run(30_000)]  # fmt: skip
    loc, log_scale = (torch.stack(each).mean(0) for each in zip(*seen, strict=True))
    mean, sd = regression.posterior()
    assert ((loc - mean) / sd).abs().max() < 0.1
    assert (log_scale - sd.log()).abs().max() < 0.08
    assert torch.equal(regression.weight, torch.zeros(3, 2))
    last = marginal_likelihood_bound(model, guide, regression.data, 50)
    assert last.bound.item() == pytest.approx(regression.log_evidence().item(), abs=0.1)


def test_the_predictive_log_likelihood_is_the_exact_one():
    """Standard errors are exact as well, from E[p(x|theta)^2]; five data, |z| < 4: chance fails once in 3,000."""
    regression = Regression(local=True)
    model, guide = regression.bayesian(exact=True)
    mean, sd = regression.posterior()
    z = torch.linspace(-0.8, 1.2, 10, dtype=torch.float64).view(5, 2)
    x = z @ mean.T + torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    spread = (z**2) @ (sd[0] ** 2).unsqueeze(-1)  # (5, 1)
    expected = dist.Normal(z @ mean.T, (SIGMA**2 + spread).sqrt()).log_prob(x).sum(-1)
    square = dist.Normal(z @ mean.T, (SIGMA**2 / 2 + spread).sqrt()).log_prob(x) - math.log(2 * SIGMA * math.pi**0.5)
    count = 200
    standard_error = (((square.sum(-1) - 2 * expected).exp() - 1) / count).sqrt()
    ours = predictive_log_likelihood(model, guide, (x, z), count, 2)
    assert ours.shape == (5,)
    assert ((ours - expected) / standard_error).abs().max() < 4
    assert standard_error.max() < 0.25


def test_new_data_have_weights_of_their_own():
    """Moments of 500 new data at one far z, where the weights' spread is most of it; |z| < 4 for six moments."""
    regression = Regression()
    model, guide = regression.bayesian(exact=True)
    mean, sd = regression.posterior()
    z = torch.tensor([[4.0, -6.0]]).double()
    expected, variance = (z @ mean.T)[0], SIGMA**2 + ((z * sd[0]) ** 2).sum()
    assert variance > 5 * SIGMA**2
    new = posterior_predictive(model, guide, (torch.zeros(1, 3).double(), z), 500)
    assert new.shape == (500, 3)
    assert ((new.mean(0) - expected) / (variance / 500).sqrt()).abs().max() < 4
    assert ((new.var(0) / variance - 1) / math.sqrt(2 / 499)).abs().max() < 4


def test_drawn_weights_are_of_the_posterior():
    regression = Regression()
    model, guide = regression.bayesian(exact=True)
    mean, sd = regression.posterior()
    standard = torch.stack([(draw_model(model, guide, seed=s).weight - mean) / sd for s in range(300)]).flatten()
    assert stats.kstest(standard.detach().numpy(), stats.norm.cdf).pvalue > 1e-4
    assert torch.equal(draw_model(model, guide, mean=True).weight, mean)


# ---------------------------------------------------------------- same noise, same answer


def by_hand(model, guide, plain, x, estimator, seed=5):
    """The bound and its gradients by ``sgvb``, at the noise that Pyro draws under this seed."""
    loc, log_scale = guide.posterior.loc, guide.posterior.log_scale
    with aevb.seeded(seed):
        weights_noise = torch.cat([torch.randn_like(p).flatten() for p in loc])
        noise = torch.randn(len(x), 2, dtype=x.dtype)
    weights = torch.cat([*(p.detach().flatten() for p in loc), *(2 * p.detach().flatten() for p in log_scale)])
    weights.requires_grad_()

    def decoder(theta, z):
        first, first_bias, second, second_bias = theta.split([p.numel() for p in loc])
        hidden = torch.tanh(z @ first.view(8, 2).T + first_bias)
        return hidden @ second.view(6, 8).T + second_bias

    encoder = plain[1].guide.network
    encoder.zero_grad()
    bound = estimator(x, noise, weights_noise, encoder, decoder, sgvb.bernoulli_log_likelihood, weights, 60)
    bound.backward()
    mean, log_variance = weights.grad.chunk(2)
    return bound.detach(), mean, 2 * log_variance, torch.cat([p.grad.flatten() for p in encoder.parameters()])


@pytest.mark.parametrize(
    ("ours", "pyros", "hand"),
    [(SGVB, Trace_ELBO, sgvb.full_bayes_a), (SGVBAnalyticKL, TraceMeanField_ELBO, sgvb.full_bayes_b)],
)
def test_equations_22_and_24_by_hand_by_pyro_and_ours_agree(ours, pyros, hand):
    (model, guide), plain = small(initial_scale=0.3)
    x = binary(11)
    loss, found = loss_and_gradients(ours(), model, guide, x)
    pyros_loss, pyros_found = loss_and_gradients(pyros(), model, guide, x)
    close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
    close(loss, pyros_loss)
    for name, gradient in found.items():
        close(gradient, pyros_found[name])
    bound, loc, log_scale, encoder = by_hand(model, guide, plain, x, hand)
    close(loss, -bound)
    for part, gradient in (("posterior.loc", loc), ("posterior.log_scale", log_scale), ("function", encoder)):
        close(torch.cat([g.flatten() for n, g in found.items() if n.startswith(part)]), -gradient)


@pytest.mark.parametrize("estimator", [SGVB, SGVBAnalyticKL])
@pytest.mark.parametrize("prior_scale", [1.0, 0.3])
def test_a_point_mass_is_the_plain_objective_with_weight_decay(estimator, prior_scale):
    (model, guide), (plain, local) = small(point_mass=True, prior_scale=prior_scale)
    x = binary(11)
    loss, found = loss_and_gradients(estimator(), model, guide, x)
    plain_loss, expected = loss_and_gradients(estimator(), plain, local, x)
    weights = list(plain.parameters())
    log_prior = sum(stats.norm.logpdf(p.detach(), scale=prior_scale).sum() for p in weights)
    assert loss.item() == pytest.approx(plain_loss.item() - log_prior, rel=1e-12)
    for i, (name, weight) in enumerate(plain.named_parameters()):
        decayed = expected[name] + weight.detach() / prior_scale**2
        torch.testing.assert_close(found[f"posterior.loc.{i}"], decayed, rtol=1e-11, atol=1e-11)
    for name in dict(local.named_parameters()):
        torch.testing.assert_close(found[f"function.parts.0.{name}"], expected[name], rtol=1e-11, atol=1e-11)


def test_map_training_equals_plain_training_with_weight_decay():
    decay = 1 / 0.5**2
    (model, guide), _ = small(point_mass=True, prior_scale=0.5)
    _, (plain, local) = small()
    groups = [{"params": list(plain.parameters()), "weight_decay": decay}, {"params": list(local.parameters())}]
    options = {"batch_size": 25, "engine": "eager", "device": "cpu"}
    for pair, optimizer in (
        ((model, guide), partial(torch.optim.SGD, lr=1e-3, momentum=0.5)),
        ((plain, local), torch.optim.SGD(groups, lr=1e-3, momentum=0.5)),
    ):
        list(aevb.Trainer(*pair, binary(60), SGVB(), optimizer, **options).run(3000))
    for weight, expected in zip(guide.posterior.loc, plain.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-10, atol=1e-10)
    assert_equal(dict(draw_model(model, guide).state_dict()), dict(draw_model(model, guide, mean=True).state_dict()))
    torch.testing.assert_close(
        evidence.bound(draw_model(model, guide), guide.function.original[0], binary()).bound,
        evidence.bound(plain, local, binary()).bound,
    )


def test_data_in_other_forms_are_those_of_plain_tensors():
    x = binary()
    model, guide = paper_pair(size=len(x))

    def named_model(*, batch):
        model(batch["x"])

    def named_guide(*, batch):
        guide(batch["x"])

    plain = bayesian(model, guide)
    named = bayesian(named_model, named_guide)
    named[1].posterior.load_state_dict(plain[1].posterior.state_dict())
    given = {"batch": {"x": x}}
    for function in (
        lambda pair, x: marginal_likelihood_bound(*pair, x, 3).draws,
        lambda pair, x: predictive_log_likelihood(*pair, x, 2, 10),
        lambda pair, x: posterior_predictive(*pair, x, 3),
    ):
        assert torch.equal(function(plain, x), function(named, given))
