"""Random pairs: every estimator and evaluator gives what it should, or refuses by name; never another number.

The oracles are Pyro's ``Trace_ELBO`` at the same noise, in value and gradient; plain Pyro traces, one particle at a
time; and enumeration where latents are discrete. More of them: ``pytest tests/traces/test_random_pairs.py
--random-pairs=5000 --random-seed=1``.
"""

import itertools
import math
import random

import pyro
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from pyro import poutine
from pyro.infer import Trace_ELBO

import pyro_aevb as aevb
from pyro_aevb import evidence, traces
from pyro_aevb.estimators import SGVB
from tests.everything import REFUSED, estimators_of, evaluators, finite, losses, outcome
from tests.random_pairs import DTYPE, make, specs

CHUNKS = 10


def pytest_generate_tests(metafunc):
    """So many chunks, each with a seed of its own."""
    if "chunk" in metafunc.fixturenames:
        first = CHUNKS * metafunc.config.getoption("--random-seed")
        metafunc.parametrize("chunk", range(first, first + CHUNKS))


def of_random_pairs(check, chunk, count):
    """Run a check on so many pairs."""
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # small as they are drawn
        suppress_health_check=list(HealthCheck),
    )

    @quiet
    @seed(chunk)
    @given(specs())
    def run(spec):
        with pyro.get_param_store().scope():
            check(make(spec))

    run()


# ---------------------------------------------------------------- what must be refused


def agrees(spec):
    """Do model and guide count alike?"""
    return spec.scale != "model" and spec.mask != "model"


def trains(spec):
    """Do the estimators of the evidence lower bound take it?"""
    return agrees(spec) and spec.factor != "not reparameterised"


def has_weights(spec):
    """Is there a log-weight for each datum, in one scale?"""
    guided = "reparameterised" in spec.factor
    latent_alone = spec.scale.startswith("latent")
    return agrees(spec) and not guided and not latent_alone


def evaluable(spec):
    return spec.mask != "model" and spec.scale != "model" and "reparameterised" not in spec.factor


# ---------------------------------------------------------------- oracles


def by_pyro(pair, latents, s):
    """log p(x|z), log p(z) and log q(z|x) of one particle, ``(B,)`` each, by plain traces."""
    given_values = {name: value[s] for name, value in latents.items()}
    found = []
    for function in (pair.model, pair.guide):
        trace = poutine.trace(poutine.condition(function, data=given_values)).get_trace(*pair.args)
        trace.compute_log_prob()
        sites = {n: node for n, node in trace.nodes.items() if node["type"] == "sample" and n != "data"}
        unscaled = {n: node["log_prob"] / node["scale"] for n, node in sites.items()}
        latent = sum(unscaled[n] for n in latents)
        found += [sum((unscaled[n] for n in sites if n not in latents), torch.zeros(())), latent]
    return found[0], found[1], found[3]


def check_draw_by_draw(pair):
    """In evaluation, three particles at once are three by themselves."""
    particles = traces.Particles(pair.model, pair.guide)
    latents, log_guide = particles.sample_guide(pair.args, 3)
    likelihood, prior = particles.log_joint(pair.args, latents, 3)
    for s in range(3):
        expected = by_pyro(pair, latents, s)
        for found, exact in zip((likelihood[s], prior[s], log_guide[s]), expected, strict=True):
            torch.testing.assert_close(found, exact.expand(found.shape), rtol=1e-6, atol=1e-6)


def check_bounds(pair, count):
    """Each multi-sample loss is its formula of the densities at the same noise."""
    with aevb.seeded(0):
        densities = traces.log_densities(pair.model, pair.guide, pair.args, count)
    weight, scale = densities.log_weight, densities.scale
    mean = (scale * weight.mean(0)).sum().item()
    best = (scale * (weight.logsumexp(0) - math.log(count))).sum().item()
    half = (scale * 2 * ((weight / 2).logsumexp(0) - math.log(count))).sum().item()
    expected = {"IWAE": best, "DoublyReparameterized": best, "VIMCO": best, "Renyi": half}
    expected |= {"StickingTheLanding": mean, "WakeSleep": mean}
    found = losses(pair.model, pair.guide, pair.args, count, some(expected, pair.spec))
    for name, value in found.items():
        if value is REFUSED:
            assert pair.spec.discrete, name
            assert name not in ("VIMCO", "WakeSleep"), name
        else:
            assert value == pytest.approx(-expected[name], rel=1e-6, abs=1e-6), name


def check_against_trace_elbo(pair, gradients):
    """Value and gradient at the same noise, in training as the modules are.

    Of a guide's factor a discrete latent's score must know, since the loss counts it: Trace_ELBO leaves it out there.
    """

    def found(estimator):
        with aevb.seeded(1):
            loss = estimator.differentiable_loss(pair.model, pair.guide, *pair.args)
        parameters = [p for net in pair.nets for p in net.parameters()]
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        return loss.item(), [torch.zeros(1, dtype=DTYPE) if g is None else g for g in slopes]

    ours, theirs = found(SGVB()), found(Trace_ELBO())
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6, abs=1e-6)
    for a, b in zip(ours[1], theirs[1], strict=True) if gradients else ():
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def enumerated(pair):
    """log p(x) of each datum, over all values of discrete latents."""
    spec, rows = pair.spec, len(pair.args[0])
    sizes = [torch.Size(shape).numel() for shape in spec.shapes]
    terms = []
    for bits in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        parts = torch.tensor(bits, dtype=DTYPE).split(sizes)
        values = {
            f"z{i}": part.reshape(shape).expand(rows, *shape)
            for i, (part, shape) in enumerate(zip(parts, spec.shapes, strict=True))
        }
        likelihood, prior, _ = by_pyro(pair, {n: v.unsqueeze(0) for n, v in values.items()}, 0)
        terms.append((likelihood + prior).expand(rows))
    return torch.stack(terms).logsumexp(0)


# ---------------------------------------------------------------- the tests


def some(names, spec, count=3):
    """Other ones for each pair, all of them somewhere."""
    return random.Random(spec.seed).sample(sorted(names), count)


def check_estimators(pair):
    """Estimators, in training: a number that agrees, or a refusal where there is reason for one."""
    spec = pair.spec
    others = set(aevb.estimators.__all__) - {"SGVB", "ScoreFunction"}
    found = losses(pair.model, pair.guide, pair.args, 1, ["SGVB", "ScoreFunction", *some(others, spec)])
    assert (found["SGVB"] is not REFUSED) == trains(spec)
    assert (found["ScoreFunction"] is not REFUSED) == trains(spec)
    for name, value in found.items():
        assert value is REFUSED or agrees(spec), name
        if name not in ("SGVB", "SGVBAnalyticKL", "ScoreFunction"):
            assert value is REFUSED or has_weights(spec), name
    if trains(spec):
        check_against_trace_elbo(pair, gradients=not (spec.discrete and "reparameterised" in spec.factor))
    for net in pair.nets:
        net.eval()
    if has_weights(spec):
        check_bounds(pair, 2 + spec.seed % 2)
    if spec.seed % 2:
        (name,) = some(aevb.estimators.__all__, spec, 1)
        outcome(trained, pair, estimators_of(2)[name], name)


def trained(pair, estimator, name):
    """One epoch by the trainer, one of its reports against the loss."""
    trainer = aevb.Trainer(
        pair.model, pair.guide, pair.args, estimator, batch_size=len(pair.args[0]), device="cpu", engine="eager"
    )
    (report,) = trainer.run(2 * len(pair.args[0]))
    assert math.isfinite(report.bound), name


def check_evaluators(pair):
    """All evaluators: numbers, or refusals where there is reason for one."""
    for net in pair.nets:
        for buffer in net.buffers():
            buffer.requires_grad_(False)
    spec, before = pair.spec, [b.clone() for net in pair.nets for b in net.buffers()]
    x = pair.args if len(pair.args) > 1 else pair.args[0]
    enumerable = spec.discrete and sum(torch.Size(s).numel() for s in spec.shapes) <= 5 and spec.mask != "both"
    weights = outcome(evidence.importance_weights, pair.model, pair.guide, x, 300 if enumerable else 20)
    assert (weights is not REFUSED) == evaluable(spec)
    for b, value in zip((b for net in pair.nets for b in net.buffers()), before, strict=True):
        assert torch.equal(b, value)
    assert all(net.training for net in pair.nets)
    for net in pair.nets:
        net.eval()
    if evaluable(spec):
        check_draw_by_draw(pair)
        bound = evidence.bound(pair.model, pair.guide, x, 5).bound
        assert finite(bound)
        if enumerable:
            exact = enumerated(pair)
            assert ((weights.log_likelihood - exact).abs() <= 6 * weights.standard_error + 0.05).all()
    means = outcome(evidence.posterior_means, pair.guide, x)
    assert means is REFUSED or finite(means)


def check_chains(pair):
    """Those that move by Hamiltonian dynamics, and all others, once more."""
    for name, value in evaluators(pair.model, pair.guide, pair.args).items():
        assert value is REFUSED or finite(value), name
        if name in ("bound", "importance", "decoder_use"):
            assert value is REFUSED or evaluable(pair.spec), name


def test_estimators(chunk, request):
    of_random_pairs(check_estimators, chunk, request.config.getoption("--random-pairs") // (2 * CHUNKS))


def test_evaluators(chunk, request):
    of_random_pairs(check_evaluators, 1000 + chunk, request.config.getoption("--random-pairs") // (2 * CHUNKS))


def test_chains(chunk, request):
    of_random_pairs(check_chains, 2000 + chunk, max(5, request.config.getoption("--random-pairs") // 100))
