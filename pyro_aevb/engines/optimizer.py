"""One optimizer of ``torch.optim`` over all parameters: made as quick as it can be, and its saved states."""

from functools import partial
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_aevb.engines.around import Around
from pyro_aevb.engines.base import MakeOptimizer
from pyro_aevb.errors import InputError, in_one_line, instance, maker
from pyro_aevb.states import COMPUTED_BY, check_optimizer

__all__ = ["OneOptimizer", "check_optimizer_like", "completed", "load_optimizer_state", "make_optimizer"]

KEPT = {"schedule": ("a scheduler", "scheduler"), "averages": ("averages of weights", "averaging")}
"""What a state may hold beside the optimizer's own, in words, and the option that it comes from."""


class OneOptimizer:
    """One optimizer over all parameters, and its saved states.

    Arguments:
        optimizer: A callable that makes an optimizer of parameters, or an optimizer.
        parameters: Parameters that the optimizer steps.

    Raises:
        InputError: As :func:`make_optimizer`.
    """

    around: Around = Around()
    """What stands around its step."""

    def __init__(self, optimizer: MakeOptimizer | torch.optim.Optimizer, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self.optimizer = make_optimizer(optimizer, parameters)

    def update(self) -> None:
        """Take a step by the gradients that are there, and all that stands around it."""
        self.around.before(self.parameters)
        self.optimizer.step()
        self.around.after()
        self.around.count()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own, and that of what stands around its step under names of its own."""
        return {**self.optimizer.state_dict(), **{n: each.state_dict() for n, each in self.around.kept().items()}}

    def check_state(self, state: Any, stepped: bool) -> None:
        """Against what the optimizer would have, after steps or before the first."""
        kept = self.around.kept()
        for name, (saved, option) in KEPT.items():
            if (name in state) != (name in kept):
                begun, here = ("with", "without") if name in state else ("without", "with")
                raise InputError(f"the saved run was trained {begun} {saved}, and this is {here}: give {option} alike")
        for name, each in kept.items():
            each.check_state(state[name])
        check_optimizer(_own(state), self.optimizer, stepped)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Into the optimizer, and into what stands around its step."""
        load_optimizer_state(self.optimizer, _own(state))
        for name, each in self.around.kept().items():
            each.load_state_dict(state[name])


def _own(state: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's part of a state."""
    return {key: value for key, value in state.items() if key not in KEPT}


def check_optimizer_like(optimizer: Any) -> None:
    """See that it is an optimizer, or makes one.

    Raises:
        InputError: If it is something else, the name of an optimizer say.
    """
    if not (optimizer is None or isinstance(optimizer, torch.optim.Optimizer | PyroOptim)):
        maker("optimizer", optimizer, "give partial(torch.optim.Adam, lr=1e-3), say")


def make_optimizer(optimizer: MakeOptimizer | torch.optim.Optimizer, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """One optimizer over all parameters, with ``fused=True`` where it takes that and nothing else was asked.

    On a GPU with ``capturable=True`` where it takes that instead; there one more is made, of a parameter of no meaning,
    to see that it steps.

    Raises:
        InputError: If there is nothing to train, an optimizer lacks a parameter, or its settings are refused.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        return _check_complete(optimizer, parameters)
    if not parameters:
        raise InputError("neither model nor guide has a parameter: register them with pyro.param or as nn.Module")
    try:
        return instance("what optimizer makes", _make_fused(optimizer, parameters), torch.optim.Optimizer)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"the optimizer cannot be made: {in_one_line(error)}") from error


def _make_fused(optimizer: MakeOptimizer, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if isinstance(optimizer, partial) and optimizer.keywords.get("fused") is not None:
        return optimizer(parameters)
    on_gpu = parameters[0].device.type == "cuda"
    for option in ["fused"] + ["capturable"] * on_gpu:  # the latter keeps the state where a CUDA graph needs it
        try:
            if on_gpu:
                _try_a_step(optimizer, parameters[0], option)
            return optimizer(parameters, **{option: True})
        except (TypeError, ValueError, RuntimeError):  # no such argument, or not on this device or dtype
            continue
    return optimizer(parameters)


def _try_a_step(optimizer: MakeOptimizer, like: Tensor, option: str) -> None:
    """Step a parameter without meaning: torch 2.11's Adagrad takes ``fused`` on a GPU and refuses at its first step."""
    nothing = torch.zeros(1, dtype=like.dtype, device=like.device, requires_grad=True)
    nothing.grad = torch.zeros_like(nothing)
    optimizer([nothing], **{option: True}).step()


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """A saved state, of a run on any device: how steps are computed stays as it is here.

    Raises:
        ValueError: If it is another optimizer's.
    """
    optimizer.load_state_dict(completed(state, optimizer))
    # torch brings all to a parameter's precision: NAdam's product of momenta, float32, was another after that.
    for index, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        for name, saved in state["state"].get(index, {}).items():
            if isinstance(saved, Tensor) and name != "step" and saved.dtype != optimizer.state[p][name].dtype:
                optimizer.state[p][name] = saved.to(optimizer.state[p][name].device)


def completed(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved state with the settings that it lacks, such as those of another version of torch.

    Raises:
        ValueError: If it is another optimizer's.
    """
    if len(state["param_groups"]) != len(optimizer.param_groups):
        return state  # which the optimizer refuses itself
    groups = []
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        own = {key: value for key, value in group.items() if key != "params"}
        # Of another version of torch one of these may hold, of another optimizer both do.
        if (unknown := saved.keys() - own.keys() - {"params"}) and (missing := own.keys() - saved.keys()):
            raise ValueError(f"saved by another optimizer: it has {sorted(unknown)} and lacks {sorted(missing)}")
        settings = {key: own[key] for key in optimizer.defaults}  # what counts steps, the optimizer completes itself
        groups.append({**settings, **saved, **{key: own[key] for key in COMPUTED_BY if key in own}})
    return {**state, "param_groups": groups}


def _check_complete(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> torch.optim.Optimizer:
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if missing := sum(id(p) not in stepped for p in parameters):
        raise InputError(
            f"the optimizer lacks {missing} of the pair's {len(parameters)} parameters, which would not train: "
            "give Trainer a callable that makes the optimizer, or freeze them with requires_grad_(False)"
        )
    return optimizer
