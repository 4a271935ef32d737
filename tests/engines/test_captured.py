"""The captured step: the same numbers as the eager one, whatever the pair; and what cannot be recorded."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam

import pyro_aevb as aevb
from pyro_aevb import estimators
from pyro_aevb.estimators import SGVB
from tests.pairs import hand_written_pair, paper_pair
from tests.trainings import assert_equal, make, weights

STEPS = 50  # with a report, at which the recording is compared, after each 10


def trained(
    pair, data, estimator, *, compiled, engine="captured", optimizer=None, steps=STEPS, batch_size=20, **options
):
    """Weights and reports after ``steps`` steps of a pair made by ``pair()`` from one seed."""
    with aevb.seeded(0):
        model, guide = pair()
    trainer = aevb.Trainer(
        model, guide, data, estimator, optimizer or partial(torch.optim.Adam, lr=1e-3, weight_decay=1.0), batch_size,
        engine=engine, device="cpu", report_every=200, **options,
    )  # fmt: skip
    if trainer.captured:
        trainer.engine.gradients.compiled = compiled
    reports = list(trainer.run(steps * batch_size))
    if trainer.captured:
        assert all(r is not None for r in trainer.engine.gradients.kept.recordings.values()), "fell back to eager"
    return trainer, {name: p.detach().clone() for name, p in trainer.parameters.items()}, reports


def values(name, rows=60, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(rows, 6, generator=generator, dtype=dtype)
    return (real > 0).to(dtype) if name == "Bernoulli" else real


# ---------------------------------------------------------------- pairs not of our making


def pyro_module_pair():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decode = PyroModule[torch.nn.Linear](2, 6)
            self.sigma = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

        def forward(self, x):
            with pyro.plate("rows", 60, subsample_size=len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Laplace(self.decode(z), self.sigma).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encode = PyroModule[torch.nn.Linear](6, 4)

        def forward(self, x):
            mean, log_scale = self.encode(x).chunk(2, -1)
            with pyro.plate("rows", 60, subsample_size=len(x), dim=-1):
                pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    return Model(), Guide()


def flow_pair():
    """A guide with an inverse autoregressive flow, a Student-t prior."""
    net, encode = torch.nn.Linear(2, 6), torch.nn.Linear(6, 4)
    flow = dist.transforms.affine_autoregressive(2, hidden_dims=[8])

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.StudentT(5.0, torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encode", encode)
        pyro.module("flow", flow)
        mean, log_scale = encode(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            base = dist.Normal(mean, log_scale.exp()).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return model, guide


def batch_norm_pair():
    """Networks with a state of their own, changed by each forward pass."""
    decode = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh(), torch.nn.Linear(8, 6))
    model, guide = paper_pair("Gaussian", size=60, dtype=torch.float32)
    model.likelihood.network = torch.nn.Sequential(decode, torch.nn.Linear(6, 12))
    return model, guide


def global_latent_pair():
    """Appendix F in small: a latent outside the plate."""

    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand((len(x), 6)).to_event(1), obs=x)

    def guide(x):
        loc, scale = (
            pyro.param("loc", torch.zeros(())),
            pyro.param("s", torch.ones(()), constraint=constraints.positive),
        )
        pyro.sample("shift", dist.Normal(loc, scale))
        with pyro.plate("data", 60, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param("w", torch.zeros(6)) @ x.T, 1.0))

    return model, guide


PAIRS = {
    "Bernoulli": (partial(paper_pair, "Bernoulli", size=60), torch.float64),
    "Gaussian": (partial(paper_pair, "Gaussian", size=60), torch.float64),
    "pyro.param": (partial(hand_written_pair, 60, data_dim=6), torch.float32),
    "PyroModule": (pyro_module_pair, torch.float32),
    "flow": (flow_pair, torch.float32),
    "batch norm": (batch_norm_pair, torch.float32),
    "global latent": (global_latent_pair, torch.float32),
}


ANY_PLATES = {"SGVB", "SGVBAnalyticKL", "ScoreFunction", "SGVB(2)"}
REFUSED = {("flow", "SGVBAnalyticKL")}  # no closed-form KL
# Pyro inverts an autoregressive flow by an index read from a tensor: these run eagerly.
REFUSED |= {("flow", e) for e in ("ScoreFunction", "VIMCO", "StickingTheLanding", "DoublyReparameterized", "WakeSleep")}
REFUSED |= {("global latent", e) for e in estimators.__all__ if e not in ANY_PLATES}  # no weights per datum
STYLES = [pair for pair in PAIRS if pair not in ("Bernoulli", "Gaussian")]  # the package's are in test_combinations.py
CASES = [(p, e) for p in STYLES for e in (*estimators.__all__, "SGVB(2)") if (p, e) not in REFUSED]


def make_estimator(name):
    """With one run a particle, since not every pair here broadcasts."""
    if name in ANY_PLATES:
        return SGVB(2) if name == "SGVB(2)" else getattr(estimators, name)()
    return getattr(estimators, name)(num_particles=2, vectorize_particles=False)


@pytest.mark.parametrize(("pair", "estimator"), CASES)
def test_recorded_equals_eager_bit_for_bit(pair, estimator):
    """``make_fx`` alone, every estimator with five pairs that are not made of the package's parts."""
    make_pair, dtype = PAIRS[pair]
    data = values(pair, dtype=dtype)
    one, eager, reports = trained(make_pair, data, make_estimator(estimator), engine="eager", compiled=False)
    other, recorded, recorded_reports = trained(make_pair, data, make_estimator(estimator), compiled=False)
    renamed = dict(zip(recorded, eager.values(), strict=True))
    assert_equal(recorded, renamed)
    assert reports == recorded_reports
    if isinstance(one.model, torch.nn.Module):  # buffers too, such as batch normalisation's running means
        assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))


@pytest.mark.parametrize("pair", ["Bernoulli", "Gaussian", "pyro.param", "PyroModule", "flow", "batch norm"])
def test_compiled_equals_eager_to_rounding(pair):
    """With inductor, at the same noise; in float64 rounding stays far below any error that matters."""
    make_pair, dtype = PAIRS[pair]
    data = values(pair, dtype=dtype)
    _, eager, _ = trained(make_pair, data, SGVB(), engine="eager", compiled=False)
    _, compiled, _ = trained(make_pair, data, SGVB(), compiled=True)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    for weight, expected in zip(compiled.values(), eager.values(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"])
def test_every_optimizer_and_its_state_in_both_engines(optimizer):
    """Half of the steps captured and half eager, either way round, equal all eager, bit for bit under ``make_fx``."""
    make_optimizer = partial(getattr(torch.optim, optimizer), lr=1e-3, weight_decay=0.5)
    whole = make(engine="eager", optimizer=make_optimizer)
    list(whole.run(600))
    for engines in (("eager", "captured"), ("captured", "eager")):
        state = None
        for engine in engines:
            trainer = make(engine=engine, optimizer=make_optimizer)
            if engine == "captured":
                trainer.engine.gradients.compiled = False
            if state:
                trainer.load_state_dict(state)
            list(trainer.run(300))
            state = trainer.state_dict()
        assert_equal(weights(whole), weights(trainer))


def test_a_short_last_batch_never_changes_the_answer():
    """60 data in batches of 25, 25, 10: both sizes are recorded; with batches of 2 and 1 of 59 only the full one is."""
    trainer = make(engine="captured")
    trainer.engine.gradients.compiled = False
    list(trainer.run(600))
    assert sorted(trainer.engine.gradients.kept.recordings) == [10, 25]
    eager = make(engine="eager")
    list(eager.run(600))
    assert_equal(weights(eager), weights(trainer))

    trainer, eager = (make(engine=e, batch_size=2, data=values("Bernoulli", 59)) for e in ("captured", "eager"))
    trainer.engine.gradients.compiled = False
    for each in (trainer, eager):
        list(each.run(200))
    assert list(trainer.engine.gradients.kept.recordings) == [2]
    assert_equal(weights(eager), weights(trainer))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [100, 310])
def test_stop_and_resume_with_the_compiled_step(tmp_path, stop):
    whole = make(engine="captured", batch_size=20)  # one size, so one compilation each
    list(whole.run(600))
    first = make(engine="captured", batch_size=20)
    list(first.run(stop))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(engine="captured", batch_size=20, weights=99)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.run(600 - first.samples_seen))
    assert_equal(weights(whole), weights(second))
