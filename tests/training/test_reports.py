"""Reports are in the units that they claim: nats per datum of the objective, whatever scales a pair has."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import pyro_aevb as aevb
from pyro_aevb.estimators import SGVB
from tests.pairs import binary, paper_pair

STILL = partial(torch.optim.SGD, lr=0.0)
X = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))


def pair_of(size=None, whole=None, likelihood=None, latent=None, chosen=None):
    """A pair with ``poutine.scale`` around all of it, its likelihood, or its latent; the guide is the posterior."""

    def around(scale, x):
        scale = scale(x) if callable(scale) else scale
        return poutine.scale(scale=1.0 if scale is None else scale)

    def plate(x):
        return pyro.plate("data", size or len(x), subsample_size=chosen or len(x), dim=-1)

    def model(x):
        with plate(x) as rows, around(whole, x):
            x = x[rows] if chosen else x
            with around(latent, x):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            with around(likelihood, x):
                pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

    def guide(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with plate(x) as rows, around(whole, x), around(latent, x):
            pyro.sample("z", dist.Normal((x[rows] if chosen else x) / 2 + shift, 0.5**0.5).to_event(1))

    return model, guide


def reported(model, guide, x=X, batch_size=40, engine="eager", **options):
    """The mean over many epochs."""
    trainer = aevb.Trainer(
        model, guide, x, SGVB(), STILL, batch_size, engine=engine, device="cpu", report_every=10**9, **options
    )
    if engine == "captured":
        trainer.engine.gradients.compiled = False
    (report,) = trainer.run(120 * len(x))
    return report.bound


def objective(model, guide, count=300):
    """By Trace_ELBO on all data at once, per datum."""
    with pyro.get_param_store().scope(), aevb.seeded(0):
        return -sum(Trace_ELBO().loss(model, guide, X) for _ in range(count)) / count / len(X)


EXACT = dist.Normal(0.0, 2**0.5).log_prob(X).mean().item()

# With scales, the units of the objective; where all of it is scaled alike, those of the bound.
PAIRS = {
    "plain": ({}, None),
    "N/M": ({"size": 60}, None),
    "likelihood by 0.1": ({"likelihood": 0.1}, "objective"),
    "likelihood by 50": ({"likelihood": 50.0}, "objective"),
    "likelihood by a tensor": ({"likelihood": torch.tensor(0.1)}, "objective"),
    "latent by 50": ({"latent": 50.0}, "objective"),
    "all by 0.1": ({"whole": 0.1}, None),
    "all by 0.1, N/M": ({"whole": 0.1, "size": 60}, None),
    "all by 1/M": ({"whole": lambda x: 1 / len(x)}, None),
    "all by N/M by hand": ({"whole": lambda x: 60 / len(x)}, None),
    "all by a tensor": ({"whole": torch.tensor(7.0)}, "objective"),  # which may move
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_report_is_the_objective_per_datum_with_a_short_last_batch(kind):
    options, known = PAIRS[kind]
    expected = EXACT if known is None else objective(*pair_of(**options))
    assert reported(*pair_of(**options)) == pytest.approx(expected, rel=0.02)


def test_captured_and_svi_report_alike():
    for kind in ("likelihood by 0.1", "all by 1/M", "N/M"):
        options, _ = PAIRS[kind]
        bounds = [reported(*pair_of(**options), engine=engine) for engine in ("eager", "captured", "svi")]
        assert bounds[1:] == pytest.approx([bounds[0]] * 2, rel=1e-5)


def test_rows_that_the_pair_chooses_stand_for_all():
    """``subsample_size=10`` of 60 reported a sixth of the loss per datum."""
    assert reported(*pair_of(chosen=10), batch_size=60) == pytest.approx(EXACT, rel=0.02)


def test_a_first_site_scaled_by_50_does_not_set_the_weights_prior():
    """The default weight decay was 50: the prior N(0, I) follows the plate's own scale alone."""

    def decay(**options):
        trainer = aevb.Trainer(*pair_of(**options), X, batch_size=20, device="cpu")
        return trainer.engine.optimizer.param_groups[0]["weight_decay"]

    assert decay(size=60) == decay(size=60, likelihood=50.0) == decay(size=60, whole=0.1) == 1
    assert decay() == decay(likelihood=50.0) == decay(whole=lambda x: 1 / len(x)) == pytest.approx(1 / 3)
    assert aevb.Trainer(*pair_of(chosen=10), X, batch_size=60, device="cpu")._weight_of_prior == 1
    model, guide = paper_pair(size=60)
    trainer = aevb.Trainer(model, guide, binary(60), batch_size=20, device="cpu")
    assert trainer.engine.optimizer.param_groups[0]["weight_decay"] == 1


def test_a_last_batch_that_cannot_train_is_refused_at_the_start():
    """One datum and a batch normalisation: it failed after the first epoch."""

    def pair():
        net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
                pyro.sample("x", dist.Normal(z, 1).to_event(1), obs=x)

        def guide(x):
            pyro.module("net", net)
            mean, log_scale = net(x).chunk(2, -1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

        return model, guide

    with pytest.raises(aevb.InputError, match=r"last minibatch of an epoch has 1 of the 41 data.*leave 1 data out"):
        aevb.Trainer(*pair(), X[:41], batch_size=20, device="cpu")
    list(aevb.Trainer(*pair(), X[:42], batch_size=20, device="cpu").run(84))
