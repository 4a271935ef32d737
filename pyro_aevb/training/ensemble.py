"""Several trainings of one architecture, a step of all at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Generator, Tensor

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.around import Around
from pyro_aevb.engines.batched import BatchedStep
from pyro_aevb.engines.captured import loss_and_gradients_alone
from pyro_aevb.engines.cuda_graphs import unchanged
from pyro_aevb.engines.frozen import Frozen
from pyro_aevb.engines.kept import TOLERANCE, Kept, agree
from pyro_aevb.engines.recording import record
from pyro_aevb.engines.stacking import ELEMENTWISE, Stacked, joined_optimizers
from pyro_aevb.errors import InputError, NonFiniteLossError, flag, instance, told
from pyro_aevb.estimators import Estimator
from pyro_aevb.hardware import Settings
from pyro_aevb.process import alone
from pyro_aevb.seeds import unchanged_random_state
from pyro_aevb.torch_internals import has_step_hooks
from pyro_aevb.training.loop import Loop
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import LOSSY, Trainer

__all__ = ["Ensemble"]


class Ensemble(Loop[list[Progress]]):
    """Several trainings at once: the step of one is recorded, and batched over all with ``torch.func.vmap``.

    Each member trains as it would alone, up to rounding: with its own weights, step size, order of minibatches and
    stream of noise. At every report the members are trainers like any others: evaluate, save, resume, or go on with one
    alone. They may differ in seed, initial weights, the optimizer's settings and all else that is a tensor. Not in
    ``latent_dim``: padded latents would be trained like all others, unless each part of the pair masked them.

    Arguments:
        trainers: The members, at the same step of the same data. Those whose optimizers have the same settings should
            be neighbours: they are stepped as one.
        compiled: Compile the batched step; without, it is replayed operation by operation, which begins sooner.
        settings: Of the processor, :class:`~pyro_aevb.hardware.Settings`; by default the first member's, with as many
            threads as the process has.

    Raises:
        InputError: If there are fewer than two members; if they differ in more than is said above; if they share
            weights; or for what cannot be batched: a device other than the CPU, ``engine="svi"``, global latents, an
            optimizer that does not work element by element, a scheduler, clipping, averaging, ``warm_up``, noise whose
            distribution depends on parameters.
    """

    def __init__(self, trainers: Sequence[Trainer], *, compiled: bool = True, settings: Settings | None = None) -> None:
        self.trainers = _listed(trainers)
        self.compiled = flag("compiled", compiled)
        _check_alike(self.trainers)
        self.report_every = self.trainers[0].report_every
        found = replace(self.trainers[0].settings, threads=torch.get_num_threads())
        self.settings = found if settings is None else instance("settings", settings, Settings)
        self._stack()

    @property
    def samples_seen(self) -> int:
        """Training data that each member has visited so far."""
        return self.trainers[0].samples_seen

    # ------------------------------------------------------------ the loop

    def begin(self, samples: float) -> None:
        """Are the members still alike, and the same tensors? The caller may have changed anything."""
        self._check()
        self._kept.check_next()

    @contextmanager
    def running(self) -> Iterator[None]:
        """All members' state joined for a block of steps, and given back to them afterwards."""
        with alone():
            self._check()
            self._kept.look()
            self._parameters.join()
            self._others.join()
            self._optimizers = joined_optimizers([each.engine.optimizer for each in self.trainers], self._parameters)
            self._generators = [Generator().set_state(each.noise.states["cpu"]) for each in self.trainers]
            try:
                with self.settings.applied():
                    yield
            finally:
                self._part()
                for optimizer in self._optimizers:
                    optimizer.part()

    def take_steps(self, target: int) -> None:
        """One step of all members."""
        self.torn = True
        visits = [trainer.batches.visit(trainer.step) for trainer in self.trainers]
        step = self._kept.of(len(visits[0][0]), visits)
        if step is None:
            self._refuse("it has no recording")
        losses, gradients = step(_stack_visits(visits), self._generators)
        for optimizer in self._optimizers:
            optimizer.step(gradients)
        for trainer, visit, loss in zip(self.trainers, visits, losses.unbind(), strict=True):
            trainer.gathered.add(loss, trainer.divisors[len(visit[0])], len(visit[0]))
            trainer.step += 1
        self.torn = False

    def report(self, whole: bool) -> list[Progress]:
        """Each member's report."""
        return [self._report_of(member, trainer, whole) for member, trainer in enumerate(self.trainers)]

    def _report_of(self, member: int, trainer: Trainer, whole: bool) -> Progress:
        try:
            return trainer.report(whole)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"member {member}: {error}") from error

    def end(self) -> None:
        """End what fetches the members' data."""
        for trainer in self.trainers:
            trainer.end()

    # ------------------------------------------------------------ members together and apart

    def _check(self) -> None:
        _check_alike(self.trainers)
        if self._sources != self._find_sources():
            self._stack()

    def _stack(self) -> None:
        """Memory for the members' tensors, and no step recorded yet."""
        self._sources = self._find_sources()
        others = [trainer.objective.further_tensors() for trainer in self.trainers]
        if any([(t.shape, t.dtype) for t in own] != [(t.shape, t.dtype) for t in others[0]] for own in others):
            raise InputError("members have buffers or frozen weights of different shapes: give all the same parts")
        if len(set(self._sources)) < len(self._sources):
            raise InputError("members share a tensor: make a model, a guide and an estimator for each")
        self._parameters = Stacked([trainer.objective.trained() for trainer in self.trainers])
        self._others = Stacked(others)
        self._kept: Kept[BatchedStep] = self._nothing_kept()
        self._differing: int | None = None  # the first member that is not what the recording is

    def _nothing_kept(self) -> Kept[BatchedStep]:
        roots = [part for each in self.trainers for part in (each.model, each.guide, each.estimator)]
        frozen = Frozen(self._tensors, lambda: [m for each in self.trainers for m in each.modules.values()], roots)
        sizes = frozenset(self.trainers[0].divisors)
        return Kept(self._record, self._agrees, frozen, sizes, refuse=self._refuse)

    def _refuse(self, reason: str) -> NoReturn:
        if self._differing is None:
            raise InputError(f"the step cannot be batched, so train one after another: {reason}")
        raise InputError(
            f"member {self._differing} differs from the first in more than its tensors, or its step changes by itself: "
            "give all the same model, guide and estimator"
        )

    def _tensors(self) -> list[Tensor]:
        """The tensors of all members."""
        objectives = [trainer.objective for trainer in self.trainers]
        return [tensor for each in objectives for tensor in (*each.trained(), *each.further_tensors())]

    def _find_sources(self) -> list[tuple[int, int, bool]]:
        return [(id(tensor), tensor.data_ptr(), tensor.requires_grad) for tensor in self._tensors()]

    def _part(self) -> None:
        self._parameters.part()
        self._others.part()
        for trainer, generator in zip(self.trainers, self._generators, strict=True):
            trainer.noise.states["cpu"] = generator.get_state()

    # ------------------------------------------------------------ the batched step

    def _record(self, visits: list[Visit]) -> BatchedStep:
        self._part()  # what is recorded must be as far as the members are
        objective = self.trainers[0].objective
        compiled = self.compiled and len(visits[0][0]) in objective.batches.frequent_sizes()
        data = objective.batches.parts
        with self.trainers[0].running(), unchanged_random_state(), self.settings.applied():
            parts = objective.trained(), data, objective.further_tensors()
            recording = record(objective.loss, visits[0], *parts, compiled=False)
            stacked = self._parameters.tensors, data, self._others.tensors
            return BatchedStep(recording, _stack_visits(visits), *stacked, compiled)

    def _agrees(self, step: BatchedStep, visits: list[Visit]) -> bool:
        """Are each member's loss and gradients those of its own pair and estimator?"""
        self._part()
        generators = [Generator().set_state(each.noise.states["cpu"]) for each in self.trainers]
        with unchanged(self._others.tensors):
            losses, gradients = step(_stack_visits(visits), generators)
        for member, (trainer, visit) in enumerate(zip(self.trainers, visits, strict=True)):
            ours = [losses[member], *(None if gradient is None else gradient[member] for gradient in gradients)]
            if not self._agrees_alone(trainer, visit, ours):
                self._differing = member
                return False
        self._differing = None
        return True

    def _agrees_alone(self, trainer: Trainer, visit: Visit, ours: list[Tensor | None]) -> bool:
        tolerance = TOLERANCE * (LOSSY if self.settings.lossy else 1)
        with trainer.running():
            expected = loss_and_gradients_alone(trainer.objective, visit)
        return agree(ours, expected, trainer.divisors[len(visit[0])], tolerance)


def _stack_visits(visits: list[Visit]) -> Visit:
    """Rows, ``(members, M)``, and keys, ``(members,)``; and the minibatches where visits bring them."""
    return tuple(torch.stack(parts) for parts in zip(*visits, strict=True))


# ---------------------------------------------------------------- what members must have in common

ALIKE: dict[str, Callable[[Trainer], Any]] = {
    "model": lambda t: type(t.model),
    "guide": lambda t: type(t.guide),
    "shape of parameters": lambda t: [(p.shape, p.dtype) for p in t.parameters.values()],
    "estimator": lambda t: type(t.estimator),
    "optimizer": lambda t: (type(t.engine.optimizer), _places(t)),
    "data set": lambda t: (t.batches.fingerprint, t.batches.binarises),
    "batch_size": lambda t: t.batches.batch_size,
    "report_every": lambda t: t.report_every,
    "scale of the loss": lambda t: t.divisors,
    "precision": lambda t: t.settings.lossy,
    "step": lambda t: t.step,
}


def _listed(trainers: Any) -> list[Trainer]:
    if isinstance(trainers, list | tuple):
        return list(trainers)
    raise InputError(f"trainers must be a list of at least two, not {told(trainers)}")


def _check_alike(trainers: list[Trainer]) -> None:
    for member, trainer in enumerate(trainers):
        instance(f"member {member}", trainer, Trainer)
    if len(trainers) < 2:
        raise InputError("an ensemble needs at least two trainers: run one by itself")
    for member, trainer in enumerate(trainers):
        _check_member(member, trainer)
        for what, of in ALIKE.items():
            if of(trainer) != of(trainers[0]):
                raise InputError(f"member {member} has another {what} than the first: give all members the same")


def _check_member(member: int, trainer: Trainer) -> None:
    optimizer = getattr(trainer.engine, "optimizer", None)
    if trainer.engine.name == "svi":
        raise InputError(f"member {member} has engine='svi': give it eager, captured or auto")
    if trainer.device.type != "cpu":
        raise InputError(f"member {member} is on {trainer.device}: only trainings on the CPU are batched")
    if trainer.global_latents:
        raise InputError(f"member {member} has global latents, {trainer.global_latents[0]!r}: train it by itself")
    if type(optimizer) not in ELEMENTWISE:
        raise InputError(
            f"member {member}: {type(optimizer).__name__} is not known to work element by element: "
            f"give one of {', '.join(sorted({o.__name__ for o in ELEMENTWISE}))}"
        )
    if optimizer is not None and has_step_hooks(optimizer):
        raise InputError(f"member {member} has hooks at its optimizer's step, which is not called: train it by itself")
    if getattr(trainer.engine, "around", Around()) != Around():
        raise InputError(
            f"member {member} has a scheduler, clipping or averaging, which are not batched: train it by itself"
        )
    if isinstance(trainer.estimator, Estimator) and trainer.estimator.anneal(trainer.samples_seen):
        raise InputError(f"member {member} has an estimator with warm_up, which is not batched: train it by itself")


def _places(trainer: Trainer) -> list[list[int]]:
    """Which parameters are in which of the optimizer's groups."""
    places = {id(p): i for i, p in enumerate(trainer.parameters.values())}
    return [[places.get(id(p), -1) for p in group["params"]] for group in trainer.engine.optimizer.param_groups]
