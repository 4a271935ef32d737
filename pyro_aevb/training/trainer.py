"""Algorithm 1 as a resumable loop over any Pyro pair."""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb import traces
from pyro_aevb.data.batches import Batches, Data
from pyro_aevb.engines.around import Around, Averages, Clip, Every, MakeScheduler, Schedule, check_scheduler_like
from pyro_aevb.engines.base import Engine, Objective, OptimizerLike, first_loss
from pyro_aevb.engines.captured import captured_engine
from pyro_aevb.engines.eager import TorchEngine
from pyro_aevb.engines.kept import TOLERANCE
from pyro_aevb.engines.optimizer import check_optimizer_like
from pyro_aevb.engines.svi import SVIEngine
from pyro_aevb.errors import InputError, choice, function, instance
from pyro_aevb.estimators import SGVB, Estimator
from pyro_aevb.estimators.baselines import averages
from pyro_aevb.hardware import Precision, Settings, find_device, find_settings, largest_product
from pyro_aevb.optimizers import Adagrad
from pyro_aevb.origins import comes_from
from pyro_aevb.pairs import Pair, is_copy, noticing, tensors_of, trained_parameters, without_a_trace
from pyro_aevb.process import UndoneStep
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.training.divergence import Watch
from pyro_aevb.training.loop import AUTO_CAPTURE_STEPS, Earlier, Training, broken_parameters, non_finite
from pyro_aevb.training.progress import Gathered, Progress
from pyro_aevb.training.weights import Weights

__all__ = ["Trainer", "evaluated"]

EngineName = Literal["auto", "captured", "eager", "svi"]

EARLIEST = {"identity", "step", "modules", "parameters", "optimizer", "captured", "noise", "gathered"}
LOSSY = 50  # times the tolerance of a recording's gradients, where products are in bfloat16


def _estimator_of(state: Mapping[str, Any]) -> dict[str, Any]:
    return dict(state.get("estimator", {}))


class Trainer(Training):
    r"""Algorithm 1 with minibatches drawn without replacement, epoch after epoch.

    The pair moves to ``device`` and so do the data, as one tensor, where they are in memory. The first batch is run
    once with all of Pyro's checks on, whatever their setting. The caller's parameter store and random state are never
    touched: parameters made by ``pyro.param`` live in a store of the trainer's own, see
    :meth:`param_store <pyro_aevb.Trainer.param_store>`. A run is a function of its seed and its initial weights, which
    the caller has already drawn.

    Arguments:
        model: The model, any Pyro function whose arguments are the data, batch first.
        guide: Its guide, with the same arguments.
        data: Training data, ``(N, ...)``; a :class:`~pyro_aevb.data.DynamicBinarization`; a tuple of a pair's several
            arguments, or a dictionary of its keyword arguments; a ``Dataset`` or ``DataLoader`` of torch, all of whose
            rows are collated once; an array over a mapped file, a ``Mapped`` or a ``Streamed`` data set, of which a
            minibatch at a time is in memory. See :func:`pyro_aevb.data.taken_apart`.
        estimator: Any ``pyro.infer.ELBO``, this package's or Pyro's; :class:`~pyro_aevb.estimators.SGVB` by default.
        optimizer: A callable that makes a ``torch.optim`` optimizer of parameters, an optimizer, or one of
            ``pyro.optim`` for ``engine="svi"``. By default the paper's: Adagrad with step size 0.02, and as
            ``weight_decay`` the prior N(0, I) on all weights, so that training maximises
            :math:`\frac NM \sum_i \mathcal L(x_i) + \log p(\theta, \phi)`; without it for a pair with global latents,
            whose prior is in the model.
        batch_size: Number of data in a minibatch, the paper's M; the last minibatch of an epoch may be smaller.
        seed: Seed of order, binarisation and noise, each its own stream.
        engine: ``captured``, the step recorded as a graph and compiled; ``eager``, the same step without; ``svi``,
            Pyro's ``SVI``; ``auto``, ``svi`` for an optimizer of ``pyro.optim``, else ``captured`` from the first
            ``run`` on that is long enough to win back the compiler's time (10,000 steps), ``eager`` until then. The two
            round differently: name one where a run cut in pieces must equal a whole one bit for bit.
        device: ``auto`` for CUDA, then MPS, then the CPU; or a device's name.
        precision: ``float32``; ``bfloat16`` or ``auto`` to allow products in bfloat16 where the processor has units
            for it.
        report_every: Number of training samples (data visited) between two reports.
        settings: Settings of the processor, :class:`~pyro_aevb.hardware.Settings`: which library multiplies matrices
            and how many threads compute, both of which change how numbers are rounded. By default they follow from the
            processor's make and the pair's size, and a resumed run goes on with those of its state; those that are
            named here always win.
        scheduler: A callable that makes a scheduler of ``torch.optim.lr_scheduler`` of the optimizer, or one of the
            optimizer that is given; by default the step size stays. Its factor and that of this package's own
            optimizers, which change step sizes themselves, multiply.
        scheduler_every: What the scheduler is stepped after: each ``step``, each ``epoch``, or each ``report`` at a
            multiple of ``report_every``. A ``ReduceLROnPlateau`` follows the reported bound: give ``report`` here, and
            make it with ``mode="max"`` and ``threshold_mode="abs"``.
        clip_norm: Largest norm of all gradients together; longer ones are scaled down to it, as by
            ``torch.nn.utils.clip_grad_norm_``. By default gradients stay as they are.
        clip_value: Largest absolute value of an element of a gradient, as by ``torch.nn.utils.clip_grad_value_``. By
            default gradients stay as they are.
        averaging: Decay of an exponential moving average of the weights over steps, 0.999 say, for evaluation inside
            ``with trainer.averaged()``; by default none is kept. Buffers are not averaged.

    Raises:
        InputError: If the data are empty, too few, not finite or outside the likelihood's support; if the device is not
            there; if the pair breaks its contract; if the scheduler does not suit the optimizer; if ``engine="svi"``,
            whose optimizers are Pyro's, is given a scheduler, clipping or averaging.
    """

    kind = "Trainer"
    own_name = "tensors of the estimator"
    own_needed = False
    earlier: ClassVar = {
        "pyro_aevb training state 3": Earlier(EARLIEST | {"unsaved", "estimator"}, _estimator_of, is_sealed=True),
        "pyro_aevb training state 2": Earlier(EARLIEST | {"unsaved", "estimator"}, _estimator_of),
        "pyro_aevb training state 1": Earlier(EARLIEST, _estimator_of, earlier_fingerprint=True),
    }
    engine: Engine

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
        settings: Settings | None = None,
        scheduler: MakeScheduler | LRScheduler | None = None,
        scheduler_every: Every = "step",
        clip_norm: float | None = None,
        clip_value: float | None = None,
        averaging: float | None = None,
    ) -> None:
        self._given = function("model", model), function("guide", guide)
        self._estimator = SGVB() if estimator is None else instance("estimator", estimator, ELBO)
        choice("engine", engine, ("auto", "captured", "eager", "svi"))
        check_optimizer_like(optimizer)
        check_scheduler_like(scheduler)
        clip = None if clip_norm is None and clip_value is None else Clip(clip_norm, clip_value)
        where = find_device(device)
        batches = Batches(data, batch_size, seed, where, model, guide)
        super().__init__(batches, seed, where, report_every, settings)
        self._watch = Watch(batches.dimension)
        self._pair = batches.called(model), batches.called(guide)
        self.modules = self._find_modules()
        first_modules = dict(self.modules)
        if isinstance(self.estimator, Estimator):
            self.estimator.to(self.device)
        self._first_run()
        found = self._found_settings(precision)
        self.settings = found if settings is None else instance("settings", settings, Settings)
        self._weights = Weights(self.parameters, first_modules)
        self._make_engine(engine, optimizer)
        self._surround(clip, scheduler, scheduler_every, averaging)
        if engine == "captured":
            self.capture()
        self._forget_gradients()

    # Without setters: whoever assigned another would train the first one on.

    @property
    def model(self) -> Pair:
        """The model that is trained; it cannot be replaced: make another trainer for another model."""
        return self._given[0]

    @property
    def guide(self) -> Pair:
        """The guide that is trained; it cannot be replaced: make another trainer for another guide."""
        return self._given[1]

    @property
    def estimator(self) -> ELBO:
        """The estimator; it cannot be replaced: make another trainer for another estimator."""
        return self._estimator

    @property
    def objective(self) -> Objective:
        """What each step descends: the estimator's loss of the pair on a minibatch."""
        return Objective(
            *self._pair,
            self.estimator,
            self.parameters,
            self.batches,
            self.modules,
            self.divisors,
            self._averages,
        )

    @property
    def _around(self) -> Around:
        """What stands around the optimizer's step."""
        return self.engine.around if isinstance(self.engine, TorchEngine) else Around()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Run a block with the averages of the weights in the weights' place, to evaluate the pair with them.

        Neither training nor saving nor loading is possible inside.

        Raises:
            InputError: If the trainer keeps no averages, or they are in place already.
        """
        if self._around.averages is None:
            raise InputError("this trainer keeps no averages of its weights: make it with averaging=0.999, say")
        with self._around.averages.in_place():
            yield

    # ------------------------------------------------------------ the loop

    def begin(self, samples: float) -> None:
        """Record the step if a run of this many samples is worth it; what was recorded before is compared first."""
        self._refuse_averaged("train")
        if self.auto and samples >= AUTO_CAPTURE_STEPS * self.batches.batch_size:
            self.capture()
        self.engine.check_next()  # the caller may have changed anything since the last run

    def take_steps(self, target: int) -> None:
        """Take as many steps as the engine takes at once, if they do not pass ``target`` samples; else one step."""
        annealed = isinstance(self.estimator, Estimator) and self.estimator.anneal(self.samples_seen)
        at_once = 1 if annealed else self.engine.steps_at_once
        whole = self.batches.samples_seen(self.step + at_once) <= target
        visits = [self.batches.visit(self.step + i) for i in range(at_once if whole else 1)]
        self._undone.remember()
        try:
            for visit, loss in zip(visits, self.engine.steps(visits), strict=False):
                self.gathered.add(loss, self.divisors[len(visit[0])], len(visit[0]))
                self.step += 1
                if len(visits) > 1:
                    self._undone.remember()
        except BaseException as error:
            self._broke_off(error)
            raise

    def _broke_off(self, error: BaseException) -> None:
        """Take the step back, if its update had not begun; raise another error where numbers broke."""
        self.torn = self.engine.updating
        if not self.torn:
            self._undone.take_back()
        # Pyro's validation, on in engine='svi', meets a NaN before the loss is there, and its words alone tell.
        broken = isinstance(error, ValueError) and re.search(r"\b(nan|inf)\b", str(error))
        if isinstance(error, ValueError) and (broken or broken_parameters(self.parameters)):
            raise non_finite("the loss became nan", self.step + 1, self.parameters) from error

    def report(self, whole: bool) -> Progress:
        """The bound since the last report, which begins anew if it is a whole one."""
        self._stop_if_not_finite()
        self._check_same_weights()
        gathered = self.gathered
        bound = gathered.mean()
        self._watch.look(gathered, bound)
        if whole:
            self.gathered = Gathered()
            if self._around.schedule is not None:
                self._around.schedule.after_report(bound)
        beta: Any = getattr(self.estimator, "beta", None)
        return Progress(self.samples_seen, bound, None if beta is None else float(beta))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a block as steps are run: with this training's store, noise, settings, device and engine."""
        self._check_same_weights()
        with super().running(), self.engine.running(), noticing(self.modules.values()) as new:
            self._undone = self._undone_step()
            yield
        for i, module in enumerate(new):  # evaluated, moved, saved and put back from here on
            self.modules[f"later.{type(module).__name__}{len(self.modules) + i}"] = module.to(self.device)

    def _undone_step(self) -> UndoneStep:
        """Takes a step back that fails or is interrupted before its update, so that what follows is as without it."""
        buffers = [buffer for module in self.modules.values() for buffer in module.buffers()]
        counts = [count for count in tensors_of(self.estimator).values() if not count.requires_grad]
        tensors = list({id(t): t for t in (*buffers, *counts, *self._averages.values())}.values())
        return UndoneStep(self.noise.read, self.noise.write, tensors, self.objective.trained())

    def _stop_if_not_finite(self) -> None:
        if found := self.gathered.first_non_finite():
            raise non_finite(f"the loss became {-found[1]}", self.step - found[0], self.parameters)
        if broken_parameters(self.parameters):  # by the last step, whose loss was still finite
            raise non_finite("the weights broke", self.step, self.parameters)

    def _check_same_weights(self) -> None:
        """Are the weights that train those that the pair uses? One optimizer over all knows those of the beginning."""
        self._weights.check_kinds()
        if self.engine.name == "svi":  # which makes an optimizer for whatever parameter it meets
            return
        self._weights.check_known()
        self._check_store(self._weights.known)

    def _check_store(self, known: set[int]) -> None:
        in_modules = {id(p) for module in self._weights.modules.values() for p in module.parameters()}
        for name, parameter in self._store["params"].items():
            if id(parameter) in known | in_modules or not parameter.requires_grad:
                continue
            if not is_copy(name, parameter, self.modules.values()):
                raise InputError(
                    f"parameter {name!r} appeared after the first step, so that it does not train: run it in the "
                    "first step too, or train with engine='svi'"
                )

    # ------------------------------------------------------------ state

    def _state(self) -> dict[str, Any]:
        self._refuse_averaged("save or load")
        return super()._state()

    def _refuse_averaged(self, what: str) -> None:
        if self._around.averages is not None and self._around.averages.put_in:
            raise InputError(f"the averaged weights are in place: leave 'with trainer.averaged()' to {what}")

    def own_identity(self) -> dict[str, Any]:
        """What a resumed training must have again, besides data, seed and batch size: the kind of optimizer."""
        return {"optimizer": "pyro.optim" if self.engine.name == "svi" else "torch.optim"}

    def own_tensors(self) -> dict[str, Tensor]:
        """What an estimator learns or counts; those of this package hold settings alone, beta for one, and averages."""
        ours = isinstance(self.estimator, Estimator) and self._is_ours()
        return {**({} if ours else tensors_of(self.estimator)), **self._averages}

    def _is_ours(self) -> bool:
        return comes_from(type(self.estimator), "pyro_aevb")

    # ------------------------------------------------------------ the first run

    def _found_settings(self, precision: Precision) -> Settings:
        product = largest_product(self.parameters.values(), self.batches.batch_size)
        return find_settings(product, self.device, precision)

    def _forget_gradients(self) -> None:
        """Some of Pyro's estimators leave those of the first run, which the first step of SVI would add to."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _find_modules(self) -> dict[str, nn.Module]:
        """The modules that take part when the pair runs, moved to the device."""
        with self.param_store(), seeded(derive(self.seed, "weights"), self.device):
            return traces.moved_parts(*self._pair, self.batches[0], self.device)

    def _first_run(self) -> None:
        """Find the parameters and check the pair and the data, with noise of its own so that training's is not used."""
        loss = first_loss(self.estimator)
        with self.param_store(), seeded(derive(self.seed, "weights"), self.device):
            with without_a_trace():
                self.batches.check(*self._pair)
            run = traces.first_run(loss, *self._pair, self.batches[0])
            self.divisors = {self.batches.batch_size: run.divisor, **self._of_last_batch(loss)}
        self.global_latents = run.global_latents
        self._averages = averages(run.parameters)
        for average in self._averages.values():
            average.zero_()  # as if this run had not been
        met = {name: p for name, p in run.parameters.items() if name not in self._averages}
        self._met = {id(p) for p in met.values()}
        self.parameters = trained_parameters(*self._pair, self.modules, met)
        # The prior's precision 1 in the units of the loss: N/M sum of bounds weighs it by 1, a plain sum by M/N.
        counted = run.plate.full_size if run.plate else self.batches.batch_size
        self._weight_of_prior = counted / self.batches.size
        if self.global_latents and not math.isclose(counted, self.batches.size):
            raise InputError(
                f"site {self.global_latents[0]!r} is one for all data, so its terms count once, but the plate of the "
                f"data does not know how many there are: give model and guide size={self.batches.size}"
            )

    def _of_last_batch(self, loss: Any) -> dict[int, float]:
        """The divisor of the last minibatch of an epoch, where it is shorter: it must train too."""
        args = self.batches[self.batches.per_epoch - 1]
        rows = len(args[0])
        if rows == self.batches.batch_size:
            return {}
        try:
            return {rows: traces.first_run(loss, *self._pair, args).divisor}
        except InputError as error:
            raise InputError(
                f"the last minibatch of an epoch has {rows} of the {self.batches.size} data, on which the pair fails "
                f"({error}): choose another batch_size, or leave {rows} data out"
            ) from error

    def _make_engine(self, name: EngineName, optimizer: OptimizerLike | None) -> None:
        """The engine that was asked for; ``auto`` may still become the captured one."""
        if optimizer is None:
            # Where weights are latents of the model they have a prior there, and their guide's parameters have none.
            prior = 0 if self.global_latents else self._weight_of_prior
            optimizer = partial(Adagrad, lr=0.02, weight_decay=prior, warm_up=0)
        if name == "svi" or (name == "auto" and isinstance(optimizer, PyroOptim)):
            self.engine = SVIEngine(self.objective, optimizer)
            self._check_met_by_pyro()
            return
        self.engine = TorchEngine(self.objective, optimizer)
        self.auto = name == "auto"

    def _surround(self, clip: Clip | None, scheduler: Any, every: Every, averaging: float | None) -> None:
        """Put around the optimizer's step what was asked for."""
        choice("scheduler_every", every, ("step", "epoch", "report"))
        asked = {"scheduler": scheduler, "clip_norm or clip_value": clip, "averaging": averaging}
        named = [name for name, value in asked.items() if value is not None]
        if named and not isinstance(self.engine, TorchEngine):
            raise InputError(
                f"engine='svi' takes no {named[0]}: its optimizers are pyro.optim's, which offers ClippedAdam, "
                "PyroLRScheduler and clip_args; or train with another engine"
            )
        if not isinstance(self.engine, TorchEngine) or not named:
            return
        optimizer = self.engine.optimizer
        averages = None if averaging is None else Averages(self.parameters, averaging)
        per_epoch = self.batches.per_epoch
        schedule = None if scheduler is None else Schedule(scheduler, optimizer, every, per_epoch)
        self.engine.around = Around(clip, schedule, averages)

    def capture(self) -> None:
        """Go on with recorded steps, and the same optimizer.

        Raises:
            InputError: If the engine is ``svi``, which Pyro steps itself.
        """
        if self.engine.name == "svi":
            raise InputError("engine='svi' steps through Pyro, which is not recorded: give eager or captured")
        self.auto = False
        self.captured = True
        tolerance = TOLERANCE * (LOSSY if self.settings.lossy else 1)
        sizes = self.batches.frequent_sizes()
        around = self._around
        self.engine = captured_engine(self.objective, self.engine.optimizer, sizes, tolerance, around)

    def _check_met_by_pyro(self) -> None:
        """``SVI`` trains what Pyro meets alone: a module that never shows it its weights would stay as it is."""
        unmet = {name: p for name, p in self.parameters.items() if id(p) not in self._met}
        if not unmet:
            return
        with self.param_store(), seeded(derive(self.seed, "weights"), self.device), without_a_trace(evaluate=False):
            loss = first_loss(self.estimator)(*self._pair, *self.batches[0])
            found = _gradients(loss, list(unmet.values()))
        if used := [name for name, gradient in zip(unmet, found, strict=True) if gradient is not None]:
            raise InputError(
                f"Pyro never meets {used[0]}, which the loss depends on, so that SVI would not train it: register its "
                "module by pyro.module, or train with another engine than svi"
            )


@contextmanager
def evaluated(trainer: Trainer) -> Iterator[None]:
    """Run a block as a trainer's pair is evaluated: with its parameter store, and the averages of weights if any."""
    with ExitStack() as stack:
        stack.enter_context(trainer.param_store())
        if getattr(trainer.engine, "around", Around()).averages is not None:
            stack.enter_context(trainer.averaged())
        yield


def _gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    """Of a loss by parameters; of one that has been differentiated already, what it left there."""
    if loss.requires_grad:
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    found = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found
