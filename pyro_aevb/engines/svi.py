"""Steps by ``pyro.infer.SVI`` itself, the reference."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.base import Objective, OptimizerLike
from pyro_aevb.engines.optimizer import completed
from pyro_aevb.errors import InputError
from pyro_aevb.pyro_internals import made_by
from pyro_aevb.states import check_optimizer, check_setting

__all__ = ["SVIEngine"]


class Made(NamedTuple):
    """An optimizer of one tensor, and the schedule of its step size if it has one."""

    optimizer: torch.optim.Optimizer
    schedule: Any


class SVIEngine:
    """``pyro.infer.SVI`` itself, the reference: one optimizer per tensor, validation as the caller has it.

    Arguments:
        objective: Loss of the pair on a minibatch, which a step descends.
        optimizer: One of ``pyro.optim``, or a callable that makes a ``torch.optim`` optimizer of parameters.

    Raises:
        InputError: If Pyro would step other tensors than the pair's parameters.
    """

    name = "svi"
    steps_at_once = 1
    updating = False

    def __init__(self, objective: Objective, optimizer: OptimizerLike) -> None:
        if isinstance(optimizer, torch.optim.Optimizer):
            raise InputError("engine='svi' makes an optimizer per tensor: give it one of pyro.optim, or a callable")
        self.objective = objective
        self._check_contiguous()
        self.optimizer = optimizer if isinstance(optimizer, PyroOptim) else PyroOptim(optimizer, {})
        self._loaded: dict[str, Any] = {}  # until Pyro meets the tensors
        self.svi = SVI(objective.model, objective.guide, self.optimizer, objective.estimator)
        self.svi.loss_and_grads = self._then_updating(self.svi.loss_and_grads)

    def _check_contiguous(self) -> None:
        copied = [name for name, p in self.objective.parameters.items() if not p.is_contiguous()]
        if copied:
            raise InputError(
                f"{copied[0]} is not contiguous, so that Pyro's parameter store trains a copy: make it contiguous, "
                "or train with another engine than svi"
            )

    def running(self) -> AbstractContextManager[None]:
        """Nothing of our own."""
        return nullcontext()

    def check_next(self) -> None:
        """Nothing is kept that could have changed."""

    def steps(self, visits: list[Visit]) -> Iterator[Tensor]:
        """``SVI.step``."""
        for visit in visits:
            loss = self.svi.step(*self.objective.batches.take(*visit))
            self.updating = False
            yield torch.as_tensor(loss, dtype=torch.float64)

    def _then_updating(self, loss_and_grads: Callable[..., Any]) -> Callable[..., Any]:
        def followed_by_the_update(*arguments: Any, **keywords: Any) -> Any:
            """Loss and gradients, after which ``SVI.step`` calls the optimizer."""
            loss = loss_and_grads(*arguments, **keywords)
            self.updating = True
            return loss

        return followed_by_the_update

    def state_dict(self) -> dict[str, Any]:
        """State of each tensor's optimizer, under our names: Pyro's hold a number that changes between processes."""
        states = self.optimizer.get_state()
        known = {name: states[stored] for name, stored in self._stored_names() if stored in states}
        return {**self._loaded, **known}

    def check_state(self, state: Any, stepped: bool) -> None:
        """Each tensor's optimizer against the tensor."""
        if not isinstance(state, dict) or (stepped and not state):
            raise InputError("the saved optimizer has no state, though steps were taken: it is damaged")
        for name, saved in state.items():
            if name not in self.objective.parameters or not isinstance(saved, dict):
                raise InputError(f"the saved optimizer has a state of {name!r}, which is none of the pair's parameters")
            made = self._make(name)
            if made.schedule is not None:
                check_setting(saved.get("scheduler"), made.schedule.state_dict(), f"schedule of {name}")
                saved = saved.get("optimizer")
            check_optimizer(saved, made.optimizer, stepped)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Pyro takes up each tensor's state when it next meets the tensor."""
        self.updating = False
        whole = {name: self._completed(name, saved) for name, saved in state.items()}
        self._loaded = whole
        self.optimizer.optim_objs.clear()
        self.optimizer.set_state({stored: whole[name] for name, stored in self._stored_names() if name in whole})

    def _completed(self, name: str, saved: dict[str, Any]) -> dict[str, Any]:
        made = self._make(name)
        if made.schedule is None:
            return completed(saved, made.optimizer)
        return {**saved, "optimizer": completed(saved["optimizer"], made.optimizer)}

    def _make(self, name: str) -> Made:
        """What Pyro makes for a parameter when it first meets it."""
        made = made_by(self.optimizer, self.objective.parameters[name])
        return Made(made.optimizer, made) if hasattr(made, "optimizer") else Made(made, None)

    def _stored_names(self) -> Iterator[tuple[str, str]]:
        store = pyro.get_param_store()
        return ((name, str(store.param_name(parameter))) for name, parameter in self.objective.parameters.items())
