"""The process's own settings, which one part must not change for all other code."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch

from pyro_aevb.seeds import seeded
from pyro_aevb.testing.case import Case, require

__all__ = ["check", "nothing_global_touched", "require_unseeded"]


def _put_back_device(device: str) -> None:
    """Make a device torch's default again, with ``None`` for the processor, as torch begins."""
    torch.set_default_device(None if device == "cpu" else device)  # undoes what a part under test has set


# The package sets no global state. What a stranger's part under test has set is put back, by these setters and with
# what their getters told before: one part that sets the default dtype would spoil the tests of all that come after it.
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),  # undoes what the part set
    "torch's default device": (
        lambda: torch.empty(0).device.type,
        _put_back_device,
    ),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's precision of float32 products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch's choice of deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "Pyro's validation": (pyro.infer.is_validation_enabled, pyro.enable_validation),
    "Python's random state": (random.getstate, random.setstate),
    "NumPy's random state": (
        # As text: two of NumPy's own states, which hold arrays, cannot be told apart by ==.
        lambda: json.dumps(np.random.get_state(legacy=False), default=np.ndarray.tolist),
        lambda state: np.random.set_state(json.loads(state)),
    ),
}
"""What one part must not change for all others: by its name, how it is read and how it is set."""


@contextmanager
def _put_back() -> Iterator[None]:
    before = {name: read() for name, (read, _) in _SETTINGS.items()}
    try:
        yield
    finally:
        for name, (read, write) in _SETTINGS.items():
            if read() != before[name]:
                write(before[name])


@contextmanager
def nothing_global_touched(name: str) -> Iterator[None]:
    """Require of a block that every setting, and what Pyro's parameter store holds, is afterwards as it was before."""
    store = pyro.get_param_store()
    before = {setting: read() for setting, (read, _) in _SETTINGS.items()}
    stored = set(store.keys())
    yield
    for setting, (read, _) in _SETTINGS.items():
        is_now = read()
        states = "" if "state" in setting else f" from {before[setting]} to {is_now}"
        require(
            is_now == before[setting],
            f"{name} changes {setting}{states}, for all other code of the process: leave it alone"
            + (", and draw from torch's generator" if "state" in setting else ""),
        )
    new = sorted(set(store.keys()) - stored)
    require(
        not new,
        f"{name} puts {', '.join(map(repr, new))} into Pyro's parameter store, which all models share: make each a "
        "torch.nn.Parameter of its own",
    )


def require_unseeded(name: str, run: Callable[[], Any]) -> None:
    """Require that torch's generator goes on from where it was: two states before give two states after."""
    states = []
    for seed in (1, 2):
        with seeded(seed):
            run()
            states.append(torch.get_rng_state())
    require(
        not torch.equal(*states),
        f"{name} seeds torch's global generator, so that all draws after it are the same each time: do not seed",
    )


def check(case: Case, *rules: Callable[[Case], None]) -> None:
    """All rules in their order, at a seed, with the process's state put back afterwards."""
    store = pyro.get_param_store()
    with _put_back(), seeded(0), store.scope({"params": {}, "constraints": {}}), pyro.validation_enabled(True):
        for rule in rules:
            rule(case)
