"""Same noise, same answer: our estimators, Pyro's, and the second derivation in ``sgvb.py``, in float64 to 1e-10."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

import pyro_aevb as aevb
from pyro_aevb import InputError, sgvb
from pyro_aevb.estimators import SGVB, SGVBAnalyticKL
from pyro_aevb.guides import Guide
from tests.pairs import LinearGaussian, binary, gradients, hand_written_pair, paper_pair

TWINS = [(SGVB, Trace_ELBO), (SGVBAnalyticKL, TraceMeanField_ELBO)]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def loss_and_gradients(estimator, model, guide, *args, seed=5):
    """A loss and its gradients at fixed noise, through the method that ``SVI`` calls."""
    for module in (model, guide):
        module.zero_grad()
    torch.manual_seed(seed)
    loss = estimator.loss_and_grads(model, guide, *args)
    return loss, gradients(model, guide)


def assert_same(first, second):
    torch.testing.assert_close(first[0], second[0], **CLOSE)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], **CLOSE, msg=name)


@pytest.mark.parametrize(("ours", "pyros"), TWINS)
@pytest.mark.parametrize("likelihood", ["Bernoulli", "Gaussian"])
@pytest.mark.parametrize("size", [None, 1000])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_particles": 3}, {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 1}],
    ids=["one", "loop", "vectorized"],
)
def test_equals_pyro_at_the_same_noise(ours, pyros, likelihood, size, options):
    model, guide = paper_pair(likelihood, size=size)
    x = binary()
    assert_same(
        loss_and_gradients(ours(**options), model, guide, x), loss_and_gradients(pyros(**options), model, guide, x)
    )


@pytest.mark.parametrize(("ours", "by_hand"), [(SGVB, sgvb.estimator_a), (SGVBAnalyticKL, sgvb.estimator_b)])
@pytest.mark.parametrize(
    ("likelihood", "log_likelihood"),
    [("Bernoulli", sgvb.bernoulli_log_likelihood), ("Gaussian", sgvb.gaussian_log_likelihood)],
)
@pytest.mark.parametrize("size", [None, 1000])
def test_equals_the_second_derivation_at_the_same_noise(ours, by_hand, likelihood, log_likelihood, size):
    model, guide = paper_pair(likelihood, size=size)
    x = binary()
    expected = loss_and_gradients(ours(), model, guide, x)

    for module in (model, guide):
        module.zero_grad()
    torch.manual_seed(5)
    noise = torch.randn(len(x), 2, dtype=torch.float64)
    bound = by_hand(x, noise, guide.guide.network, model.likelihood.network, log_likelihood)
    loss = -(1 if size is None else size / len(x)) * bound.sum()
    loss.backward()
    assert_same(expected, (loss.item(), gradients(model, guide)))


@pytest.mark.parametrize(("ours", "pyros"), TWINS)
def test_a_hand_written_pair_with_two_latents_equals_pyro(ours, pyros):
    model, guide = hand_written_pair(size=50)
    x = torch.randn(7, 4)

    def run(estimator):
        torch.manual_seed(2)
        pyro.get_param_store().clear()
        loss = estimator.loss_and_grads(model, guide, x)
        return loss, {n: p.unconstrained().grad.clone() for n, p in pyro.get_param_store().items()}

    (loss, grads), (expected, expected_grads) = run(ours()), run(pyros())
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in grads.items():
        torch.testing.assert_close(gradient, expected_grads[name], rtol=1e-5, atol=1e-5)


def _nested(scaled):
    """Nested and sequential plates, subsampling, scales, a masked and a global site."""
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def model():
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("outer", 6, subsample_size=3) as i, pyro.poutine.scale(scale=scaled):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            for j in pyro.plate("sequential", 4, subsample_size=2):
                w = pyro.sample(f"w{j}", dist.Normal(z, 1.0))
                pyro.sample(f"x{j}", dist.Normal(w, 1.0).mask(data[i, j] > -1), obs=data[i, j])

    def guide():
        loc = pyro.param("loc", torch.tensor(0.1))
        pyro.sample("shift", dist.Normal(loc, pyro.param("scale", torch.tensor(0.5))))
        with pyro.plate("outer", 6, subsample_size=3), pyro.poutine.scale(scale=scaled):
            pyro.sample("z", dist.Normal(loc, 0.7))
            for j in pyro.plate("sequential", 4, subsample_size=2):
                pyro.sample(f"w{j}", dist.Normal(2 * loc, 0.7))

    return model, guide


@pytest.mark.parametrize(("ours", "pyros"), TWINS)
@pytest.mark.parametrize("scaled", [1.0, 0.3])
def test_every_plate_structure_that_pyro_accepts(ours, pyros, scaled):
    """Model and guide here take no arguments at all."""
    model, guide = _nested(scaled)

    def run(estimator):
        torch.manual_seed(4)
        pyro.get_param_store().clear()
        loss = estimator.loss_and_grads(model, guide)
        return loss, {n: p.grad.clone() for n, p in pyro.get_param_store().items()}

    (loss, grads), (expected, expected_grads) = run(ours(num_particles=2)), run(pyros(num_particles=2))
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(grads, expected_grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("estimator", [SGVB, SGVBAnalyticKL])
def test_drops_into_svi(estimator):
    pair = LinearGaussian(shift=1.0)
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), estimator(num_particles=2))
    first = svi.evaluate_loss(pair.x)
    for _ in range(150):
        svi.step(pair.x)
    assert svi.evaluate_loss(pair.x) < first - 10


@pytest.mark.parametrize("estimator", [SGVB, SGVBAnalyticKL])
def test_scale_is_n_over_m(estimator):
    x = binary()
    torch.manual_seed(0)
    plain = paper_pair(size=None)
    torch.manual_seed(0)
    scaled = paper_pair(size=1000)
    one, many = (loss_and_gradients(estimator(), *pair, x) for pair in (plain, scaled))
    assert many[0] == pytest.approx(one[0] * 1000 / len(x), rel=1e-12)


def test_the_bound_does_not_exceed_the_evidence_and_touches_it_at_the_posterior():
    exact, off = LinearGaussian(), LinearGaussian(shift=0.3, widen=1.3)
    for seed in range(20):
        torch.manual_seed(seed)
        # At q = posterior each log-weight equals log p(x), whatever the noise.
        torch.testing.assert_close(-SGVB().loss(exact.model, exact.guide, exact.x), exact.log_evidence.sum().item())
    means = [-SGVBAnalyticKL(num_particles=200).loss(off.model, off.guide, off.x)]
    # KL(q || posterior) > 20 nats over these data, the Monte Carlo error of the mean about 0.5: fails never
    assert means[0] < off.log_evidence.sum().item() - 5


@pytest.mark.parametrize("name", ["IWAE", "StickingTheLanding", "DoublyReparameterized", "Renyi"])
def test_a_site_without_a_path_is_refused_by_what_needs_one(name):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Bernoulli(pyro.param("p", torch.tensor(0.4))))

    with pytest.raises(InputError, match=r"'k' \(Bernoulli.*use SGVB.*or VIMCO"):
        getattr(aevb.estimators, name)(2).differentiable_loss(model, guide, torch.zeros(3))


def test_the_constructor_takes_the_arguments_of_pyros_elbo():
    estimator = SGVB(2, max_plate_nesting=1, retain_graph=True, strict_enumeration_warning=False)
    assert (estimator.num_particles, estimator.max_plate_nesting, estimator.retain_graph) == (2, 1, True)
    with pytest.raises(InputError, match="num_particles"):
        SGVB(0)


def test_pyros_own_interface_to_modules():
    """``ELBO.__call__`` makes a module of a fixed pair."""
    model, guide = paper_pair()
    module = SGVB()(model, guide)
    loss = module(binary())
    loss.backward()
    assert all(p.grad is not None for p in module.parameters())


def test_a_size_scales_every_term_alike():
    for estimator in (SGVB(), SGVBAnalyticKL()):
        torch.manual_seed(0)
        plain = estimator.loss(*paper_pair(size=None), binary())
        torch.manual_seed(0)
        assert estimator.loss(*paper_pair(size=110), binary()) == pytest.approx(10 * plain, rel=1e-12)


class StudentTGuide(Guide):
    """A guide without a registered KL to the prior."""

    def __init__(self, data_dim, latent_dim):
        super().__init__(data_dim, latent_dim)
        self.loc = torch.nn.Parameter(torch.zeros(latent_dim, dtype=torch.float64))

    def forward(self, x):
        return dist.StudentT(5.0, self.loc, 1.0).expand((len(x), self.latent_dim)).to_event(1)


def test_estimator_b_never_falls_back_to_a():
    model, _ = paper_pair()
    guide = aevb.RecognitionModel(StudentTGuide(6, 2))
    assert math.isfinite(TraceMeanField_ELBO().loss(model, guide, binary()))  # Pyro's falls back, silently
    with pytest.raises(aevb.InputError, match=r"no closed form.*'z'.*StudentT.*estimator A"):
        SGVBAnalyticKL().loss(model, guide, binary())
    SGVB().loss(model, guide, binary())
