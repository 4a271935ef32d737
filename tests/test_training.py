"""Trainer: engines, resumption, isolation, devices, bad pairs."""

import copy
import itertools
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO, TraceMeanField_ELBO

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.data import DynamicBinarization
from pyro_aevb.estimators import SGVB, SGVBAnalyticKL
from pyro_aevb.hardware import find_device
from tests.pairs import binary, hand_written_pair, paper_pair


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


# ---------------------------------------------------------------- what a step is


@pytest.mark.parametrize("optimizer", [torch.optim.Adagrad, torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_svi_and_eager_take_the_same_steps(optimizer):
    """Pyro's SVI with Trace_ELBO, one optimizer per tensor, and ours: the same weights after 20 steps, in float64."""
    make_optimizer = partial(optimizer, lr=1e-3, weight_decay=1.0)
    svi = make(engine="svi", estimator=Trace_ELBO(), optimizer=make_optimizer)
    eager = make(engine="eager", estimator=SGVB(), optimizer=make_optimizer)
    reports = [list(t.run(450)) for t in (svi, eager)]
    for one, other in zip(*reports, strict=True):
        assert one.samples_seen == other.samples_seen
        assert one.bound == pytest.approx(other.bound, rel=1e-9)
    for name, weight in weights(svi).items():
        torch.testing.assert_close(weight, weights(eager)[name], rtol=1e-8, atol=1e-9, msg=name)


def test_svi_engine_equals_pyro_by_hand():
    """Exactly the loop that a Pyro tutorial writes."""
    trainer = make(engine="svi", estimator=Trace_ELBO(), optimizer=pyro.optim.Adam({"lr": 1e-2}))
    assert type(trainer.engine).__name__ == "SVIEngine"
    model, guide = copy.deepcopy((trainer.model, trainer.guide))
    batches = [trainer.batches[step] for step in range(6)]
    list(trainer.run(120))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    noise = aevb.training.GlobalNoise(aevb.training.derive(0, "noise"))
    with noise.swapped_in():
        for batch in batches:
            svi.step(*batch)
    assert_equal(model.state_dict(), trainer.model.state_dict())
    assert_equal(guide.state_dict(), trainer.guide.state_dict())


def test_a_pyro_optimizer_means_svi():
    assert type(make(optimizer=pyro.optim.Adam({"lr": 1e-2})).engine).__name__ == "SVIEngine"


@pytest.mark.parametrize("estimator", [Trace_ELBO, TraceMeanField_ELBO, JitTrace_ELBO, SGVB, SGVBAnalyticKL])
@pytest.mark.parametrize("engine", ["svi", "eager"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_pyros_estimators_train_through_the_trainer(estimator, engine):
    # Three fair coins and three zeros; the batches are of one size, since JitTrace_ELBO records that size for good.
    data = binary(60) * torch.tensor([1, 1, 1, 0, 0, 0])
    optimizer = partial(torch.optim.Adam, lr=2e-2)
    trainer = make(data=data, estimator=estimator(num_particles=2), engine=engine, optimizer=optimizer, batch_size=20)
    bounds = [p.bound for p in trainer.run(3000)]
    assert bounds[-1] > bounds[0] + 0.5


def test_plain_pyro_reaches_the_same_bound_on_the_same_data():
    """SVI with Trace_ELBO and pyro.optim against the default engine and estimator, on digits."""
    digits = aevb.data.load("digits", binarize="static")

    def bound(**options):
        with aevb.seeded(0):
            model, guide = paper_pair(data_dim=64, latent_dim=5, size=1500, hidden=50, dtype=torch.float32)
        for _ in aevb.Trainer(model, guide, digits.train, device="cpu", **options).run(30_000):
            pass
        return evidence.bound(model, guide, digits.test).bound.mean()

    settings = {"lr": 0.02, "weight_decay": 1.0}
    ours = bound()
    pyros = bound(engine="svi", estimator=Trace_ELBO(), optimizer=pyro.optim.Adagrad(settings))
    assert ours > -30  # all-zero weights give -44.4, an unconditional mean pixel about -28.4
    assert pyros.item() == pytest.approx(ours.item(), abs=0.01)


def test_the_default_is_adagrad_with_the_prior_on_the_weights():
    """weight_decay is the prior's precision in the units of the loss, whether the plate scales by N/M or not."""
    scaled, plain = make(size=60, batch_size=20), make(size=None, batch_size=20)
    assert isinstance(scaled.engine.optimizer, torch.optim.Adagrad)
    assert scaled.engine.optimizer.defaults["weight_decay"] == pytest.approx(1)
    assert plain.engine.optimizer.defaults["weight_decay"] == pytest.approx(20 / 60)
    assert scaled.engine.optimizer.defaults["fused"]
    list(scaled.run(250))
    list(plain.run(250))
    for name, weight in weights(scaled).items():  # Adagrad does not see a loss's scale, up to its eps of 1e-10
        torch.testing.assert_close(weight, weights(plain)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [None, 60])
def test_the_reported_bound_is_per_datum_whatever_the_scale_and_the_last_batch(size):
    """60 data in batches of 25, 25, 10, with step size zero: the mean over an epoch is the mean over the data."""
    data = binary(60)
    trainer = make(
        size=size,
        estimator=SGVBAnalyticKL(2000, vectorize_particles=True, max_plate_nesting=1),
        report_every=60,
        optimizer=partial(torch.optim.SGD, lr=0.0),
    )
    progress = next(trainer.run(60))
    assert progress.samples_seen == 60
    expected = evidence.bound(trainer.model, trainer.guide, data, num_samples=2000).bound.mean().item()
    assert progress.bound == pytest.approx(expected, abs=0.01)


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
        ({"data": binary(61)}, "another data"),
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


# ---------------------------------------------------------------- any pair


class Vae(torch.nn.Module):
    """Model and guide as methods, as in Pyro's own tutorial, with training switches and a state."""

    def __init__(self):
        super().__init__()
        self.encode = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4))
        self.decode = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 6))

    def model(self, x):
        pyro.module("decode", self.decode)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encode", self.encode)
        mean, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("engine", ["eager", "svi", "captured"])
@pytest.mark.parametrize("closure", [False, True])
def test_methods_and_closures_keep_their_modules_state(engine, closure, tmp_path):
    """Pitfalls 11 and 15: such a pair is evaluated in eval(), and resumes with its running means."""

    def trained(seed=0):
        with aevb.seeded(seed):
            vae = Vae()
        pair = (lambda x: vae.model(x), lambda x: vae.guide(x)) if closure else (vae.model, vae.guide)
        trainer = aevb.Trainer(
            *pair,
            binary(60, dtype=torch.float32),
            SGVB(),
            partial(torch.optim.Adam, lr=1e-2),
            20,
            0,
            engine,
            device="cpu",
        )
        if engine == "captured":
            trainer.engine.compiled = False
        return vae, trainer

    whole, trainer = trained()
    list(trainer.run(600))
    _, first = trained()
    list(first.run(300))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, trainer = trained(seed=1)
    trainer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(trainer.run(300))
    assert_equal(whole.state_dict(), second.state_dict())

    before = {name: value.clone() for name, value in second.state_dict().items()}
    bounds = [evidence.bound(trainer.model, trainer.guide, binary(30, dtype=torch.float32)).bound for _ in range(2)]
    assert torch.equal(*bounds)
    assert_equal(before, second.state_dict())
    assert second.training


def test_an_exception_in_evaluation_leaves_nothing_changed():
    vae = Vae()
    state = torch.get_rng_state()

    def broken(x):
        vae.guide(x)
        raise KeyError("mine")

    try:
        evidence.bound(vae.model, broken, binary(10, dtype=torch.float32))
    except KeyError as error:
        kept = error  # with its frames alive
    assert torch.equal(state, torch.get_rng_state())
    assert vae.training
    assert kept.args == ("mine",)


def test_evaluation_leaves_the_users_store_alone_and_warns_of_initial_values():
    model, guide = paper_pair()
    evidence.bound(model, guide, binary())
    assert len(pyro.get_param_store()) == 0
    with pytest.warns(UserWarning, match="initial values.*param_store"):
        evidence.bound(*hand_written_pair(20), torch.zeros(20, 4))
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("sizes", [(60, None), (None, 60), (60, 30)])
def test_model_and_guide_of_different_sizes_are_refused(sizes):
    """Pitfall 1: one term alone would be rescaled."""
    model, guide = paper_pair(size=sizes[0])
    guide.size = sizes[1]
    with pytest.raises(aevb.InputError, match=r"'z' is scaled by .* give both the same size"):
        aevb.Trainer(model, guide, binary(60), batch_size=20, device="cpu")


def test_a_parameter_that_is_not_contiguous_trains():
    """Pyro's store keeps a copy of it, so that plain SVI would step the copy."""
    model, guide = paper_pair(size=60)
    layer = guide.guide.network[0]
    layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
    before = layer.weight.detach().clone()
    list(aevb.Trainer(model, guide, binary(60), batch_size=20, device="cpu", engine="eager").run(60))
    assert not torch.equal(before, layer.weight)


def test_an_optimizer_that_lacks_parameters_is_refused():
    model, guide = paper_pair(size=60)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(aevb.InputError, match="lacks 4 of the pair's 8 parameters"):
        aevb.Trainer(model, guide, binary(60), optimizer=optimizer, batch_size=20, device="cpu")


@pytest.mark.parametrize("name", ["RenyiELBO", "TraceGraph_ELBO"])
def test_estimators_that_only_svi_can_call(name):
    """Pyro's estimators without ``differentiable_loss`` train with its own engine, and say so with another."""
    from pyro import infer

    estimator = partial(getattr(infer, name), num_particles=2)
    list(make(estimator=estimator(), engine="svi", batch_size=20).run(60))
    with pytest.raises(aevb.InputError, match="engine='svi'"):
        make(estimator=estimator(), engine="eager")


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_a_hand_written_pair_with_pyro_param_and_two_latents(engine, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator) @ torch.randn(2, 4, generator=generator) + 0.1

    def trained(samples):
        trainer = aevb.Trainer(
            *hand_written_pair(200), x, SGVB(), partial(torch.optim.Adam, lr=1e-2), 50, engine=engine, device="cpu"
        )
        return trainer, list(trainer.run(samples))

    trainer, progress = trained(60_000)
    assert progress[-1].bound > progress[0].bound + 0.5
    assert set(trainer.parameters) == {"weight", "sigma", "gain", "scale"}
    assert len(pyro.get_param_store()) == 0  # the user's store is untouched
    with trainer.param_store():
        assert len(pyro.get_param_store()) == 4
        bound = evidence.bound(trainer.model, trainer.guide, x, num_samples=20).bound.mean().item()
        log_px = evidence.importance_sampling(trainer.model, trainer.guide, x, 500).mean().item()
    assert bound == pytest.approx(progress[-1].bound, abs=0.2)
    assert log_px > bound - 0.01

    first, _ = trained(30_000)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, _ = trained(1)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.run(30_000))
    for name, parameter in trainer.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_a_pyro_module_trains():
    from pyro.nn import PyroModule, PyroParam
    from torch.distributions import constraints

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decode = PyroModule[torch.nn.Linear](1, 3)
            self.sigma = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.decode(z.unsqueeze(-1)), self.sigma).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encode = PyroModule[torch.nn.Linear](3, 2)

        def forward(self, x):
            mean, log_scale = self.encode(x).unbind(-1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(mean, log_scale.exp()))

    x = torch.randn(100, 1) * torch.ones(3) + 0.3 * torch.randn(100, 3)
    model, guide = Model(), Guide()
    trainer = aevb.Trainer(model, guide, x, optimizer=partial(torch.optim.Adam, lr=1e-2), batch_size=50, device="cpu")
    before = model.sigma.item()
    bounds = [p.bound for p in trainer.run(50_000)]
    assert bounds[-1] > bounds[0] + 0.5
    assert model.sigma.item() < before - 0.2
    assert len(trainer.parameters) == 5


def test_a_pair_with_two_arguments():

    def model(x, y):
        slope = pyro.param("slope", torch.tensor(0.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * y + 0.1 * z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param("shift", torch.tensor(0.0)) + 0 * x, 1.0))

    y = torch.randn(100)
    trainer = aevb.Trainer(model, guide, (2 * y, y), optimizer=partial(torch.optim.Adam, lr=0.05), device="cpu")
    list(trainer.run(20_000))
    assert trainer.parameters["slope"].item() == pytest.approx(2, abs=0.1)


def test_an_optimizer_instance_is_taken_as_it_is():
    model, guide = paper_pair(size=60)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-2)
    trainer = aevb.Trainer(model, guide, binary(60), optimizer=optimizer, batch_size=20, device="cpu")
    assert trainer.engine.optimizer is optimizer
    list(trainer.run(100))


# ---------------------------------------------------------------- bad input


def test_a_missing_device_is_named():
    missing = "cuda" if not torch.cuda.is_available() else "cuda:99"
    with pytest.raises(aevb.InputError, match=f"device '{missing}' is not on this machine"):
        make(device=missing)
    assert find_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": binary(60)[:0]}, "empty"),
        ({"batch_size": 61}, "between 1 and the 60"),
        ({"batch_size": 0}, "between 1 and the 60"),
        ({"report_every": 0}, "report_every"),
        ({"seed": -1}, "at least 0"),
        ({"device": "meta"}, "meta"),
        ({"optimizer": partial(torch.optim.Adam, lr=-1.0)}, "cannot be made"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"data": binary(60).numpy()}, "torch tensors"),
        ({"data": (binary(60), binary(59))}, "different lengths"),
        ({"engine": "warp"}, "unknown engine"),
        ({"data": torch.full((60, 6), 0.3, dtype=torch.float64)}, "relaxed=True"),
        ({"data": torch.full((60, 6), 1.5, dtype=torch.float64)}, "outside the likelihood's support"),
        ({"data": torch.full((60, 6), float("nan"), dtype=torch.float64)}, "NaN"),
        ({"data": binary(60, data_dim=5)}, "data_dim=6"),
        ({"optimizer": pyro.optim.Adam({}), "engine": "eager"}, "engine='svi'"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(aevb.InputError, match=message):
        make(**options)


def test_one_bad_row_is_found_wherever_it_lies():
    data = binary(60)
    data[57, 3] = 0.5
    with pytest.raises(aevb.InputError, match="row 57"):
        make(data=data)


def test_a_pair_without_parameters_is_refused():

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(aevb.InputError, match="parameter"):
        aevb.Trainer(model, guide, torch.zeros(10), batch_size=5, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_cuda_trains_and_resumes(engine, tmp_path):
    whole = make(device="cuda", engine=engine)
    list(whole.run(600))
    first = make(device="cuda", engine=engine)
    list(first.run(300))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make(device="cuda", engine=engine)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.run(600 - first.samples_seen))
    assert_equal(weights(whole), weights(second))
    assert evidence.bound(second.model, second.guide, binary()).bound.device.type == "cuda"
