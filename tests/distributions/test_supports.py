"""Every continuous distribution on the line: its density integrates to one over what ``support_of`` says."""

import inspect
import math

import pyro.distributions as dist
import pytest
import torch
from torch import tensor
from torch.distributions import biject_to, constraints

from pyro_aevb import distributions
from pyro_aevb.distributions.supports import support_of
from pyro_aevb.errors import InputError

D = torch.float64
PLACES = (torch.distributions, dist, distributions)

# Class: arguments of some of its distributions.
ON_THE_LINE = {
    "AffineBeta": [(2.0, 3.0, -1.0, 4.0)],
    "AsymmetricLaplace": [(1.0, 2.0, 0.5)],
    "Beta": [(2.0, 3.0), (0.5, 0.7)],
    "Cauchy": [(1.0, 2.0)],
    "Chi2": [(3.0,), (1.0,)],
    "ContinuousBernoulli": [(0.3,)],
    "Erlang": [(3.0, 2.0)],
    "Exponential": [(2.0,)],
    "FisherSnedecor": [(5.0, 12.0), (1.0, 3.0)],
    "Gamma": [(2.5, 2.0), (0.5, 1.0)],
    "GeneralizedPareto": [(1.0, 2.0, 0.3), (1.0, 2.0, -0.5), (1.0, 2.0, 0.0)],
    "Gompertz": [(0.7, 2.0)],
    "Gumbel": [(1.0, 2.0)],
    "HalfCauchy": [(2.0,)],
    "HalfNormal": [(2.0,)],
    "InverseGamma": [(2.0, 3.0)],
    "Kumaraswamy": [(2.0, 3.0)],
    "Laplace": [(1.0, 2.0)],
    "LogNormal": [(0.2, 0.5)],
    "Logistic": [(1.0, 2.0)],
    "NanMaskedNormal": [(1.0, 2.0)],
    "Normal": [(1.0, 2.0)],
    "Pareto": [(1.5, 3.0)],
    "Rayleigh": [(2.0,)],
    "Reciprocal": [(0.5, 3.0)],
    "RelaxedBernoulli": [(0.7, 0.3)],
    "RelaxedBernoulliStraightThrough": [(0.7, 0.3)],
    "SkewLogistic": [(1.0, 2.0, 0.5)],
    "SoftAsymmetricLaplace": [(1.0, 2.0, 0.5, 0.3)],
    "SoftLaplace": [(1.0, 2.0)],
    "Stable": [(1.5, 0.3, 2.0, 1.0)],
    "StableWithLogProb": [(1.5, 0.3, 2.0, 1.0)],
    "StudentT": [(3.0, 1.0, 2.0)],
    "Triangular": [(-1.0, 0.0, 2.0)],
    "TruncatedPolyaGamma": [(1.0,)],
    "Uniform": [(-1.0, 2.0)],
    "VonMises": [(1.0, 2.0), (3.0, 0.1), (9.0, 30.0)],
    "Weibull": [(2.0, 1.5)],
}
# Made of other distributions: one on the line of each.
MADE = {
    "ExpandedDistribution": lambda: dist.ExpandedDistribution(dist.VonMises(tensor(1.0), tensor(2.0)), (1,)),
    "FoldedDistribution": lambda: dist.FoldedDistribution(dist.Normal(tensor(1.0), 2.0)),
    "FoldedDistribution, of an angle": lambda: dist.FoldedDistribution(dist.VonMises(tensor(1.0), tensor(2.0))),
    "Independent": lambda: dist.VonMises(tensor([1.0]), tensor([2.0])).to_event(1),
    "Independent, of transformed": lambda: turned(tensor([1.0])).to_event(1),
    "MaskedDistribution": lambda: dist.VonMises(tensor(1.0), tensor(2.0)).mask(torch.tensor(True)),
    "MaskedMixture": lambda: dist.MaskedMixture(
        torch.tensor(True), dist.VonMises(tensor(1.0), tensor(2.0)), dist.VonMises(tensor(0.0), tensor(2.0))
    ),
    "MaskedMixture, of numbers": lambda: dist.MaskedMixture(
        torch.tensor(True), dist.Normal(tensor(1.0), 2.0), dist.Cauchy(tensor(0.0), tensor(2.0))
    ),
    "MixtureSameFamily": lambda: mixture(dist.VonMises(torch.zeros(2), tensor([1.0, 5.0]))),
    "MixtureSameFamily, of numbers": lambda: mixture(dist.Gamma(tensor([1.0, 5.0]), 2.0)),
    "TransformedDistribution": lambda: dist.TransformedDistribution(
        dist.Normal(tensor(1.0), 2.0), dist.transforms.SigmoidTransform()
    ),
    "TransformedDistribution, of an angle": lambda: turned(tensor(1.0)),
}
DISCRETE_NAMES = """
Bernoulli BetaBinomial Binomial Categorical DirichletMultinomial DiscretizedLogistic ExtendedBetaBinomial
ExtendedBinomial GammaPoisson Geometric GridCategorical LogNormalNegativeBinomial Multinomial NegativeBinomial
OneHotCategorical OneHotCategoricalStraightThrough OneOneMatching OneTwoMatching OrderedLogistic Poisson
SpanningTree ZeroInflatedDistribution ZeroInflatedNegativeBinomial ZeroInflatedPoisson
"""
VECTOR_NAMES = """
AVFMultivariateNormal CoalescentTimes CoalescentTimesWithRate Dirichlet DiscreteHMM EllipticalLaplace
GammaGaussianHMM GaussianHMM GaussianMRF GaussianScaleMixture GroupedNormalNormal IndependentHMM LKJ LKJCholesky
LKJCorrCholesky LinearHMM LogisticNormal LowRankMultivariateNormal MixtureOfDiagNormals
MixtureOfDiagNormalsSharedCovariance MultivariateNormal MultivariateStudentT NanMaskedMultivariateNormal
NormalMixture OMTMultivariateNormal PreciseLowRankMultivariateNormal PreciseMultivariateNormal ProjectedNormal
RelaxedOneHotCategorical RelaxedOneHotCategoricalStraightThrough SineBivariateVonMises SineSkewed VonMises3D
Wishart
"""
BASE = "a class to derive from"
DISCRETE = "discrete"
VECTORS = "over vectors, matrices or series"
ELSEWHERE = {
    **dict.fromkeys(["Distribution", "ExponentialFamily", "TorchDistribution", "InverseCDF"], BASE),
    **dict.fromkeys(["ByColumn", "PartlyObserved"], "made of others, column by column; see test_models.py"),
    "Rejector": "needs a sampler of its own; declares no support",
    **dict.fromkeys(["Delta", "Empirical"], "point masses, no density"),
    **dict.fromkeys(["ImproperUniform", "Unit"], "no density that integrates to one"),
    **dict.fromkeys(DISCRETE_NAMES.split(), DISCRETE),
    **dict.fromkeys(VECTOR_NAMES.split(), VECTORS),
}


def turned(loc):
    """Half an angle, and the other way round."""
    angle = dist.VonMises(loc, tensor(2.0))
    return dist.TransformedDistribution(angle, dist.transforms.AffineTransform(loc=0.7, scale=-0.5))


def mixture(components):
    return dist.MixtureSameFamily(dist.Categorical(logits=tensor([0.3, -0.2])), components)


def classes():
    everything = (getattr(place, name) for place in PLACES for name in dir(place))
    kinds = (torch.distributions.Distribution, dist.Distribution)
    return {cls.__name__ for cls in everything if inspect.isclass(cls) and issubclass(cls, kinds)}


def made():
    for name, cases in ON_THE_LINE.items():
        for place in PLACES:
            for arguments in cases if hasattr(place, name) else []:
                yield pytest.param(getattr(place, name), arguments, id=f"{place.__name__}.{name}{arguments}")


def mass(distribution):
    """The integral of the density over its support, by the bijection of the reals onto it."""
    support = support_of(distribution)
    real = isinstance(support, type(constraints.real))
    v = torch.linspace(-36, 36, 20_001, dtype=D)
    u = v.sinh() if real else v  # far into heavy tails
    u = u.reshape(-1, *[1] * support.event_dim)
    onto = biject_to(support)
    x = onto(u)
    log_slope = onto.log_abs_det_jacobian(u, x) + (v.cosh().log() if real else 0)
    log_prob = distribution.log_prob(x).reshape(-1)
    return (log_prob + log_slope).exp().sum().item() * 72 / 20_000


def test_every_class_is_integrated_or_listed_with_a_reason():
    known = {*ON_THE_LINE, *(name.split(",")[0] for name in MADE), *ELSEWHERE}
    assert classes() <= known, "add it to the table, or to those with a reason"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("cls", "arguments"), list(made()))
def test_the_density_integrates_to_one(cls, arguments):
    # torch's GeneralizedPareto has a log_prob in float32 only.
    dtype = torch.float32 if cls.__name__ == "GeneralizedPareto" else D
    distribution = cls(*(tensor(a, dtype=dtype) for a in arguments))
    assert mass(distribution) == pytest.approx(1, abs=1e-5)
    torch.manual_seed(0)
    assert support_of(distribution).check(distribution.sample((100,))).all()


@pytest.mark.parametrize("name", MADE)
def test_the_density_of_what_is_made_of_others_integrates_to_one(name):
    distribution = MADE[name]()
    assert type(distribution).__name__ == name.split(",")[0]
    assert support_of(distribution).event_dim == len(distribution.event_shape)
    assert mass(distribution) == pytest.approx(1, abs=1e-5)
    torch.manual_seed(0)
    assert support_of(distribution).check(distribution.sample((100,))).all()


def on_the_torus():
    both = dist.SineBivariateVonMises(tensor(0.3), tensor(1.0), tensor(1.5), tensor(2.0), correlation=tensor(0.5))
    return [both, dist.SineSkewed(both, tensor([0.3, 0.4])), both.expand((1,)).mask(torch.tensor(True))]


@pytest.mark.parametrize("distribution", on_the_torus(), ids=["sine", "skewed", "masked"])
def test_the_density_of_two_angles_integrates_to_one(distribution):
    onto = biject_to(support_of(distribution))
    v = torch.linspace(-30, 30, 1001, dtype=D)
    u = torch.cartesian_prod(v, v)
    x = onto(u)
    total = (distribution.log_prob(x) + onto.log_abs_det_jacobian(u, x)).exp().sum() * (60 / 1000) ** 2
    assert total.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    "distribution",
    [
        dist.ImproperUniform(constraints.real, (), ()),
        dist.ImproperUniform(constraints.real, (2,), ()).to_event(1),
        dist.Unit(tensor(0.0)),
        dist.Empirical(torch.zeros(5), torch.zeros(5)),
    ],
    ids=["improper", "improper vector", "unit", "empirical"],
)
def test_what_has_no_density_is_refused_by_name(distribution):
    name = type(getattr(distribution, "base_dist", distribution)).__name__
    with pytest.raises(InputError, match=name):
        support_of(distribution)


def test_angles_whose_place_is_not_known_are_refused():
    angle = dist.VonMises(tensor(0.0), tensor(1.0))
    with pytest.raises(InputError, match="PowerTransform"):
        support_of(dist.TransformedDistribution(angle, dist.transforms.PowerTransform(tensor(2.0))))
    with pytest.raises(InputError, match="MaskedMixture"):
        support_of(dist.MaskedMixture(torch.tensor(True), angle, dist.Normal(tensor(0.0), 1.0)))


def test_what_is_declared_well_stays_as_it_is():
    for distribution in (
        dist.Dirichlet(torch.ones(3)),
        dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
        dist.LKJ(3, tensor(1.0)),
        dist.Bernoulli(tensor(0.3)),
        dist.Delta(tensor(1.0)),
        mixture(dist.Uniform(torch.zeros(2), tensor([1.0, 2.0]))),
    ):
        assert repr(support_of(distribution)) == repr(distribution.support)


def test_the_mass_would_be_missed_otherwise():
    """The integral does tell: over all reals an angle's density has no end."""
    angle = dist.VonMises(tensor(1.0), tensor(2.0))
    x = torch.linspace(-30, 30, 10_001)
    assert angle.log_prob(x).exp().sum() * 60 / 10_000 > 5
    assert math.isclose(support_of(angle).upper_bound, math.pi)
