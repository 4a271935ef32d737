"""Faults that a review found in evidence and around it, each mended."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import InputError, diagnostics, evidence
from pyro_aevb.bayesian import bayesian
from pyro_aevb.evidence.importance import _khat
from tests.pairs import LinearGaussian, paper_pair

D = torch.float64


def test_a_zero_weight_is_no_part_of_the_tail():
    weights = torch.randn(500, 4, dtype=D, generator=torch.Generator().manual_seed(0))
    with_zero = torch.cat([weights, torch.full((1, 4), -math.inf, dtype=D)])
    torch.testing.assert_close(_khat(with_zero), _khat(weights), rtol=0, atol=0)
    assert _khat(weights).isfinite().all()


def test_masked_sites_have_no_closed_form():
    pair = LinearGaussian()

    def masked(x):
        with pyro.poutine.mask(mask=False):
            pair.model(x)

    with pytest.raises(InputError, match="masked"):
        evidence.linear_gaussian(masked, pair.x)


def test_data_of_unequal_lengths_are_refused():
    with pytest.raises(InputError, match=r"different lengths: \[5, 4\]"):
        evidence.importance_sampling(lambda x, y: None, lambda x, y: None, (torch.zeros(5), torch.zeros(4)), 3)


def test_a_prior_that_differs_only_between_blocks_has_no_aggregate():
    """The first hundred data have one prior, the others another."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = torch.cat([torch.zeros(100, 2), torch.full((100, 2), 5.0)])
    with pytest.raises(InputError, match="prior differs between data"):
        diagnostics.aggregate_posterior(model, guide, x)


def test_a_scale_below_the_floor_would_never_train():
    with pytest.raises(InputError, match="e\\^-10"):
        bayesian(*paper_pair(size=60), initial_scale=1e-5)


def test_a_trainer_steps_shared_weights_once():
    net = nn.Sequential(nn.Linear(2, 3)).double()
    first = net[0]

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z) + 0 * first.bias, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2, dtype=D)), 1.0).to_event(1))

    trainer = aevb.Trainer(model, guide, torch.zeros(10, 3, dtype=D), batch_size=10, engine="eager", device="cpu")
    assert len(trainer.parameters) == len({id(p) for p in trainer.parameters.values()}) == 3
