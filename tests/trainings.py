"""Small trainings, and their weights."""

import torch

import pyro_aevb as aevb
from pyro_aevb.estimators import SGVB
from tests.pairs import binary, paper_pair


def make(seed=0, weights=0, size=60, data=None, estimator=None, likelihood="Bernoulli", **options):
    """A small training; ``weights`` seeds the initial values."""
    with aevb.seeded(weights):
        model, guide = paper_pair(likelihood, size=size)
    data = binary(60) if data is None else data
    options = {"batch_size": 25, "report_every": 100, "device": "cpu", **options}
    return aevb.Trainer(model, guide, data, estimator or SGVB(), seed=seed, **options)


def weights(trainer):
    return {
        f"{i}.{n}": p.clone() for i, m in enumerate((trainer.model, trainer.guide)) for n, p in m.state_dict().items()
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
