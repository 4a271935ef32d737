"""How one training step is taken: by Pyro's own ``SVI``, or by one ``torch.optim`` step on the estimator's loss.

Both step the same parameters at the same noise; see ``docs/speed.md`` for what each costs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

import pyro
import torch
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_aevb.data.batches import Batches, Visit
from pyro_aevb.errors import InputError, in_one_line, instance, maker
from pyro_aevb.states import COMPUTED_BY, check_optimizer, check_setting

__all__ = [
    "EagerEngine",
    "Engine",
    "SVIEngine",
    "check_optimizer_like",
    "differentiable_loss",
    "first_loss",
    "load_optimizer_state",
    "make_optimizer",
]

Pair = Callable[..., Any]
MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
OptimizerLike = MakeOptimizer | torch.optim.Optimizer | PyroOptim


class Engine(Protocol):
    """Step after step, with a state that can be saved."""

    optimizer: Any
    steps_at_once: int
    updating: bool
    """Whether an update has begun and not ended: what fails there cannot be taken back."""

    def running(self) -> AbstractContextManager[None]:
        """Entered around many steps."""

    def steps(self, visits: list[Visit]) -> Iterator[Tensor]:
        """Take a step on each minibatch; yields each one's loss before it, a scalar that nothing has waited for."""

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state: tensors and plain values."""

    def check_state(self, state: Any, stepped: bool) -> None:
        """Raise ``InputError`` if a saved state, after steps or before the first, is not one that this engine has."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class EagerEngine:
    """One ``torch.optim`` optimizer over all parameters, and Pyro's validation off, since the first run had it on.

    Arguments:
        model: The model.
        guide: The guide.
        estimator: Any ``ELBO``, ours or Pyro's.
        optimizer: A callable that makes an optimizer of parameters, or an optimizer.
        parameters: What to train, by name.
        batches: Where minibatches are fetched.
        modules: Those that take part in the pair, by name.
    """

    steps_at_once = 1
    updating = False

    def __init__(
        self,
        model: Pair,
        guide: Pair,
        estimator: ELBO,
        optimizer: OptimizerLike,
        parameters: dict[str, Tensor],
        batches: Batches,
        modules: Mapping[str, nn.Module],
    ) -> None:
        if isinstance(optimizer, PyroOptim):
            raise InputError(
                "an optimizer of pyro.optim makes one optimizer per tensor: use engine='svi' or torch.optim"
            )
        self.model, self.guide, self.estimator = model, guide, estimator
        self.batches, self.modules = batches, modules
        if not hasattr(estimator, "differentiable_loss"):
            raise InputError(f"{type(estimator).__name__} has no differentiable_loss: train it with engine='svi'")
        self.parameters = list(parameters.values())
        self.optimizer = make_optimizer(optimizer, self.parameters)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise InputError(
                "LBFGS evaluates the loss many times a step, which minibatches do not allow: choose another"
            )

    def running(self) -> AbstractContextManager[None]:
        """Without validation, which costs 6 to 15 % of a step."""
        return pyro.validation_enabled(False)

    def steps(self, visits: list[Visit]) -> Iterator[Tensor]:
        """Loss, gradients, update."""
        for visit in visits:
            loss = self.loss_and_gradients(visit)
            self.updating = True
            self.optimizer.step()
            self.updating = False
            yield loss

    def loss(self, *visit: Tensor) -> Tensor:
        """The estimator's loss on a minibatch."""
        return differentiable_loss(self.estimator)(self.model, self.guide, *self.batches.take(*visit))

    def loss_and_gradients(self, visit: Visit) -> Tensor:
        """Put each parameter's gradient into its ``.grad``; returns the loss."""
        loss = self.loss(*visit)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own."""
        return self.optimizer.state_dict()

    def check_state(self, state: Any, stepped: bool) -> None:
        """Against what the optimizer would have."""
        check_optimizer(state, self.optimizer, stepped)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Into the optimizer."""
        load_optimizer_state(self.optimizer, state)


class Made(NamedTuple):
    """An optimizer of one tensor, and the schedule of its step size if it has one."""

    optimizer: torch.optim.Optimizer
    schedule: Any


class SVIEngine:
    """``pyro.infer.SVI`` itself, the reference: one optimizer per tensor, validation as the caller has it.

    Arguments:
        model, guide, estimator, parameters: As for :class:`EagerEngine`.
        optimizer: Of ``pyro.optim``, or a callable that makes a ``torch.optim`` optimizer of parameters.
        batches, modules: As there.
    """

    steps_at_once = 1
    updating = False

    def __init__(
        self,
        model: Pair,
        guide: Pair,
        estimator: ELBO,
        optimizer: OptimizerLike,
        parameters: dict[str, Tensor],
        batches: Batches,
        modules: Mapping[str, nn.Module],
    ) -> None:
        if isinstance(optimizer, torch.optim.Optimizer):
            raise InputError("engine='svi' makes an optimizer per tensor: give it one of pyro.optim, or a callable")
        self.parameters, self.batches = parameters, batches
        if copied := [name for name, p in parameters.items() if not p.is_contiguous()]:
            raise InputError(
                f"{copied[0]} is not contiguous, so that Pyro's parameter store trains a copy: make it contiguous, "
                "or train with another engine than svi"
            )
        self.optimizer = optimizer if isinstance(optimizer, PyroOptim) else PyroOptim(optimizer, {})
        self._loaded: dict[str, Any] = {}  # until Pyro meets the tensors
        self.svi = SVI(model, guide, self.optimizer, estimator)
        self.svi.loss_and_grads = self._then_updating(self.svi.loss_and_grads)

    def running(self) -> AbstractContextManager[None]:
        """Nothing of our own."""
        return nullcontext()

    def steps(self, visits: list[Visit]) -> Iterator[Tensor]:
        """``SVI.step``."""
        for visit in visits:
            loss = self.svi.step(*self.batches.take(*visit))
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
            if name not in self.parameters or not isinstance(saved, dict):
                raise InputError(f"the saved optimizer has a state of {name!r}, which is none of the pair's parameters")
            made = self._make(name)
            if made.schedule is not None:
                check_setting(saved.get("scheduler"), made.schedule.state_dict(), f"schedule of {name}")
                saved = saved.get("optimizer")
            check_optimizer(saved, made.optimizer, stepped)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Pyro takes up each tensor's state when it next meets the tensor."""
        whole = {name: self._completed(name, saved) for name, saved in state.items()}
        self._loaded = whole
        self.optimizer.optim_objs.clear()
        self.optimizer.set_state({stored: whole[name] for name, stored in self._stored_names() if name in whole})

    def _completed(self, name: str, saved: dict[str, Any]) -> dict[str, Any]:
        made = self._make(name)
        if made.schedule is None:
            return completed(saved, made.optimizer)
        return {**saved, "optimizer": completed(saved["optimizer"], made.optimizer)}

    def _make(self, name: str) -> "Made":
        """What Pyro makes for a parameter when it first meets it."""
        made = self.optimizer._get_optim(self.parameters[name])  # Pyro has no public way
        return Made(made.optimizer, made) if hasattr(made, "optimizer") else Made(made, None)

    def _stored_names(self) -> Iterator[tuple[str, str]]:
        store = pyro.get_param_store()
        return ((name, str(store.param_name(parameter))) for name, parameter in self.parameters.items())


def differentiable_loss(estimator: ELBO) -> Callable[..., Tensor]:
    """The method that every ``ELBO`` has and the base class does not declare."""
    return estimator.differentiable_loss  # type: ignore[attr-defined]  # see above


def first_loss(estimator: ELBO) -> Callable[..., Tensor]:
    """A loss to run once, of any estimator: some of Pyro's have only the method that ``SVI`` calls."""
    if hasattr(estimator, "differentiable_loss"):
        return differentiable_loss(estimator)
    return lambda *args: torch.as_tensor(estimator.loss_and_grads(*args))  # type: ignore[attr-defined]


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
    """Of a parameter of no meaning: Adagrad of torch 2.11 takes ``fused`` on a GPU and refuses at its first step."""
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
