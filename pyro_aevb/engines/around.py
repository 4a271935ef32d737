"""What an update does beside the optimizer's step: it clips gradients before; schedule and averages follow after it."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pyro_aevb.errors import InputError, choice, in_one_line, instance, maker, positive, real
from pyro_aevb.states import check_tensors

__all__ = ["Around", "Averages", "Clip", "Every", "MakeScheduler", "Schedule", "check_scheduler_like"]

MakeScheduler = Callable[[torch.optim.Optimizer], LRScheduler]
Every = Literal["step", "epoch", "report"]

RATES_ALONE = {
    lr_scheduler.ConstantLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.ExponentialLR,
    lr_scheduler.LambdaLR,
    lr_scheduler.LinearLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.MultiplicativeLR,
    lr_scheduler.PolynomialLR,
    lr_scheduler.ReduceLROnPlateau,
    lr_scheduler.StepLR,
}
"""Those that set step sizes and nothing else, as ``OneCycleLR`` sets momenta: a launch of several steps reads the
former anew, and holds the latter fast."""


# ---------------------------------------------------------------- before the step


class Clip:
    """Bounds gradients before a step, as ``clip_grad_norm_`` and ``clip_grad_value_`` of torch do, to the last bit.

    Nothing waits for a number, so that a gradient that is not finite is not met here: weights or loss are by the next
    report. Gradients are not changed where they lie: of a recorded step two may be one tensor.

    Oracle: ``torch.nn.utils``, at the same gradients.

    Arguments:
        norm: Longest length of all gradients together, positive; ``None`` for any.
        value: Largest size of a gradient's elements, positive, applied after the norm; ``None`` for any.

    Raises:
        InputError: If a bound is no positive number.
    """

    def __init__(self, norm: float | None = None, value: float | None = None) -> None:
        self.norm = None if norm is None else float(positive("clip_norm", norm))
        self.value = None if value is None else float(positive("clip_value", value))

    def __call__(self, parameters: Iterable[Tensor]) -> None:
        """Put a clipped gradient into each parameter's ``.grad``."""
        moving = [p for p in parameters if p.grad is not None]
        if self.norm is not None and moving:
            total = get_total_norm([p.grad for p in moving if p.grad is not None])
            factor = torch.clamp(self.norm / (total + 1e-6), max=1.0)  # torch's own numbers
            _set_gradients(moving, lambda gradient: gradient * factor.to(gradient.device))
        if self.value is not None:
            bound = self.value
            _set_gradients(moving, lambda gradient: gradient.clamp(-bound, bound))


@torch.no_grad()
def _set_gradients(parameters: list[Tensor], change: Callable[[Tensor], Tensor]) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = change(parameter.grad)


# ---------------------------------------------------------------- step sizes


def check_scheduler_like(scheduler: Any) -> None:
    """See that it is a scheduler, makes one, or is ``None``.

    Raises:
        InputError: If it is something else, the name of a scheduler say.
    """
    if not (scheduler is None or isinstance(scheduler, LRScheduler)):
        maker("scheduler", scheduler, "give partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=1000), say")


class Schedule:
    """A scheduler of ``torch.optim`` with what it is stepped by, and its saved states.

    Arguments:
        scheduler: A callable that makes a scheduler of an optimizer, or a scheduler of this very one.
        optimizer: Whose step sizes it sets.
        every: What the scheduler is stepped after: each ``step``, each ``epoch``, or each whole ``report``.
        per_epoch: Number of steps in an epoch.

    Raises:
        InputError: If it is no scheduler of this optimizer, cannot be made, keeps what no state can hold, or is a
            ``ReduceLROnPlateau`` that looks at anything but the reported bound, which is better where it is larger and
            mostly negative.
    """

    def __init__(
        self,
        scheduler: MakeScheduler | LRScheduler,
        optimizer: torch.optim.Optimizer,
        every: Every = "step",
        per_epoch: int = 1,
    ) -> None:
        self.every = choice("scheduler_every", every, ("step", "epoch", "report"))
        self.per_epoch = per_epoch
        self.steps = 0
        self.scheduler = _made(scheduler, optimizer)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self._check_plateau(self.scheduler)
        _check_plain(self.state_dict()["scheduler"], type(self.scheduler).__name__)

    @property
    def rates_alone(self) -> bool:
        """Whether step sizes are known to be all that it changes."""
        return type(self.scheduler) in RATES_ALONE

    def after_step(self) -> None:
        """An optimizer's step was taken."""
        self.steps += 1
        if self.every == "step" or (self.every == "epoch" and self.steps % self.per_epoch == 0):
            self._step()

    def after_report(self, bound: float) -> None:
        """A whole report was made, of this bound."""
        if self.every == "report":
            self._step(*([bound] if isinstance(self.scheduler, ReduceLROnPlateau) else []))

    def _step(self, *metrics: float) -> None:
        step: Callable[..., None] = self.scheduler.step
        try:
            step(*metrics)
        except (ValueError, ArithmeticError, TypeError) as error:
            raise InputError(f"the scheduler cannot go on after {self.steps} steps: {in_one_line(error)}") from error
        _check_rates(self.scheduler.optimizer, f"the scheduler set after {self.steps} steps")

    def _check_plateau(self, scheduler: ReduceLROnPlateau) -> None:
        if self.every != "report":
            raise InputError("ReduceLROnPlateau is stepped by the reported bound: give scheduler_every='report'")
        if scheduler.mode != "max":
            raise InputError("ReduceLROnPlateau must have mode='max': the bound is better where it is larger")
        if scheduler.threshold_mode != "abs" and scheduler.threshold:
            # best * (1 + threshold) lies below a best that is negative
            raise InputError(
                "ReduceLROnPlateau with a relative threshold takes a bound for better that is worse, where bounds are "
                "negative: give threshold_mode='abs', and threshold in nats per datum"
            )

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Numbers and text; functions of the scheduler's own, a ``LambdaLR``'s say, are none."""
        return {"steps": self.steps, "every": self.every, "scheduler": _plain(self.scheduler.state_dict())}

    def check_state(self, saved: Any) -> None:
        """See that a saved state is one that this scheduler could have, and that it goes on from it.

        Raises:
            InputError: Names what is not.
        """
        own = self.state_dict()
        if isinstance(saved, Mapping) and saved.get("every") != self.every:
            raise InputError(
                f"the saved run steps its scheduler every {saved.get('every')!s:.20}, not every {self.every}"
            )
        _check_like(saved, own, "scheduler")
        if type(saved["steps"]) is not int or saved["steps"] < 0:
            raise InputError("the saved scheduler's steps are no count: the state is damaged")
        self._try(saved["scheduler"])

    def _try(self, saved: dict[str, Any]) -> None:
        """One step of a copy, if there can be one."""
        try:
            twin: Any = copy.deepcopy(self.scheduler)
        except Exception:  # of somebody's own
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the copy's optimizer has not stepped
                twin.load_state_dict(copy.deepcopy(saved))
                twin.step(*([0.0] if isinstance(twin, ReduceLROnPlateau) else []))
        except Exception as error:
            if self._is_over(saved):
                return
            raise InputError(f"the saved scheduler cannot go on, it is damaged: {in_one_line(error)}") from error
        _check_rates(twin.optimizer, "the saved scheduler sets")

    def _is_over(self, saved: dict[str, Any]) -> bool:
        """Whether it is one that refuses steps past its length, at its end."""
        length = self.scheduler.state_dict().get("total_steps")
        return length is not None and length == saved["total_steps"] == saved["last_epoch"]

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.steps = saved["steps"]
        self.scheduler.load_state_dict(saved["scheduler"])


def _made(scheduler: Any, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """A scheduler of this optimizer."""
    if not isinstance(scheduler, LRScheduler):
        try:
            scheduler = scheduler(optimizer)
        except InputError:
            raise
        except (TypeError, ValueError, ArithmeticError, KeyError) as error:
            raise InputError(f"the scheduler cannot be made: {in_one_line(error)}") from error
    found: LRScheduler = instance("what scheduler makes", scheduler, LRScheduler)
    if found.optimizer is not optimizer:
        raise InputError("the scheduler is of another optimizer than trains here: give a callable that makes it")
    return found


def _check_rates(optimizer: torch.optim.Optimizer, whose: str) -> None:
    """See that step sizes that are numbers are finite and at least 0."""
    for group in optimizer.param_groups:
        rate = group["lr"]
        right = isinstance(rate, Tensor) or (isinstance(rate, int | float) and 0 <= rate < math.inf)
        if not right:
            raise InputError(f"{whose} a step size of {rate!s:.40}: it must be at least 0 and finite")


def _plain(value: Any) -> Any:
    """Nested settings as Python's own containers: a ``Counter`` as a dictionary."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping | list):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            _check_plain(each, f"{where}.{key}")
    elif not (value is None or isinstance(value, bool | int | float | str | Tensor)):
        raise InputError(
            f"{where} is of type {type(value).__name__}, and a saved state holds tensors, numbers and text alone: "
            "leave it out of the scheduler's state_dict"
        )


def _check_like(saved: Any, own: Any, where: str) -> None:
    """See that nested settings have the same names and lengths, a number for a number, the same words and switches."""
    right = True
    if isinstance(own, Mapping):
        right = isinstance(saved, Mapping) and saved.keys() == own.keys()
        pairs = [(saved[key], own[key], f"{where}.{key}") for key in own] if right else []
    elif isinstance(own, list):
        right = isinstance(saved, list) and len(saved) == len(own)
        pairs = [(one, other, where) for one, other in zip(saved, own, strict=True)] if right else []
    else:
        pairs = []
        right = _is_like(saved, own)
    if not right:
        raise InputError(f"the saved run has another scheduler ({where} is not as it is here), or the state is damaged")
    for pair in pairs:
        _check_like(*pair)


def _is_like(saved: Any, own: Any) -> bool:
    if own is None or isinstance(own, bool | str):
        return type(saved) is type(own) and saved == own
    if isinstance(own, Tensor):
        return isinstance(saved, Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype)
    return isinstance(saved, int | float) and not isinstance(saved, bool) and not math.isnan(saved)


# ---------------------------------------------------------------- averages of weights


class Averages:
    r"""Exponential moving averages of weights, over steps.

    .. math:: \bar\theta_1 = \theta_1, \quad \bar\theta_t = d\, \bar\theta_{t-1} + (1 - d)\, \theta_t

    Buffers, such as a batch normalisation's, are not averaged: those of the last step are used.

    Oracle: ``AveragedModel`` of ``torch.optim.swa_utils`` with ``get_ema_multi_avg_fn(decay)``, to the last bit.

    Arguments:
        parameters: Parameters to average, by name.
        decay: The weight d of the average so far, in (0, 1).

    Raises:
        InputError: If ``decay`` is no such number.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        if not 0 < real("averaging", decay) < 1:
            raise InputError(f"averaging must lie between 0 and 1, both excluded, not {decay}: 0.999, say")
        self.parameters = dict(parameters)
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.begun = False
        self.put_in = False
        """Whether the averages stand in the parameters' place."""
        self._average = get_ema_multi_avg_fn(float(decay))

    @torch.no_grad()
    def update(self) -> None:
        """A step was taken."""
        now = [p.detach() for p in self.parameters.values()]
        if self.begun:
            self._average(list(self.values.values()), now, 0)
        else:
            self._copy(self.values, self.parameters)
        self.begun = True

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run a block with the averages as the parameters' values, which come back after it.

        Raises:
            InputError: If they stand there already.
        """
        if self.put_in:
            raise InputError("the averaged weights are in place already")
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self.put_in = True
            self._copy(self.parameters, self.values)
            yield
        finally:
            self._copy(self.parameters, trained)
            self.put_in = False

    @torch.no_grad()
    def _copy(self, places: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        for name, place in places.items():
            place.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """The averages by the parameters' names, and whether there was a step."""
        return {"begun": self.begun, "values": dict(self.values)}

    def check_state(self, saved: Any) -> None:
        """See that a saved state has an average of each parameter.

        Raises:
            InputError: Names what is not.
        """
        values = saved.get("values") if isinstance(saved, Mapping) else None
        if not isinstance(values, Mapping) or type(saved.get("begun")) is not bool:
            raise InputError("the saved averages of weights are none: the state is damaged")
        if values.keys() != self.values.keys():
            raise InputError("the saved averages are of other weights than this pair's")
        check_tensors(values, self.values, "averages")

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._copy(self.values, saved["values"])
        self.begun = saved["begun"]


# ---------------------------------------------------------------- all of it


@dataclass(frozen=True)
class Around:
    """What stands around an optimizer's step; by default nothing.

    Arguments:
        clip: Bounds of gradients, applied before the step.
        schedule: Scheduler that sets step sizes after the step.
        averages: Moving averages of the weights.
    """

    clip: Clip | None = None
    schedule: Schedule | None = None
    averages: Averages | None = None

    def kept(self) -> dict[str, Schedule | Averages]:
        """What has a state, by its name in the saved one."""
        named = {"schedule": self.schedule, "averages": self.averages}
        return {name: each for name, each in named.items() if each is not None}

    def before(self, parameters: Iterable[Tensor]) -> None:
        """Gradients are there: tensor operations alone."""
        if self.clip is not None:
            self.clip(parameters)

    def after(self) -> None:
        """Weights are new: tensor operations alone."""
        if self.averages is not None:
            self.averages.update()

    def count(self) -> None:
        """A step was taken: what is counted in Python."""
        if self.schedule is not None:
            self.schedule.after_step()

    def tensors(self) -> list[Tensor]:
        """The tensors that :meth:`after` changes."""
        return [] if self.averages is None else list(self.averages.values.values())
