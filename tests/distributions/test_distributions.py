"""Section 2.4: each distribution that the paper names, as a family of parts, against SciPy and closed forms."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from torch import tensor
from torch.distributions import kl_divergence

from pyro_aevb import distributions
from pyro_aevb.distributions import ContinuousBernoulli, DiscretizedLogistic, EllipticalLaplace, GridCategorical
from pyro_aevb.distributions.family import DistributionFamily
from pyro_aevb.errors import InputError

D = torch.float64

# name: parameters, SciPy's distribution of the same
NAMED = {
    # (a) tractable inverse CDF
    "Exponential": ({"rate": 2.0}, stats.expon(scale=0.5)),
    "Cauchy": ({"loc": 1.0, "scale": 2.0}, stats.cauchy(1, 2)),
    "Logistic": ({"loc": 1.0, "scale": 2.0}, stats.logistic(1, 2)),
    "Rayleigh": ({"scale": 2.0}, stats.rayleigh(scale=2)),
    "Pareto": ({"scale": 1.5, "alpha": 3.0}, stats.pareto(3, scale=1.5)),
    "Weibull": ({"scale": 2.0, "concentration": 1.5}, stats.weibull_min(1.5, scale=2)),
    "Reciprocal": ({"low": 0.5, "high": 3.0}, stats.loguniform(0.5, 3)),
    "Gompertz": ({"concentration": 0.7, "rate": 2.0}, stats.gompertz(0.7, scale=0.5)),
    "Gumbel": ({"loc": 1.0, "scale": 2.0}, stats.gumbel_r(1, 2)),
    "Erlang": ({"concentration": 3.0, "rate": 2.0}, stats.erlang(3, scale=0.5)),
    # (b) location-scale
    "Laplace": ({"loc": 1.0, "scale": 2.0}, stats.laplace(1, 2)),
    "StudentT": ({"df": 5.0, "loc": 1.0, "scale": 2.0}, stats.t(5, 1, 2)),
    "Uniform": ({"low": -1.0, "high": 2.0}, stats.uniform(-1, 3)),
    "Triangular": ({"low": -1.0, "peak": 0.0, "high": 2.0}, stats.triang(1 / 3, -1, 3)),
    "Normal": ({"loc": 1.0, "scale": 2.0}, stats.norm(1, 2)),
    # (c) composition
    "LogNormal": ({"loc": 0.2, "scale": 0.5}, stats.lognorm(0.5, scale=math.exp(0.2))),
    "Gamma": ({"concentration": 2.5, "rate": 2.0}, stats.gamma(2.5, scale=0.5)),
    "Beta": ({"concentration1": 2.0, "concentration0": 3.0}, stats.beta(2, 3)),
    "Chi2": ({"df": 4.0}, stats.chi2(4)),
    "FisherSnedecor": ({"df1": 5.0, "df2": 12.0}, stats.f(5, 12)),
}


def make(name, parameters):
    return find(name)(**{k: tensor(v, dtype=D) for k, v in parameters.items()})


def find(name):
    return DistributionFamily(name, 1, NAMED[name][0]).cls


@pytest.mark.parametrize("name", NAMED)
def test_samples_and_density_are_scipys(name):
    parameters, oracle = NAMED[name]
    torch.manual_seed(0)
    made = make(name, parameters)
    drawn = made.rsample((20_000,))
    assert stats.kstest(drawn.numpy(), oracle.cdf).pvalue > 1e-4  # 20 tests: fail by chance with p = 2e-3, seed fixed
    np.testing.assert_allclose(made.log_prob(drawn[:200]), oracle.logpdf(drawn[:200].numpy()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", NAMED)
def test_density_integrates_to_one(name):
    parameters, oracle = NAMED[name]
    made = make(name, parameters)
    low, high = oracle.ppf(1e-9), oracle.ppf(1 - 1e-9)
    if name == "Cauchy":
        low, high = -np.inf, np.inf
    mass, _ = integrate.quad(
        lambda x: made.log_prob(tensor(x, dtype=D)).exp().item(), low, high, limit=500, points=None
    )
    assert mass == pytest.approx(1, abs=1e-5)


def bounded(x):
    """A statistic that has a mean for every distribution, the Cauchy's too."""
    return torch.tanh(x / 2)


@pytest.mark.parametrize("name", NAMED)
def test_pathwise_gradient_of_an_expectation(name):
    """Against the derivative of the integral over SciPy's quantiles, by central differences."""
    parameters, _ = NAMED[name]
    torch.manual_seed(0)
    leaves = {k: tensor(v, dtype=D).repeat(50_000).requires_grad_() for k, v in parameters.items()}
    made = find(name)(**leaves)
    fixed = [k for k in leaves if name == "Erlang" and k == "concentration"]
    bounded(made.rsample()).sum().backward()
    for key in parameters.keys() - set(fixed):
        step = 1e-4
        expected = [
            integrate.quad(lambda u, p=p: float(np.tanh(scipy_of(name, p).ppf(u) / 2)), 0, 1, limit=500)[0]
            for p in ({**parameters, key: parameters[key] + s} for s in (step, -step))
        ]
        slope = (expected[0] - expected[1]) / (2 * step)
        grad = leaves[key].grad
        standard_error = grad.std().item() / len(grad) ** 0.5
        assert abs(grad.mean().item() - slope) < 4.5 * standard_error + 2e-5, key  # p < 1e-5 each


def scipy_of(name, p):
    return {
        "Exponential": lambda: stats.expon(scale=1 / p["rate"]),
        "Cauchy": lambda: stats.cauchy(p["loc"], p["scale"]),
        "Logistic": lambda: stats.logistic(p["loc"], p["scale"]),
        "Rayleigh": lambda: stats.rayleigh(scale=p["scale"]),
        "Pareto": lambda: stats.pareto(p["alpha"], scale=p["scale"]),
        "Weibull": lambda: stats.weibull_min(p["concentration"], scale=p["scale"]),
        "Reciprocal": lambda: stats.loguniform(p["low"], p["high"]),
        "Gompertz": lambda: stats.gompertz(p["concentration"], scale=1 / p["rate"]),
        "Gumbel": lambda: stats.gumbel_r(p["loc"], p["scale"]),
        "Erlang": lambda: stats.gamma(p["concentration"], scale=1 / p["rate"]),
        "Laplace": lambda: stats.laplace(p["loc"], p["scale"]),
        "StudentT": lambda: stats.t(p["df"], p["loc"], p["scale"]),
        "Uniform": lambda: stats.uniform(p["low"], p["high"] - p["low"]),
        "Triangular": lambda: stats.triang(
            (p["peak"] - p["low"]) / (p["high"] - p["low"]), p["low"], p["high"] - p["low"]
        ),
        "Normal": lambda: stats.norm(p["loc"], p["scale"]),
        "LogNormal": lambda: stats.lognorm(p["scale"], scale=math.exp(p["loc"])),
        "Gamma": lambda: stats.gamma(p["concentration"], scale=1 / p["rate"]),
        "Beta": lambda: stats.beta(p["concentration1"], p["concentration0"]),
        "Chi2": lambda: stats.chi2(p["df"]),
        "FisherSnedecor": lambda: stats.f(p["df1"], p["df2"]),
    }[name]()


def test_dirichlet_against_scipy():
    concentration = tensor([2.0, 3.0, 1.5], dtype=D)
    made = DistributionFamily("Dirichlet", 3)(concentration.log())
    torch.manual_seed(0)
    drawn = made.rsample((20_000,))
    np.testing.assert_allclose(made.log_prob(drawn[0]), stats.dirichlet(concentration).logpdf(drawn[0].numpy()))
    marginal = stats.beta(2.0, 4.5)
    assert stats.kstest(drawn[:, 0].numpy(), marginal.cdf).pvalue > 1e-4


def test_elliptical_is_laplace_in_one_dimension_and_normalised_in_two():
    one = EllipticalLaplace(tensor([0.3], dtype=D), tensor([[0.7]], dtype=D))
    x = torch.linspace(-3, 3, 50, dtype=D)
    np.testing.assert_allclose(one.log_prob(x.unsqueeze(1)), stats.laplace(0.3, 0.7).logpdf(x), rtol=1e-12)
    torch.manual_seed(0)
    assert stats.kstest(one.rsample((20_000,))[:, 0].numpy(), stats.laplace(0.3, 0.7).cdf).pvalue > 1e-4
    tril = tensor([[0.7, 0.0], [0.4, 1.1]], dtype=D).requires_grad_()
    two = EllipticalLaplace(tensor([0.3, -0.2], dtype=D), tril)
    axis = torch.linspace(-25, 25, 1001, dtype=D)
    mass = two.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * 0.05**2
    assert mass.item() == pytest.approx(1, abs=1e-3)  # the density has a tip
    drawn = two.rsample((100_000,))
    expected = 3 * tril @ tril.T
    torch.testing.assert_close(torch.cov(drawn.detach().T), expected.detach(), rtol=0.03, atol=0.03)
    # The pathwise gradient of E|z - mu|^2 = (K + 1) |L|^2, whose gradient is 2 (K + 1) L.
    ((drawn - two.loc) ** 2).sum(1).mean().backward()
    torch.testing.assert_close(tril.grad, (6 * tril.detach()).tril(), rtol=0.03, atol=0.05)


ENDS = {"zero": lambda dtype: 0.0, "one": lambda dtype: 1 - torch.finfo(dtype).eps / 2}  # of what torch.rand gives
AT_THE_END = [
    ("Triangular", (100.0, 100.0005, 100.001)),  # a float32 there is a hundredth of the width
    ("Triangular", (0.0, 0.0, 1.0)),
    ("Triangular", (0.0, 1.0, 1.0)),
    ("Triangular", (-1e-20, 0.0, 1e-20)),
    ("Triangular", (-1.0, 0.0, 2.0)),
    ("Rayleigh", (1e-30,)),
    ("Rayleigh", (2.0,)),
    ("Reciprocal", (0.5, 3.0)),
    ("Reciprocal", (100.0, 100.001)),
    ("Gompertz", (1e10, 2.0)),
    ("Gompertz", (math.exp(-10), math.exp(10))),
    ("Gompertz", (math.exp(10), math.exp(-10))),
]


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("end", [*ENDS, "any"])
@pytest.mark.parametrize(("name", "parameters"), AT_THE_END)
def test_draws_lie_strictly_inside_the_support(name, parameters, end, dtype, monkeypatch):
    if end in ENDS:
        monkeypatch.setattr(torch, "rand", lambda shape, **how: torch.full(shape, ENDS[end](dtype), **how))
    torch.manual_seed(0)
    leaves = [tensor(p, dtype=dtype).requires_grad_() for p in parameters]
    made = getattr(distributions, name)(*leaves)
    drawn = made.rsample((10_000,))
    log_prob = made.log_prob(drawn)
    assert torch.isfinite(log_prob).all()
    assert (drawn > made.support.lower_bound).all()
    assert (drawn < getattr(made.support, "upper_bound", math.inf)).all()
    for part in (drawn.mean(), log_prob.mean()):
        for gradient in torch.autograd.grad(part, leaves, retain_graph=True, materialize_grads=True):
            assert torch.isfinite(gradient).all()


def test_noise_of_zero_stands_for_the_middle_of_its_step(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **how: torch.zeros(shape, **how))
    drawn = distributions.Rayleigh(tensor(1.0)).rsample()
    assert drawn.item() == pytest.approx(stats.rayleigh.ppf(2.0**-25), rel=1e-6)  # torch.rand steps by 2^-24


def test_an_elliptical_draw_without_a_direction_gets_one(monkeypatch):
    monkeypatch.setattr(torch, "randn", lambda shape, **how: torch.zeros(shape, **how))
    for dim in (1, 3):
        tril = torch.eye(dim).requires_grad_()
        drawn = EllipticalLaplace(torch.zeros(dim), tril).rsample((100,))
        assert (drawn.norm(dim=-1) > 0).all()
        assert torch.isfinite(torch.autograd.grad(drawn.sum(), tril)[0]).all()


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("logit", [-300.0, -20.0, -0.59, -1e-4, 0.0, 1e-8, 0.05, 0.61, 3.0, 50.0, 300.0])
def test_continuous_bernoulli_at_every_size_of_logit(logit):
    made = ContinuousBernoulli(tensor(logit, dtype=D))
    peak = [] if abs(logit) < 30 else [10 / abs(logit), 1 - 10 / abs(logit)]
    mass, _ = integrate.quad(lambda x: made.log_prob(tensor(x, dtype=D)).exp().item(), 0, 1, points=peak, limit=200)
    mean, _ = integrate.quad(lambda x: x * made.log_prob(tensor(x, dtype=D)).exp().item(), 0, 1, points=peak, limit=200)
    assert mass == pytest.approx(1, abs=1e-9)
    assert made.mean.item() == pytest.approx(mean, rel=1e-8)
    torch.manual_seed(0)
    drawn = made.rsample((50_000,))
    assert drawn.mean().item() == pytest.approx(mean, abs=5 * max(drawn.std().item(), 1e-9) / 50_000**0.5)


def test_continuous_bernoulli_has_a_gradient_everywhere():
    logits = torch.linspace(-200, 200, 4001, dtype=D).requires_grad_()
    made = ContinuousBernoulli(logits)
    (made.log_prob(tensor(0.3, dtype=D)).sum() + made.mean.sum() + made.rsample().sum()).backward()
    assert torch.isfinite(logits.grad).all()
    single = tensor(1.3, dtype=D)
    assert ContinuousBernoulli(single).log_prob(tensor(0.3, dtype=D)).item() == pytest.approx(
        torch.distributions.ContinuousBernoulli(logits=single).log_prob(tensor(0.3, dtype=D)).item(), rel=1e-12
    )


@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.5, 20.0])
@pytest.mark.parametrize("loc", [-0.5, 0.2, 1.0])
def test_discretized_logistic_sums_to_one_and_loses_no_digits(loc, scale):
    made = DiscretizedLogistic(tensor(loc, dtype=D), tensor(scale, dtype=D))
    values = torch.arange(256, dtype=D) / 255
    assert made.log_prob(values).exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert torch.isfinite(made.log_prob(values)).all()
    torch.manual_seed(0)
    drawn = made.sample((20_000,))
    expected = (made.log_prob(values).exp() * values).sum().item()
    assert drawn.mean().item() == pytest.approx(expected, abs=5 * max(drawn.std().item(), 1e-9) / 20_000**0.5)
    assert made.support.check(drawn).all()


def test_grid_categorical_sums_to_one_and_broadcasts():
    made = GridCategorical(torch.randn(4, 1, 3, 9, dtype=D))
    values = torch.arange(9, dtype=D) / 8
    total = sum(made.log_prob(v).exp() for v in values)
    torch.testing.assert_close(total, torch.ones(4, 1, 3, dtype=D))
    assert made.log_prob(torch.zeros(5, 3, dtype=D)).shape == (4, 5, 3)
    assert made.sample((2,)).shape == (2, 4, 1, 3)
    assert made.support.check(made.sample()).all()


# ---------------------------------------------------------------- families


@pytest.mark.parametrize(
    ("distribution", "fixed", "message"),
    [
        ("Nope", {}, "there is no distribution 'Nope'"),
        ("Erlang", {}, "fix it"),
        ("Normal", {"width": 1.0}, "no parameter 'width'"),
        ("Categorical", {}, "Categorical"),
        ("Uniform", {"low": 2.0, "high": 1.0}, "Uniform"),
    ],
)
def test_what_a_family_cannot_be_is_said(distribution, fixed, message):
    with pytest.raises(InputError, match=message):
        DistributionFamily(distribution, 3, fixed)


@pytest.mark.parametrize("name", NAMED)
def test_wild_outputs_stay_in_the_constraints(name):
    fixed = {"concentration": 2.0} if name == "Erlang" else {}
    family = DistributionFamily(name, 2, fixed)
    for wild in (-1e4, 1e4):
        made = family(torch.full((3, family.size), wild))
        for inner in (made, made.base_dist):
            for key, constraint in getattr(inner, "arg_constraints", {}).items():
                if not torch.distributions.constraints.is_dependent(constraint):
                    assert constraint.check(getattr(inner, key)).all(), key


@pytest.mark.parametrize("low_rank", [False, True])
def test_kl_of_correlated_against_independent_normals(low_rank):
    generator = torch.Generator().manual_seed(0)
    loc, mean, factor = (torch.randn(5, *s, dtype=D, generator=generator) for s in ((3,), (3,), (3, 2)))
    scale, diagonal = (torch.rand(5, 3, dtype=D, generator=generator) + 0.5 for _ in range(2))
    q = dist.LowRankMultivariateNormal(loc, factor, diagonal)
    if not low_rank:
        q = dist.MultivariateNormal(loc, q.covariance_matrix)
    exact = kl_divergence(
        dist.MultivariateNormal(loc, q.covariance_matrix), dist.MultivariateNormal(mean, torch.diag_embed(scale**2))
    )
    torch.testing.assert_close(kl_divergence(q, dist.Normal(mean, scale).to_event(1)), exact, rtol=1e-12, atol=0)
    with pytest.raises(NotImplementedError):
        kl_divergence(q, dist.Laplace(mean, scale).to_event(1))


class Normal(torch.distributions.Normal):
    """Somebody's own, which only shares a name with Pyro's."""


def test_pyros_class_is_found_by_what_it_extends():
    assert DistributionFamily(torch.distributions.Normal, 2).cls is dist.Normal
    assert DistributionFamily(torch.distributions.MultivariateNormal, 2).cls is dist.MultivariateNormal
    with pytest.raises(InputError, match="Normal is no distribution of Pyro: derive it from"):
        DistributionFamily(Normal, 2)


class OwnNormal(dist.Normal):
    """Somebody's own, which extends Pyro's."""


def test_a_subclass_of_pyros_stays_what_it_is():
    assert DistributionFamily(OwnNormal, 2).cls is OwnNormal
