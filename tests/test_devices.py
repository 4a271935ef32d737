"""The whole library on each device: the same test on the CPU and, where there is one, on a GPU."""

import multiprocessing
from functools import partial

import numpy as np
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import MonteCarloEM, evidence
from pyro_aevb.bayesian import bayesian, marginal_likelihood_bound, predictive_log_likelihood
from pyro_aevb.data.batches import Batches
from pyro_aevb.data.streamed import Streamed
from tests.pairs import LinearGaussian, binary, paper_pair
from tests.trainings import make, weights

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]
ENGINES = {"cpu": "eager", "cuda": "captured"}  # what is captured on a CPU has tests of its own
STEP = 2**-6  # a float32 number, as a CUDA graph has it


def linear_gaussian(device):
    pair = LinearGaussian(shift=0.2, widen=1.2)
    return pair.model.to(device), pair.guide.to(device), pair.x.to(device), pair.log_evidence.to(device)


@pytest.mark.parametrize("device", DEVICES)
def test_evidence_is_the_closed_form(device):
    """One of 37 misses by more than 5 standard errors with a chance of 2e-5; the noise is seeded."""
    model, guide, x, exact = linear_gaussian(device)
    sums = evidence.importance_weights(model, guide, x, num_samples=2000)
    assert ((sums.log_likelihood - exact).abs() < 5 * sums.standard_error).all()
    assert sums.log_likelihood.device.type == device
    annealed = evidence.annealed_importance_sampling(model, guide, x, steps=60, chains=16)
    assert (annealed.log_likelihood - exact).abs().mean() < 0.15
    assert evidence.bound(model, guide, x, 200).bound.mean() < exact.mean()


@pytest.mark.parametrize("device", DEVICES)
def test_appendix_d_runs_where_the_data_are(device):
    model, _, x, exact = linear_gaussian(device)
    found = evidence.appendix_d(model, x, seed=1)
    assert found.log_likelihood.device.type == device
    assert (found.log_likelihood - exact).abs().median() < 1.0


@gpu
@pytest.mark.parametrize("guide", ["Flow", "Mixture", "FullCovarianceNormal"])
def test_other_guides_are_captured_as_they_are(guide):
    def trained(engine):
        with aevb.seeded(0):
            model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 6, hidden=8), 60)
            family = getattr(aevb.guides, guide)
            own = aevb.RecognitionModel(family(6, 2, hidden=8), 60)
        options = {"optimizer": partial(torch.optim.Adam, lr=STEP), "batch_size": 20, "device": "cuda"}
        trainer = aevb.Trainer(
            model.double(), own.double(), binary(60), aevb.estimators.SGVB(2), engine=engine, **options
        )
        return trainer, list(trainer.run(900))[-1].bound

    (captured, bound), (_, expected) = trained("captured"), trained("eager")
    assert any(captured.engine.gradients.kept.recordings.values()), "nothing was recorded"
    assert bound == pytest.approx(expected, rel=1e-9)


@gpu
def test_monte_carlo_em_is_captured_as_it_is():
    def trained(engine):
        with aevb.seeded(0):
            model, _ = paper_pair(size=60)
        optimizer = partial(aevb.optimizers.Adagrad, lr=STEP, warm_up=0)
        em = MonteCarloEM(model, binary(60), optimizer, batch_size=20, engine=engine, device="cuda", report_every=60)
        log_joint = list(em.run(600))[-1].log_joint
        assert engine == "eager" or all(em.recorded.kept.recordings.values()), "nothing was recorded"
        return log_joint

    assert trained("captured") == pytest.approx(trained("eager"), rel=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_full_variational_bayes(device):
    with aevb.seeded(0):
        model, guide = paper_pair(size=60)
    model, guide = bayesian(model, guide)
    trainer = aevb.Trainer(
        model, guide, binary(60), batch_size=20, engine=ENGINES[device], device=device, report_every=600
    )
    first, *_, last = trainer.run(6000)
    assert last.bound > first.bound
    x = binary(60).to(device)
    found = marginal_likelihood_bound(model, guide, x)
    assert -20 * len(x) < found.bound < 0
    assert predictive_log_likelihood(model, guide, x, 3, 20).device.type == device


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_goes_on_on_the_cpu(device, tmp_path):
    """Data, order and weights are the same everywhere; the noise of a device is its own."""
    first = make(device=device, batch_size=20)
    list(first.run(300))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
    second = make(batch_size=20)
    second.load_state_dict(state)
    for name, weight in weights(first).items():
        assert torch.equal(weight.cpu(), weights(second)[name]), name
    assert list(second.run(300))[-1].samples_seen == 600


@gpu
def test_binarisation_is_the_cpus():
    grey = torch.rand(50, 7, generator=torch.Generator().manual_seed(0))
    data = aevb.data.DynamicBinarization(grey)
    batches, expected = (Batches(data, 20, 0, torch.device(d)) for d in ("cuda", "cpu"))
    for step in range(6):
        assert torch.equal(batches[step][0].cpu(), expected[step][0])


@gpu
@pytest.mark.parametrize("engine", ["eager", "captured"])
@pytest.mark.parametrize("kind", ["file", "streamed", "no workers"])
def test_data_that_are_not_on_the_gpu(tmp_path, engine, kind):
    """A mapped file is fetched by workers; what comes through pinned memory is what lies on the GPU."""
    x = binary(60)
    np.save(tmp_path / "x.npy", x.numpy())
    data = {
        "file": lambda: np.load(tmp_path / "x.npy", mmap_mode="r"),
        "streamed": lambda: Streamed(x, workers=2),
        "no workers": lambda: Streamed(x, workers=0),
    }[kind]()
    runs = [make(data=given, device="cuda", engine=engine, batch_size=25) for given in (data, x)]
    for run in runs:
        list(run.run(2000))
    assert runs[0].batches.is_fetched
    assert not runs[1].batches.is_fetched
    for name, weight in weights(runs[0]).items():
        torch.testing.assert_close(weight, weights(runs[1])[name], rtol=1e-9, atol=1e-12)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_the_command_line(device, cli):
    where = f"--device={device}"
    options = (
        "--data=digits",
        "--latent_dim=2",
        "--hidden=32",
        "--samples=4e3",
        f"--engine={ENGINES[device]}",
        "--out=run",
    )
    for words in (
        ("train", *options, where),
        ("train", "--resume=run", "--samples=6000", where),
        ("evaluate", "run", "--num_samples=50", "--count=20", where),
        ("sample", "run", "--count=4", where),
        ("plot", "run", where),
        ("diagnose", "run", where),
    ):
        code, _, error = cli(*words)
        assert code == 0, (words, error)
