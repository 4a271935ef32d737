"""Monte Carlo EM's recorded steps: the same numbers as the eager ones, and what cannot be recorded."""

import copy
import itertools
import logging

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import MonteCarloEM
from pyro_aevb.engines import kept
from tests.pairs import binary, paper_pair
from tests.training.test_monte_carlo_em import all_of, state
from tests.trainings import assert_equal

D = torch.float64


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
    if trainer.recorded:
        trainer.recorded.compiled = compiled
    reports = [r.log_joint for r in trainer.run(samples)]
    if trainer.captured and samples >= 60:
        assert set(trainer.recorded.kept.recordings) == trainer.batches.frequent_sizes()
        assert all(trainer.recorded.kept.recordings.values()), "fell back to eager"
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
    assert_equal({"": eager.acceptance, **eager.noise.states}, {"": recorded.acceptance, **recorded.noise.states})
    gradients = [[p.grad for p in trainer.parameters.values()] for trainer in (eager, recorded)]
    assert all_of(gradients[0]) == all_of(gradients[1])  # None where the loss does not depend on a weight


@pytest.mark.slow
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
    if trainer.recorded:
        trainer.recorded.compiled = False
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
    assert caplog.text.count(", anew, since model") == 1


def test_a_changed_number_is_noticed_within_a_run(monkeypatch):
    monkeypatch.setattr(kept, "CHECK_EVERY", 4)
    trainer = weighted(1.0, "captured", report_every=20)
    reports = trainer.run(200)
    next(reports)
    first = trainer.recorded.kept.recordings[20]
    next(reports)
    trainer.model.weight = 2.0
    assert trainer.recorded.kept.recordings[20] is first
    list(reports)
    assert trainer.recorded.kept.recordings[20] is not first


def test_the_transition_is_checked_too():
    """The loss agrees where only the dynamics differ, as by another order of the noise."""
    trainer = weighted(1.0, "captured")
    list(trainer.run(20))
    recorded, u = trainer.recorded.kept.recordings[20], trainer.chains[:20]
    given = u, trainer.step_size, binary(60)[:20]
    assert trainer.recorded._agree(recorded, *given)
    kept = tuple(value.clone() for value in given)
    result = recorded._replace(move=lambda *_: kept).transition(*given)
    assert all(a is not b for a, b in zip(result, kept, strict=True))  # as a GPU would overwrite

    def other_noise(*given):
        torch.rand(1)
        return trainer.eager.transition(*given)

    assert not trainer.recorded._agree(recorded._replace(move=other_noise), *given)
    other_loss = recorded._replace(
        loss_and_gradients=lambda *of: (torch.ones(()).double(), *recorded.loss_and_gradients(*of)[1:])
    )
    assert not trainer.recorded._agree(other_loss, *given)


class Branching(Weighted):
    """A branch on data."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def test_what_cannot_be_recorded_runs_eagerly_after_one_log_line(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("tests.training.test_em_steps.Weighted", Branching)
    runs = [weighted(1.0, engine) for engine in ("eager", "captured")]
    for trainer in runs:
        list(trainer.run(120))
        list(trainer.run(120))
    assert_equal(*[state(trainer) for trainer in runs])
    (line,) = [r.message for r in caplog.records if r.name == "pyro_aevb.engines.kept"]
    assert "cannot be recorded" in line


def test_a_model_that_changes_by_itself_is_not_trained_on_a_frozen_copy(caplog):
    caplog.set_level(logging.INFO)
    trainer = weighted(itertools.count(1), "captured")
    list(trainer.run(60))
    assert "changes by itself" in caplog.text
    assert trainer.recorded.kept.recordings == {20: None}


def test_a_rare_short_batch_runs_eagerly():
    """59 data in batches of 2: the last of 30 batches has one datum."""
    trainers = []
    for engine in ("eager", "captured"):
        with aevb.seeded(0):
            model = Weighted(1.0)
        options = {"engine": engine, "leapfrog_steps": 2, "updates": 1, "device": "cpu"}
        trainers.append(MonteCarloEM(model, binary(59), batch_size=2, **options))
    trainers[1].recorded.compiled = False
    for trainer in trainers:
        list(trainer.run(65))
    assert set(trainers[1].recorded.kept.recordings) == {2}
    assert_equal(state(trainers[0]), state(trainers[1]))


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
    with trainer.running():
        trainer.recorded.steps_for(trainer.chains[:25], trainer.step_size, binary(60)[:25])
    assert trainer.recorded.kept.recordings[25]
    assert all_of(trainer.state_dict()) == before
