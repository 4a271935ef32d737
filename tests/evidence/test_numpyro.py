"""NumPyro, another library over other arithmetic: the same pair has the same densities, losses and gradients there."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import estimators, evidence, traces

jax = pytest.importorskip("jax", reason="NumPyro is installed with the extra dev or bench")
numpyro = pytest.importorskip("numpyro", reason="NumPyro is installed with the extra dev or bench")
from numpyro import distributions as other  # noqa: E402  # after the skip
from numpyro import infer  # noqa: E402

ROWS, PIXELS, LATENTS = 9, 5, 2
PARTICLES = 5
DRAWS = 1000
ERRORS = 5  # standard errors of a difference, of which some two hundred are looked at


@pytest.fixture(autouse=True)
def in_double():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@functools.cache
def weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (LATENTS, PIXELS), "b": (PIXELS,), "v": (PIXELS, LATENTS), "c": (LATENTS,), "log_scale": (LATENTS,)}
    return {
        n: (0.7 * torch.randn(s, generator=generator, dtype=torch.float64)).requires_grad_() for n, s in shapes.items()
    }


@functools.cache
def data():
    return (torch.rand(ROWS, PIXELS, generator=torch.Generator().manual_seed(1)) > 0.5).double()


def model(x):
    p = weights()
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENTS), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z.tanh() @ p["w"] + p["b"]).to_event(1), obs=x)


def guide(x):
    p = weights()
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x @ p["v"] + p["c"], p["log_scale"].exp()).to_event(1))


def theirs(name):
    return numpyro.param(name, jax.numpy.asarray(weights()[name].detach().numpy()))


def their_model(x):
    with numpyro.plate("data", len(x), dim=-1):
        z = numpyro.sample("z", other.Normal(jax.numpy.zeros((len(x), LATENTS)), 1.0).to_event(1))
        logits = jax.numpy.tanh(z) @ theirs("w") + theirs("b")
        numpyro.sample("x", other.Bernoulli(logits=logits).to_event(1), obs=x)


def their_guide(x):
    with numpyro.plate("data", len(x), dim=-1):
        loc = x @ theirs("v") + theirs("c")
        numpyro.sample("z", other.Normal(loc, jax.numpy.exp(theirs("log_scale"))).to_event(1))


def test_log_densities_at_the_same_latents():
    x = data()
    pair = traces.Particles(model, guide)
    with torch.no_grad():
        latents, log_guide = pair.sample_guide((x,), 1)
        log_likelihood, log_prior = pair.log_joint((x,), latents, 1)
    given = {name: value.detach().numpy() for name, value in weights().items()} | {"z": latents["z"][0].numpy()}
    for ours, function in ((log_likelihood + log_prior, their_model), (log_guide, their_guide)):
        log_density, _ = infer.util.log_density(function, (x.numpy(),), {}, given)
        assert ours.sum().item() == pytest.approx(float(log_density), rel=4e-15)


PAIRS = {
    "SGVB": (lambda: estimators.SGVB(), lambda: infer.Trace_ELBO()),
    "SGVBAnalyticKL": (lambda: estimators.SGVBAnalyticKL(), lambda: infer.TraceMeanField_ELBO()),
    "IWAE": (lambda: estimators.IWAE(PARTICLES), lambda: infer.RenyiELBO(0, PARTICLES)),
    "Renyi": (lambda: estimators.Renyi(PARTICLES, alpha=0.5), lambda: infer.RenyiELBO(0.5, PARTICLES)),
    "ScoreFunction": (lambda: estimators.ScoreFunction(), lambda: infer.TraceGraph_ELBO()),
    "DReG": (lambda: estimators.DoublyReparameterized(PARTICLES), lambda: infer.RenyiELBO(0, PARTICLES)),
}


def their_draws(estimator):
    """Losses, ``(DRAWS,)``, and gradients by name, ``(DRAWS, ...)``, of NumPyro's estimator."""
    x = jax.numpy.asarray(data().numpy())
    params = {name: jax.numpy.asarray(value.detach().numpy()) for name, value in weights().items()}

    def loss(params, key):
        return estimator.loss(key, params, their_model, their_guide, x)

    keys = jax.random.split(jax.random.PRNGKey(0), DRAWS)
    found, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))(params, keys)
    return np.asarray(found), {name: np.asarray(each) for name, each in gradients.items()}


def our_draws(estimator, repeats):
    """The same of ours, where a step sees every datum ``repeats`` times, each with noise of its own."""
    x = data().repeat(repeats, 1)
    parameters = list(weights().values())
    losses, gradients = [], []
    for seed in range(DRAWS // repeats):
        with aevb.seeded(seed):
            loss = estimator.differentiable_loss(model, guide, x)
        losses.append(loss.item() / repeats)
        gradients.append([each / repeats for each in torch.autograd.grad(loss, parameters)])
    each = zip(*gradients, strict=True)
    return np.array(losses), {n: torch.stack(g).numpy() for n, g in zip(weights(), each, strict=True)}


def same_mean(ours, theirs):
    error = np.sqrt(ours.var(0, ddof=1) / len(ours) + theirs.var(0, ddof=1) / len(theirs))
    return np.abs(ours.mean(0) - theirs.mean(0)) <= ERRORS * error + 1e-9


@pytest.mark.parametrize("name", PAIRS)
def test_losses_and_gradients_have_the_same_means(name):
    make, make_theirs = PAIRS[name]
    losses, gradients = our_draws(make(), repeats=20)
    their_losses, their_gradients = their_draws(make_theirs())
    assert same_mean(losses, their_losses)
    for parameter, gradient in gradients.items():
        assert same_mean(gradient, their_gradients[parameter]).all(), parameter


def test_evidence_is_that_of_their_weights():
    """The log-mean-exp over many of NumPyro's own draws, for each datum."""
    x = data()
    found = evidence.importance_weights(model, guide, x, DRAWS)
    predict = infer.Predictive(
        their_guide, params={n: v.detach().numpy() for n, v in weights().items()}, num_samples=DRAWS
    )
    z = torch.from_numpy(np.array(predict(jax.random.PRNGKey(1), x.numpy())["z"]))  # (S, B, K)
    pair = traces.Particles(model, guide)
    with torch.no_grad():
        log_likelihood, log_prior = pair.log_joint((x,), {"z": z}, len(z))
        p = weights()
        log_guide = dist.Normal(x @ p["v"] + p["c"], p["log_scale"].exp()).log_prob(z).sum(-1)
    weight = log_likelihood + log_prior - log_guide
    expected = weight.logsumexp(0) - np.log(len(z))
    error = (weight - expected).exp().std(0) / len(z) ** 0.5  # relative, of a mean of weights
    assert ((found.log_likelihood - expected).abs() <= ERRORS * torch.hypot(error, found.standard_error)).all()
