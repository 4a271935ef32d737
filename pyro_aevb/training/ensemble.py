"""Several trainings of one architecture, a step of all at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from pyro_aevb.data.batches import Visit
from pyro_aevb.engines.batched import BatchedStep
from pyro_aevb.engines.captured import CapturedEngine
from pyro_aevb.engines.cuda_graphs import unchanged
from pyro_aevb.engines.eager import EagerEngine
from pyro_aevb.engines.recording import record
from pyro_aevb.engines.stacking import ELEMENTWISE, JoinedOptimizer, Stacked, joined_optimizers
from pyro_aevb.errors import InputError, NonFiniteLossError, flag, instance, told
from pyro_aevb.estimators import Estimator
from pyro_aevb.process import Deferred, alone
from pyro_aevb.seeds import unchanged_random_state
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer, count_of_samples

__all__ = ["Ensemble"]

CHECK_EVERY = 500  # steps: as many as the captured engine takes between two looks at the pair
TOLERANCE = 1e-3  # relative, of a member's gradient to its eager one: above float32 rounding, below any real change


class Ensemble:
    """Several trainings at once: the step of one is recorded, and batched over all with ``torch.func.vmap``.

    Each member trains as it would alone, up to rounding: with its own weights, step size, order of minibatches and
    stream of noise. At every report the members are trainers like any others: evaluate, save, resume, or go on with one
    alone. They may differ in seed, initial weights, the optimizer's settings and all else that is a tensor. Not in
    ``latent_dim``: padded latents would be trained like all others, unless each part of the pair masked them.

    Arguments:
        trainers: The members, at the same step of the same data. Those whose optimizers have the same settings should
            be neighbours: they are stepped as one.
        compiled: Compile the batched step; without, it is replayed operation by operation, which begins sooner.

    Raises:
        InputError: If there are fewer than two members; if they differ in more than is said above; if they share
            weights; or for what cannot be batched: a device other than the CPU, ``engine="svi"``, global latents, an
            optimizer that does not work element by element, ``warm_up``, noise whose distribution depends on
            parameters.
    """

    def __init__(self, trainers: Sequence[Trainer], *, compiled: bool = True) -> None:
        self.trainers, self.compiled, self._torn = _listed(trainers), flag("compiled", compiled), False
        _check_alike(self.trainers)
        self._engines = [_eager(trainer) for trainer in trainers]
        self.settings = replace(trainers[0].settings, threads=torch.get_num_threads())
        self._stack()

    def run(self, samples: float) -> Iterator[list[Progress]]:
        """Train each member on this many more data, at least.

        Yields:
            Each member's :class:`~pyro_aevb.Progress`, as often as it would itself.

        Raises:
            NonFiniteLossError: If a loss was NaN or infinite: names the member. The others may go on without it.
            InputError: If members have been changed so that they are no longer alike.
        """
        self._check()
        self._steps_until_check = 0  # the caller may have changed anything since the last run
        first = self.trainers[0]
        target = first.samples_seen + count_of_samples(samples)
        if self._torn:
            raise InputError("the last step broke off: go on with members made anew and their saved states")
        signals = Deferred()
        while first.samples_seen < target:
            report = (first.samples_seen // first.report_every + 1) * first.report_every
            with signals, alone(), self._joined() as (optimizers, generators):
                while first.samples_seen < min(report, target):
                    signals.deliver()
                    self._torn = True
                    self._take_step(optimizers, generators)
                    self._torn = False
            try:
                yield [self._progress(member, first.samples_seen >= report) for member in range(len(self.trainers))]
            finally:
                signals.deliver()  # of the last step: its report comes first
            self._check()

    def _take_step(self, optimizers: list[JoinedOptimizer], generators: list[Generator]) -> None:
        visits = [trainer.batches.visit(trainer.step) for trainer in self.trainers]
        losses, gradients = self._step(visits, generators)(_stack_visits(visits), generators)
        for optimizer in optimizers:
            optimizer.step(gradients)
        for trainer, (rows, _), loss in zip(self.trainers, visits, losses.unbind(), strict=True):
            trainer._gathered.add(loss, trainer.divisors[len(rows)], len(rows))
            trainer.step += 1
        self._steps_until_check -= 1

    def _progress(self, member: int, reported: bool) -> Progress:
        trainer = self.trainers[member]
        try:
            trainer._stop_if_not_finite()
        except NonFiniteLossError as error:
            raise NonFiniteLossError(f"member {member}: {error}") from error
        return trainer._progress(reported)

    # ------------------------------------------------------------ members together and apart

    def _check(self) -> None:
        """Are the members still alike, and the same tensors?"""
        _check_alike(self.trainers)
        if self._sources != self._find_sources():
            self._stack()

    def _stack(self) -> None:
        """Memory for the members' tensors, and no step recorded yet."""
        self._sources = self._find_sources()
        others = [_others(engine) for engine in self._engines]
        if any([(t.shape, t.dtype) for t in own] != [(t.shape, t.dtype) for t in others[0]] for own in others):
            raise InputError("members have buffers or frozen weights of different shapes: give all the same parts")
        if len(set(self._sources)) < len(self._sources):
            raise InputError("members share a tensor: make a model, a guide and an estimator for each")
        self._parameters, self._others = Stacked([engine.parameters for engine in self._engines]), Stacked(others)
        self._steps: dict[int, BatchedStep] = {}
        self._checked: set[int] = set()
        self._steps_until_check = 0

    def _find_sources(self) -> list[tuple[int, bool]]:
        tensors = [t for engine in self._engines for t in (*engine.parameters, *_others(engine))]
        return [(id(tensor), tensor.requires_grad) for tensor in tensors]

    @contextmanager
    def _joined(self) -> Iterator[tuple[list[JoinedOptimizer], list[Generator]]]:
        """All members' state joined for a block of steps, and given back to them afterwards."""
        self._parameters.join()
        self._others.join()
        optimizers = joined_optimizers([trainer.engine.optimizer for trainer in self.trainers], self._parameters)
        generators = self._generators()
        try:
            with self.settings.applied():
                yield optimizers, generators
        finally:
            self._part(generators)
            for optimizer in optimizers:
                optimizer.part()

    def _part(self, generators: list[Generator]) -> None:
        self._parameters.part()
        self._others.part()
        for trainer, generator in zip(self.trainers, generators, strict=True):
            trainer._noise.states["cpu"] = generator.get_state()

    def _generators(self) -> list[Generator]:
        return [Generator().set_state(trainer._noise.states["cpu"]) for trainer in self.trainers]

    # ------------------------------------------------------------ the batched step

    def _step(self, visits: list[Visit], generators: list[Generator]) -> BatchedStep:
        """The step for this size of minibatch, recorded where there is none or where the members have changed."""
        size = len(visits[0][0])
        if self._steps_until_check <= 0:
            self._checked.clear()
            self._steps_until_check = CHECK_EVERY
        if size in self._checked:
            return self._steps[size]
        self._part(generators)  # what the members are compared with must be as far as they are
        known = size in self._steps
        if not known or self._differing(visits) is not None:
            self._steps[size] = self._record(visits)
        if (member := self._differing(visits)) is not None:
            raise InputError(
                f"member {member} differs from the first in more than its tensors, or its step changes by itself: give "
                "all the same model, guide and estimator"
            )
        self._checked.add(size)
        return self._steps[size]

    def _record(self, visits: list[Visit]) -> BatchedStep:
        first, engine = self.trainers[0], self._engines[0]
        compiled = self.compiled and len(visits[0][0]) in first.batches.frequent_sizes()
        data, others = first.batches.parts, _others(engine)
        try:
            with first._running(), unchanged_random_state(), self.settings.applied():
                recording = record(engine.loss, visits[0], engine.parameters, data, others, compiled=False)
                stacked = self._parameters.tensors, data, self._others.tensors
                return BatchedStep(recording, _stack_visits(visits), *stacked, compiled)
        except Exception as error:  # whatever tracing raises
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the step cannot be batched, so train one after another: {reason}") from error

    def _differing(self, visits: list[Visit]) -> int | None:
        """The first member whose loss or gradients are not those of its own pair and estimator."""
        with unchanged(self._others.tensors):
            losses, gradients = self._steps[len(visits[0][0])](_stack_visits(visits), self._generators())
        tolerance = TOLERANCE * (50 if self.settings.lossy else 1)
        for member, visit in enumerate(visits):
            own = [losses[member], *(None if gradient is None else gradient[member] for gradient in gradients)]
            if not _agree(own, self._alone(member, visit), tolerance):
                return member
        return None

    def _alone(self, member: int, visit: Visit) -> list[Tensor | None]:
        """Loss and gradients by the member's own eager step; nothing is drawn, nothing changes."""
        trainer, engine = self.trainers[member], self._engines[member]
        with trainer._running(), unchanged_random_state(), unchanged(_others(engine)):
            loss = engine.loss_and_gradients(visit)
        gradients = [p.grad for p in engine.parameters]
        trainer.engine.optimizer.zero_grad(set_to_none=True)
        return [loss, *gradients]


def _agree(ours: list[Tensor | None], theirs: list[Tensor | None], tolerance: float) -> bool:
    """Is the distance of loss and gradients small against their length, where that is finite? No gradient is zero."""
    present = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None or b is not None]
    distance = _length([a if b is None else b if a is None else a - b for a, b in present])
    length = _length([b for _, b in present if b is not None])
    return not length.isfinite() or bool(distance <= tolerance * length)


def _length(tensors: list[Any]) -> Tensor:
    return torch.stack([tensor.norm().double() for tensor in tensors]).norm()


def _stack_visits(visits: list[Visit]) -> Visit:
    """Rows, ``(members, M)``, and keys, ``(members,)``."""
    rows, keys = zip(*visits, strict=True)
    return torch.stack(rows), torch.stack(keys)


def _eager(trainer: Trainer) -> CapturedEngine:
    """A member's own step, eager for every size of minibatch."""
    parts = trainer.model, trainer.guide, trainer.estimator, trainer.engine.optimizer
    further = trainer.parameters, trainer.batches, trainer.modules
    return CapturedEngine(*parts, *further, batch_sizes=frozenset())


def _others(engine: CapturedEngine) -> list[Tensor]:
    """Buffers, weights frozen before training began, and tensors of the estimator."""
    trained = {id(parameter) for parameter in engine.parameters}
    return [tensor for tensor in engine._other_tensors() if id(tensor) not in trained]


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
    if not isinstance(trainer.engine, EagerEngine):
        raise InputError(f"member {member} has engine='svi': give it eager, captured or auto")
    if trainer.device.type != "cpu":
        raise InputError(f"member {member} is on {trainer.device}: only trainings on the CPU are batched")
    if trainer._global_latents:
        raise InputError(f"member {member} has global latents, {trainer._global_latents[0]!r}: train it by itself")
    if type(optimizer) not in ELEMENTWISE:
        raise InputError(
            f"member {member}: {type(optimizer).__name__} is not known to work element by element: "
            f"give one of {', '.join(sorted({o.__name__ for o in ELEMENTWISE}))}"
        )
    if isinstance(trainer.estimator, Estimator) and trainer.estimator.anneal(trainer.samples_seen):
        raise InputError(f"member {member} has an estimator with warm_up, which is not batched: train it by itself")


def _places(trainer: Trainer) -> list[list[int]]:
    """Which parameters are in which of the optimizer's groups."""
    places = {id(p): i for i, p in enumerate(trainer.parameters.values())}
    return [[places.get(id(p), -1) for p in group["params"]] for group in trainer.engine.optimizer.param_groups]
