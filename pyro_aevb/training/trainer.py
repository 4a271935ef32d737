"""Algorithm 1 as a resumable loop over any Pyro pair."""

import copy
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_aevb import traces
from pyro_aevb.data.batches import Batches, Data
from pyro_aevb.engines.captured import CapturedEngine
from pyro_aevb.engines.eager import EagerEngine, Engine, OptimizerLike, SVIEngine, check_optimizer_like, first_loss
from pyro_aevb.errors import InputError, NonFiniteLossError, choice, function, instance, whole
from pyro_aevb.estimators import SGVB, Estimator
from pyro_aevb.hardware import Precision, Settings, current_device, find_device, find_settings, largest_product
from pyro_aevb.optimizers import Adagrad
from pyro_aevb.pairs import Pair, is_copy, noticing, precision_of, tensors_of, trained_parameters, without_a_trace
from pyro_aevb.process import Deferred, UndoneStep, alone
from pyro_aevb.seeds import GlobalNoise, derive, seeded
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

__all__ = ["TORN", "Trainer", "count_of_samples"]

EngineName = Literal["auto", "captured", "eager", "svi"]

# Compiling takes 14 s the first time on two cores and saves 1.5 ms a step at 784-500-20: less is not worth it.
AUTO_CAPTURE_STEPS = 10_000
STATE_FORMAT = "pyro_aevb training state 3"
EARLIER_FORMATS = {
    "pyro_aevb training state 2": {"digest"},  # and what it does not have
    "pyro_aevb training state 1": {"digest", "unsaved", "estimator"},
}
TORN = "the last step broke off in the middle of its update: go on from a saved state, by load_state_dict"
KINDS: dict[str, type] = {
    "identity": dict,
    "step": int,
    "modules": dict,
    "unsaved": dict,
    "estimator": dict,
    "parameters": dict,
    "optimizer": dict,
    "captured": bool,
    "noise": dict,
    "gathered": dict,
}


class Trainer:
    r"""Algorithm 1 with minibatches drawn without replacement, epoch after epoch.

    The pair moves to ``device`` and so do the data, as one tensor. The first batch is run once with all of Pyro's
    checks on, whatever their setting. The caller's parameter store and random state are never touched: parameters made
    by ``pyro.param`` live in a store of the trainer's own, see :meth:`param_store`. A run is a function of its seed and
    its initial weights, which the caller has already drawn.

    Arguments:
        model: The model, any Pyro function whose arguments are the data, batch first.
        guide: Its guide, with the same arguments.
        data: Training data, ``(N, ...)``; a :class:`~pyro_aevb.data.DynamicBinarization`; or a tuple of tensors for a
            pair with several arguments.
        estimator: Any ``pyro.infer.ELBO``, this package's or Pyro's; :class:`~pyro_aevb.estimators.SGVB` by default.
        optimizer: A callable that makes a ``torch.optim`` optimizer of parameters, an optimizer, or one of
            ``pyro.optim`` for ``engine="svi"``. By default the paper's: Adagrad with step size 0.02, and as
            ``weight_decay`` the prior N(0, I) on all weights, so that training maximises
            :math:`\frac NM \sum_i \mathcal L(x_i) + \log p(\theta, \phi)`; without it for a pair with global latents,
            whose prior is in the model.
        batch_size: Data per step, the paper's M; the last of an epoch may be smaller.
        seed: Seed of order, binarisation and noise, each its own stream.
        engine: ``captured``, the step recorded as a graph and compiled; ``eager``, the same step without; ``svi``,
            Pyro's ``SVI``; ``auto``, ``svi`` for an optimizer of ``pyro.optim``, else ``captured`` from the first
            ``run`` on that is long enough to win back the compiler's time (10,000 steps), ``eager`` until then. The two
            round differently: name one where a run cut in pieces must equal a whole one bit for bit.
        device: ``auto`` for CUDA, then MPS, then the CPU; or a device's name.
        precision: ``float32``; ``bfloat16`` or ``auto`` to allow products in bfloat16 where the processor has units
            for it.
        report_every: Data between reports.

    Raises:
        InputError: If the data are empty, too few, not finite or outside the likelihood's support; if the device is not
            there; if the pair breaks its contract.
    """

    engine: Engine
    settings: Settings

    def __init__(
        self,
        model: Pair,
        guide: Pair,
        data: Data,
        estimator: ELBO | None = None,
        optimizer: OptimizerLike | None = None,
        batch_size: int = 100,
        seed: int = 0,
        engine: EngineName = "auto",
        *,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        report_every: int = 10_000,
    ) -> None:
        self.model, self.guide = function("model", model), function("guide", guide)
        self.estimator = SGVB() if estimator is None else instance("estimator", estimator, ELBO)
        choice("engine", engine, ("auto", "captured", "eager", "svi"))
        check_optimizer_like(optimizer)
        self.seed, self.report_every = seed, whole("report_every", report_every)
        self.device = find_device(device)
        self.batches = Batches(data, batch_size, seed, self.device, precision_of(model, guide))
        self._store: Any = {"params": {}, "constraints": {}}
        self.modules = self._find_modules()
        if isinstance(self.estimator, Estimator):
            self.estimator.to(self.device)
        self.step, self._gathered = 0, Gathered()
        self._noise = GlobalNoise(derive(seed, "noise"), self.device)
        self._first_run()
        self.settings = find_settings(largest_product(self.parameters.values(), batch_size), self.device, precision)
        self.engine, self._auto = self._make_engine(engine, optimizer)

    # ------------------------------------------------------------ the loop

    @property
    def samples_seen(self) -> int:
        """Training data visited so far."""
        return self.batches.samples_seen(self.step)

    def run(self, samples: float) -> Iterator[Progress]:
        """Train on this many more data, at least; the last minibatch is finished.

        Ctrl-C waits until a step is whole, a second one does not; a step that fails before its update is taken back. So
        what follows another ``run`` is the same to the last bit as without the interruption.

        Yields:
            :class:`Progress` whenever another ``report_every`` data have been seen, and at the end. Between reports
            losses stay on the device. Stop at any time; saving the state at a report and going on from it gives the
            same bits as not stopping.

        Raises:
            NonFiniteLossError: If a loss was NaN or infinite: names the step and what is no longer finite.
            InputError: If ``samples`` is no whole number of at least 0, or the last step broke off in its update.
        """
        target = self.samples_seen + count_of_samples(samples)
        if self.engine.updating:
            raise InputError(TORN)
        if self._auto and samples >= AUTO_CAPTURE_STEPS * self.batches.batch_size:
            self._capture()
        if isinstance(self.engine, CapturedEngine):
            self.engine.check_next()  # the caller may have changed anything since the last run
        signals = Deferred()
        while self.samples_seen < target:
            report = (self.samples_seen // self.report_every + 1) * self.report_every
            with signals:
                with self._running():
                    undone = self._undone_step()
                    while self.samples_seen < min(report, target):
                        signals.deliver()
                        self._take_steps(min(report, target), undone)
                self._stop_if_not_finite()
                self._stop_if_not_trained()
                progress = self._progress(reported=self.samples_seen >= report)
            try:
                yield progress
            finally:
                signals.deliver()  # of the last step: its report comes first

    def _progress(self, reported: bool) -> Progress:
        """The report of what was gathered, which begins anew if it is a whole one."""
        gathered, self._gathered = self._gathered, Gathered() if reported else self._gathered
        beta: Any = getattr(self.estimator, "beta", None)
        return Progress(self.samples_seen, gathered.mean(), None if beta is None else float(beta))

    def _undone_step(self) -> UndoneStep:
        """Takes a step back that fails or is interrupted before its update, so that what follows is as without it."""
        buffers = [buffer for module in self.modules.values() for buffer in module.buffers()]
        counts = [count for count in tensors_of(self.estimator).values() if not count.requires_grad]
        tensors = list({id(t): t for t in (*buffers, *counts)}.values())
        return UndoneStep(self._noise.read, self._noise.write, tensors, list(self.parameters.values()))

    def _take_steps(self, target: int, undone: UndoneStep) -> None:
        """As many as the engine takes at once, if they do not pass ``target``; else one."""
        annealed = isinstance(self.estimator, Estimator) and self.estimator.anneal(self.samples_seen)
        at_once = 1 if annealed else self.engine.steps_at_once
        whole = self.batches.samples_seen(self.step + at_once) <= target
        visits = [self.batches.visit(self.step + i) for i in range(at_once if whole else 1)]
        undone.remember()
        try:
            for (rows, _), loss in zip(visits, self.engine.steps(visits), strict=False):
                self._gathered.add(loss, self.divisors[len(rows)], len(rows))
                self.step += 1
                if len(visits) > 1:
                    undone.remember()
        except BaseException as error:
            if not self.engine.updating:
                undone.take_back()
            # Pyro's validation, on in engine='svi', meets a NaN before the loss is there.
            broken = isinstance(error, ValueError) and re.search(r"\b(nan|inf)\b", str(error))
            if isinstance(error, ValueError) and (self._non_finite_parameters() or broken):
                raise self._non_finite("the loss became nan", self.step + 1) from error
            raise

    def _stop_if_not_finite(self) -> None:
        if found := self._gathered.first_non_finite():
            raise self._non_finite(f"the loss became {-found[1]}", self.step - found[0])
        if self._non_finite_parameters():  # broken by the last step, whose loss was still finite
            raise self._non_finite("the weights broke", self.step)

    def _stop_if_not_trained(self) -> None:
        """Pyro's own ``SVI`` makes an optimizer for whatever parameter it meets; one optimizer over all cannot."""
        known = {id(p) for p in self.parameters.values()}
        for name, parameter in self._store["params"].items():
            if id(parameter) not in known and parameter.requires_grad and not isinstance(self.engine, SVIEngine):
                if any(parameter is own for module in self.modules.values() for own in module.parameters()):
                    continue
                if is_copy(name, parameter, self.modules.values()):
                    continue
                raise InputError(
                    f"parameter {name!r} appeared after the first step, so that it does not train: run it in the "
                    "first step too, or train with engine='svi'"
                )

    def _non_finite(self, what: str, step: int) -> NonFiniteLossError:
        broken = self._non_finite_parameters()
        state = f"{len(broken)} parameters are no longer finite, {broken[0]} first" if broken else "weights are finite"
        return NonFiniteLossError(
            f"{what} at step {step}; {state}: take a smaller step size, or look for extreme values in the data"
        )

    def _non_finite_parameters(self) -> list[str]:
        return [name for name, p in self.parameters.items() if not torch.isfinite(p).all()]

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to continue bit for bit: tensors, numbers and text, and a digest of them."""
        return sealed(self._state())

    def _state(self) -> dict[str, Any]:
        with self.param_store():
            optimizer = copy.deepcopy(self.engine.state_dict())  # not the tensors that the next step changes
        return {
            "format": STATE_FORMAT,
            "identity": self._identity(),
            "step": self.step,
            "modules": {name: _copies(module.state_dict()) for name, module in self.modules.items()},
            "unsaved": {name: _unsaved(module) for name, module in self.modules.items()},
            "estimator": _copies(self._tensors_of_estimator()),
            "parameters": {name: p.detach().clone() for name, p in self._own_parameters().items()},
            "optimizer": optimizer,
            "captured": isinstance(self.engine, CapturedEngine),
            "noise": dict(self._noise.states),
            "gathered": self._gathered.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InputError: If it is not a training state, or of another model, other data, another seed or batch size.
        """
        if not isinstance(state, Mapping) or state.get("format") not in (STATE_FORMAT, *EARLIER_FORMATS):
            raise InputError("this is not a training state of pyro_aevb: give the last.pt or best.pt of a run")
        own = self._state()
        later = EARLIER_FORMATS.get(state["format"], set())
        if missing := own.keys() - state.keys() - later:
            raise InputError(f"this training state lacks {', '.join(sorted(missing))}: it is not whole")
        check_kinds(state, {key: kind for key, kind in KINDS.items() if key not in later})
        check_identity(state["identity"], self._identity(state["format"]))
        check_plain(state, "state")
        check_digest(state, "the training state", required="digest" not in later)
        self._check_tensors(state, own)
        if self._auto and state["captured"]:
            self._capture()
        try:
            self._load_parameters(state)
        except (RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the saved run has another model, guide or optimizer ({reason})") from error
        self.step = state["step"]
        self.engine.updating = False
        self._noise.states = {key: value.cpu().clone() for key, value in state["noise"].items()}
        self._gathered.load_state_dict(state["gathered"], self.device)

    def _check_tensors(self, state: Mapping[str, Any], own: dict[str, Any]) -> None:
        """See that all tensors suit their places, before any is used."""
        for name, module in self.modules.items():
            if name in state["modules"]:
                saved, weights = state["modules"][name], dict(module.named_parameters())
                check_tensors(saved, own["modules"][name], name, finite=False)
                check_tensors(saved, weights, name)
        for name in own["unsaved"].keys() & state.get("unsaved", {}).keys():
            check_tensors(state["unsaved"][name], own["unsaved"][name], f"buffers of {name}", finite=False)
        check_tensors(state.get("estimator", {}), own["estimator"], "estimator", finite=False)
        check_tensors(state["parameters"], own["parameters"], "parameter")
        check_noise(state["noise"], own["noise"])
        check_gathered(state["gathered"])
        with self.param_store():
            self.engine.check_state(state["optimizer"], stepped=state["step"] > 0)

    def _load_parameters(self, state: dict[str, Any]) -> None:
        for name, module in self.modules.items():
            if name in state["modules"] or not self._is_inside(module, state["modules"]):
                module.load_state_dict(state["modules"][name])
            _load_into(_unsaved_buffers(module), state.get("unsaved", {}).get(name), f"buffers of {name}")
        _load_into(self._tensors_of_estimator(), state.get("estimator"), "tensors of the estimator")
        with torch.no_grad():
            for name, parameter in self._own_parameters().items():
                parameter.copy_(state["parameters"][name])
        with self.param_store():
            self.engine.load_state_dict(copy.deepcopy(state["optimizer"]))

    def _tensors_of_estimator(self) -> dict[str, Tensor]:
        """What an estimator learns or counts; those of this package hold settings alone, beta for one."""
        own = type(self.estimator).__module__.startswith(f"{__package__}.")
        return {} if own else tensors_of(self.estimator)

    def _is_inside(self, module: nn.Module, saved: dict[str, Any]) -> bool:
        """Is a module part of another one whose state is there?"""
        others = (other for name, other in self.modules.items() if name in saved)
        return any(part is module for other in others for part in other.modules())

    def _identity(self, state_format: str = STATE_FORMAT) -> dict[str, Any]:
        now = state_format != "pyro_aevb training state 1"
        return {
            "data": self.batches.fingerprint if now else self.batches.earlier_fingerprint,
            "seed": self.seed,
            "batch_size": self.batches.batch_size,
            "optimizer": "pyro.optim" if isinstance(self.engine, SVIEngine) else "torch.optim",
        }

    def _own_parameters(self) -> dict[str, Tensor]:
        """Parameters made by ``pyro.param``, in no module's state."""
        in_modules = {id(p) for module in self.modules.values() for p in module.parameters()}
        return {name: p for name, p in self.parameters.items() if id(p) not in in_modules}

    @contextmanager
    def param_store(self) -> Iterator[None]:
        """Run a block with the trainer's own parameter store, to evaluate a pair made with ``pyro.param``."""
        with alone(), pyro.get_param_store().scope(self._store):
            yield

    @contextmanager
    def _running(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.param_store())
            stack.enter_context(self._noise.swapped_in())
            stack.enter_context(self.settings.applied())
            stack.enter_context(current_device(self.device))
            stack.enter_context(self.engine.running())
            new = stack.enter_context(noticing(self.modules.values()))
            yield
        for i, module in enumerate(new):  # evaluated, moved, saved and put back from here on
            self.modules[f"later.{type(module).__name__}{len(self.modules) + i}"] = module.to(self.device)

    # ------------------------------------------------------------ the first run

    def _find_modules(self) -> dict[str, nn.Module]:
        """Those that take part when the pair runs, moved to the device."""
        with self.param_store(), seeded(derive(self.seed, "weights"), self.device):
            return traces.moved_parts(self.model, self.guide, self.batches[0], self.device)

    def _first_run(self) -> None:
        """Find the parameters and check the pair and the data, with noise of its own so that training's is not used."""
        loss, pair = first_loss(self.estimator), (self.model, self.guide)
        with self.param_store(), seeded(derive(self.seed, "weights"), self.device):
            with without_a_trace():
                self.batches.check(self.model, self.guide)
            run = traces.first_run(loss, *pair, self.batches[0])
            self.divisors = {self.batches.batch_size: run.divisor, **self._of_last_batch(loss)}
        self._global_latents = run.global_latents
        self.parameters = trained_parameters(*pair, self.modules, run.parameters)
        # The prior's precision 1 in the units of the loss: N/M sum of bounds weighs it by 1, a plain sum by M/N.
        counted = run.plate.full_size if run.plate else self.batches.batch_size
        self._weight_of_prior = counted / self.batches.size
        if self._global_latents and not math.isclose(counted, self.batches.size):
            raise InputError(
                f"site {self._global_latents[0]!r} is one for all data, so its terms count once, but the plate of the "
                f"data does not know how many there are: give model and guide size={self.batches.size}"
            )

    def _of_last_batch(self, loss: Any) -> dict[int, float]:
        """The divisor of the last minibatch of an epoch, where it is shorter: it must train too."""
        args = self.batches[self.batches.per_epoch - 1]
        rows = len(args[0])
        if rows == self.batches.batch_size:
            return {}
        try:
            return {rows: traces.first_run(loss, self.model, self.guide, args).divisor}
        except InputError as error:
            raise InputError(
                f"the last minibatch of an epoch has {rows} of the {self.batches.size} data, on which the pair fails "
                f"({error}): choose another batch_size, or leave {rows} data out"
            ) from error

    def _make_engine(self, name: EngineName, optimizer: OptimizerLike | None) -> tuple[Engine, bool]:
        """The engine, and whether it may still become the captured one."""
        if optimizer is None:
            # Where weights are latents of the model they have a prior there, and their guide's parameters have none.
            prior = 0 if self._global_latents else self._weight_of_prior
            optimizer = partial(Adagrad, lr=0.02, weight_decay=prior, warm_up=0)
        parts = self.model, self.guide, self.estimator, optimizer, self.parameters, self.batches, self.modules
        if name == "svi" or (name == "auto" and isinstance(optimizer, PyroOptim)):
            return SVIEngine(*parts), False
        if name == "captured":
            return CapturedEngine(*parts, batch_sizes=self.batches.frequent_sizes()), False
        return EagerEngine(*parts), name == "auto"

    def _capture(self) -> None:
        """Go on with the captured engine and the same optimizer."""
        optimizer, self._auto = self.engine.optimizer, False
        parts = self.model, self.guide, self.estimator, optimizer, self.parameters, self.batches, self.modules
        self.engine = CapturedEngine(*parts, batch_sizes=self.batches.frequent_sizes())


def count_of_samples(samples: float) -> int:
    """A number of data to train on, perhaps written as 1e6.

    Raises:
        InputError: If it is not whole, or negative.
    """
    given: Any = int(samples) if isinstance(samples, float) and samples.is_integer() else samples
    return whole("samples", given, 0)


def _copies(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _unsaved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that a module's own state leaves out."""
    saved = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in saved}


def _unsaved(module: nn.Module) -> dict[str, Any]:
    return _copies(_unsaved_buffers(module))


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
