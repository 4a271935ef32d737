"""Trainer: engines, resumption, isolation, devices, bad pairs."""

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO, TraceMeanField_ELBO

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.estimators import SGVB, SGVBAnalyticKL
from pyro_aevb.hardware import find_device
from pyro_aevb.seeds import GlobalNoise, derive
from tests.pairs import binary, paper_pair
from tests.trainings import assert_equal, make, weights

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
    assert trainer.engine.name == "svi"
    model, guide = copy.deepcopy((trainer.model, trainer.guide))
    batches = [trainer.batches[step] for step in range(6)]
    list(trainer.run(120))

    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    noise = GlobalNoise(derive(0, "noise"))
    with noise.swapped_in():
        for batch in batches:
            svi.step(*batch)
    assert_equal(model.state_dict(), trainer.model.state_dict())
    assert_equal(guide.state_dict(), trainer.guide.state_dict())


def test_a_pyro_optimizer_means_svi():
    assert make(optimizer=pyro.optim.Adam({"lr": 1e-2})).engine.name == "svi"


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
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"report_every": 0}, "report_every"),
        ({"seed": -1}, "at least 0"),
        ({"device": "meta"}, "meta"),
        ({"optimizer": partial(torch.optim.Adam, lr=-1.0)}, "cannot be made"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS"),
        ({"data": "digits"}, "torch tensors"),
        ({"data": list(binary(60))}, r"a list: give one tensor, torch.stack"),
        ({"data": binary(60).to_sparse()}, "to_dense"),
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
@pytest.mark.parametrize("engine", ["captured", "eager", "svi"])
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


def test_the_first_step_is_validated_whatever_the_setting():
    """With validation off, a value of shape (20,) against a distribution of shape (20, 1) broadcasts to (20, 20)."""
    weight = torch.nn.Parameter(torch.zeros(1))

    def model(x):
        pyro.param("weight", weight)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((weight * z).unsqueeze(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pyro.validation_enabled(False), pytest.raises(aevb.InputError, match="first run of model and guide failed"):
        aevb.Trainer(model, guide, torch.zeros(20), batch_size=20, device="cpu")
    with pyro.validation_enabled(False):
        make()
        assert not pyro.infer.is_validation_enabled()


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_a_non_finite_loss_names_the_step(engine):
    trainer = make(engine=engine, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.0))
    list(trainer.run(100))
    with torch.no_grad():
        trainer.guide.guide.network[0].bias[0] = float("nan")
    with pytest.raises(aevb.NonFiniteLossError, match=r"at step 6; \d parameters are no longer finite"):
        list(trainer.run(100))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_row_of_a_nan_is_that_of_the_data_whatever_the_order_of_minibatches(seed):
    x = torch.rand(200, 4)
    x[[3, 150], 0] = float("nan")
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Gaussian(2, 4, hidden=5), 200)
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(4, 2, hidden=5), 200)
    with pytest.raises(aevb.InputError, match=r"in row (3|150) first"):
        aevb.Trainer(model, guide, x, seed=seed, batch_size=50)
