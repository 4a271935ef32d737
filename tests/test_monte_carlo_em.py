"""Monte Carlo EM: probabilistic PCA's known maximum, resumption, recorded steps, and the caller's noise."""

import copy
import itertools
import logging
import math
from functools import partial

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import InputError, MonteCarloEM, NonFiniteLossError, em_steps, hmc
from pyro_aevb.recording import record_function
from tests.pairs import binary, paper_pair
from tests.trainings import assert_equal

D = torch.float64


class LinearLikelihood(aevb.likelihoods.Likelihood):
    """Probabilistic PCA, everything learned."""

    def __init__(self, latent_dim, data_dim):
        super().__init__(latent_dim, data_dim)
        self.linear = nn.Linear(latent_dim, data_dim, dtype=D)
        self.log_scale = nn.Parameter(torch.zeros((), dtype=D))

    def forward(self, z):
        return dist.Normal(self.linear(z), self.log_scale.exp()).to_event(1)


class LinearGuide(aevb.guides.Guide):
    """N(Ax + b, full covariance the same for all): holds the exact posterior."""

    def __init__(self, data_dim, latent_dim):
        super().__init__(data_dim, latent_dim)
        self.linear = nn.Linear(data_dim, latent_dim, dtype=D)
        self.tril = nn.Parameter(torch.zeros(latent_dim, latent_dim, dtype=D))

    def forward(self, x):
        tril = self.tril.tril(-1) + torch.diag_embed(self.tril.diagonal().exp())
        return dist.MultivariateNormal(self.linear(x), scale_tril=tril)


def principal_components(n=300, k=2, d=5):
    """Data, and the greatest mean log-likelihood that any probabilistic PCA gives them (Tipping & Bishop, 1999)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(d, k, dtype=D, generator=generator)
    x = torch.randn(n, k, dtype=D, generator=generator) @ weight.T + 1
    x = x + 0.5 * torch.randn(n, d, dtype=D, generator=generator)
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = values[k:].mean()
    best = -0.5 * (d * math.log(2 * math.pi) + values[:k].log().sum() + (d - k) * noise.log() + d)
    return x, best.item()


def log_likelihood(model, x):
    return aevb.evidence.linear_gaussian(model, x).mean().item()


def make_model():
    with aevb.seeded(0):
        return aevb.GenerativeModel(aevb.priors.StandardNormal(2).double(), LinearLikelihood(2, 5), 300)


def with_falling_steps(trainer, n, rates):
    for rate, epochs in rates:
        trainer_optimizer = trainer.optimizer if isinstance(trainer, MonteCarloEM) else trainer.engine.optimizer
        trainer_optimizer.param_groups[0]["lr"] = rate
        list(trainer.run(epochs * n))


def test_both_recover_the_maximum_likelihood_of_probabilistic_pca():
    """To 1e-3 relative, seeded: what is left is the noise of the last, small steps."""
    x, best = principal_components()
    model = make_model()
    assert log_likelihood(model, x) < 1.2 * best
    trainer = MonteCarloEM(model, x, partial(torch.optim.Adam, lr=0.03), 300, device="cpu")
    with_falling_steps(trainer, 300, [(0.03, 60), (0.01, 100), (0.003, 100), (0.001, 60)])
    assert trainer.acceptance.item() == pytest.approx(0.9, abs=0.05)
    assert best * 1.001 < log_likelihood(model, x) <= best * (1 - 1e-12)

    model = make_model()
    with aevb.seeded(0):
        guide = aevb.RecognitionModel(LinearGuide(5, 2), 300)
    estimator = aevb.estimators.SGVBAnalyticKL()
    trainer = aevb.Trainer(
        model, guide, x, estimator, partial(torch.optim.Adam, lr=0.03), 300, engine="eager", device="cpu"
    )
    with_falling_steps(trainer, 300, [(0.03, 200), (0.01, 300), (0.003, 300), (0.001, 200)])
    assert best * 1.001 < log_likelihood(model, x) <= best * (1 - 1e-12)


def make(seed=0, data=None, **options):
    with aevb.seeded(0):
        model, _ = paper_pair(size=60)
    data = binary(60) if data is None else data
    return MonteCarloEM(model, data, batch_size=25, seed=seed, device="cpu", **{"report_every": 100, **options})


def state(trainer):
    return {**trainer.model.state_dict(), "chains": trainer.chains, "step_size": trainer.step_size}


def test_stopped_and_gone_on_equals_whole(tmp_path):
    whole, cut, again = make(), make(), make(seed=0)
    reports = list(whole.run(400))
    assert [r.samples_seen for r in reports][:3] == [110, 205, 300]
    assert all(math.isnan(r.bound) for r in reports)
    assert all(math.isfinite(r.log_joint) for r in reports)
    first = list(cut.run(205))
    torch.save(cut.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second = list(again.run(400 - again.samples_seen))
    assert [r.log_joint for r in first + second] == [r.log_joint for r in reports]
    assert_equal(state(whole), state(again))


def test_a_function_of_the_seed_that_leaves_the_caller_alone():
    before = torch.get_rng_state()
    trainers = [make(), make(), make(seed=1)]
    for trainer in trainers:
        list(trainer.run(100))
    assert_equal(state(trainers[0]), state(trainers[1]))
    assert not torch.equal(trainers[0].chains, trainers[2].chains)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_minibatch_moves_and_the_rest_persists():
    trainer = make()
    before = trainer.chains.clone()
    list(trainer.run(25))
    moved = (trainer.chains != before).any(-1)
    rows = trainer.batches.visit(0)[0]
    assert moved[rows].double().mean() > 0.5
    assert moved.sum() == moved[rows].sum()


def test_each_e_step_has_so_many_updates():
    one, five = make(updates=1), make(updates=5)
    first, same = (report.log_joint for trainer in (one, five) for report in trainer.run(25))
    assert first == same  # log p(x, z) before the first update
    steps = [next(iter(t.optimizer.state.values()))["step"] for t in (one, five)]
    assert [int(s) for s in steps] == [1, 5]


def test_bad_input_is_named():
    with pytest.raises(InputError, match="support"):
        make(data=torch.full((60, 6), 2.0, dtype=D))
    for wrong in ({"updates": 0}, {"leapfrog_steps": 0}, {"report_every": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            make(**wrong)
    trainer = make()
    with pytest.raises(InputError, match="another seed"):
        make(seed=1).load_state_dict(trainer.state_dict())
    with pytest.raises(InputError, match="unknown engine 'svi'"):
        make(engine="svi")
    with pytest.raises(InputError, match="not a state"):
        trainer.load_state_dict({"format": "x"})
    with pytest.raises(InputError, match="no weights"):
        MonteCarloEM(lambda x: None, binary(60), batch_size=25, device="cpu")
    with torch.no_grad():
        next(trainer.model.parameters())[0] = torch.nan
    with pytest.raises(NonFiniteLossError, match="nan at step 1"):
        list(trainer.run(500))


def all_of(value):
    """Every number in a state, text and all, as one comparable string of bits."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: all_of(part) for key, part in value.items()}
    return [all_of(part) for part in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("part", ["modules", "optimizer", "chains", "noise"])
def test_a_refused_state_changes_nothing(part):
    """Neither the weights, which come first, nor anything after them."""
    trainer, other = make(), make()
    list(trainer.run(50))
    list(other.run(400))
    before, state = trainer.state_dict(), other.state_dict()
    if part == "modules":
        del state["modules"]["model"]["likelihood.network.2.bias"]
    elif part == "optimizer":
        state["optimizer"]["param_groups"][0]["params"].pop()
    elif part == "chains":
        state["chains"] = state["chains"][:, :1]
    else:
        del state["noise"]
    with pytest.raises(InputError, match="lacks noise" if part == "noise" else "another model or optimizer"):
        trainer.load_state_dict(state)
    assert all_of(before) == all_of(trainer.state_dict())


def test_both_steps_are_the_formulas_at_the_same_noise():
    """Probabilistic PCA of scale 1: 10 of 300 data, one transition and one loss."""
    x, _ = principal_components()
    model = make_model()
    trainer = MonteCarloEM(model, x, batch_size=10, leapfrog_steps=3, target_acceptance=0.7, device="cpu")
    u, size, linear = trainer.chains[:10], torch.tensor(0.2, dtype=D), model.likelihood.linear

    def log_joint(u):
        squares = u.square().sum(-1) + (x[:10] - u @ linear.weight.T - linear.bias).square().sum(-1)
        return -0.5 * (squares + 7 * math.log(2 * math.pi))

    torch.testing.assert_close(trainer.eager.loss(u, x[:10]), -300 / 10 * log_joint(u).sum(), rtol=1e-12, atol=0)
    with aevb.seeded(5):
        found, next_size, acceptance = trainer.eager.transition(u, size, x[:10])
    with aevb.seeded(5), torch.no_grad():
        start = hmc.State(u[None], *hmc.with_gradient(log_joint, u[None]))
        expected, info = hmc.step(log_joint, start, hmc.jittered(size), 3)
    torch.testing.assert_close(found, expected.position[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(acceptance, info.acceptance.mean(), rtol=1e-12, atol=0)
    torch.testing.assert_close(next_size, size * (info.acceptance.mean() - 0.7).exp().clamp(0.8, 1.25))


# ---------------------------------------------------------------- recorded steps


class Remembering(nn.Module):
    """Dropout, and a buffer that changes whenever training passes through; another in evaluation."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=D))
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().flatten(0, -2).mean(0))
        return self.dropout(x) - 0.1 * self.mean


def remembering():
    model, _ = paper_pair(size=60)
    model.likelihood.network = nn.Sequential(model.likelihood.network, Remembering(6))
    return model


class Positive(nn.Module):
    """Two latents, one of them positive, and a weight that the density does not depend on."""

    def __init__(self):
        super().__init__()
        self.net, self.idle = nn.Linear(2, 6, dtype=D), nn.Linear(2, 2, dtype=D)
        self.scale = nn.Parameter(torch.ones((), dtype=D))

    def forward(self, x):
        pyro.module("positive", self)
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            a = pyro.sample("a", dist.Gamma(torch.tensor(2.0, dtype=D), 1 + self.scale**2))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(self.net(torch.stack([a, b], -1)), 1.0).to_event(1), obs=x)


def grey(rows=60):
    return torch.rand(rows, 6, dtype=D, generator=torch.Generator().manual_seed(4))


MODELS = {
    "paper": (lambda: paper_pair(size=60)[0], binary(60)),
    "remembering": (remembering, binary(60)),
    "positive": (Positive, binary(60)),
    "binarised": (lambda: paper_pair(size=60)[0], aevb.data.DynamicBinarization(grey())),
}


def trained(engine, name="paper", samples=240, compiled=False, batch_size=25, **options):
    """60 data in batches of 25, 25 and 10, so two sizes are recorded; and the reports."""
    make_model, data = MODELS[name]
    with aevb.seeded(0):
        model = make_model()
    options = {"report_every": 100, "leapfrog_steps": 2, "updates": 2, "device": "cpu", **options}
    trainer = MonteCarloEM(model, data, batch_size=batch_size, engine=engine, **options)
    if trainer.captured:
        trainer.captured.compiled = compiled
    reports = [r.log_joint for r in trainer.run(samples)]
    if trainer.captured and samples >= 60:
        assert set(trainer.captured.recordings) == trainer.batches.frequent_sizes()
        assert all(trainer.captured.recordings.values()), "fell back to eager"
    return trainer, reports


def test_a_transition_is_of_the_model_in_evaluation():
    trainer, _ = trained("eager", "remembering", samples=0)
    before = trainer.model.likelihood.network[1].mean.clone()
    given = trainer.chains[:25], trainer.step_size, binary(60)[:25]
    trainer.eager.transition(*given)
    assert torch.equal(before, trainer.model.likelihood.network[1].mean)
    trainer.eager.loss(given[0], given[2])
    assert not torch.equal(before, trainer.model.likelihood.network[1].mean)


@pytest.mark.parametrize(("name", "updates"), [*((name, 2) for name in MODELS), ("paper", 1)])
def test_recorded_equals_eager_bit_for_bit(name, updates):
    """Weights, buffers, chains, step size, noise and reports after 12 steps, replayed operation by operation."""
    eager, expected = trained("eager", name, updates=updates)
    recorded, reports = trained("captured", name, updates=updates)
    assert reports == expected
    assert_equal(state(eager), state(recorded))
    assert_equal({"": eager.acceptance, **eager._noise.states}, {"": recorded.acceptance, **recorded._noise.states})
    gradients = [[p.grad for p in trainer.parameters] for trainer in (eager, recorded)]
    assert all_of(gradients[0]) == all_of(gradients[1])  # None where the loss does not depend on a weight


@pytest.mark.parametrize("name", ["remembering", "positive"])
def test_compiled_equals_eager_to_rounding(name):
    """12 steps in float64 to 1e-10; the same noise in the same order."""
    eager, expected = trained("eager", name, 360, batch_size=30)
    compiled, reports = trained("captured", name, 360, compiled=True, batch_size=30)
    assert reports == pytest.approx(expected, rel=1e-10)
    for key, value in state(eager).items():
        torch.testing.assert_close(state(compiled)[key], value, rtol=1e-10, atol=1e-10)


def test_what_changes_in_tensors_takes_effect_without_a_new_recording(caplog):
    """Weights and buffers of another run."""
    caplog.set_level(logging.INFO)
    runs = {}
    for engine in ("eager", "captured"):
        trainer, _ = trained(engine, "remembering", 60, batch_size=30)
        other = copy.deepcopy(trainer.model.state_dict())
        list(trainer.run(60))
        trainer.model.load_state_dict({key: 2 * value for key, value in other.items()})
        list(trainer.run(120))
        runs[engine] = state(trainer)
    assert_equal(runs["eager"], runs["captured"])
    assert "anew" not in caplog.text


class Weighted(nn.Module):
    """A model with a number of Python's."""

    def __init__(self, weight):
        super().__init__()
        self.net, self.weight = nn.Linear(2, 6, dtype=D), weight

    def forward(self, x):
        weight = next(self.weight) if isinstance(self.weight, itertools.count) else self.weight
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(weight * self.net(z), 1.0).to_event(1), obs=x)


def weighted(weight, engine, **options):
    with aevb.seeded(0):
        model = Weighted(weight)
    trainer = MonteCarloEM(
        model, binary(60), batch_size=20, engine=engine, leapfrog_steps=2, updates=2, device="cpu", **options
    )
    if trainer.captured:
        trainer.captured.compiled = False
    return trainer


def change_weight(trainer):
    trainer.model.weight = 2.0


def change_target(trainer):
    trainer.eager.target_acceptance = 0.5


def freeze(trainer):
    trainer.model.net.bias.requires_grad_(False)


def move_weights(trainer):
    trainer.model.net.weight.data = trainer.model.net.weight.data.clone()


@pytest.mark.parametrize("change", [change_weight, change_target, freeze, move_weights])
def test_what_a_recording_froze_is_noticed_and_recorded_anew(change, caplog):
    caplog.set_level(logging.INFO)
    runs = {}
    for engine in ("eager", "captured"):
        trainer = weighted(1.0, engine)
        list(trainer.run(120))
        assert "anew" not in caplog.text
        change(trainer)
        list(trainer.run(120))
        runs[engine] = state(trainer)
    assert_equal(runs["eager"], runs["captured"])
    assert caplog.text.count("recording them anew") == 1


def test_a_changed_number_is_noticed_within_a_run(monkeypatch):
    monkeypatch.setattr(em_steps, "CHECK_EVERY", 4)
    trainer = weighted(1.0, "captured", report_every=20)
    reports = trainer.run(200)
    next(reports)
    first = trainer.captured.recordings[20]
    next(reports)
    trainer.model.weight = 2.0
    assert trainer.captured.recordings[20] is first
    list(reports)
    assert trainer.captured.recordings[20] is not first


def test_the_transition_is_checked_too():
    """The loss agrees where only the dynamics differ, as by another order of the noise."""
    trainer = weighted(1.0, "captured")
    list(trainer.run(20))
    recorded, u = trainer.captured.recordings[20], trainer.chains[:20]
    given = u, trainer.step_size, binary(60)[:20]
    assert trainer.captured._agree(recorded, *given)
    kept = tuple(value.clone() for value in given)
    result = recorded._replace(move=lambda *_: kept).transition(*given)
    assert all(a is not b for a, b in zip(result, kept, strict=True))  # as a GPU would overwrite

    def other_noise(*given):
        torch.rand(1)
        return trainer.eager.transition(*given)

    assert not trainer.captured._agree(recorded._replace(move=other_noise), *given)
    assert not trainer.captured._agree(
        recorded._replace(loss_and_gradients=lambda *_: (torch.ones(()).double(),)), *given
    )


def lines(caplog):
    return [r.message for r in caplog.records if r.name == "pyro_aevb.em_steps"]


class Branching(Weighted):
    """A branch on data."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def test_what_cannot_be_recorded_runs_eagerly_after_one_log_line(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("tests.test_monte_carlo_em.Weighted", Branching)
    runs = [weighted(1.0, engine) for engine in ("eager", "captured")]
    for trainer in runs:
        list(trainer.run(120))
        list(trainer.run(120))
    assert_equal(*[state(trainer) for trainer in runs])
    assert len(lines(caplog)) == 1
    assert "cannot be recorded" in lines(caplog)[0]


def test_a_model_that_changes_by_itself_is_not_trained_on_a_frozen_copy(caplog):
    caplog.set_level(logging.INFO)
    trainer = weighted(itertools.count(1), "captured")
    list(trainer.run(60))
    assert "changes by itself" in caplog.text
    assert trainer.captured.recordings == {20: None}


def test_a_rare_short_batch_runs_eagerly():
    """59 data in batches of 2: the last of 30 batches has one datum."""
    trainers = []
    for engine in ("eager", "captured"):
        with aevb.seeded(0):
            model = Weighted(1.0)
        options = {"engine": engine, "leapfrog_steps": 2, "updates": 1, "device": "cpu"}
        trainers.append(MonteCarloEM(model, binary(59), batch_size=2, **options))
    trainers[1].captured.compiled = False
    for trainer in trainers:
        list(trainer.run(65))
    assert set(trainers[1].captured.recordings) == {2}
    assert_equal(state(trainers[0]), state(trainers[1]))


def test_auto_captures_long_runs_and_a_saved_run_goes_on_with_its_engine(monkeypatch):
    monkeypatch.setattr("pyro_aevb.monte_carlo_em.AUTO_CAPTURE_STEPS", 5)
    monkeypatch.setattr(em_steps.CapturedSteps, "steps_for", lambda self, *_: self.eager)
    trainer = make()
    list(trainer.run(100))
    assert trainer.captured is None
    list(trainer.run(125))
    captured = trainer.captured
    assert captured is not None
    list(trainer.run(25))
    assert trainer.captured is captured
    resumed, eager = make(), make(engine="eager")
    for other in (resumed, eager):
        other.load_state_dict(trainer.state_dict())
    assert resumed.captured is not None
    assert eager.captured is None
    before = trainer.state_dict()
    del before["captured"]  # a state of an earlier version
    make().load_state_dict(before)


def test_a_captured_run_stopped_and_gone_on_equals_whole():
    whole, reports = trained("captured", samples=240, batch_size=30, report_every=60)
    cut, first = trained("captured", samples=120, batch_size=30, report_every=60)
    again, _ = trained("captured", samples=0, batch_size=30, report_every=60)
    again.load_state_dict(cut.state_dict())
    second = [r.log_joint for r in again.run(120)]
    assert_equal(state(whole), state(again))
    assert first + second == reports


def test_recording_draws_no_noise_and_moves_nothing():
    trainer, _ = trained("captured", "remembering", samples=0)
    before = all_of(trainer.state_dict())
    with trainer._running():
        trainer.captured.steps_for(trainer.chains[:25], trainer.step_size, binary(60)[:25])
    assert trainer.captured.recordings[25]
    assert all_of(trainer.state_dict()) == before


def test_a_function_is_recorded_with_all_that_it_reads():
    """Compiled and not: arguments, fixed tensors that change afterwards, and noise."""
    a, b, fixed = torch.randn(3), torch.randn(3), torch.ones(3)

    def function(x):
        return x * fixed + torch.rand(3), x.sum()

    for compiled in (False, True):
        with aevb.seeded(1):
            recorded = record_function(function, (a,), [fixed], compiled)
            fixed.mul_(2)
            found = recorded(b)
        with aevb.seeded(1):
            expected = function(b)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
