"""Reports, and resumption bit for bit."""

import itertools
from functools import partial

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.data import DynamicBinarization
from tests.pairs import binary
from tests.trainings import assert_equal, make, weights

# ---------------------------------------------------------------- reports and resumption


def test_reports_come_at_multiples_and_at_the_end():
    seen = [p.samples_seen for p in make(batch_size=10, report_every=100).run(250)]
    assert seen == [100, 200, 250]


def test_reporting_changes_nothing():
    often, seldom = make(report_every=10), make(report_every=10**9)
    list(often.run(500))
    list(seldom.run(500))
    assert_equal(weights(often), weights(seldom))


@pytest.mark.parametrize("engine", ["eager", "svi"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("stop", [100, 130, 310])
def test_stop_and_resume_equals_not_stopping_bit_for_bit(tmp_path, engine, dynamic, stop):
    data = DynamicBinarization(torch.full((60, 6), 0.4, dtype=torch.float64)) if dynamic else binary(60)
    whole = make(data=data, engine=engine)
    reports = list(whole.run(600))

    first = make(data=data, engine=engine)
    before = list(first.run(stop))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(data=data, engine=engine, weights=99)  # other initial weights: all must come from the file
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    after = list(second.run(600 - first.samples_seen))

    assert_equal(weights(whole), weights(second))
    at_multiples = [p for p in [*before, *after] if p in reports]
    assert at_multiples == reports
    one, other = whole.state_dict(), second.state_dict()
    assert torch.equal(one["noise"]["cpu"], other["noise"]["cpu"])
    for mine, theirs in zip(_tensors(one["optimizer"]), _tensors(other["optimizer"]), strict=True):
        assert torch.equal(mine, theirs)


def _tensors(state):
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        yield from itertools.chain.from_iterable(_tensors(value) for value in state.values())
    elif isinstance(state, list):
        yield from itertools.chain.from_iterable(_tensors(value) for value in state)


def test_the_caller_may_stop_at_any_report():
    trainer = make()
    for progress in trainer.run(10_000):
        if progress.samples_seen >= 200:
            break
    assert trainer.samples_seen == 205  # 60 data in batches of 25, 25, 10: 3 epochs and one batch
    assert next(trainer.run(100)).samples_seen == 300 + 5 - 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": 1 - binary(60)}, "another data"),
        ({"seed": 1}, "another seed"),
        ({"batch_size": 20}, "another batch_size"),
        ({"engine": "svi"}, "another optimizer"),
        ({"likelihood": "Gaussian"}, "another model"),
    ],
)
def test_a_state_of_another_run_is_refused(change, message):
    state = make().state_dict()
    with pytest.raises(aevb.InputError, match=message):
        make(**change).load_state_dict(state)


def test_something_else_is_refused():
    with pytest.raises(aevb.InputError, match="not a training state"):
        make().load_state_dict({"weights": torch.zeros(3)})


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_a_state_in_memory_is_a_snapshot(engine):
    """Neither later steps nor a training that goes on from it change it."""
    trainer = make(engine=engine)
    list(trainer.run(200))
    state = trainer.state_dict()
    ends = []
    for _ in range(2):
        list(trainer.run(200))
        ends.append(weights(trainer))
        trainer.load_state_dict(state)
    assert_equal(*ends)


def test_weights_that_break_in_the_last_step_before_a_report_are_found():
    trainer = make(batch_size=20, report_every=20, optimizer=partial(torch.optim.SGD, lr=1e308))
    with pytest.raises(aevb.NonFiniteLossError, match="the weights broke at step 1"):
        list(trainer.run(20))
