"""Settings of the processor: put back always, lossy only where asked."""

import time

import pytest
import torch

from pyro_aevb import InputError, hardware
from pyro_aevb.hardware import Settings, find_settings
from tests.trainings import make

CPU = torch.device("cpu")


def state():
    return torch.get_float32_matmul_precision(), torch.get_num_threads(), hardware._flushes_denormals()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matmul": "foo", "threads": 1}, "unknown matmul 'foo'"),
        ({"matmul": "high", "threads": 0}, "threads must be between 1"),
        ({"matmul": "high", "threads": 1, "lossy": "no"}, "lossy must be True or False"),
    ],
)
def test_settings_that_no_processor_has_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Settings(**options)


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
def test_what_is_chosen_is_float32(size):
    found = find_settings(size, CPU, "float32")
    assert not found.lossy
    a, b = torch.randn(size[:2]), torch.randn(size[1:])
    with found.applied():
        product = a @ b
    assert ((product - a.double() @ b.double()).norm() / (a.double() @ b.double()).norm()).item() < 2e-6


@pytest.mark.parametrize("amd", [False, True])
def test_a_lossy_path_is_never_taken_unasked(monkeypatch, amd):
    monkeypatch.setattr(hardware, "_relative_error", lambda matmul, product: 3e-3)  # as of bfloat16 units
    monkeypatch.setattr(hardware, "_is_amd", lambda: amd)
    assert find_settings((100, 784, 500), CPU, "float32").matmul == torch.get_float32_matmul_precision()
    for precision in ("bfloat16", "auto"):
        found = find_settings((100, 784, 500), CPU, precision)
        assert (found.matmul, found.lossy) == ("medium", True)


def test_the_processors_make_chooses_the_product(monkeypatch):
    monkeypatch.setattr(hardware, "_relative_error", lambda matmul, product: 3e-7)
    for amd, matmul in ((True, "medium"), (False, torch.get_float32_matmul_precision())):
        monkeypatch.setattr(hardware, "_is_amd", lambda amd=amd: amd)
        assert find_settings((100, 784, 500), CPU, "float32").matmul == matmul


def test_small_products_get_fewer_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    sizes = ((20, 1, 20), (100, 20, 100), (100, 100, 100), (100, 100, 200), (100, 784, 500))
    assert [find_settings(size, CPU, "float32").threads for size in sizes] == [1, 1, 2, 4, 8]


def test_the_clock_has_no_say(monkeypatch):
    """A probe by time gave eight equal trainers threads 1, 2, 2, 2, 2, 2, 2, 1, and two different results."""

    def looked(*args):
        raise AssertionError("looked at a clock")

    for clock in ("time", "perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(time, clock, looked)
    assert len({find_settings((100, 784, 500), CPU, "float32") for _ in range(3)}) == 1


def test_no_product_and_an_unknown_precision():
    assert find_settings(None, CPU, "float32") == Settings(*state()[:2])
    with pytest.raises(InputError, match="unknown precision"):
        find_settings(None, CPU, "half")
