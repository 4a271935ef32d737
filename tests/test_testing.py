"""Each rule of a part's contract refuses a part that breaks it, in a sentence that says what to do."""

import copy
import math
import random
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import nn

from pyro_aevb import estimators, guides, priors, testing
from pyro_aevb.estimators import SGVB, MultiSample
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.priors import Prior
from tests.commands import run_alone

# ---------------------------------------------------------------- parts as a stranger writes them


class Logistic(Prior):
    def __init__(self, latent_dim, *, scale=1.0):
        super().__init__(latent_dim)
        self.register_buffer("scale", torch.full((latent_dim,), scale))
        self.loc = nn.Parameter(torch.zeros(latent_dim))

    def forward(self):
        return dist.Logistic(self.loc, self.scale).to_event(1)


class Cauchy(Likelihood):
    def __init__(self, latent_dim, data_dim, *, scale=0.1):
        super().__init__(latent_dim, data_dim)
        self.scale = scale
        self.network = nn.Linear(latent_dim, data_dim)

    def forward(self, z):
        return dist.Cauchy(self.network(z), self.scale).to_event(1)


class LogisticGuide(Guide):
    def __init__(self, data_dim, latent_dim):
        super().__init__(data_dim, latent_dim)
        self.network = nn.Linear(data_dim, 2 * latent_dim)

    def forward(self, x):
        loc, log_scale = self.network(x).chunk(2, dim=-1)
        return dist.Logistic(loc, log_scale.exp()).to_event(1)


class OfWeights(MultiSample):
    def loss_of_weights(self, pair, args):
        densities = pair.log_densities(args, self.num_particles)
        return -densities.scaled_sum(self.bound(densities.log_weight))


class Halfway(OfWeights):
    def bound(self, weight):
        return (weight.mean(0) + weight.logsumexp(0) - math.log(len(weight))) / 2


class Median(OfWeights):
    """No bound: a median may lie above the mean."""

    def bound(self, weight):
        return weight.median(0).values


class Summed(OfWeights):
    def bound(self, weight):
        return weight.sum(0)


class WithoutLogS(OfWeights):
    def bound(self, weight):
        return weight.logsumexp(0)


def test_good_parts_pass():
    assert testing.check_prior(Logistic) is None
    assert testing.check_prior(partial(Logistic, scale=2.0), latent_dim=1) is None
    assert testing.check_likelihood(Cauchy) is None
    assert testing.check_likelihood(lambda k, d: Cauchy(k, d, scale=0.5), latent_dim=2, data_dim=1) is None
    assert testing.check_guide(LogisticGuide, data_dim=4, latent_dim=2) is None
    assert testing.check_estimator(Halfway) is None
    assert testing.check_estimator(partial(Median, num_particles=3), bound=False) is None


def test_a_part_whose_output_layer_begins_at_zero_passes():
    """No gradient reaches what lies before it, until it has moved."""

    class Zero(LogisticGuide):
        def __init__(self, data_dim, latent_dim):
            super().__init__(data_dim, latent_dim)
            self.network = nn.Sequential(nn.Linear(data_dim, 5), nn.Tanh(), nn.Linear(5, 2 * latent_dim))
            nn.init.zeros_(self.network[-1].weight)

    testing.check_guide(Zero)


def test_a_frozen_parameter_needs_no_gradient():
    class Frozen(Logistic):
        def __init__(self, latent_dim):
            super().__init__(latent_dim)
            self.loc.requires_grad_(False)

    testing.check_prior(Frozen)


# ---------------------------------------------------------------- broken priors


class OfAnotherSize(Logistic):
    def forward(self):
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)


class WithoutEvent(Logistic):
    def forward(self):
        return dist.Logistic(self.loc, self.scale)


class WithBatch(Logistic):
    def forward(self):
        return dist.Logistic(self.loc, self.scale).expand([7, self.latent_dim]).to_event(1)


class OfTorch(Logistic):
    def forward(self):
        return torch.distributions.Normal(self.loc, self.scale)


class Raising(Logistic):
    def forward(self):
        raise KeyError("lost")


class NeedsAnOption(Logistic):
    def __init__(self, latent_dim, *, width):
        super().__init__(latent_dim)


class NoPrior(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()


class ForgetsItsSize(Logistic):
    def __init__(self, latent_dim):
        super().__init__(latent_dim + 1)


class Unused(Logistic):
    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.spare = nn.Parameter(torch.ones(2))


class Detached(Logistic):
    def forward(self):
        return dist.Logistic(self.loc.detach(), self.scale).to_event(1)


class TimesZero(Logistic):
    def forward(self):
        return dist.Logistic(0 * self.loc, self.scale).to_event(1)


class InfiniteGradient(Logistic):
    def forward(self):
        return dist.Logistic((self.loc - self.loc.detach()).abs().sqrt(), self.scale).to_event(1)


class NoBuffer(Logistic):
    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        del self.scale
        self.scale = torch.ones(latent_dim)


class KeepsADistribution(Logistic):
    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.base = dist.Normal(torch.zeros(latent_dim), 1.0)


class FreshTensor(Logistic):
    def forward(self):
        return dist.Logistic(torch.zeros(self.latent_dim), torch.ones(self.latent_dim)).to_event(1)


class Product(Logistic):
    def forward(self):
        return dist.Logistic(torch.eye(self.latent_dim) @ self.loc, self.scale).to_event(1)


class DrawsTooLittle(Logistic):
    def forward(self):
        return WrongDraws(self.loc)


class WrongDraws(dist.TorchDistribution):
    """A distribution whose draws have no sample shape."""

    def __init__(self, loc, draws=None, density=None):
        self.loc, self.draws, self.density = loc, draws, density
        super().__init__(event_shape=loc.shape, validate_args=False)

    def sample(self, sample_shape=()):
        return self.loc.detach() if self.draws is None else self.draws(self.loc, sample_shape)

    def log_prob(self, value):
        return self.density(self.loc, value)


def normal(loc, sample_shape):
    return loc.detach() + torch.randn(*sample_shape, *loc.shape)


class LogProbPerDimension(Logistic):
    def forward(self):
        return WrongDraws(self.loc, normal, lambda loc, value: -((value - loc) ** 2))


class LogProbOfAnother(Logistic):
    def forward(self):
        return WrongDraws(self.loc, normal, lambda loc, value: (value - loc).sum(-1).sub(1e9).log())


class DensityOfDrawsAlone(Logistic):
    def forward(self):
        kept = []

        def draw(loc, sample_shape):
            kept.append(normal(loc, sample_shape))
            return kept[-1]

        def density(loc, value):
            if value is not kept[-1]:
                raise KeyError("another value")
            return -((value - loc) ** 2).sum(-1)

        return WrongDraws(self.loc, draw, density)


class RandomAttribute(Logistic):
    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.shift = float(torch.randn(()))

    def forward(self):
        return dist.Logistic(self.loc + self.shift, self.scale).to_event(1)


class Counting(Logistic):
    calls = 0

    def forward(self):
        Counting.calls += 1
        return dist.Logistic(self.loc + Counting.calls, self.scale).to_event(1)


class OwnGenerator(Logistic):
    chance = torch.Generator().manual_seed(0)

    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.loc = nn.Parameter(torch.randn(latent_dim, generator=self.chance))


class PickledState(Logistic):
    def get_extra_state(self):
        return random.Random(0)

    def set_extra_state(self, state):
        pass


class CachesARun(Logistic):
    def forward(self):
        self.__dict__["last"] = self.loc * 1
        return super().forward()


class CopyIsItself(Logistic):
    def __deepcopy__(self, memo):
        return self


class CopyIsAnother(Logistic):
    def __deepcopy__(self, memo):
        return Logistic(self.latent_dim, scale=3.0)


class BadRepr(Logistic):
    def __repr__(self):
        raise AttributeError("no name")


class AnotherRepr(Logistic):
    def __repr__(self):
        return "a prior"


class DoublePrecision(Logistic):
    def __init__(self, latent_dim):
        torch.set_default_dtype(torch.float64)
        super().__init__(latent_dim)


class Seeding(Logistic):
    def forward(self):
        torch.manual_seed(0)
        return super().forward()


class NumpyDraws(Logistic):
    def __init__(self, latent_dim):
        super().__init__(latent_dim)
        self.loc = nn.Parameter(torch.as_tensor(np.random.randn(latent_dim), dtype=torch.float32))


class PythonDraws(Logistic):
    def __init__(self, latent_dim):
        super().__init__(latent_dim, scale=1 + random.random())


class NoValidation(Logistic):
    def forward(self):
        pyro.enable_validation(False)
        return super().forward()


class InTheStore(Logistic):
    def forward(self):
        return dist.Logistic(pyro.param("location", torch.zeros(self.latent_dim)), self.scale).to_event(1)


class OffByOne(Logistic):
    def forward(self):
        return Shifted(super().forward(), 1.0)


class TwiceAsWide(Logistic):
    def forward(self):
        return Widened(super().forward(), 2.0)


class OtherEachTime(Logistic):
    def forward(self):
        noise = torch.randn(self.latent_dim).to(self.scale)
        return dist.Logistic(self.loc + noise, self.scale).to_event(1)


class Wrapped(TorchDistribution):
    """A distribution with ``by`` in its density or its draws."""

    has_rsample = True

    def __init__(self, of, by):
        self.of = of
        self.by = by
        super().__init__(of.batch_shape, of.event_shape, validate_args=False)

    support = dist.constraints.independent(dist.constraints.real, 1)

    def rsample(self, sample_shape=()):
        return self.of.rsample(sample_shape)

    def log_prob(self, value):
        return self.of.log_prob(value)

    def expand(self, batch_shape, _instance=None):
        return type(self)(self.of.expand(batch_shape), self.by)


class Shifted(Wrapped):
    def log_prob(self, value):
        return self.of.log_prob(value) + self.by


class Widened(Wrapped):
    def rsample(self, sample_shape=()):
        return self.by * self.of.rsample(sample_shape)


class DrawnDetached(Wrapped):
    def rsample(self, sample_shape=()):
        return self.of.rsample(sample_shape).detach()


def test_a_prior_that_draws_what_its_density_says_not_is_refused():
    words = r": where its draws are most frequent there are \S+ \+- \S+ times as many as exp\(log_prob\) says"
    for broken in (OffByOne, TwiceAsWide):
        with pytest.raises(AssertionError, match=broken.__name__ + words):
            testing.check_prior(broken)


PRIORS = {
    OtherEachTime: r"OtherEachTime: called twice in eval\(\) it returns two distributions: draw nothing in forward",
    OfAnotherSize: r"OfAnotherSize\.forward returned .* event shape \(2,\), not \(\) and \(3,\)",
    WithoutEvent: r"WithoutEvent\.forward returned .* batch shape \(3,\).*: was \.to_event\(1\) forgotten",
    WithBatch: r"WithBatch\.forward returned .* batch shape \(7,\) and event shape \(3,\), not \(\) and \(3,\)",
    OfTorch: r"OfTorch\.forward returned a torch\.distributions.*: return a distribution of pyro\.distributions",
    Raising: r"Raising\.forward failed, KeyError: 'lost'",
    NeedsAnOption: r"NeedsAnOption\(latent_dim=3\) failed: TypeError.*'width'.*: a prior takes latent_dim first and",
    NoPrior: r"NoPrior\(latent_dim=3\) made a NoPrior: make it a subclass of pyro_aevb\.priors\.Prior",
    ForgetsItsSize: r"ForgetsItsSize\(latent_dim=3\) has latent_dim 4: pass it on, super\(\)\.__init__\(latent_dim\)",
    Unused: r"no gradient of log_prob reaches the parameter 'spare', it is None: use it in forward",
    Detached: r"log_prob has no gradient by any of its parameters, 'loc': .*without \.detach\(\)",
    TimesZero: r"no gradient of log_prob reaches the parameter 'loc', it is zero",
    InfiniteGradient: r"the gradient of log_prob by the parameter 'loc' is not finite: bound",
    NoBuffer: r"NoBuffer: scale holds a tensor that \.to\(\.\.\.\) does not move: .*register_buffer\('scale', \.\.\.\)",
    KeepsADistribution: r"KeepsADistribution: base holds a tensor that \.to\(\.\.\.\) does not move",
    FreshTensor: r"after \.to\('cpu', torch\.float64\) its draws are torch\.float32 on cpu: make each constant",
    Product: r"Product does not run after \.to\('cpu', torch\.float64\), .*: make each constant a buffer",
    DrawsTooLittle: r"a draw of sample shape \(2,\) has shape \(3,\), not \(2, 3\): make sample return",
    LogProbPerDimension: r"log_prob of values \(2, 3\) has shape \(2, 3\), not \(2,\): make log_prob sum over",
    LogProbOfAnother: r"log_prob of 2 of 2 values that it has drawn itself is not finite, the first \[nan\]",
    DensityOfDrawsAlone: r"WrongDraws\.log_prob of a copy of what it has drawn failed, KeyError.*give .* an rsample",
    RandomAttribute: r"state was saved and loaded into another one has other draws .*, by up to .*in a parameter",
    Counting: r"Counting run twice has other draws at the same seed, by up to 1: draw from torch's global",
    OwnGenerator: r"OwnGenerator built twice at the same seed has other draws",
    PickledState: r"state_dict does not come back from a file that is loaded with weights_only=True, UnpicklingError",
    CachesARun: r"copy\.deepcopy of CachesARun failed after it has run, RuntimeError.*: keep no tensor of a run in it",
    CopyIsItself: r"CopyIsItself changes when its deep copy's parameters do",
    CopyIsAnother: r"CopyIsAnother and its deep copy differ: the copy has other draws",
    BadRepr: r"repr of BadRepr failed, AttributeError: no name: repair it",
    AnotherRepr: r"repr of AnotherRepr is 'a prior', without its class's name AnotherRepr",
    DoublePrecision: r"DoublePrecision changes torch's default dtype from torch\.float32 to torch\.float64",
    Seeding: r"Seeding seeds torch's global generator, so that all draws after it are the same",
    NumpyDraws: r"NumpyDraws changes NumPy's random state, .* draw from torch's generator",
    PythonDraws: r"PythonDraws changes Python's random state, .* draw from torch's generator",
    NoValidation: r"NoValidation changes Pyro's validation from True to False, for all other code of the process",
    InTheStore: r"InTheStore puts 'location' into Pyro's parameter store, .*: make each a torch\.nn\.Parameter",
}


@pytest.mark.parametrize(("broken", "sentence"), PRIORS.items(), ids=[broken.__name__ for broken in PRIORS])
def test_a_broken_prior_is_refused(broken, sentence):
    with pytest.raises(AssertionError, match=sentence) as refused:
        testing.check_prior(broken)
    assert "\n" not in str(refused.value)


def test_what_a_broken_part_changed_is_put_back():
    threads, validated = torch.get_num_threads(), pyro.infer.is_validation_enabled()
    numbers, words = np.random.get_state(legacy=False)["state"], random.getstate()
    state = torch.get_rng_state()
    for broken in (DoublePrecision, Seeding, NumpyDraws, PythonDraws, NoValidation, InTheStore):
        with pytest.raises(AssertionError):
            testing.check_prior(broken)
    assert torch.get_default_dtype() == torch.float32
    assert (torch.get_num_threads(), pyro.infer.is_validation_enabled()) == (threads, validated)
    assert random.getstate() == words
    now = np.random.get_state(legacy=False)["state"]
    assert (now["key"] == numbers["key"]).all()
    assert now["pos"] == numbers["pos"]
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(pyro.get_param_store())


def test_what_a_prior_reads_of_another_part_is_moved_with_it():
    guide = guides.DiagonalNormal(4, 2, hidden=3)
    make = partial(priors.VampPrior, guide=guide, components=3)
    testing.check_prior(make, latent_dim=2, shares=[guide])
    assert {p.dtype for p in guide.parameters()} == {torch.float32}
    with pytest.raises(AssertionError, match=r"VampPrior: _shared holds a tensor that \.to\(\.\.\.\) does not move"):
        testing.check_prior(make, latent_dim=2)


# ---------------------------------------------------------------- broken likelihoods and guides


class Network(Cauchy):
    """A likelihood of a network of its own."""

    def __init__(self, latent_dim, data_dim, *, network):
        super().__init__(latent_dim, data_dim)
        self.network = network(latent_dim, data_dim)


def with_batch_normalisation(width):
    return partial(
        Network, network=lambda k, d: nn.Sequential(nn.Linear(k, width), nn.BatchNorm1d(width), nn.Linear(width, d))
    )


class CentredOverDimension1(Cauchy):
    def forward(self, z):
        return super().forward(z - z.mean(1, keepdim=True) if z.dim() > 1 else z)


class FirstPixel(Cauchy):
    def forward(self, z):
        return dist.Cauchy(self.network(z)[..., :1], self.scale).to_event(1)


class InPlace(Cauchy):
    def forward(self, z):
        return super().forward(z.mul_(0.5))


class BelowZero(Cauchy):
    validate_args = None

    def forward(self, z):
        return dist.Normal(0.0, self.network(z), validate_args=self.validate_args).to_event(1)


class UncheckedBelowZero(BelowZero):
    validate_args = False


class OfNoLatents(Cauchy):
    def forward(self, z):
        return super().forward(z.detach())


class CentredOverRows(Cauchy):
    def forward(self, z):
        return super().forward(z - z.mean(-2, keepdim=True) if z.dim() > 1 else z)


LIKELIHOODS = {
    "detached latents": (OfNoLatents, r"OfNoLatents: no gradient of log_prob reaches the latents z"),
    "centred over rows": (CentredOverRows, r"CentredOverRows: a row alone has another log density than among 4 rows"),
    "batch normalisation": (
        with_batch_normalisation(7),
        r"Network\.forward failed, .*\(called with .*z is \(\.\.\., K\), .*flatten all others",
    ),
    "dimension 1": (
        CentredOverDimension1,
        r"5 draws of z at once, \(5, 4, 3\), have other log densities than one by one, by up to .*from the last one",
    ),
    "one pixel": (FirstPixel, r"FirstPixel\.forward returned .* event shape \(1,\), not \(5, 4\) and \(6,\)"),
    "scales below zero": (
        BelowZero,
        r"BelowZero\.forward failed, ValueError.*: give the distribution parameters that it takes for any weights",
    ),
    "scales below zero, unchecked": (
        UncheckedBelowZero,
        r"UncheckedBelowZero: what it returned cannot be sampled, RuntimeError: .*: give the distribution parameters",
    ),
    "in place": (InPlace, r"InPlace\.forward changes its argument in place: compute on a copy"),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_broken_likelihood_is_refused(name):
    broken, sentence = LIKELIHOODS[name]
    with pytest.raises(AssertionError, match=sentence):
        testing.check_likelihood(broken)


class NoBatch(LogisticGuide):
    def forward(self, x):
        return dist.Normal(self.network(x).mean(0)[: self.latent_dim], 1.0).to_event(1)


class LooksAtOthers(LogisticGuide):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class ForgetsThatItHasNoPath(LogisticGuide):
    def forward(self, x):
        loc, log_scale = self.network(x).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).has_rsample_(False).to_event(1)


class CannotBeExpanded(LogisticGuide):
    def forward(self, x):
        made = super().forward(x)
        made.expand = lambda shape: made.lost
        return made


class WithoutAPath(LogisticGuide):
    def forward(self, x):
        return DrawnDetached(super().forward(x), None)


GUIDES = {
    "looks at other rows": (LooksAtOthers, r"LooksAtOthers: a row alone has another log density than among 4 rows"),
    "no path": (WithoutAPath, r"WithoutAPath has has_rsample=True, and no gradient of a draw reaches any"),
    "no path, forgotten": (
        ForgetsThatItHasNoPath,
        r"ForgetsThatItHasNoPath: has_rsample is False, and True once a plate has expanded .* in a subclass of the",
    ),
    "not to be expanded": (CannotBeExpanded, r"CannotBeExpanded: what it returned cannot be expanded, .*'lost'"),
    "no batch": (NoBatch, r"NoBatch\.forward returned .* batch shape \(\) .*, not \(4,\) and \(3,\)"),
    "half-line": (
        partial(guides.Family, distribution="Gamma", hidden=3),
        r"Family does not go with the prior StandardNormal: .*cannot draw everywhere .*check_guide\(\.\.\., prior=",
    ),
    "a size forgotten": (
        lambda data_dim, latent_dim: LogisticGuide(data_dim, latent_dim + 1),
        r"<lambda>\(data_dim=6, latent_dim=3\) has latent_dim 4",
    ),
}


@pytest.mark.parametrize("name", GUIDES)
def test_a_broken_guide_is_refused(name):
    broken, sentence = GUIDES[name]
    with pytest.raises(AssertionError, match=sentence):
        testing.check_guide(broken)


def test_a_guide_is_checked_with_the_prior_that_it_is_meant_for():
    gamma = partial(guides.Family, distribution="Gamma", hidden=3)
    testing.check_guide(gamma, prior=partial(priors.Family, distribution="Gamma"))
    with pytest.raises(AssertionError, match=r"DiagonalNormal does not go with the prior Family: .*can draw outside"):
        testing.check_guide(guides.DiagonalNormal, prior=partial(priors.Family, distribution="Gamma"))


# ---------------------------------------------------------------- broken estimators


class Broken(SGVB):
    """An estimator that does something else with the loss."""

    def differentiable_loss(self, model, guide, *args, **kwargs):
        return self.changed(super().differentiable_loss(model, guide, *args, **kwargs))


class AsANumber(Broken):
    def changed(self, loss):
        return loss.item()


class ReadsANumber(Broken):
    def changed(self, loss):
        return loss * (1 + 0 * loss.item())


class Branches(Broken):
    def changed(self, loss):
        return loss if loss > -1e9 else 2 * loss


class PerDatum(Broken):
    def changed(self, loss):
        return loss.expand(3)


class Single(Broken):
    def changed(self, loss):
        return loss.float()


class NotFinite(Broken):
    def changed(self, loss):
        return loss * float("inf")


class Constant(Broken):
    def changed(self, loss):
        return loss.detach()


class Fails(Broken):
    def changed(self, loss):
        raise KeyError("lost")


class ForgetsParticles(SGVB):
    def __init__(self, num_particles=1, **elbo_arguments):
        super().__init__(**elbo_arguments)


class NoElboArguments(SGVB):
    def __init__(self, num_particles=1):
        super().__init__(num_particles)


class Drifts(Broken):
    calls = 0

    def changed(self, loss):
        self.calls += 1
        return loss * (1 + 0.1 * self.calls)


class ModelAlone(estimators.WakeSleep):
    def __init__(self, num_particles=1, **elbo_arguments):
        super().__init__(num_particles, phase="wake", **elbo_arguments)


class AnotherNumber(SGVB):
    def loss(self, *arguments):
        return 2 * super().loss(*arguments)


class AnotherGradient(SGVB):
    def loss_and_grads(self, model, guide, *args):
        loss = self.differentiable_loss(model, guide, *args)
        (0.5 * loss).backward()
        return loss.item()


class Rooted(Broken):
    """N/M ends up inside of another function."""

    def changed(self, loss):
        return 10 * loss.abs().sqrt()


class Doubled(Broken):
    def changed(self, loss):
        return 2 * loss


class BiasedGradient(Broken):
    def changed(self, loss):
        return 1.2 * loss - 0.2 * loss.detach()


class Annealed(SGVB):
    weight = 1.0

    def differentiable_loss(self, *arguments):
        return self.weight * super().differentiable_loss(*arguments)


class AnnealsANumber(Annealed):
    def __init__(self, num_particles=1, **elbo_arguments):
        super().__init__(num_particles, **elbo_arguments)
        self.weight = 1.0

    def anneal(self, samples_seen):
        self.weight = 1 + 0.1 * samples_seen
        return True


class FillsATensor(Annealed):
    def __init__(self, num_particles=1, **elbo_arguments):
        self.weight = torch.ones(())
        super().__init__(num_particles, **elbo_arguments)
        self.weight.fill_(1)

    def anneal(self, samples_seen):
        self.weight.fill_(1 + 0.1 * samples_seen)
        return True


class ReplacesATensor(FillsATensor):
    def anneal(self, samples_seen):
        self.weight = 1 + 0.1 * torch.tensor(float(samples_seen))
        return True


class Seeds(Broken):
    def changed(self, loss):
        torch.manual_seed(3)
        return loss


class NoElbo:
    def differentiable_loss(self, model, guide, *args):
        return 0


class CopyIsStale(SGVB):
    def __deepcopy__(self, memo):
        twin = BiasedGradient()
        twin._choices = copy.deepcopy(self._choices, memo)
        return twin


ESTIMATORS = {
    Summed: r"Summed\(num_particles=4\): the mean loss where the guide is the posterior is \S+ \+- \S+, not",
    WithoutLogS: r"WithoutLogS\(num_particles=4\): the mean loss where the guide is the posterior is",
    Median: r"Median\(num_particles=4\): the mean gradient by '\S+' where the guide is the posterior is",
    AsANumber: r"AsANumber.* returned a float, not a scalar tensor of the pair's .*without \.item\(\)",
    ReadsANumber: r"ReadsANumber cannot be recorded as a graph, .*: compute the loss without \.item\(\)",
    Branches: r"Branches cannot be recorded as a graph, .*without a branch on data",
    PerDatum: r"PerDatum\.differentiable_loss returned shape \(3,\), torch\.float64, not a scalar",
    Single: r"Single\.differentiable_loss returned shape \(\), torch\.float32, not a scalar tensor of the pair's",
    NotFinite: r"NotFinite\.differentiable_loss is inf, not finite",
    Constant: r"Constant\.differentiable_loss has no gradient: compute it from the traces",
    Fails: r"Fails\.differentiable_loss failed for a linear Gaussian pair, KeyError: 'lost'",
    ForgetsParticles: r"ForgetsParticles built with num_particles=4 has num_particles 1: pass it on",
    NoElboArguments: r"NoElboArguments\(retain_graph=True, .*\) failed: TypeError.*what pyro\.infer\.ELBO takes",
    Drifts: r"Drifts: a second call at the same seed gives the loss .*keep nothing between calls",
    ModelAlone: r"ModelAlone: the loss's gradient by the parameter 'guide\.\S*' is None: model and guide must",
    AnotherNumber: r"AnotherNumber\.loss gives the loss .*make it differentiable_loss as a number",
    AnotherGradient: r"AnotherGradient in a step of pyro\.infer\.SVI gives another gradient, by up to",
    Rooted: r"Rooted with N = 70 data, M = 10 of them in the minibatch, is 2\.6.* times .*outside of any logarithm",
    Doubled: r"Doubled: the mean loss where the guide is the posterior is \S+ \+- \S+, not \S+: return -\(N/M\)",
    BiasedGradient: r"BiasedGradient: the mean gradient by 'model\.\S+' where the guide is the posterior is .*unbiased",
    partial(SGVB, beta=0.2): r"SGVB: the mean gradient by 'guide\.\S+' where .*biased on purpose",
    AnnealsANumber: r"AnnealsANumber recorded as a graph and then annealed gives the loss .*every number that varies",
    ReplacesATensor: r"ReplacesATensor recorded as a graph and then annealed gives the loss .*changed in place",
    Seeds: r"Seeds seeds torch's global generator",
    NoElbo: r"NoElbo\(\) made a NoElbo: make it a subclass of pyro\.infer\.elbo\.ELBO",
    CopyIsStale: r"CopyIsStale: its deep copy gives another gradient",
}


@pytest.mark.parametrize(
    ("broken", "sentence"), ESTIMATORS.items(), ids=[getattr(b, "__name__", "beta") for b in ESTIMATORS]
)
def test_a_broken_estimator_is_refused(broken, sentence):
    with pytest.raises(AssertionError, match=sentence) as refused:
        testing.check_estimator(broken)
    assert "\n" not in str(refused.value)


def test_an_estimator_that_is_annealed_by_a_tensor_in_place_passes():
    testing.check_estimator(FillsATensor)


# ---------------------------------------------------------------- what it needs


def test_it_needs_no_test_framework_and_is_imported_only_when_asked_for():
    check = (
        "import sys, pyro_aevb\n"
        "assert 'pyro_aevb.testing' not in sys.modules\n"
        "from pyro_aevb import testing\n"
        "assert not {'pytest', '_pytest', 'hypothesis'} & set(sys.modules)\n"
    )
    run_alone(check)
