"""CUDA graphs: on a GPU against the eager engine; elsewhere all but the capture, replayed by running it again."""

from functools import partial

import pytest
import torch

from pyro_aevb import estimators
from pyro_aevb.data.streamed import Streamed
from pyro_aevb.engines import captured as capture
from pyro_aevb.engines import cuda_graphs
from pyro_aevb.engines.captured import Launches
from pyro_aevb.engines.cuda_graphs import GraphReplay, WholeSteps
from pyro_aevb.optimizers import Adagrad, CosineAdam
from tests.pairs import binary
from tests.trainings import assert_equal, make, weights

OPTIMIZERS = {  # step sizes that are float32 numbers, as a graph has them
    "SGD": partial(torch.optim.SGD, lr=2**-17, momentum=0.9, dampening=0.5),
    "Adagrad": partial(torch.optim.Adagrad, lr=2**-7, lr_decay=0.1, weight_decay=1.0),
    "Adam": partial(torch.optim.Adam, lr=2**-10, weight_decay=1.0),
    "AdamW": partial(torch.optim.AdamW, lr=2**-10),
    "RMSprop": partial(torch.optim.RMSprop, lr=2**-10),
    "paused": partial(Adagrad, lr=2**-3, warm_up=30),
    "paused, by tensors": partial(Adagrad, lr=2**-3, warm_up=30, fused=False, capturable=True),
    "falling": partial(CosineAdam, lr=2**-7, total_steps=80),
}
ROUNDED = {"falling": 1e-6}  # relative error of weights where step sizes are rounded to float32


@pytest.fixture
def imitated(monkeypatch):
    """The captured engine as on a GPU, but a replay runs the body again: all rules but the driver's are exercised."""

    def warmed_up(body):
        body()  # as captured() does, whose traces the caller must remove
        return body

    monkeypatch.setattr(capture, "WholeSteps", partial(WholeSteps, make_replay=warmed_up))

    def engine_of(trainer):
        trainer.engine.gradients.compiled = False
        trainer.engine.launches = Launches(trainer.objective, trainer.engine.gradients, trainer.engine.optimizer, 2)
        return trainer

    return engine_of


def train(trainer):
    """Fifty steps, a change of the learning rate, fifty more: short batches, single steps and launches are mixed."""
    reports = list(trainer.run(1000))
    for group in trainer.engine.optimizer.param_groups:
        group["lr"] /= 4
    return [*reports, *trainer.run(1000)]


def compare(captured, eager, rtol, whole=True):
    for one, other in zip(train(captured), train(eager), strict=True):
        assert one.samples_seen == other.samples_seen
        assert one.bound == pytest.approx(other.bound, rel=rtol)
    for name, weight in weights(eager).items():
        torch.testing.assert_close(weights(captured)[name], weight, rtol=rtol, atol=rtol)
    assert captured.engine.launches.kept or not whole, "no launch took several steps"
    for a, b in zip(
        cuda_graphs.state_tensors(captured.engine.optimizer),
        cuda_graphs.state_tensors(eager.engine.optimizer),
        strict=True,
    ):
        torch.testing.assert_close(a.double(), b.double(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "RMSprop"])  # capturable on a GPU only
def test_whole_steps_equal_eager_ones(name, imitated):
    runs = [make(engine=e, batch_size=25, optimizer=OPTIMIZERS[name], report_every=300) for e in ("captured", "eager")]
    compare(imitated(runs[0]), runs[1], ROUNDED.get(name, 1e-12))


def test_whole_steps_resume_bit_for_bit(imitated):
    parts = {"engine": "captured", "batch_size": 20, "optimizer": OPTIMIZERS["Adam"], "report_every": 300}
    whole = imitated(make(**parts))
    list(whole.run(1200))
    first, second = imitated(make(**parts)), imitated(make(**parts))
    list(first.run(600))
    second.load_state_dict(first.state_dict())
    list(second.run(600))
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(second)[name]), name


def test_whole_steps_on_minibatches_that_visits_bring(imitated):
    parts = {"engine": "captured", "batch_size": 25, "optimizer": OPTIMIZERS["Adam"], "report_every": 300}
    runs = [make(**parts, data=data) for data in (Streamed(binary(60), workers=1), binary(60))]
    for run in runs:
        list(imitated(run).run(1000))
        assert run.engine.launches.kept
    assert_equal(weights(runs[0]), weights(runs[1]))


class Counting(torch.optim.Adam):
    """A user's own, which sets its step size in Python: a graph would keep the first."""

    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        self.param_groups[0]["lr"] = 2**-7 / self.count
        return super().step(closure)


def test_an_optimizer_that_acts_in_python_steps_outside(imitated):
    parts = {"batch_size": 20, "report_every": 300, "optimizer": Counting}
    runs = [make(engine=engine, **parts) for engine in ("captured", "eager")]
    for run in (imitated(runs[0]), runs[1]):
        list(run.run(1000))
    assert runs[0].engine.launches.kept is None
    for name, weight in weights(runs[1]).items():
        assert torch.equal(weights(runs[0])[name], weight), name


def test_a_changed_setting_is_captured_anew(imitated):
    trainer = imitated(make(engine="captured", batch_size=20, optimizer=OPTIMIZERS["Adam"], report_every=300))
    list(trainer.run(1000))
    before = trainer.engine.launches.kept[1]
    trainer.engine.optimizer.param_groups[0]["weight_decay"] = 5.0
    list(trainer.run(1000))
    assert trainer.engine.launches.kept[1] is not before


def test_what_moves_is_copied_and_the_loss_is_the_callers():
    moving, fixed = torch.ones(3), torch.ones(3)
    replay = GraphReplay(lambda x, y: ((x * y).sum(), x + y), [moving, fixed], 1, make_replay=lambda body: body)
    first = replay(torch.full((3,), 2.0))[0]
    fixed.mul_(10)
    assert replay(torch.full((3,), 3.0))[0] == 90
    assert first == 6


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@gpu
@pytest.mark.parametrize("estimator", estimators.__all__)
def test_a_cuda_graph_equals_eager(estimator):
    runs = [
        make(
            engine=e,
            batch_size=20,
            report_every=500,
            device="cuda",
            estimator=getattr(estimators, estimator)(),
            optimizer=OPTIMIZERS["paused"],
        )
        for e in ("captured", "eager")
    ]
    compare(*runs, 1e-9)
    assert all(isinstance(r.function, GraphReplay) for r in runs[0].engine.gradients.kept.recordings.values())


@gpu
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whole_steps_on_a_gpu_equal_eager_ones(name):
    runs = [
        make(engine=e, batch_size=20, report_every=500, device="cuda", optimizer=OPTIMIZERS[name])
        for e in ("captured", "eager")
    ]
    fused = runs[0].engine.optimizer.param_groups[0].get("fused")
    compare(*runs, ROUNDED.get(name, 1e-9), whole=name != "Adagrad" or fused)  # torch 2.11 has no fused one for a GPU
