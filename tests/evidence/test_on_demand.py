"""Data that are not in memory are evaluated a block at a time, with the numbers of the same data in memory."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import TensorDataset

import pyro_aevb as aevb
from pyro_aevb import diagnostics, evidence
from pyro_aevb.data import mapped
from pyro_aevb.data.mapped import Mapped
from pyro_aevb.data.sets import DynamicBinarization
from pyro_aevb.data.streamed import Streamed
from pyro_aevb.estimators import SGVB
from tests.everything import evaluators
from tests.pairs import binary, paper_pair, plate


def stored(tmp_path, array, mode="r"):
    np.save(tmp_path / "x.npy", array)
    return np.load(tmp_path / "x.npy", mmap_mode=mode)


KINDS = {
    "file": lambda array, x: array,
    "part": lambda array, x: Mapped(array).chosen(torch.arange(len(x))),
    "streamed": lambda array, x: Streamed(TensorDataset(x), workers=0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:evaluated at initial values")
def test_every_evaluator_gives_the_same(tmp_path, kind):
    model, guide = paper_pair(size=None)
    x = binary(230)  # three blocks
    data = KINDS[kind](stored(tmp_path, x.numpy()), x)
    expected = evaluators(model, guide, (x,))
    for name, found in evaluators(model, guide, (data,)).items():
        if isinstance(found, torch.Tensor):
            assert torch.equal(found, expected[name]), name
        else:
            assert str(found) == str(expected[name]), name
    assert str(diagnostics.aggregate_posterior(model, guide, data, 2)) == str(
        diagnostics.aggregate_posterior(model, guide, x, 2)
    )


def test_the_precision_is_the_pairs_block_by_block(tmp_path):
    model, guide = paper_pair(size=None)  # of float64
    x = binary(230, dtype=torch.float32)
    for array in (x.numpy(), x.numpy().astype(">f4"), x.numpy().astype("f2")):
        found = evidence.bound(model, guide, stored(tmp_path, array), 3).bound
        assert torch.equal(found, evidence.bound(model, guide, x.double(), 3).bound)


def test_what_is_kept_of_data_in_memory_is_taken_up_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "SPAN_BYTES", 1000)
    model, guide = paper_pair(size=None)
    x = binary(230)
    first = evidence.importance_weights(model, guide, x, 10, keep=tmp_path / "kept.pt")
    again = evidence.importance_weights(model, guide, stored(tmp_path, x.numpy()), 10, keep=tmp_path / "kept.pt")
    assert torch.equal(first[0], again[0])
    x[229, 0] = 1 - x[229, 0]
    with pytest.raises(aevb.InputError, match="other data"):
        evidence.importance_weights(model, guide, stored(tmp_path, x.numpy()), 10, keep=tmp_path / "kept.pt")


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_pair_that_writes_to_its_data_does_not_write_to_the_file(tmp_path, mode):
    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 3), 1.0).to_event(1), obs=x)

    def guide(x):
        x.clamp_(-1, 1)
        with plate(x):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(1)) + x[:, :1], 1.0).to_event(1))

    values = 3 * np.random.default_rng(0).normal(size=(230, 3)).astype(np.float32)
    array = stored(tmp_path, values, mode)
    trainer = aevb.Trainer(model, guide, array, SGVB(), batch_size=50, engine="eager", device="cpu")
    list(trainer.run(230))
    with trainer.param_store():
        assert math.isfinite(evidence.bound(model, guide, array).bound.mean())
    assert np.array_equal(array, values)
    assert np.array_equal(np.load(tmp_path / "x.npy"), values)


@pytest.mark.parametrize("row", [0, 99, 100, 229])
def test_a_datum_outside_the_support_is_named_in_whatever_block(tmp_path, monkeypatch, row):
    monkeypatch.setattr(mapped, "SPAN_BYTES", 1000)
    x = binary(230)
    x[row, 3] = 7
    model, guide = paper_pair(size=None)
    for data in (x, stored(tmp_path, x.numpy()), Streamed(TensorDataset(x), workers=0)):
        with pytest.raises(aevb.InputError, match=f"data row {row} lies outside"):
            evidence.bound(model, guide, data)
        with pytest.raises(aevb.InputError, match=f"data row {row} lies outside"):
            aevb.Trainer(model, guide, data, SGVB(), batch_size=100, device="cpu")


def test_a_check_that_is_switched_off_warns_once(monkeypatch):
    """However many blocks the data are looked at in."""

    def model(x):
        with plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1).to_event(1))
            outside = dist.Bernoulli(logits=z.expand(*z.shape[:-1], 3), validate_args=False)
            pyro.sample("x", outside.to_event(1), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(1)) + x[:, :1], 1.0).to_event(1))

    monkeypatch.setattr(mapped, "SPAN_BYTES", 100)
    with pytest.warns(UserWarning, match="outside its support") as told:
        aevb.Trainer(model, guide, 2 * torch.ones(230, 3), SGVB(), batch_size=50, device="cpu")
    assert len([each for each in told if "outside its support" in str(each.message)]) == 1


def test_grey_values_that_are_binarised_anew_are_refused(tmp_path):
    grey = DynamicBinarization(stored(tmp_path, torch.rand(20, 6).double().numpy()))
    with pytest.raises(aevb.InputError, match="one fixed draw"):
        evidence.bound(*paper_pair(size=None), grey)
    assert math.isfinite(evidence.bound(*paper_pair(size=None), grey.fixed(0)).bound.mean())
