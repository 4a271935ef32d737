"""A recording never goes stale: whatever is changed between steps, captured training equals eager training.

Each case trains a pair twice, eagerly and from recordings that are replayed operation by operation, so that equality is
to the last bit; and does something to the pair on the way, at reports or between runs.
"""

import collections
import logging
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb.engines import kept
from pyro_aevb.engines.frozen import PythonState
from pyro_aevb.estimators import SGVB
from tests.trainings import assert_equal, make, weights

STEPS = 200
calls = 0  # of a model that counts in a global


class Pair(nn.Module):
    """A Gaussian pair with a hook for everything that somebody might do in ``forward``."""

    def __init__(self, before=lambda self: 1.0):
        super().__init__()
        self.decode = nn.Linear(2, 6)
        self.encode = nn.Linear(6, 4)
        self.before = before
        self.calls = 0
        self.detached = False
        self.scale = torch.ones(())
        self.seen = []
        self.counts = collections.Counter()
        self.register_buffer("mean", torch.zeros(()))

    def model(self, x):
        pyro.module("pair", self)
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            weight = self.before(self)
            pyro.sample(
                "x", dist.Normal(weight * self.decode(z.detach() if self.detached else z), 1.0).to_event(1), obs=x
            )

    def guide(self, x):
        mean, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def data():
    return torch.randn(60, 6, generator=torch.Generator().manual_seed(0))


def trained(engine, before, act, steps=STEPS, every=50, optimizer=torch.optim.Adam, compiled=False, runs=1):
    """Weights and reports; ``act`` is called with the pair and the trainer at each report."""
    with aevb.seeded(0):
        pair = Pair(before)
    trainer = aevb.Trainer(
        pair.model, pair.guide, data(), SGVB(), partial(optimizer, lr=1e-3), 20,
        engine=engine, device="cpu", report_every=20 * every,
    )  # fmt: skip
    if engine == "captured":
        trainer.engine.gradients.compiled = compiled
    bounds = []
    for _ in range(runs):
        for number, progress in enumerate(trainer.run(20 * steps // runs)):
            bounds.append(progress.bound)
            if act:
                act(pair, trainer, number)
    values = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    return pair, trainer, values, bounds


def alike(before=lambda self: 1.0, act=None, **options):
    """Both engines' pair and trainer, whose numbers are the same."""
    eager, _, expected, bounds = trained("eager", before, act, **options)
    captured, trainer, found, reported = trained("captured", before, act, **options)
    assert_equal(found, expected)
    assert reported == bounds
    return eager, captured, trainer


# ---------------------------------------------------------------- where tensors lie


def there_and_back(pair, *_):
    pair.double()
    pair.float()


def moved(pair, *_):
    for parameter in pair.parameters():
        parameter.data = parameter.data.clone()


def buffer_moved(pair, *_):
    pair.mean = torch.full((), 0.5)


@pytest.mark.parametrize("act", [there_and_back, moved, buffer_moved])
def test_tensors_that_lie_elsewhere_are_read_there(act):
    _, _, trainer = alike(lambda self: 1.0 + self.mean, act)
    assert trainer.engine.gradients.kept.recordings[20] is not None


def test_weights_of_another_precision_are_refused_by_name():
    def act(pair, *_):
        pair.double()

    for engine in ("eager", "captured"):
        with pytest.raises(aevb.InputError, match=r"\w+ is torch.float64 .* was torch.float32 .*make a new one"):
            trained(engine, lambda self: 1.0, act)


# ---------------------------------------------------------------- what a step writes to Python


def counted(self):
    self.calls += 1
    return min(1.0, self.calls / 120)


def counted_in_a_list(self):
    self.seen.append(None)
    return min(1.0, len(self.seen) / 120)


def counted_in_a_dictionary(self):
    self.counts["calls"] += 1
    return min(1.0, self.counts["calls"] / 120)


def counted_globally(_):
    global calls
    calls += 1
    return min(1.0, calls / 120)


def counted_by_class(self):
    type(self).number = getattr(type(self), "number", 0) + 1
    return min(1.0, type(self).number / 120)


def a_buffer_assigned_anew(self):
    self.mean = self.mean + 0.01
    return 1.0 / (1 + self.mean)


@pytest.mark.parametrize(
    "before",
    [counted, counted_in_a_list, counted_in_a_dictionary, counted_globally, counted_by_class, a_buffer_assigned_anew],
)
def test_a_step_that_counts_runs_eagerly_after_one_line(before, caplog):
    """A warm-up by a number of calls: it counts as many as eagerly, since looking is taken back."""
    caplog.set_level(logging.INFO)
    counts = []
    values = {}
    for engine in ("eager", "captured"):
        global calls
        calls = 0
        if hasattr(Pair, "number"):
            del Pair.number
        pair, _, values[engine], _ = trained(engine, before, None)
        counts.append((pair.calls, len(pair.seen), pair.counts["calls"], calls, getattr(Pair, "number", 0), pair.mean))
    assert counts[0] == counts[1]
    assert_equal(values["eager"], values["captured"])
    lines = [r.message for r in caplog.records if "changes by itself" in r.message]
    assert len(lines) == 1


def test_a_closure_that_counts_runs_eagerly(caplog):
    caplog.set_level(logging.INFO)

    def counting():
        number = 0

        def before(_):
            nonlocal number
            number += 1
            return min(1.0, number / 120)

        return before

    _, _, expected, _ = trained("eager", counting(), None)
    _, _, found, _ = trained("captured", counting(), None)
    assert_equal(found, expected)
    assert "changes by itself" in caplog.text


def test_what_a_report_writes_to_python_costs_no_recording(caplog):
    """Somebody's own count of epochs beside the pair."""
    caplog.set_level(logging.INFO)

    def act(pair, *_):
        pair.epoch = getattr(pair, "epoch", 0) + 1

    alike(act=act, every=20)
    assert "anew" not in caplog.text


# ---------------------------------------------------------------- gradients, not the loss


def detach(pair, _, number):
    pair.detached = number % 2 == 0


def test_a_flag_that_changes_gradients_alone_is_noticed(caplog):
    caplog.set_level(logging.INFO)
    alike(act=detach)
    assert ", anew, since model" in caplog.text


def doubled(gradient):
    return 2 * gradient


def hook(pair, *_):
    pair.decode.weight.register_hook(doubled)


def halved(parameter):
    parameter.grad.mul_(0.5)


def hook_after(pair, *_):
    pair.decode.weight.register_post_accumulate_grad_hook(halved)


def hook_of_module(pair, *_):
    pair.decode.register_full_backward_hook(lambda module, inputs, outputs: tuple(2 * g for g in inputs))


def hook_of_forward(pair, *_):
    pair.decode.register_forward_hook(lambda module, inputs, output: output + len(pair.seen))


@pytest.mark.parametrize("act", [hook, hook_after, hook_of_module, hook_of_forward])
def test_hooks_are_honoured_by_eager_steps(act, caplog):
    caplog.set_level(logging.INFO)
    alike(act=act)
    assert caplog.text.count("which a recording would not call; the step runs eagerly") == 1


def told_of(calls, parameter):
    calls.append(parameter)


def test_a_hook_from_the_start_is_called_at_each_step():
    told = {}
    for engine in ("eager", "captured"):
        with aevb.seeded(0):
            pair = Pair()
        told[engine] = []
        pair.decode.weight.register_post_accumulate_grad_hook(partial(told_of, told[engine]))
        trainer = aevb.Trainer(pair.model, pair.guide, data(), SGVB(), batch_size=20, engine=engine, device="cpu")
        before = len(told[engine])
        list(trainer.run(400))
        told[engine] = len(told[engine]) - before
    assert told == {"eager": 20, "captured": 20}


def test_a_hook_that_is_removed_lets_recordings_be_used_again():
    handles = []

    def act(pair, trainer, number):
        if number == 0:
            handles.append(pair.decode.weight.register_hook(doubled))
        elif number == 2:
            handles.pop().remove()

    _, _, trainer = alike(act=act)
    assert trainer.engine.gradients.kept.of(20, trainer.batches.visit(trainer.step)) is not None


# ---------------------------------------------------------------- between two comparisons


def freeze_guide(pair, _, number):
    pair.encode.requires_grad_(number % 2 == 1)


def evaluate(pair, *_):
    pair.train(not pair.training)


def another_scale(pair, _, number):
    pair.scale = torch.full((), 1.0 + number)


def scale_in_place(pair, *_):
    pair.scale.mul_(1.5)


def another_rate(_, trainer, number):
    trainer.engine.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + number)


CHANGES = [freeze_guide, evaluate, another_scale, scale_in_place, another_rate]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("act", CHANGES)
def test_what_can_be_seen_cheaply_is_seen_at_every_report(act, compiled, monkeypatch):
    monkeypatch.setattr(kept, "CHECK_EVERY", 10**9)

    def before(self):
        return self.scale * (1.0 if self.training else 0.5)

    if not compiled:
        alike(before, act, every=50)
        return
    _, _, expected, _ = trained("eager", before, act, every=50)
    _, _, found, _ = trained("captured", before, act, every=50, compiled=True)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_frozen_guide_stays_as_it_is_from_the_report_on():
    def act(pair, *_):
        pair.encode.requires_grad_(False)

    _, pair, _ = alike(act=act, steps=200)
    assert not pair.encode.weight.requires_grad


# ---------------------------------------------------------------- weights that would not train


@pytest.mark.parametrize("engine", ["eager", "captured"])
def test_weights_unfrozen_after_the_trainer_was_made_are_refused_by_name(engine):
    with aevb.seeded(0):
        pair = Pair()
    pair.decode.requires_grad_(False)
    trainer = aevb.Trainer(pair.model, pair.guide, data(), SGVB(), batch_size=20, engine=engine, device="cpu")
    pair.decode.requires_grad_(True)
    with pytest.raises(aevb.InputError, match=r"decode\.\w+ was frozen, or another tensor, when the trainer was made"):
        list(trainer.run(100))
    pair.decode.requires_grad_(False)
    assert list(trainer.run(100))


def test_a_weight_that_was_replaced_is_refused_by_name():
    with aevb.seeded(0):
        pair = Pair()
    trainer = aevb.Trainer(pair.model, pair.guide, data(), SGVB(), batch_size=20, engine="eager", device="cpu")
    pair.decode.weight = nn.Parameter(torch.zeros(6, 2))
    with pytest.raises(aevb.InputError, match=r"decode\.weight .* does not train"):
        list(trainer.run(100))


def test_weights_frozen_after_the_trainer_was_made_may_train_later():
    def act(pair, _, number):
        pair.decode.requires_grad_(number >= 2)

    alike(act=act)


class Unregistered(Pair):
    """Shows Pyro none of its weights."""

    def forward(self, x):
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)


def test_svi_refuses_weights_that_pyro_never_meets():
    model = Unregistered()
    guide = Pair()
    for estimator in (SGVB(), pyro.infer.Trace_ELBO(), pyro.infer.TraceGraph_ELBO()):
        with pytest.raises(aevb.InputError, match=r"Pyro never meets model\.decode\.weight.*pyro\.module"):
            aevb.Trainer(model, guide.guide, data(), estimator, batch_size=20, engine="svi", device="cpu")
    before = model.decode.weight.detach().clone()
    list(aevb.Trainer(model, guide.guide, data(), SGVB(), batch_size=20, engine="eager", device="cpu").run(100))
    assert not torch.equal(before, model.decode.weight)


# ---------------------------------------------------------------- a bound near zero


def test_a_bound_that_crosses_zero_stays_recorded(caplog):
    """A hundred thousand terms that cancel: the loss's rounding is large against the loss, and no change."""
    caplog.set_level(logging.INFO)

    class Shifted(SGVB):
        def __init__(self):
            super().__init__()
            self.shift = torch.zeros((), dtype=torch.float64)

        def differentiable_loss(self, *args):
            return super().differentiable_loss(*args) - self.shift

    estimator = Shifted()
    trainer = make(engine="captured", estimator=estimator, batch_size=20, report_every=20)
    for progress in trainer.run(400):
        estimator.shift.add_(-progress.bound * 60)  # the next loss is close to zero
        trainer.engine.check_next()
    assert "anew" not in caplog.text
    assert trainer.engine.gradients.kept.recordings[20] is not None
    assert weights(trainer)


def test_agreement_is_of_loss_and_each_gradient():
    loss, large, small = torch.tensor(-1e4), torch.full((3,), 1e3), torch.full((3,), 1.0)
    step = [loss, large, small, None]
    assert kept.agree(step, step, 1.0)
    assert kept.agree([loss * (1 + 1e-5), large * (1 + 1e-4), small * (1 + 1e-4), None], step, 1.0)
    assert not kept.agree([loss * 1.001, large, small, None], step, 1.0)
    assert not kept.agree([loss, large, small * 1.1, None], step, 1.0)  # though it is a thousandth of the whole
    assert not kept.agree([loss, large, None, None], step, 1.0)
    assert not kept.agree([loss, large, small, small], step, 1.0)
    assert kept.agree([torch.tensor(1e-6), large], [torch.tensor(-1e-6), large], 1.0)
    assert not kept.agree([torch.tensor(1e-2), large], [torch.tensor(-1e-2), large], 1.0)


# ---------------------------------------------------------------- Python's values


def test_python_state_is_read_and_put_back():
    pair = Pair(counted_in_a_list)
    state = PythonState([pair.model, pair.guide], [pair])
    before = state.read()
    pair.calls = 7
    pair.seen += [1, 2]
    pair.counts["x"] = 3
    pair.fresh = "new"
    pair.mean = torch.ones(())
    assert state.changed(before, state.read())
    state.write(before)
    assert state.changed(before, state.read()) is None
    assert (pair.calls, pair.seen, dict(pair.counts), hasattr(pair, "fresh"), float(pair.mean)) == (0, [], {}, False, 0)
