"""Dreams of a model: drawn as its distributions say, put in the right places, refused where there is no such place."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import pyro_aevb as aevb
from pyro_aevb import InputError, traces
from pyro_aevb.estimators import WakeSleep
from tests.estimators.test_plates import one_plate_pair
from tests.pairs import binary, paper_pair


class Drawn(dist.Bernoulli):
    """A Bernoulli with a way of its own to draw."""

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        return super().sample(sample_shape) + 2


@pytest.mark.parametrize("wrap", ["plain", "masked"])
def test_bernoulli_pixels_are_dreamt_with_their_probabilities(wrap):
    """Mean of 40,000 draws at each of seven pixels, likely and hardly so: 7 z-scores, p = 5e-5."""
    logits = torch.tensor([-9.0, -3.0, -0.5, 0.0, 0.5, 3.0, 9.0]).double()
    rows = 40_000

    def model(x, family=dist.Bernoulli):
        with pyro.plate("data", rows, dim=-1):
            pixels = family(logits=logits.expand(rows, 7)).to_event(1)
            pyro.sample("x", pixels if wrap == "plain" else pixels.mask(torch.arange(rows) < 5), obs=x)

    x = torch.zeros(rows, 7, dtype=torch.float32)
    with aevb.seeded(1):
        dreamt = traces.dream(model, (x,)).args[0]
    assert dreamt.dtype == x.dtype
    assert set(dreamt.unique().tolist()) == {0, 1}
    p = logits.sigmoid()
    assert ((dreamt.double().mean(0) - p) / (p * (1 - p) / rows).sqrt()).abs().max() < 4.5
    assert set(traces.dream(partial(model, family=Drawn), (x,)).args[0].unique().tolist()) == {2, 3}


def test_grey_data_dream_of_binary_pixels():
    model, _ = paper_pair("Bernoulli", relaxed=True)
    dreamt = traces.dream(model, (binary() / 3,)).args[0]
    assert set(dreamt.unique().tolist()) == {0, 1}


def test_dreams_take_the_places_of_observed_arguments_only():
    """Two observed sites, one seen by the next; what no site observes is given; one tensor may stand in two places."""

    def model(x, given, y, again):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(100 * given, 1.0))
            seen = pyro.sample("y", dist.Normal(z, 0.1), obs=y)
            pyro.deterministic("twice", 2 * seen)
            pyro.sample("x", dist.Poisson((seen - 90).clamp(min=1)), obs=x)

    x, given, y = torch.arange(4), torch.ones(4), torch.zeros(4)
    args, latents, rows = traces.dream(model, (x, given, y, x))
    assert args[0] is args[3]
    assert args[1] is given
    assert args[0].dtype == torch.int64
    assert (args[2] - latents["z"]).abs().max() < 1
    assert (args[0] > 0).all()
    assert set(latents) == {"z"}
    assert rows["data"].tolist() == [0, 1, 2, 3]
    assert not any(t.requires_grad for t in (*args, *latents.values()))


def test_evaluation_does_not_dream():
    model, guide = paper_pair()
    runs = []

    def counted(x):
        runs.append(poutine.runtime.am_i_wrapped())
        return model(x)

    estimator = WakeSleep()
    estimator.loss(counted, guide, binary())  # which looks at the pair, once
    runs.clear()
    estimator.loss(counted, guide, binary())
    assert len(runs) == 1
    estimator.differentiable_loss(counted, guide, binary())
    assert len(runs) == 3


def test_masked_data_and_latents_count_in_neither_phase():
    """A guide whose log-odds are b x: the sum over unmasked dreams of (k - sigmoid(b x)) x, by hand."""
    mask = torch.tensor([True, True, False, True, False, False])
    model, guide = one_plate_pair(size=12, mask=mask)
    x = torch.linspace(-1, 2, 6).double()
    with aevb.seeded(5):
        WakeSleep(phase="sleep").loss_and_grads(model, guide, x)
    found = pyro.param("b").grad
    with aevb.seeded(5):
        traces.log_densities(model, guide, (x,))
        dreamt = traces.dream(model, (x,))
    k, y = dreamt.latents["k"], dreamt.args[0]
    slope = ((k - (pyro.param("b").detach() * y).sigmoid()) * y)[mask].sum()
    assert found.item() == pytest.approx(-2 * slope.item(), rel=1e-12)


def test_a_parameter_that_a_guide_hands_on_untouched_is_not_reached_awake():
    """A multivariate normal keeps the very tensor that it was given."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(1.0)) * z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            tril = pyro.param("tril", torch.eye(2))
            pyro.sample("z", dist.MultivariateNormal(torch.zeros_like(x), scale_tril=tril))

    WakeSleep(phase="wake").loss_and_grads(model, guide, torch.ones(3, 2))
    assert pyro.param("tril").grad is None
    assert pyro.param("w").grad is not None
    WakeSleep(phase="sleep").loss_and_grads(model, guide, torch.ones(3, 2))
    assert pyro.param("tril").grad.abs().sum() > 0


# ---------------------------------------------------------------- refused


def plated(body):
    """A model or a guide in the data plate."""

    def function(x):
        with pyro.plate("data", len(x), dim=-1):
            body(x)

    return function


def z_normal(x):
    return pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


def derived(x):
    pyro.sample("x", dist.Normal(z_normal(x), 1.0), obs=x + 1)


def factor(x):
    pyro.factor("f", -z_normal(x))


def twice(x):
    for name in ("x", "y"):
        pyro.sample(name, dist.Normal(z_normal(x) if name == "x" else 0.0, 1.0), obs=x)


def plain(x):
    pyro.sample("x", dist.Normal(z_normal(x), 1.0), obs=x)


def improper(x):
    z_normal(x)
    pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()), obs=x)


def auxiliary(x):
    pyro.sample("h", dist.Normal(z_normal(x), 1.0))


def nothing(x):
    pass


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (derived, z_normal, r"'x' observes what is no argument.*observe them as they are \(obs=x\)"),
        (factor, z_normal, r"'f' observes what is no argument"),
        (twice, z_normal, "'y' observes an argument that another site observes"),
        (improper, z_normal, r"'x' \(ImproperUniform.*cannot be sampled.*another estimator"),
        (plain, auxiliary, "guide samples site 'h', which the model does not"),
        (plain, nothing, "does not sample the model's site 'z'"),
    ],
)
def test_what_cannot_be_dreamt_is_refused(model, guide, message):
    with pytest.raises(InputError, match=message):
        WakeSleep().differentiable_loss(plated(model), plated(guide), torch.zeros(3))


def test_data_of_another_shape_than_the_draws_are_refused():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    with pytest.raises(InputError, match=r"'x' draws shape \(3, 1\), but its data have shape \(3, 4\)"):
        traces.dream(model, (torch.zeros(3, 4),))


def test_global_latents_are_refused_by_name():
    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(shift, 1.0), obs=x)

    def guide(x):
        pyro.sample("shift", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    with pytest.raises(InputError, match="every site in the plate of the data"):
        WakeSleep().differentiable_loss(model, guide, torch.zeros(3))


def test_a_guide_that_cannot_be_inverted_is_refused_asleep_only():
    model, _ = paper_pair()
    guide = aevb.RecognitionModel(aevb.guides.Flow(6, 2, kind="planar", hidden=4)).double()
    with pytest.raises(InputError, match=r"cannot tell the density of a given value.*use SGVB"):
        WakeSleep().differentiable_loss(model, guide, binary())
    WakeSleep(phase="wake").differentiable_loss(model, guide, binary()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_phase_is_checked_and_fixed():
    with pytest.raises(InputError, match="unknown phase 'dream': give one of both, wake, sleep"):
        WakeSleep(phase="dream")
    with pytest.raises(AttributeError):  # a recorded step would not notice
        WakeSleep().phase = "wake"
