"""The loop, once: when it reports, what it draws noise from and runs in, what it saves, and how it goes on from that.

Whoever trains writes only how a step is taken, see :class:`Loop`.
"""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import pyro
import torch
from torch import Tensor, nn

from pyro_aevb.data.batches import Batches
from pyro_aevb.errors import InputError, NonFiniteLossError, told, whole
from pyro_aevb.hardware import Settings, current_device, settings_of_state
from pyro_aevb.process import Deferred, alone
from pyro_aevb.seeds import GlobalNoise, derive
from pyro_aevb.states import (
    check_digest,
    check_gathered,
    check_identity,
    check_kinds,
    check_noise,
    check_plain,
    check_tensors,
    sealed,
)
from pyro_aevb.training.progress import Gathered, Progress

__all__ = ["AUTO_CAPTURE_STEPS", "Loop", "Training", "count_of_samples"]

Report = TypeVar("Report")

# Compiling takes 14 s the first time on two cores and saves 1.5 ms a step at 784-500-20: less is not worth it.
AUTO_CAPTURE_STEPS = 10_000
STATE_FORMAT = "pyro_aevb training state 4"
STATE_TYPES: dict[str, type] = {
    "kind": str,
    "identity": dict,
    "step": int,
    "modules": dict,
    "unsaved": dict,
    "parameters": dict,
    "optimizer": dict,
    "captured": bool,
    "noise": dict,
    "gathered": dict,
    "settings": dict,
    "own": dict,
}


class Loop(ABC, Generic[Report]):
    """Steps until so many data were seen, with a report at every so many.

    A training is one class: give ``report_every``, :attr:`samples_seen`, :meth:`running`, :meth:`take_steps` and
    :meth:`report`; where something is to be looked at before a run, or ended after it, :meth:`begin` and :meth:`end`.
    """

    report_every: int
    torn: bool = False
    """Whether a step broke off in the middle of its update, so that nothing can go on from it."""

    @property
    @abstractmethod
    def samples_seen(self) -> int:
        """Training data visited so far."""

    @abstractmethod
    def running(self) -> AbstractContextManager[Any]:
        """Entered around a block of steps: store, noise, settings."""

    @abstractmethod
    def take_steps(self, target: int) -> None:
        """Take one step, or several that do not pass ``target`` data."""

    @abstractmethod
    def report(self, whole: bool) -> Report:
        """What the steps since the last report came to, which begin anew if it is a whole one.

        Raises:
            NonFiniteLossError: If a loss was NaN or infinite.
        """

    def begin(self, samples: float) -> None:  # nothing to look at is an answer
        """A run of this many data begins; the caller may have changed anything since the last one."""

    def end(self) -> None:  # nothing to end is an answer
        """A run is over, or broken off."""

    def run(self, samples: float) -> Iterator[Report]:
        """Train on this many more data, at least; the last step is finished.

        Ctrl-C waits until a step is whole, a second one does not; a step that fails before its update is taken back:
        noise, gradients and tensors, not what a pair counts in Python. So what follows another ``run`` is the same to
        the last bit as without the interruption.

        Arguments:
            samples: How many data, a whole number, perhaps written as ``1e6``.

        Yields:
            A report whenever another ``report_every`` data have been seen, and at the end. Between reports losses stay
            on the device. Stop at any time; saving the state at a report and going on from it gives the same bits as
            not stopping.

        Raises:
            NonFiniteLossError: If a loss was NaN or infinite: names the step and what is no longer finite.
            InputError: If ``samples`` is no whole number of at least 0, the last step broke off in its update, or
                something was changed so that it could not train on.
        """
        target = self.samples_seen + count_of_samples(samples)
        if self.torn:
            raise InputError("the last step broke off in the middle of its update: go on from a saved state")
        self.begin(samples)
        try:
            yield from self._reports(target)
        finally:
            self.end()

    def _reports(self, target: int) -> Iterator[Report]:
        signals = Deferred()
        while self.samples_seen < target:
            reported = (self.samples_seen // self.report_every + 1) * self.report_every
            with signals:
                with self.running():
                    while self.samples_seen < min(reported, target):
                        signals.deliver()
                        self.take_steps(min(reported, target))
                report = self.report(whole=self.samples_seen >= reported)
            try:
                yield report
            finally:
                signals.deliver()  # of the last step: its report comes first


class Stateful(Protocol):
    """What has an optimizer's state, see :class:`~pyro_aevb.engines.base.Engine`."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def check_state(self, state: Any, stepped: bool) -> None:
        """Raise ``InputError`` if a saved state is not one that it could have."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class Earlier(NamedTuple):
    """A shape of states that an earlier version saved."""

    keys: Set[str]
    """What such a state has."""
    own: Callable[[Mapping[str, Any]], dict[str, Any]]
    """Function that takes from such a state what is under ``own`` in today's."""
    is_sealed: bool = False
    """Whether such a state has a digest of its own values, by which a changed one is told."""
    earlier_fingerprint: bool = False
    """Whether the fingerprint of the data in such a state is that of the first format."""


class Training(Loop[Progress]):
    """A loop over minibatches of one pair, with a parameter store, noise and settings of its own, and a state.

    A subclass sets ``modules``, ``parameters``, ``engine`` and ``settings``, and gives besides what a loop needs
    :meth:`own_identity`, :meth:`own_tensors` and :meth:`capture`.

    Arguments:
        batches: The minibatches.
        seed: Seed of the noise.
        device: Device that data and weights lie on.
        report_every: Data between reports.
        settings: Settings of the processor that the user named; ``None`` where they are to be found.
    """

    kind: ClassVar[str]
    """What a state is of."""
    own_name: ClassVar[str]
    """What :meth:`own_tensors` are, for people."""
    own_needed: ClassVar[bool]
    """Whether nothing can go on without them; they are finite then."""
    earlier: ClassVar[Mapping[str, Earlier]]
    """Shapes of states by the formats of earlier versions."""
    modules: dict[str, nn.Module]
    parameters: dict[str, Tensor]
    engine: Stateful
    settings: Settings
    auto: bool = False
    """Whether steps may still come to be recorded."""
    captured: bool = False
    """Whether steps are recorded."""

    def __init__(
        self, batches: Batches, seed: int, device: torch.device, report_every: int, settings: Settings | None
    ) -> None:
        self.batches = batches
        self.seed = seed
        self.device = device
        self.report_every = whole("report_every", report_every)
        self.settings_named = settings is not None
        self.step = 0
        self.noise = GlobalNoise(derive(seed, "noise"), device)
        self.gathered = Gathered()
        self._store: Any = {"params": {}, "constraints": {}}

    @abstractmethod
    def own_identity(self) -> dict[str, Any]:
        """What a training cannot change on its way, besides data, seed and batch size."""

    @abstractmethod
    def own_tensors(self) -> dict[str, Tensor]:
        """Further tensors that a state holds, where they lie."""

    @abstractmethod
    def capture(self) -> None:
        """Record the steps from here on."""

    @property
    def samples_seen(self) -> int:
        """Training data visited so far."""
        return self.batches.samples_seen(self.step)

    def end(self) -> None:
        """End the processes that fetch data."""
        self.batches.close()

    @contextmanager
    def param_store(self) -> Iterator[None]:
        """Run a block with the trainer's own parameter store, to evaluate a pair made with ``pyro.param``."""
        with alone(), pyro.get_param_store().scope(self._store):
            yield

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a block as steps are run: with this training's store, noise, settings and device."""
        with ExitStack() as stack:
            for block in (self.param_store(), self.noise.swapped_in(), self.settings.applied()):
                stack.enter_context(block)
            stack.enter_context(current_device(self.device))
            yield

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to continue bit for bit: tensors, numbers and text, and a digest of them."""
        return sealed(self._state())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, with the processor settings that it was trained with unless others were named.

        Arguments:
            state: What :meth:`state_dict` gave, of this version or an earlier one.

        Raises:
            InputError: If it is no state of such a training, is damaged, or is of another model, other data, another
                seed or batch size; nothing has changed then.
        """
        today = self._of_today(state)
        before = self._state()
        self._check(today, before)
        try:
            self._load(today)
        except (RuntimeError, KeyError, ValueError) as error:
            self._load(before)
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the saved run has another model, guide or optimizer ({reason})") from error
        except BaseException:  # somebody's own module's, a warning that is an error, Ctrl-C
            self._load(before)
            raise
        self.torn = False
        if self.auto and today["captured"]:
            self.capture()

    def _state(self) -> dict[str, Any]:
        with self.param_store():
            optimizer = copy.deepcopy(self.engine.state_dict())  # not the tensors that the next step changes
        return {
            "format": STATE_FORMAT,
            "kind": self.kind,
            "identity": self._identity(),
            "step": self.step,
            "modules": {name: _copies(module.state_dict()) for name, module in self.modules.items()},
            "unsaved": {name: _copies(_unsaved_buffers(module)) for name, module in self.modules.items()},
            "parameters": _copies(self._own_parameters()),
            "optimizer": optimizer,
            "captured": self.captured,
            "noise": dict(self.noise.states),
            "gathered": self.gathered.state_dict(),
            "settings": {**asdict(self.settings), "device": self.device.type},
            "own": _copies(self.own_tensors()),
        }

    def _identity(self, earlier_fingerprint: bool = False) -> dict[str, Any]:
        data = self.batches.earlier_fingerprint if earlier_fingerprint else self.batches.fingerprint
        return {"data": data, "seed": self.seed, "batch_size": self.batches.batch_size, **self.own_identity()}

    def _of_today(self, state: Any) -> dict[str, Any]:
        """A state in today's shape, checked in all that can be checked without its values."""
        earlier = self.earlier.get(str(state.get("format"))) if isinstance(state, Mapping) else None
        if not isinstance(state, Mapping) or (earlier is None and state.get("format") != STATE_FORMAT):
            raise InputError(f"this is not a training state of pyro_aevb: give what {self.kind}.state_dict made")
        keys = STATE_TYPES.keys() if earlier is None else earlier.keys
        if missing := keys - state.keys():
            raise InputError(f"this training state lacks {', '.join(sorted(missing))}: it is not whole")
        today = dict(state) if earlier is None else _as_of_today(state, self.kind, earlier)
        check_kinds(today, STATE_TYPES)
        if earlier is None and not today["settings"]:
            raise InputError("this training state lacks settings of the processor: it is not whole")
        if today["kind"] != self.kind:
            raise InputError(f"this is a training state of {today['kind']}, not of {self.kind}")
        check_identity(today["identity"], self._identity(earlier is not None and earlier.earlier_fingerprint))
        check_plain(state, "state")
        check_digest(state, "the training state", required=earlier is None or earlier.is_sealed)
        return today

    def _check(self, state: dict[str, Any], own: dict[str, Any]) -> None:
        """See that all tensors suit their places, before any is used."""
        for name, module in self.modules.items():
            if name in state["modules"]:
                saved = state["modules"][name]
                check_tensors(saved, own["modules"][name], name, finite=False)
                check_tensors(saved, dict(module.named_parameters()), name)
        for name in own["unsaved"].keys() & state["unsaved"].keys():
            check_tensors(state["unsaved"][name], own["unsaved"][name], f"buffers of {name}", finite=False)
        check_tensors(state["parameters"], own["parameters"], "parameter")
        check_noise(state["noise"], own["noise"])
        check_gathered(state["gathered"])
        if unknown := state["own"].keys() - own["own"].keys():
            raise InputError(f"the saved run has {self.own_name} that this one lacks: {', '.join(map(str, unknown))}")
        if self.own_needed and (missing := own["own"].keys() - state["own"].keys()):
            raise InputError(f"this training state lacks {', '.join(sorted(missing))}: it is not whole")
        check_tensors(state["own"], own["own"], self.own_name, finite=self.own_needed)
        with self.param_store():
            self.engine.check_state(state["optimizer"], stepped=state["step"] > 0)
        self._settings_of(state)

    def _load(self, state: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            if name in state["modules"] or not self._is_inside(module, state["modules"]):
                module.load_state_dict(state["modules"][name])
            _load_into(_unsaved_buffers(module), state["unsaved"].get(name), f"buffers of {name}")
        with torch.no_grad():
            for name, parameter in self._own_parameters().items():
                parameter.copy_(state["parameters"][name])
        with self.param_store():
            self.engine.load_state_dict(copy.deepcopy(state["optimizer"]))
        _load_into(self.own_tensors(), state["own"], self.own_name)
        self.step = state["step"]
        self.noise.states = {key: value.cpu().clone() for key, value in state["noise"].items()}
        self.gathered = Gathered()
        self.gathered.load_state_dict(state["gathered"], self.device)
        self.settings = self._settings_of(state)

    def _settings_of(self, state: dict[str, Any]) -> Settings:
        """The settings that the state was trained with, unless the user named some; earlier versions saved none."""
        if not state["settings"]:
            return self.settings
        saved = settings_of_state(state["settings"], self.settings, self.device)
        return self.settings if self.settings_named else saved

    def _is_inside(self, module: nn.Module, saved: Mapping[str, Any]) -> bool:
        """Is a module part of another one whose state is there?"""
        others = (other for name, other in self.modules.items() if name in saved)
        return any(part is module for other in others for part in other.modules())

    def _own_parameters(self) -> dict[str, Tensor]:
        """Parameters made by ``pyro.param``, in no module's state."""
        in_modules = {id(p) for module in self.modules.values() for p in module.parameters()}
        return {name: p for name, p in self.parameters.items() if id(p) not in in_modules}


def count_of_samples(samples: float) -> int:
    """A number of data to train on, perhaps written as 1e6.

    Raises:
        InputError: If it is not whole, or negative.
    """
    given: Any = int(samples) if isinstance(samples, float) and samples.is_integer() else samples
    return whole("samples", given, 0)


def non_finite(what: str, step: int, parameters: Mapping[str, Tensor]) -> NonFiniteLossError:
    """The error of a training whose numbers broke, which names what is no longer finite."""
    broken = broken_parameters(parameters)
    state = f"{len(broken)} parameters are no longer finite, {broken[0]} first" if broken else "weights are finite"
    return NonFiniteLossError(
        f"{what} at step {step}; {state}: take a smaller step size, or look for extreme values in the data"
    )


def broken_parameters(parameters: Mapping[str, Tensor]) -> list[str]:
    """Names of those that are no longer finite."""
    return [name for name, p in parameters.items() if not torch.isfinite(p).all()]


# ---------------------------------------------------------------- states


def _as_of_today(state: Mapping[str, Any], kind: str, earlier: Earlier) -> dict[str, Any]:
    """A state of an earlier version in today's shape; what it lacks is empty."""
    empty: dict[str, Any] = {key: {} if kind_of is dict else False for key, kind_of in STATE_TYPES.items()}
    known = {key: state[key] for key in STATE_TYPES if key in state}
    return {**empty, **known, "format": STATE_FORMAT, "kind": kind, "own": earlier.own(state)}


def _copies(tensors: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} of a module's state is {told(value)} (get_extra_state?), and a state holds tensors alone: "
                "keep it in a buffer"
            )
    return {name: value.detach().clone() for name, value in tensors.items()}


def _unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that a module's own state leaves out."""
    saved = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in saved}


@torch.no_grad()
def _load_into(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor] | None, what: str) -> None:
    """Saved values into tensors where they lie; what was not saved is named as lost."""
    if lost := sorted(tensors.keys() - (saved or {}).keys()):
        warnings.warn(f"the saved run has no {what}: {', '.join(lost)} begin anew", stacklevel=5)
    for name, tensor in tensors.items():
        if saved and name in saved:
            if tensor.shape != saved[name].shape:
                raise ValueError(f"{what}: {name} has shape {tuple(saved[name].shape)}, not {tuple(tensor.shape)}")
            tensor.copy_(saved[name])
