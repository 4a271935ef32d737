"""Early stopping on held-out training data: when it stops, what it goes back to, and that it changes no training."""

import copy
from functools import partial

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.data import DynamicBinarization, set_aside
from tests.pairs import binary
from tests.trainings import assert_equal, make, weights

ADAM = partial(torch.optim.Adam, lr=1e-2)
HELD = binary(80)[60:]


class Scripted(aevb.EarlyStopping):
    """Held-out bounds from a list."""

    bounds: list

    def _bound(self):
        return self.bounds.pop(0)


def scripted(bounds, patience=2, **options):
    stopping = Scripted(make(engine="eager", optimizer=ADAM, batch_size=20, **options), HELD, patience)
    stopping.bounds = list(bounds)
    return stopping


def test_it_stops_after_so_many_reports_and_goes_back_to_the_best():
    stopping = scripted([-5.0, -4.0, -4.5, -4.0, -3.0])
    seen, states = [], []
    for progress in stopping.run(5000):
        seen.append((progress.samples_seen, progress.held_out_bound))
        states.append(weights(stopping.trainer))
    assert seen == [(100, -5.0), (200, -4.0), (300, -4.5), (400, -4.0)]
    assert stopping.stopped
    assert stopping.trainer.samples_seen == 200
    assert_equal(weights(stopping.trainer), states[1])
    assert list(stopping.run(100)) == []


def test_it_changes_nothing_in_the_training():
    alone = make(engine="eager", optimizer=ADAM)
    reports = [tuple(progress[:2]) for progress in alone.run(430)]
    watched = aevb.EarlyStopping(make(engine="eager", optimizer=ADAM), HELD, patience=100)
    found = list(watched.run(430))
    assert [tuple(progress[:2]) for progress in found] == reports
    assert_equal(weights(alone), weights(watched.trainer))
    assert alone.state_dict()["digest"] == watched.trainer.state_dict()["digest"]
    assert [progress.held_out_bound is None for progress in found] == [False] * 4 + [True]
    bound = evidence.bound(watched.trainer.model, watched.trainer.guide, HELD).bound.mean().item()
    assert bound != found[-2].held_out_bound  # the weights moved on
    watched.restore()
    best = max(progress.held_out_bound for progress in found[:4])
    assert (
        evidence.bound(watched.trainer.model, watched.trainer.guide, HELD).bound.mean().item() == best == watched.best
    )


@pytest.mark.parametrize("stop", [200, 270, 500])
def test_cut_and_resumed_it_stops_at_the_same_report(stop):
    bounds = [-5.0, -4.0, -4.5, -3.5, -3.6, -3.7, -3.8]
    whole = scripted(bounds, patience=3)
    ends = [progress.samples_seen for progress in whole.run(5000)]
    first = scripted(bounds, patience=3)
    list(first.run(stop))
    second = scripted(first.bounds, patience=3)
    second.trainer.load_state_dict(first.trainer.state_dict())
    second.load_state_dict(first.state_dict(), first.best_state)
    list(second.run(5000))
    assert ends[-1] == 700
    assert (second.best, second.waited) == (whole.best, whole.waited)
    assert_equal(weights(second.trainer), weights(whole.trainer))
    assert second.trainer.state_dict()["digest"] == whole.trainer.state_dict()["digest"] or stop == 270


def test_resumed_without_its_best_state_it_says_that_it_stays():
    first = scripted([-5.0], patience=1)
    list(first.run(100))
    second = scripted([-6.0], patience=1)
    second.trainer.load_state_dict(first.trainer.state_dict())
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="give load_state_dict the best_state too"):
        list(second.run(5000))
    assert second.trainer.samples_seen == 200


def test_averaged_weights_are_looked_at():
    trainer = make(engine="eager", optimizer=ADAM, averaging=0.9)
    (report,) = aevb.EarlyStopping(trainer, HELD, seed=3).run(100)
    with trainer.averaged():
        expected = evidence.bound(trainer.model, trainer.guide, HELD, seed=3).bound.mean().item()
    assert report.held_out_bound == expected
    assert evidence.bound(trainer.model, trainer.guide, HELD, seed=3).bound.mean().item() != expected


@pytest.mark.parametrize(
    "state", [None, {}, {"best": 1, "waited": 0}, {"best": float("nan"), "waited": 0}, {"best": 0.0, "waited": -1}]
)
def test_a_state_that_is_none(state):
    stopping = aevb.EarlyStopping(make(), HELD)
    with pytest.raises(aevb.InputError):
        stopping.load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [((3, HELD), "trainer"), ((None, HELD, 0), "patience"), ((None, HELD, 1.5), "patience"), ((None, HELD, 1), "seed")],
)
def test_arguments_that_cannot_be_meant(arguments, name):
    trainer, *others = arguments
    with pytest.raises(aevb.InputError, match=name):
        aevb.EarlyStopping(trainer or make(), *others, seed=-1 if name == "seed" else 0)


# ---------------------------------------------------------------- what is held out


def test_a_part_is_set_aside_by_the_seed_alone():
    data = torch.arange(50.0).unsqueeze(1)
    train, held = set_aside(data, 0.2)
    assert (len(train), len(held)) == (40, 10)
    assert torch.equal(torch.cat([train, held]).sort(0).values, data)
    assert torch.equal(set_aside(data, 0.2)[1], held)
    assert not torch.equal(set_aside(data, 0.2, seed=1)[1], held)


def test_all_arguments_lose_the_same_rows():
    x, y = torch.arange(50.0).unsqueeze(1), torch.arange(50)
    for given in ((x, y), {"x": x, "y": y}):
        train, held = set_aside(given, 0.2)
        assert type(train) is type(held) is type(given)
        for part in (train, held):
            one, other = part if isinstance(part, tuple) else part.values()
            assert torch.equal(one.squeeze(1).long(), other)


def test_grey_data_are_drawn_at_each_visit_or_once():
    grey = DynamicBinarization(torch.rand(50, 3, generator=torch.Generator().manual_seed(0)))
    train, held = set_aside(grey, 0.2)
    assert isinstance(train, DynamicBinarization)
    assert set(held.unique().tolist()) == {0.0, 1.0}
    plain, aside = set_aside(grey.probabilities, 0.2)
    assert torch.equal(train.probabilities, plain)
    assert torch.equal(held, DynamicBinarization(aside).fixed(0))


@pytest.mark.parametrize(
    "arguments",
    [(binary(60), 0), (binary(60), 1.0), (binary(60), 0.001), (binary(60), "a"), ([1, 2],), ((),), (None,)],
)
def test_what_cannot_be_set_aside(arguments):
    with pytest.raises(aevb.InputError):
        set_aside(*copy.copy(arguments))
    with pytest.raises(aevb.InputError, match="same number of rows"):
        set_aside((binary(60), binary(50)))
