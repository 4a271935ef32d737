"""Which modules take part in a pair: found by running it once, without a trace of that run."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import nn

from pyro_aevb.data.given import precisions
from pyro_aevb.errors import REFUSALS, InputError, in_one_line
from pyro_aevb.pairs import Pair, modules_named_by, parts_that_ran, precision_of, without_a_trace
from pyro_aevb.seeds import unchanged_random_state

__all__ = ["device_of", "modules_of", "moved_parts", "refused_in_one_line", "untouched"]


def modules_of(model: Pair, guide: Pair, args: tuple[Any, ...]) -> dict[str, nn.Module]:
    """The modules that take part when a pair runs, by names that are the same in every process.

    The run changes nothing: noise, parameter store, buffers and training switches are afterwards what they were.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first.
    """
    with untouched(args), torch.no_grad(), pyro.validation_enabled(False):  # data are looked at by others
        with without_a_trace() as of_guide:
            guide_trace = poutine.trace(guide).get_trace(*args)
        with without_a_trace() as of_model:
            poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    ran = {"model": list(of_model.values()), "guide": list(of_guide.values())}
    return parts_that_ran(model, guide, ran)


def moved_parts(model: Pair, guide: Pair, args: tuple[Any, ...], device: torch.device) -> dict[str, nn.Module]:
    """The modules that take part, moved to a device; the run that finds them is where their weights are now.

    Arguments:
        model: The model, any Pyro function.
        guide: Its guide.
        args: Arguments of both, batch first, on any device.
        device: Where the modules are moved.

    Returns:
        The modules, by names that are the same in every process.

    Raises:
        InputError: If the pair cannot be run on these data.
    """
    named = modules_named_by(model, guide).values()
    here = next((p.device for module in named for p in module.parameters()), device)
    there = tuple(arg.to(here) if isinstance(arg, torch.Tensor) else arg for arg in args)
    with refused_in_one_line("the first run of model and guide failed", args, model, guide):
        modules = modules_of(model, guide, there)
    for module in modules.values():
        module.to(device)
    return modules


@contextmanager
def refused_in_one_line(what: str, args: tuple[Any, ...], model: Pair, guide: Pair) -> Iterator[None]:
    """A block whose errors, where a pair does not fit its data, are raised as an ``InputError`` of one line.

    Arguments:
        what: Beginning of the message, which says what has failed.
        args: The pair's arguments, whose precision the message tells where it differs from the weights'.
        model: The model.
        guide: Its guide.

    Raises:
        InputError: In place of what torch or Pyro raise, which is its cause.
    """
    try:
        yield
    except InputError:
        raise
    except REFUSALS as error:
        reason = f"{type(error).__name__}: {in_one_line(error)}{precisions(args, precision_of(model, guide))}"
        raise InputError(f"{what}: {reason}") from error


def untouched(args: tuple[Any, ...]) -> ExitStack:
    """A block whose noise, parameters and sites nobody outside hears of."""
    stack = ExitStack()
    store = pyro.get_param_store()
    stack.enter_context(unchanged_random_state(device_of(args)))
    stack.callback(random.setstate, random.getstate())
    stack.callback(np.random.set_state, np.random.get_state())  # put back, whatever the pair draws from
    stack.enter_context(store.scope(store.get_state()))
    stack.enter_context(poutine.block())
    return stack


def device_of(args: tuple[Any, ...]) -> torch.device:
    """Where the first tensor among arguments lies; the CPU where there is none."""
    return next((arg.device for arg in args if isinstance(arg, torch.Tensor)), torch.device("cpu"))
