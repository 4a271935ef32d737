"""Settings of the processor: put back always, lossy only where asked."""

import pytest
import torch

from pyro_aevb import InputError, hardware
from pyro_aevb.hardware import Settings, find_settings
from tests.trainings import make

CPU = torch.device("cpu")


def state():
    return torch.get_float32_matmul_precision(), torch.get_num_threads(), hardware._flushes_denormals()


def test_settings_hold_inside_and_are_put_back_after_an_exception():
    before = state()
    with Settings("medium", 1).applied():
        assert state() == ("medium", 1, True)
    assert state() == before

    def interrupted():
        with Settings("medium", 1).applied():
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert state() == before


@pytest.mark.parametrize("flushing", [False, True])
def test_the_callers_flushing_is_put_back(flushing):
    torch.set_flush_denormal(flushing)
    try:
        with Settings("highest", 1).applied():
            pass
        assert hardware._flushes_denormals() == flushing
    finally:
        torch.set_flush_denormal(False)


def test_training_leaves_the_process_as_it_was():
    before = state()
    list(make().run(100))
    assert state() == before


@pytest.mark.parametrize("size", [(100, 784, 500), (100, 64, 20)])
def test_what_the_probe_takes_is_float32(size):
    found = find_settings(size, CPU, "float32")
    assert not found.lossy
    a, b = hardware._operands(size)
    with found.applied():
        product = a @ b
    assert ((product - a.double() @ b.double()).norm() / (a.double() @ b.double()).norm()).item() < 2e-6


def bfloat16_machine(monkeypatch):
    """As on a processor with bfloat16 units: the medium product is lossy, and ten times as fast."""
    monkeypatch.setattr(hardware, "_relative_error", lambda matmul, a, b: 3e-3)
    monkeypatch.setattr(hardware, "_seconds", lambda settings, a, b: 0.1 if settings.matmul == "medium" else 1.0)


def test_a_lossy_path_is_never_taken_unasked(monkeypatch):
    bfloat16_machine(monkeypatch)
    assert find_settings((100, 784, 500), CPU, "float32").matmul == torch.get_float32_matmul_precision()
    for precision in ("bfloat16", "auto"):
        found = find_settings((100, 784, 500), CPU, precision)
        assert (found.matmul, found.lossy) == ("medium", True)


def test_another_setting_must_win_clearly(monkeypatch):
    monkeypatch.setattr(hardware, "_seconds", lambda settings, a, b: 0.9 if settings.matmul == "medium" else 1.0)
    assert find_settings((100, 784, 500), CPU, "float32") == Settings(*state()[:2])


def test_no_product_and_an_unknown_precision():
    assert find_settings(None, CPU, "float32") == Settings(*state()[:2])
    with pytest.raises(InputError, match="unknown precision"):
        find_settings(None, CPU, "half")
