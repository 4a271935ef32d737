"""Cycles of the KL's weight, and free bits: in the gradient alone, by hand at the same noise; values stay bounds."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

import pyro_aevb as aevb
from pyro_aevb.estimators import SGVB, ScoreFunction, SGVBAnalyticKL
from tests.pairs import binary, gradients, paper_pair, plate
from tests.trainings import assert_equal, make, weights

# ---------------------------------------------------------------- cycles


def betas(estimator, seen):
    found = []
    for samples in seen:
        assert estimator.anneal(samples)
        found.append(round(estimator.beta.item(), 6))
    return found


def test_the_weight_rises_in_each_cycle_and_stays_after_the_last():
    """Fu et al. (2019), equation (7), with R = 1/4 and M = 2."""
    cyclical = SGVB(beta=2.0, warm_up=100, cycles=2, ramp=0.25)
    assert betas(cyclical, [0, 50, 100, 399]) == [0, 1, 2, 2]
    assert betas(cyclical, [400, 450, 500, 799]) == [0, 1, 2, 2]
    assert betas(cyclical, [800, 850, 10**9]) == [2, 2, 2]


@pytest.mark.parametrize("ramp", [0.3, 1.0])
def test_one_cycle_is_what_it_was(ramp):
    seen = [0, 33, 77, 100, 333, 334, 10**6]
    assert betas(SGVB(warm_up=100, ramp=ramp), seen) == [round(min(1.0, s / 100), 6) for s in seen]


@pytest.mark.parametrize("kind", [SGVB, SGVBAnalyticKL, ScoreFunction])
@pytest.mark.parametrize("options", [{"cycles": 2}, {"warm_up": 5, "ramp": 0}, {"warm_up": 5, "ramp": 1.5}])
def test_cycles_that_cannot_be_meant(kind, options):
    with pytest.raises(aevb.InputError, match=r"cycles need warm_up|ramp must be"):
        kind(**options)


@pytest.mark.parametrize("estimator", [partial(SGVBAnalyticKL, free_bits=0.3), SGVB])
def test_captured_equals_eager_and_reports_the_bound(estimator):
    """With a step size of zero the reports are bounds of one pair, whatever the weight of the KL is."""
    runs = {}
    for engine in ("eager", "captured"):
        adam = partial(torch.optim.Adam, lr=0.01)
        trainer = make(engine=engine, estimator=estimator(warm_up=60, cycles=3), optimizer=adam)
        if engine == "captured":
            trainer.engine.gradients.compiled = False
        reports = list(trainer.run(500))
        runs[engine] = weights(trainer), reports
    assert_equal(runs["eager"][0], runs["captured"][0])
    assert runs["eager"][1] == runs["captured"][1]
    assert {report.beta for report in runs["eager"][1]} > {1.0}
    still = partial(torch.optim.SGD, lr=0.0)
    annealed = make(engine="eager", estimator=estimator(warm_up=60, cycles=3), optimizer=still)
    plain = make(engine="eager", estimator=type(estimator())(), optimizer=still)
    assert [r.bound for r in annealed.run(500)] == [r.bound for r in plain.run(500)]


# ---------------------------------------------------------------- free bits


def by_hand(model, guide, x, free, beta=1.0, size=None):
    """The bound, and the gradients of what free bits make of it, at seed 5."""
    for module in (model, guide):
        module.zero_grad()
    torch.manual_seed(5)
    scale = 1.0 if size is None else size / len(x)
    q, p = guide.guide(x), model.prior()
    z = q.rsample()
    likelihood = model.likelihood(z).log_prob(x).sum()
    kl = kl_divergence(q.base_dist, p.expand(q.batch_shape).base_dist)  # (M, K)
    counted = torch.stack([torch.maximum(torch.tensor(free).double(), each) for each in kl.mean(0)]).sum()
    (-scale * (likelihood - beta * len(x) * counted)).backward()
    return scale * (likelihood - kl.sum()).item(), gradients(model, guide), kl.mean(0)


@pytest.mark.parametrize("size", [None, 1000])
@pytest.mark.parametrize("free", [0.05, 0.13, 5.0])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_free_bits_by_hand(free, beta, size):
    with aevb.seeded(1):
        model, guide = paper_pair(size=size, latent_dim=3)
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.mul_(1.5)
    x = binary()
    bound, expected, kls = by_hand(model, guide, x, free, beta, size)
    assert free != 0.13 or kls.min() < free < kls.max(), kls
    for module in (model, guide):
        module.zero_grad()
    torch.manual_seed(5)
    loss = SGVBAnalyticKL(free_bits=free, beta=beta).loss_and_grads(model, guide, x)
    assert -loss == pytest.approx(bound, rel=1e-12)
    for name, gradient in gradients(model, guide).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("vectorize", [False, True])
def test_free_bits_of_several_particles(vectorize):
    """With all of the KL free the gradient is that of the mean log likelihood."""
    model, guide = paper_pair(size=100)
    x = binary()
    torch.manual_seed(5)
    estimator = SGVBAnalyticKL(3, free_bits=50.0, vectorize_particles=vectorize, max_plate_nesting=1)
    estimator.loss_and_grads(model, guide, x)
    ours = gradients(model, guide)
    for module in (model, guide):
        module.zero_grad()
    torch.manual_seed(5)
    q = guide.guide(x)
    z = q.expand([3, 11]).rsample() if vectorize else torch.stack([q.rsample() for _ in range(3)])
    (-100 / 11 * model.likelihood(z).log_prob(x).sum() / 3).backward()
    for name, gradient in gradients(model, guide).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-10, atol=1e-10, msg=name)


def test_masked_data_do_not_count():
    """The mean over the minibatch is over the data that count."""
    mask = torch.tensor([True, True, False, True])
    x = torch.tensor([[3.0], [1.0], [50.0], [2.0]])
    scale = torch.nn.Parameter(torch.tensor(1.0))

    def model(x):
        with plate(x), pyro.poutine.mask(mask=mask):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.detach().unsqueeze(-1), 1).to_event(1), obs=x)

    def guide(x):
        pyro.module("own", torch.nn.ParameterList([scale]))
        with plate(x), pyro.poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(x[:, 0] * scale, 1.0))

    mean = (9 + 1 + 4) / 6  # of x^2 / 2 over three
    for free, gradient in ((mean - 0.01, 14.0), (mean + 0.01, 0.0)):
        scale.grad = None
        SGVBAnalyticKL(free_bits=free).loss_and_grads(model, guide, x)
        assert scale.grad.item() == pytest.approx(gradient)


def correlated():
    model, _ = paper_pair()
    guide = aevb.RecognitionModel(aevb.guides.FullCovarianceNormal(6, 2, hidden=8)).double()
    return model, guide


def discrete():
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.5)).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), 6]).to_event(1), obs=x)

    def guide(x):
        logits = pyro.param("logits", torch.zeros(2))
        with plate(x):
            pyro.sample("z", dist.Bernoulli(logits=logits.expand(len(x), 2)).to_event(1))

    return model, guide


def bottom_up():
    """The guide draws b, whose prior depends on a, first."""

    def model(x):
        with plate(x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b.unsqueeze(-1).expand(-1, 6), 1.0).to_event(1), obs=x)

    def guide(x):
        shift = pyro.param("shift", torch.zeros(()).double())
        with plate(x):
            b = pyro.sample("b", dist.Normal(x[:, 0] + shift, 1.0))
            pyro.sample("a", dist.Normal(b, 1.0))

    return model, guide


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (correlated, "independent of each other, and site 'z' is .*MultivariateNormal .* in the guide"),
        (discrete, "latent 'z' has a score alone"),
        (bottom_up, "site 'b' is sampled"),
    ],
)
def test_free_bits_are_refused_by_name(pair, message):
    with pyro.get_param_store().scope(), pytest.raises(aevb.InputError, match=message):
        SGVBAnalyticKL(free_bits=0.1).loss_and_grads(*pair(), binary())


@pytest.mark.parametrize("free", [-1, float("nan"), "a", None, True])
def test_free_bits_that_cannot_be_meant(free):
    with pytest.raises(aevb.InputError, match="free_bits"):
        SGVBAnalyticKL(free_bits=free)
