"""Settings of the processor are part of a training: saved, gone on with; and those that are named win."""

import logging
from functools import partial

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import hardware
from pyro_aevb.hardware import Settings, settings_of_state
from pyro_aevb.states import sealed
from tests.trainings import assert_equal, make, weights

TWO = Settings("highest", 2)
ONE = Settings("highest", 1)
CPU = torch.device("cpu")


def wide(settings=None, seed=0):
    """Products large enough that torch splits their sums among threads."""
    with aevb.seeded(0):
        likelihood = aevb.likelihoods.Bernoulli(10, 784, hidden=[300])
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(10), likelihood, 400)
        guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(784, 10, hidden=[300]), 400)
    data = (torch.rand(400, 784, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    optimizer = partial(torch.optim.Adam, lr=1e-3)
    return aevb.Trainer(
        model, guide, data, optimizer=optimizer, batch_size=100, seed=seed, device="cpu", settings=settings
    )


@pytest.mark.parametrize("settings", [ONE, TWO])
def test_equal_seeds_give_equal_bytes_whatever_threads_the_process_has(settings):
    ended = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            trainer = wide(settings)
            list(trainer.run(2000))
            assert torch.get_num_threads() == threads
            ended.append(weights(trainer))
    finally:
        torch.set_num_threads(before)
    for other in ended[1:]:
        assert_equal(ended[0], other)


def test_a_resumed_training_goes_on_with_the_settings_of_its_state():
    whole = wide(TWO)
    list(whole.run(2000))
    first = wide(TWO)
    list(first.run(1000))
    state = first.state_dict()
    second = wide()
    second.load_state_dict(state)
    assert second.settings == TWO
    list(second.run(1000))
    assert_equal(weights(whole), weights(second))
    named = wide(ONE)
    named.load_state_dict(state)
    assert named.settings == ONE


def test_settings_of_another_kind_of_machine_are_not_taken(caplog, monkeypatch):
    own = Settings("highest", 1)
    saved = {"matmul": "highest", "threads": 3, "lossy": False, "device": "cpu"}
    assert settings_of_state(saved, own, CPU) == Settings("highest", 3)
    assert settings_of_state({**saved, "device": "cuda"}, own, CPU) == own
    with caplog.at_level(logging.WARNING):
        assert settings_of_state({**saved, "lossy": True}, own, CPU) == own
        monkeypatch.setattr(hardware, "_relative_error", lambda *_: 1e-3)  # a processor that computes in bfloat16
        assert settings_of_state({**saved, "matmul": "medium"}, own, CPU) == own
    assert caplog.text.count("rounds otherwise") == 2


def test_a_refused_state_changes_nothing():
    """Neither the weights, which come first, nor anything after them."""
    trainer = make(engine="eager", batch_size=20)
    other = make(engine="eager", batch_size=20, weights=1)
    list(trainer.run(100))
    list(other.run(300))
    before = trainer.state_dict()
    state = other.state_dict()
    del state["modules"]["guide"]["guide.network.0.bias"]
    with pytest.raises(aevb.InputError, match="another model, guide or optimizer"):
        trainer.load_state_dict(sealed(state))
    assert trainer.state_dict()["digest"] == before["digest"]
