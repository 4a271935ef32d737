"""A training that diverges and stays finite is warned of, once; one that learns is not."""

import warnings
from functools import partial
from operator import itemgetter

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.errors import DivergenceWarning
from pyro_aevb.training.divergence import Watch
from pyro_aevb.training.progress import Gathered
from tests.pairs import binary, paper_pair
from tests.trainings import make


@pytest.mark.parametrize("lr", [100, 1000])
def test_a_step_size_far_too_large_stays_finite_and_is_warned_of_once(lr):
    trainer = make(engine="eager", optimizer=partial(torch.optim.Adam, lr=lr))
    with pytest.warns(DivergenceWarning, match="smaller step size") as found:
        bounds = list(map(itemgetter(1), trainer.run(500)))
    assert max(bounds) < -1e8
    assert len(found) == 1
    assert found[0].filename == __file__
    assert f"{bounds[0]:.3g}" in str(found[0].message)


@pytest.mark.parametrize("likelihood", ["Bernoulli", "Gaussian"])
@pytest.mark.parametrize("lr", [1e-3, 1e-2, 0.1])
def test_a_training_that_learns_is_not(likelihood, lr):
    trainer = make(engine="eager", likelihood=likelihood, optimizer=partial(torch.optim.Adam, lr=lr))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(trainer.run(500))


def reports(*values, dimension=5):
    """Which of these are warned of, each a report of one minibatch."""
    watch, warned = Watch(dimension), []
    for value in values:
        gathered = Gathered()
        gathered.add(torch.tensor(-value), 1.0, 1)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            watch.look(gathered, value)
        warned += [value] * len(found)
    return warned


def test_the_rule():
    assert reports(-100.0, -1149.0) == []  # -100 - 10 (100 + 5) = -1150
    assert reports(-100.0, -1151.0) == [-1151.0]
    assert reports(-100.0, -1151.0, -5000.0, -1e6) == [-1151.0]
    assert reports(-100.0, -10.0, -161.0) == [-161.0]  # the best since
    assert reports(0.0, -49.0) == []
    assert reports(20.0, -231.0) == [-231.0]


def test_monte_carlo_em_is_watched_too():
    model, _ = paper_pair(size=60)
    em = aevb.MonteCarloEM(
        model, binary(60), partial(torch.optim.Adam, lr=1e4), 20, engine="eager", device="cpu", report_every=60
    )
    with pytest.warns(DivergenceWarning):
        list(em.run(120))
