"""What varies in a recorded step, what cannot be recorded, and when recording pays."""

import itertools
import logging
from functools import partial

import pytest
import torch
from pyro.infer import Trace_ELBO

import pyro_aevb as aevb
from pyro_aevb.engines import recording
from pyro_aevb.estimators import SGVB
from pyro_aevb.training import trainer as trainer_module
from tests.pairs import binary
from tests.trainings import assert_equal, make, weights

# ---------------------------------------------------------------- what varies


def test_a_changed_learning_rate_takes_effect_at_once():
    trainer = make(engine="captured", batch_size=20)
    list(trainer.run(100))
    before = weights(trainer)
    for group in trainer.engine.optimizer.param_groups:
        group["lr"] = 0.0
    list(trainer.run(100))
    assert_equal(before, weights(trainer))


class Annealed(SGVB):
    """An estimator with a tensor that anneals it, as beta does."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def differentiable_loss(self, *args):
        return self.weight * super().differentiable_loss(*args)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_an_annealed_tensor_takes_effect_without_a_new_recording(compiled, caplog):
    """What varies is a tensor, which a recording reads where it lies; on a short last batch as well."""
    bounds = {}
    for engine in ("eager", "captured"):
        estimator = Annealed(torch.ones((), dtype=torch.float64))
        trainer = make(engine=engine, estimator=estimator, optimizer=partial(torch.optim.SGD, lr=1e-6))
        if engine == "captured":
            trainer.engine.gradients.compiled = compiled
        bounds[engine] = []
        for beta in (1.0, 100.0, 0.5):
            estimator.weight.fill_(beta)
            bounds[engine] += [p.bound for p in trainer.run(130)]
    assert bounds["captured"] == pytest.approx(bounds["eager"], rel=1e-9)
    assert bounds["eager"][-1] > bounds["eager"][0] > bounds["eager"][2]
    assert not [r for r in caplog.records if "anew" in r.message]


def test_a_changed_python_number_is_noticed_and_recorded_anew(caplog):
    """A Python number is frozen in a recording, which does not train on silently with the old one."""
    caplog.set_level(logging.INFO)
    bounds = {}
    for engine in ("eager", "captured"):
        estimator = Annealed(1.0)
        trainer = make(engine=engine, estimator=estimator, optimizer=partial(torch.optim.SGD, lr=1e-6))
        if engine == "captured":
            trainer.engine.gradients.compiled = False
        bounds[engine] = [p.bound for p in trainer.run(100)]
        estimator.weight = 100.0
        bounds[engine] += [p.bound for p in trainer.run(100)]
    assert bounds["captured"] == pytest.approx(bounds["eager"], rel=1e-9)
    assert ", anew, since model" in caplog.text


# ---------------------------------------------------------------- what cannot be recorded


def falls_back(caplog, message, data=None, **options):
    caplog.set_level(logging.INFO)
    data = binary(60) if data is None else data
    captured = make(engine="captured", data=data, batch_size=20, **options)
    eager = make(engine="eager", data=data, batch_size=20, **options)
    for trainer in (captured, eager):
        list(trainer.run(300))
    assert_equal(weights(eager), weights(captured))
    lines = [r.message for r in caplog.records if r.name == "pyro_aevb.engines.kept"]
    assert len(lines) == 1, lines
    assert message in lines[0]


def test_a_scalar_read_falls_back_after_one_log_line(caplog):
    falls_back(caplog, "cannot be recorded", estimator=Trace_ELBO())


def test_a_branch_on_data_falls_back_after_one_log_line(caplog):
    class Branching(SGVB):
        def differentiable_loss(self, *args):
            loss = super().differentiable_loss(*args)
            return loss if loss > 1000 else 2 * loss

    falls_back(caplog, "cannot be recorded", estimator=Branching())


def test_without_a_compiler_training_is_eager_after_one_log_line(caplog):
    import torch._inductor.config as config

    # config.patch, since monkeypatch would leave these settings deleted.
    with config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
        falls_back(caplog, "cannot be recorded")


def test_weights_frozen_between_runs_stay_as_they_are():
    """The loss does not show it: a recording would go on filling their gradients."""
    trainer = make(engine="captured", batch_size=20)
    trainer.engine.gradients.compiled = False
    list(trainer.run(100))
    trainer.guide.requires_grad_(False).train(False)
    before, decoder = weights(trainer), trainer.model.likelihood.network[0].weight.clone()
    list(trainer.run(100))
    after = weights(trainer)
    assert_equal({k: v for k, v in before.items() if k[0] == "1"}, {k: v for k, v in after.items() if k[0] == "1"})
    assert not torch.equal(decoder, trainer.model.likelihood.network[0].weight)


def test_a_pair_that_changes_by_itself_is_not_trained_on_a_frozen_copy(caplog):
    """Noise from elsewhere than torch would be one number for ever."""
    caplog.set_level(logging.INFO)
    counter = itertools.count(1)

    class Drifting(SGVB):
        def differentiable_loss(self, *args):
            return next(counter) * super().differentiable_loss(*args)

    trainer = make(engine="captured", estimator=Drifting(), optimizer=partial(torch.optim.SGD, lr=0.0))
    trainer.engine.gradients.compiled = False
    list(trainer.run(300))
    assert "changes by itself" in caplog.text
    assert all(recording is None for recording in trainer.engine.gradients.kept.recordings.values())


# ---------------------------------------------------------------- auto


def test_auto_captures_only_runs_that_win_back_the_compilers_time(monkeypatch):
    monkeypatch.setattr(trainer_module, "AUTO_CAPTURE_STEPS", 10)
    trainer = make(batch_size=20)
    list(trainer.run(100))
    assert not trainer.captured
    list(trainer.run(200))
    assert trainer.captured
    resumed = make(batch_size=20)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.captured  # a resumed run goes on with the same engine


def test_recording_draws_no_noise_and_moves_no_weight():
    trainer = make(engine="captured", batch_size=20)
    before = weights(trainer)
    noise = trainer.noise.states["cpu"].clone()
    with trainer.running():
        trainer.engine.gradients._record(trainer.batches.visit(0))
    assert_equal(before, weights(trainer))
    assert torch.equal(noise, trainer.noise.states["cpu"])


def test_private_parts_of_torch_are_where_they_were():
    """``recording.py`` is the only file that uses torch's compiler; this fails when it moves."""
    import torch._inductor.config
    from torch.fx.experimental.proxy_tensor import make_fx

    assert callable(make_fx)
    assert callable(torch._inductor.compile)
    assert torch._inductor.config.fallback_random is False
    from pathlib import Path

    for path in Path(aevb.__file__).parent.rglob("*.py"):
        if path.name != "recording.py":
            assert "_inductor" not in path.read_text(), path


class Masked(SGVB):
    """A loss that picks elements by a mask, as a spline flow does."""

    def differentiable_loss(self, model, guide, x):
        loss = super().differentiable_loss(model, guide, x)
        return loss + 0 * x[x.cumsum(1) > 2].sum()


def test_shapes_that_depend_on_the_data_are_not_recorded(caplog):
    """Such a recording would fail, or be wrong, at the next batch."""
    falls_back(caplog, "depends on the data", estimator=Masked())


def test_tiny_products_become_sums_and_no_others():
    """What they cost is written beside the limit; that they are the same numbers is tested with everything compiled."""

    def function(a, b, c, bias):
        return a @ b, torch.addmm(bias, a, b), torch.addmm(bias, a, b, beta=2), a.double() @ b.double(), c @ c

    inputs = [torch.randn(*shape) for shape in ((30, 20), (20, 10), (60, 60), (10,))]
    graph = recording._trace(function, inputs, fuse_tiny=True)
    for ours, theirs in zip(graph(*inputs), function(*inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    called = [str(node.target) for node in graph.graph.nodes if "mm" in str(node.target)]
    assert called == ["aten.addmm.default", "aten.mm.default", "aten.mm.default"]


def test_a_function_is_recorded_with_all_that_it_reads():
    """Compiled and not: arguments, fixed tensors that change afterwards, and noise."""
    a, b, fixed = torch.randn(3), torch.randn(3), torch.ones(3)

    def function(x):
        return x * fixed + torch.rand(3), x.sum()

    for compiled in (False, True):
        with aevb.seeded(1):
            recorded = recording.record_function(function, (a,), [fixed], compiled)
            fixed.mul_(2)
            found = recorded(b)
        with aevb.seeded(1):
            expected = function(b)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


# ---------------------------------------------------------------- what a CUDA graph is made of, without a GPU

NOISY = (lambda x: (x + torch.randn_like(x), x.sum()), (torch.ones(64),))


def chosen(monkeypatch, make):
    """What a CUDA graph would replay, where ``make`` stands for the compiler; and the recording."""
    function, inputs = NOISY
    graph = recording._trace(function, inputs, fuse_tiny=False)
    monkeypatch.setattr(recording, "_compile_with_inductor", make(recording._compile_with_inductor))
    return recording._compiled_alike(graph, [*inputs], torch.device("cpu")), graph


def test_inductors_code_is_taken_where_it_draws_the_same_noise(monkeypatch):
    made, graph = chosen(monkeypatch, lambda compile_: compile_)
    assert made != graph.forward
    with aevb.seeded(0):
        expected = graph(*NOISY[1])[0]
    with aevb.seeded(0):
        torch.testing.assert_close(made(*NOISY[1])[0], expected)


def test_the_recording_is_taken_where_inductor_draws_other_noise(monkeypatch):
    def reversed_noise(_):
        return lambda graph, inputs, deterministic: lambda *now: (graph(*now)[0].flip(0), now[0].sum())

    made, graph = chosen(monkeypatch, reversed_noise)
    assert made == graph.forward


def test_the_recording_is_taken_where_inductor_fails(monkeypatch):
    def failing(_):
        def compile_(*arguments, **options):
            raise RuntimeError("no compiler")

        return compile_

    made, graph = chosen(monkeypatch, failing)
    assert made == graph.forward
