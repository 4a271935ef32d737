"""Latents without a path: scores beside others' paths, equal to Pyro's at the same noise, exact on average."""

import itertools
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceGraph_ELBO

import pyro_aevb as aevb
from pyro_aevb import InputError
from pyro_aevb.estimators import SGVB, ScoreFunction, SGVBAnalyticKL
from pyro_aevb.hardware import Settings
from tests.pairs import traced

SIZE = 7
X = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
VECTORISED = {"num_particles": 3, "vectorize_particles": True, "max_plate_nesting": 1}


@pytest.fixture(autouse=True)
def own_store():
    with pyro.get_param_store().scope():
        pyro.clear_param_store()
        yield


def plate(x):
    return pyro.plate("data", 2 * SIZE, subsample=torch.arange(len(x)), dim=-1)


def param(name, *values):
    return pyro.param(name, torch.tensor(values, dtype=torch.float64).squeeze())


def model(x):
    """A discrete latent that moves a continuous one, and a continuous one that it does not reach."""
    with plate(x):
        y = pyro.sample("y", dist.Bernoulli(param("prior", 0.3)))
        z = pyro.sample("z", dist.Normal(y.unsqueeze(-1).expand(*y.shape, 3), 1.0).to_event(1))
        u = pyro.sample("u", dist.Normal(torch.zeros_like(y), 1.0))
        pyro.sample("x", dist.Normal(z * param("w", 1.0, 0.5, -1.0) + u.unsqueeze(-1), 1.0).to_event(1), obs=x)


def guide(x, infer=None):
    with plate(x):
        logits = x @ param("a", 0.3, 0.1, -0.4)
        y = pyro.sample("y", dist.Bernoulli(logits=logits), infer=infer or {})
        loc = x * param("b", 0.5, 0.2, 0.1) + 0.2 * y.unsqueeze(-1)
        pyro.sample("z", dist.Normal(loc, param("s", 0.8)).to_event(1))
        pyro.sample("u", dist.Normal(logits, 0.9))


def loss_and_gradients(estimator, guide, model=model):
    """At noise and parameters of their own, but averages."""
    for _, parameter in pyro.get_param_store().named_parameters():
        parameter.grad = None
    with aevb.seeded(0):
        loss = estimator.loss_and_grads(model, guide, X)
    found = dict(pyro.get_param_store().named_parameters())
    return [torch.tensor(loss), *(found[name].grad for name in sorted(found) if found[name].grad is not None)]


def assert_same(ours, theirs, guide=guide, model=model):
    expected = loss_and_gradients(theirs, guide, model)
    pyro.clear_param_store()
    found = loss_and_gradients(ours, guide, model)
    assert len(found) == len(expected) >= 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, check_dtype=False)


# ---------------------------------------------------------------- equal to Pyro's


def switched_off(x):
    with plate(x):
        logits = x @ param("a", 0.3, 0.1, -0.4)
        y = pyro.sample("y", dist.Normal(logits, param("sy", 0.7)).has_rsample_(False))
        pyro.sample("z", dist.Normal(x * 0.3 + 0.2 * y.unsqueeze(-1), param("s", 0.8)).to_event(1))
        pyro.sample("u", dist.Normal(logits, 0.9))


def model_of_two(x):
    with plate(x):
        y = pyro.sample("y", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Normal(y.unsqueeze(-1).expand(*y.shape, 3), 1.0).to_event(1))
        u = pyro.sample("u", dist.Normal(torch.zeros_like(y), 1.0))
        pyro.sample("x", dist.Normal(z * param("w", 1.0, 0.5, -1.0) + u.unsqueeze(-1), 1.0).to_event(1), obs=x)


def masked(function):
    return poutine.mask(function, mask=torch.arange(SIZE) % 3 > 0)


OPTIONS = [{}, {"num_particles": 3}, VECTORISED]


@pytest.mark.parametrize("options", OPTIONS, ids=["one", "three", "vectorised"])
class TestEqualsPyros:
    def test_the_score_beside_paths(self, options):
        assert_same(SGVB(**options), Trace_ELBO(**options))

    def test_a_path_that_was_switched_off(self, options):
        assert_same(SGVB(**options), Trace_ELBO(**options), switched_off, model_of_two)

    def test_a_mask(self, options):
        assert_same(SGVB(**options), Trace_ELBO(**options), masked(guide), masked(model))

    def test_a_scale(self, options):
        parts = [poutine.scale(part, scale=0.37) for part in (guide, model)]
        assert_same(SGVB(**options), Trace_ELBO(**options), *parts)

    def test_what_a_value_reaches_alone(self, options):
        assert_same(SGVB(downstream=True, **options), TraceGraph_ELBO(**options))

    def test_a_decaying_average(self, options):
        baseline = {"use_decaying_avg_baseline": True, "baseline_beta": 0.8}
        assert_same(SGVB(**options), TraceGraph_ELBO(**options), partial(guide, infer={"baseline": baseline}))

    def test_a_value(self, options):
        shape = (3, SIZE) if "vectorize_particles" in options else (SIZE,)

        def own(x):
            value = param("baseline", 0.3).expand(shape)
            guide(x, {"baseline": {"baseline_value": value}})

        assert_same(SGVB(**options), TraceGraph_ELBO(**options), own)


def test_a_network_as_a_baseline_equals_trace_graph_elbo():
    network = torch.nn.Linear(3, 1, dtype=torch.float64)

    def own(x):
        pyro.module("baseline", network)
        guide(x, {"baseline": {"nn_baseline": lambda x: network(x).squeeze(-1), "nn_baseline_input": x}})

    assert_same(SGVB(), TraceGraph_ELBO(), own)  # with an average as well Pyro rounds the sum to float32


def test_an_average_goes_on_from_step_to_step_as_pyros_does():
    own = partial(guide, infer={"baseline": {"use_decaying_avg_baseline": True}})
    found = []
    for estimator in (SGVB(), TraceGraph_ELBO()):
        pyro.clear_param_store()
        found.append([loss_and_gradients(estimator, own)[1:] for _ in range(3)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(found[0][0][0], found[0][1][0])


# ---------------------------------------------------------------- exact on average


def discrete(x):
    with plate(x):
        y = pyro.sample("y", dist.Bernoulli(0.3 * torch.ones(len(x), dtype=x.dtype)))
        k = pyro.sample("k", dist.Bernoulli(0.2 + 0.5 * y))
        pyro.sample("x", dist.Normal((y + 2 * k).unsqueeze(-1), 1.0).expand([*y.shape, 3]).to_event(1), obs=x)


def discrete_guide(x):
    with plate(x):
        y = pyro.sample("y", dist.Bernoulli(logits=x @ param("a", 0.3, 0.1, -0.4)))
        pyro.sample("k", dist.Bernoulli(logits=x @ param("c", 0.1, -0.3, 0.2) + param("d", 0.5) * y))


def enumerated_gradients():
    """The exact gradient of -(N/M) sum of bounds by a, c and d."""
    a, c, d = (param(n, *v) for n, v in (("a", (0.3, 0.1, -0.4)), ("c", (0.1, -0.3, 0.2)), ("d", (0.5,))))
    total = torch.zeros(())
    for y, k in itertools.product(*[torch.tensor([0.0, 1.0], dtype=X.dtype)] * 2):
        log_q = dist.Bernoulli(logits=X @ a).log_prob(y) + dist.Bernoulli(logits=X @ c + d * y).log_prob(k)
        log_p = dist.Bernoulli(torch.tensor(0.3)).log_prob(y) + dist.Bernoulli(0.2 + 0.5 * y).log_prob(k)
        log_p = log_p + dist.Normal(y + 2 * k, 1.0).log_prob(X).sum(-1)
        total = total + (log_q.exp() * (log_p - log_q)).sum()
    return torch.autograd.grad(-2 * total, [a, c, d])


EXACT = {
    "SGVB": partial(SGVB),
    "SGVB downstream": partial(SGVB, downstream=True),
    "SGVB mean": partial(SGVB, baseline="mean"),
    "SGVB leave-one-out": partial(SGVB, baseline="leave_one_out"),
    "SGVBAnalyticKL": partial(SGVBAnalyticKL),
    "SGVBAnalyticKL downstream": partial(SGVBAnalyticKL, downstream=True),
    "SGVBAnalyticKL leave-one-out": partial(SGVBAnalyticKL, baseline="leave_one_out"),
    "ScoreFunction": partial(ScoreFunction),
    "ScoreFunction mean": partial(ScoreFunction, baseline="mean"),
}


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_the_exact_ones_of_all_values_within_seven_standard_errors(name):
    estimator = EXACT[name](10_000, vectorize_particles=True, max_plate_nesting=1)
    draws = []
    for seed in range(30):
        with aevb.seeded(seed):
            loss = estimator.differentiable_loss(discrete, discrete_guide, X)
        parameters = [pyro.param(n) for n in ("a", "c", "d")]
        draws.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    found = torch.stack(draws)
    exact = torch.cat([g.reshape(-1) for g in enumerated_gradients()])
    error = found.std(0) / len(draws) ** 0.5
    assert ((found.mean(0) - exact).abs() < 7 * error).all()
    assert (error < 0.25).all()


def test_the_continuous_gradient_beside_a_discrete_latent_varies_as_little_as_pyros():
    """By scores alone its standard deviation was fifteen times that of the path."""

    def deviation(estimator):
        draws = []
        for seed in range(200):
            with aevb.seeded(seed):
                loss = estimator.differentiable_loss(model, guide, X)
            draws.append(torch.autograd.grad(loss, pyro.param("b"))[0])
        return torch.stack(draws).std(0)

    ours = deviation(SGVB())
    assert torch.allclose(ours, deviation(Trace_ELBO()))
    assert (deviation(ScoreFunction()) > 3 * ours).all()


def test_a_leave_one_out_baseline_is_the_mean_of_the_other_samples():
    """By hand, at the same noise: the discrete latent's gradient is its score times its cost less the others' mean."""
    with aevb.seeded(0):
        found = SGVB(3, baseline="leave_one_out").differentiable_loss(discrete, discrete_guide, X)
        found = torch.autograd.grad(found, pyro.param("c"))[0]
    costs = []
    scores = []
    with aevb.seeded(0):
        for _ in range(3):
            p, q = traced(discrete, discrete_guide, X)
            log_q = q.nodes["k"]["log_prob"]
            total = sum(p.nodes[n]["log_prob"] for n in "ykx") - q.nodes["y"]["log_prob"] - log_q
            costs.append(total.detach())
            scores.append(q.nodes["k"]["unscaled_log_prob"])
    others = [(sum(costs) - cost) / 2 for cost in costs]
    by_hand = -sum(((c - o) * s).sum() for c, o, s in zip(costs, others, scores, strict=True)) / 3
    torch.testing.assert_close(found, torch.autograd.grad(by_hand, pyro.param("c"))[0])


# ---------------------------------------------------------------- training


def trainer(engine="eager", infer=None, seed=0, **options):
    adam = partial(torch.optim.Adam, lr=0.01)
    how = {"batch_size": SIZE, "optimizer": adam, "settings": Settings("highest", 1), "report_every": 10 * SIZE}
    return aevb.Trainer(
        model, partial(guide, infer=infer), X, estimator=SGVB(**options), engine=engine, seed=seed, **how
    )


@pytest.mark.parametrize("infer", [None, {"baseline": {"use_decaying_avg_baseline": True}}], ids=["plain", "average"])
def test_captured_equals_eager(infer, caplog):
    found = []
    for engine in ("eager", "captured"):
        trained = trainer(engine, infer)
        bounds = [progress.bound for progress in trained.run(20 * SIZE)]
        found.append([torch.tensor(bounds), *trained.parameters.values(), *trained.own_tensors().values()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_averages_are_kept_with_a_training_that_is_resumed():
    infer = {"baseline": {"use_decaying_avg_baseline": True}}
    whole = trainer(infer=infer)
    list(whole.run(40 * SIZE))
    begun = trainer(infer=infer)
    list(begun.run(20 * SIZE))
    resumed = trainer(infer=infer)
    list(resumed.run(7 * SIZE))  # whose average is another
    resumed.load_state_dict(begun.state_dict())
    list(resumed.run(20 * SIZE))
    for a, b in zip(whole.own_tensors().values(), resumed.own_tensors().values(), strict=True):
        assert torch.equal(a, b)
        assert a.any()
    assert all(torch.equal(whole.parameters[n], resumed.parameters[n]) for n in whole.parameters)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ({"use_average": True}, "knows no 'use_average': give some of nn_baseline"),
        ({"nn_baseline": len, "baseline_value": X}, "has nn_baseline and baseline_value"),
        ({"baseline_value": torch.zeros(2)}, r"has shape \(2,\), and what it is compared with \(7,\)"),
    ],
)
def test_a_site_s_bad_baseline_is_named(baseline, words):
    with pytest.raises(InputError, match=f"site 'y'.*{words}"):
        SGVB().loss(model, partial(guide, infer={"baseline": baseline}), X)


def test_the_mean_over_data_is_refused_where_data_share_a_term():
    """The others' cost depends on the draw through it: the gradient would be biased."""

    def shared(x):
        with plate(x):
            y = pyro.sample("y", dist.Bernoulli(0.3 * torch.ones(len(x))))
        pyro.sample("total", dist.Normal(y.sum(), 1.0), obs=torch.tensor(2.0))

    def its_guide(x):
        with plate(x):
            pyro.sample("y", dist.Bernoulli(logits=x @ param("a", 0.3, 0.1, -0.4)))

    with pytest.raises(InputError, match="baseline='mean' compares data, and site 'y'"):
        SGVB(baseline="mean").loss(shared, its_guide, X)
    assert SGVB(2, baseline="leave_one_out").loss(shared, its_guide, X) > 0


def test_samples_with_other_latents_each_cannot_be_compared():
    def model(x):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        if k:
            pyro.sample("j", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(k, 1.0).expand([3]).to_event(1), obs=x[0])

    def guide(x):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        if k:
            pyro.sample("j", dist.Bernoulli(0.5))

    with aevb.seeded(0), pytest.raises(InputError, match="draws other latents in each of them"):
        SGVB(20, baseline="leave_one_out").loss(model, guide, X.float())
    with pytest.raises(InputError, match="needs num_particles of at least 2"):
        SGVB(baseline="leave_one_out")


def test_a_factor_of_the_guide_is_known_to_the_score_of_a_discrete_latent():
    """The loss counts it, so its gradient must: exact over both values, where Trace_ELBO's leaves it out."""

    def model(x):
        k = pyro.sample("k", dist.Bernoulli(0.3 * torch.ones(1000, dtype=x.dtype)).to_event(1))
        pyro.factor("likelihood", (k * x[0, 0]).sum(-1))

    def guide(x):
        a = param("a", 0.4)
        k = pyro.sample("k", dist.Bernoulli(logits=a.expand(1000)).to_event(1))
        pyro.factor("f", 3.0 * k.sum(), has_rsample=True)

    draws = []
    for seed in range(300):
        with aevb.seeded(seed):
            loss = SGVB().differentiable_loss(model, guide, X)
        draws.append(torch.autograd.grad(loss, pyro.param("a"))[0])
    a = torch.tensor(0.4, dtype=X.dtype, requires_grad=True)
    p = a.sigmoid()
    log_q = p * p.log() + (1 - p) * (1 - p).log()
    log_p = p * torch.tensor(0.3).log() + (1 - p) * torch.tensor(0.7).log() + p * X[0, 0]
    exact = torch.autograd.grad(-1000 * (log_p - log_q - 3.0 * p), a)[0]
    found = torch.stack(draws)
    assert abs(found.mean() - exact) < 5 * found.std() / 300**0.5
    assert abs(exact) > 500
