"""The captured step: the same numbers as the eager one, whatever the pair; and what cannot be recorded."""

import itertools
import logging
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroParam

import pyro_aevb as aevb
from pyro_aevb import capture, estimators, likelihoods
from pyro_aevb.capture import CapturedEngine
from pyro_aevb.estimators import SGVB, SGVBAnalyticKL
from tests.pairs import hand_written_pair, paper_pair
from tests.test_training import assert_equal, make, weights

STEPS = 200


def trained(
    pair, data, estimator, *, compiled, engine="captured", optimizer=None, steps=STEPS, batch_size=20, **options
):
    """Weights and reports after ``steps`` steps of a pair made by ``pair()`` from one seed."""
    with aevb.seeded(0):
        model, guide = pair()
    trainer = aevb.Trainer(
        model, guide, data, estimator, optimizer or partial(torch.optim.Adam, lr=1e-3, weight_decay=1.0), batch_size,
        engine=engine, device="cpu", report_every=500, **options,
    )  # fmt: skip
    if isinstance(trainer.engine, CapturedEngine):
        trainer.engine.compiled = compiled
    reports = list(trainer.run(steps * batch_size))
    if isinstance(trainer.engine, CapturedEngine):
        assert all(r is not None for r in trainer.engine.recordings.values()), "fell back to eager"
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
    **{name: (partial(paper_pair, name, size=60), torch.float64) for name in likelihoods.__all__},
    "pyro.param": (partial(hand_written_pair, 60, data_dim=6), torch.float32),
    "PyroModule": (pyro_module_pair, torch.float32),
    "flow": (flow_pair, torch.float32),
    "batch norm": (batch_norm_pair, torch.float32),
    "global latent": (global_latent_pair, torch.float32),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("estimator", [*estimators.__all__, "SGVB(2)"])
def test_recorded_equals_eager_bit_for_bit(pair, estimator):
    """``make_fx`` alone, 200 steps, every estimator and family and five pairs of other styles."""
    if pair == "flow" and estimator == "SGVBAnalyticKL":
        return  # refused: no closed form, see test_pitfalls.py
    make_estimator = partial(SGVB, 2) if estimator == "SGVB(2)" else getattr(estimators, estimator)
    make_pair, dtype = PAIRS[pair]
    data = values(pair, dtype=dtype)
    one, eager, reports = trained(make_pair, data, make_estimator(), engine="eager", compiled=False)
    other, recorded, recorded_reports = trained(make_pair, data, make_estimator(), compiled=False)
    renamed = dict(zip(recorded, eager.values(), strict=True))
    assert_equal(recorded, renamed)
    assert reports == recorded_reports
    if isinstance(one.model, torch.nn.Module):  # buffers too, such as batch normalisation's running means
        assert_equal(dict(one.model.state_dict()), dict(other.model.state_dict()))


@pytest.mark.parametrize("pair", ["Bernoulli", "Gaussian", "pyro.param", "PyroModule", "flow", "batch norm"])
def test_compiled_equals_eager_to_rounding(pair):
    """With inductor, 200 steps at the same noise; in float64 rounding stays far below any error that matters."""
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
                trainer.engine.compiled = False
            if state:
                trainer.load_state_dict(state)
            list(trainer.run(300))
            state = trainer.state_dict()
        assert_equal(weights(whole), weights(trainer))


def test_a_short_last_batch_never_changes_the_answer():
    """60 data in batches of 25, 25, 10: both sizes are recorded; with batches of 2 and 1 of 59 only the full one is."""
    trainer = make(engine="captured")
    trainer.engine.compiled = False
    list(trainer.run(600))
    assert sorted(shape[0][0] for shape in trainer.engine.recordings) == [10, 25]
    eager = make(engine="eager")
    list(eager.run(600))
    assert_equal(weights(eager), weights(trainer))

    trainer, eager = (make(engine=e, batch_size=2, data=values("Bernoulli", 59)) for e in ("captured", "eager"))
    trainer.engine.compiled = False
    for each in (trainer, eager):
        list(each.run(200))
    assert [shape[0][0] for shape in trainer.engine.recordings] == [2]
    assert_equal(weights(eager), weights(trainer))


@pytest.mark.parametrize("stop", [100, 310])
def test_stop_and_resume_with_the_compiled_step(tmp_path, stop):
    whole = make(engine="captured")
    list(whole.run(600))
    first = make(engine="captured")
    list(first.run(stop))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(engine="captured", weights=99)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.run(600 - first.samples_seen))
    assert_equal(weights(whole), weights(second))


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

    def __init__(self, beta):
        super().__init__()
        self.beta = beta

    def differentiable_loss(self, *args):
        return self.beta * super().differentiable_loss(*args)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_annealed_tensor_takes_effect_without_a_new_recording(compiled, caplog):
    """Pitfall 9, on a short last batch as well."""
    bounds = {}
    for engine in ("eager", "captured"):
        estimator = Annealed(torch.ones((), dtype=torch.float64))
        trainer = make(engine=engine, estimator=estimator, optimizer=partial(torch.optim.SGD, lr=1e-6))
        if engine == "captured":
            trainer.engine.compiled = compiled
        bounds[engine] = []
        for beta in (1.0, 100.0, 0.5):
            estimator.beta.fill_(beta)
            bounds[engine] += [p.bound for p in trainer.run(130)]
    assert bounds["captured"] == pytest.approx(bounds["eager"], rel=1e-9)
    assert bounds["eager"][-1] > bounds["eager"][0] > bounds["eager"][2]
    assert not [r for r in caplog.records if "anew" in r.message]


def test_a_changed_python_number_is_noticed_and_recorded_anew(caplog):
    """Pitfall 9 for what is frozen in a recording: it does not train on silently."""
    caplog.set_level(logging.INFO)
    bounds = {}
    for engine in ("eager", "captured"):
        estimator = Annealed(1.0)
        trainer = make(engine=engine, estimator=estimator, optimizer=partial(torch.optim.SGD, lr=1e-6))
        if engine == "captured":
            trainer.engine.compiled = False
        bounds[engine] = [p.bound for p in trainer.run(100)]
        estimator.beta = 100.0
        bounds[engine] += [p.bound for p in trainer.run(100)]
    assert bounds["captured"] == pytest.approx(bounds["eager"], rel=1e-9)
    assert "recording it anew" in caplog.text


# ---------------------------------------------------------------- what cannot be recorded


def falls_back(caplog, message, data=None, **options):
    caplog.set_level(logging.INFO)
    data = values("Bernoulli") if data is None else data
    captured = make(engine="captured", data=data, batch_size=20, **options)
    eager = make(engine="eager", data=data, batch_size=20, **options)
    for trainer in (captured, eager):
        list(trainer.run(300))
    assert_equal(weights(eager), weights(captured))
    lines = [r.message for r in caplog.records if r.name == "pyro_aevb.capture"]
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


def test_without_a_compiler_training_is_eager_after_one_log_line(caplog, monkeypatch):
    import torch._inductor.config as config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "force_disable_caches", True)
    falls_back(caplog, "cannot be recorded")


def test_a_pair_that_changes_by_itself_is_not_trained_on_a_frozen_copy(caplog):
    """Noise from elsewhere than torch would be one number for ever."""
    caplog.set_level(logging.INFO)
    counter = itertools.count(1)

    class Drifting(SGVB):
        def differentiable_loss(self, *args):
            return next(counter) * super().differentiable_loss(*args)

    trainer = make(engine="captured", estimator=Drifting(), optimizer=partial(torch.optim.SGD, lr=0.0))
    trainer.engine.compiled = False
    list(trainer.run(300))
    assert "changes by itself" in caplog.text
    assert all(recording is None for recording in trainer.engine.recordings.values())


# ---------------------------------------------------------------- auto


def test_auto_captures_only_runs_that_win_back_the_compilers_time(monkeypatch):
    monkeypatch.setattr(aevb.training, "AUTO_CAPTURE_STEPS", 10)
    trainer = make(batch_size=20)
    list(trainer.run(100))
    assert not isinstance(trainer.engine, CapturedEngine)
    list(trainer.run(200))
    assert isinstance(trainer.engine, CapturedEngine)
    resumed = make(batch_size=20)
    resumed.load_state_dict(trainer.state_dict())
    assert isinstance(resumed.engine, CapturedEngine)  # a resumed run goes on with the same engine


def test_recording_draws_no_noise_and_moves_no_weight():
    trainer = make(engine="captured", batch_size=20)
    before = weights(trainer)
    noise = trainer._noise.states["cpu"].clone()
    with trainer._running():
        trainer.engine._record(trainer.batches[0])
    assert_equal(before, weights(trainer))
    assert torch.equal(noise, trainer._noise.states["cpu"])


def test_private_parts_of_torch_are_where_they_were():
    """``capture.py`` is the only file that uses torch's compiler; this fails when it moves."""
    import torch._inductor.config
    from torch.fx.experimental.proxy_tensor import make_fx

    assert callable(make_fx)
    assert callable(torch._inductor.compile)
    assert torch._inductor.config.fallback_random is False
    from pathlib import Path

    for path in Path(aevb.__file__).parent.rglob("*.py"):
        if path.name != "capture.py":
            assert "_inductor" not in path.read_text(), path


def test_two_latents_keep_their_closed_form():
    """Estimator B records for several sites, each with its own KL."""
    data = torch.randn(60, 6)
    _, eager, _ = trained(PAIRS["pyro.param"][0], data, SGVBAnalyticKL(), engine="eager", compiled=False, steps=20)
    _, recorded, _ = trained(PAIRS["pyro.param"][0], data, SGVBAnalyticKL(), compiled=False, steps=20)
    assert_equal(eager, recorded)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("estimator", estimators.__all__)
def test_a_cuda_graph_equals_eager(estimator):
    runs = [make(engine=e, device="cuda", estimator=getattr(estimators, estimator)()) for e in ("eager", "captured")]
    for trainer in runs:
        list(trainer.run(2000))
    assert all(r is not None for r in runs[1].engine.recordings.values())
    for name, weight in weights(runs[0]).items():
        torch.testing.assert_close(weight, weights(runs[1])[name], rtol=1e-9, atol=1e-9)
    assert capture.CUDAGraphReplay is type(next(iter(runs[1].engine.recordings.values())).function)
