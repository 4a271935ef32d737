"""Monte Carlo EM, the paper's baseline without a guide (appendix E)."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import pyro
import torch
from pyro.params import module_from_param_with_module_name
from torch import Tensor, nn

from pyro_aevb import traces
from pyro_aevb.data.batches import Batches, Data, Visit
from pyro_aevb.engines.base import MakeOptimizer
from pyro_aevb.engines.optimizer import OneOptimizer, check_optimizer_like
from pyro_aevb.errors import (
    REFUSALS,
    InputError,
    NonFiniteLossError,
    choice,
    function,
    in_one_line,
    instance,
    real,
    whole,
)
from pyro_aevb.hardware import Settings, find_device, find_settings, largest_product
from pyro_aevb.optimizers import Adagrad
from pyro_aevb.pairs import Pair, without_a_trace
from pyro_aevb.process import UndoneStep
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.training.divergence import Watch
from pyro_aevb.training.em_steps import CapturedSteps, EagerSteps, RecordedSteps
from pyro_aevb.training.loop import AUTO_CAPTURE_STEPS, Earlier, Training
from pyro_aevb.training.progress import Gathered, Progress
from pyro_aevb.training.weights import Weights

__all__ = ["MonteCarloEM"]

EARLIEST = {"identity", "step", "modules", "optimizer", "chains", "step_size", "noise", "gathered"}
FIRST_STEP_SIZE = 0.1


def _chains_of(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: state[key] for key in ("chains", "step_size")}


class MonteCarloEM(Training):
    r"""Expectation maximisation with one persistent Markov chain for each datum in place of a guide.

    The E-step moves chains by one transition of Hamiltonian Monte Carlo towards :math:`p(z \mid x)`, those of one
    minibatch or of all data; the M-step takes a few steps up the gradient of

    .. math:: \frac NM \sum_{i=1}^M \log p_\theta(x_i, z_i) + \log p(\theta)

    with the chains' latents held fixed. The leapfrog step size is one for all data and follows the wanted acceptance.
    It reports :math:`\log p(x, z)` at the chains, which is no bound of log p(x): ``Progress.bound`` is NaN.

    Arguments:
        model: The model, any Pyro function with continuous latents in one data plate and weights in modules.
        data: Training data, ``(N, ...)``, in any form that :class:`~pyro_aevb.Trainer` takes.
        optimizer: A callable that makes a ``torch.optim`` optimizer of parameters, or an optimizer; by default the
            paper's: Adagrad with step size 0.02 and the prior N(0, I) on all weights.
        batch_size: Number of data in a minibatch, the paper's M.
        seed: Seed of order, binarisation, first positions and noise.
        engine: ``captured``, transition and gradients recorded as graphs and compiled; ``eager``, the same step
            without; ``auto``, ``captured`` from the first ``run`` on that is long enough, as for
            :class:`~pyro_aevb.Trainer`. The two round differently.
        leapfrog_steps: Number of leapfrog steps in each transition.
        target_acceptance: Acceptance rate that the leapfrog step size is adapted to reach, between 0 and 1.
        updates: Number of steps that the optimizer takes in each M-step.
        e_step: Whose chains move before the weights do: a ``minibatch``'s, of which the weights then learn; or ``all``,
            and the weights learn from one minibatch after the other.
        device: ``auto`` for CUDA, then MPS, then the CPU; or a device's name.
        report_every: Number of training samples (data visited) between two reports.
        settings: Settings of the processor, as for :class:`~pyro_aevb.Trainer`.

    Raises:
        InputError: If the data do not fit the model, a latent is discrete or global, or the model has no weights; if
            ``engine`` is unknown or a count not positive.

    References:
        | Auto-Encoding Variational Bayes, appendix E (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    kind = "MonteCarloEM"
    own_name = "chains"
    own_needed = True
    earlier: ClassVar = {
        "pyro_aevb Monte Carlo EM state 3": Earlier(EARLIEST | {"captured"}, _chains_of, is_sealed=True),
        "pyro_aevb Monte Carlo EM state 2": Earlier(EARLIEST, _chains_of),
        "pyro_aevb Monte Carlo EM state 1": Earlier(EARLIEST, _chains_of, earlier_fingerprint=True),
    }
    engine: OneOptimizer

    def __init__(
        self,
        model: Callable[..., Any],
        data: Data,
        optimizer: MakeOptimizer | torch.optim.Optimizer | None = None,
        batch_size: int = 100,
        seed: int = 0,
        engine: Literal["auto", "captured", "eager"] = "auto",
        *,
        leapfrog_steps: int = 10,
        target_acceptance: float = 0.9,
        updates: int = 5,
        e_step: Literal["minibatch", "all"] = "minibatch",
        device: str | torch.device = "auto",
        report_every: int = 10_000,
        settings: Settings | None = None,
    ) -> None:
        self._given = function("model", model)
        self.e_step = choice("e_step", e_step, ("minibatch", "all"))
        self.updates = whole("updates", updates)
        check_optimizer_like(optimizer)
        where = find_device(device)
        batches = Batches(data, batch_size, seed, where, model)
        super().__init__(batches, seed, where, report_every, settings)
        self._watch = Watch(batches.dimension)
        self._model = batches.called(model)
        self.modules = self._find_modules()
        self.parameters = self._find_parameters()
        self.chains = self._first_positions()  # (N, K)
        self.step_size = torch.tensor(FIRST_STEP_SIZE, device=self.device, dtype=self.chains.dtype)
        self.acceptance = torch.full_like(self.step_size, math.nan)
        self._weights = Weights(self.parameters, self.modules)
        default = partial(Adagrad, lr=0.02, weight_decay=1.0, warm_up=0)  # the prior N(0, I) in this loss's units
        self.engine = OneOptimizer(default if optimizer is None else optimizer, list(self.parameters.values()))
        found = find_settings(largest_product(self.parameters.values(), batch_size), self.device, "float32")
        self.settings = found if settings is None else instance("settings", settings, Settings)
        wanted = whole("leapfrog_steps", leapfrog_steps), _acceptance(target_acceptance)
        self.eager = EagerSteps(self._model, self.space, self.batches.size, *wanted, self.modules.values())
        self.recorded: CapturedSteps | None = None
        self.auto = choice("engine", engine, ("auto", "captured", "eager")) == "auto"
        if engine == "captured":
            self.capture()

    @property
    def model(self) -> Pair:
        """The model that is trained; it cannot be replaced: make another training for another model."""
        return self._given

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """What steps the weights."""
        return self.engine.optimizer

    # ------------------------------------------------------------ the loop

    def begin(self, samples: float) -> None:
        """Record the steps if so many data are worth it; what is recorded is compared first."""
        if self.auto and samples >= AUTO_CAPTURE_STEPS * self.batches.batch_size:
            self.capture()
        if self.recorded:
            self.recorded.kept.check_next()  # the caller may have changed anything since the last run

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a block as steps are run: with this training's store, noise, settings and device, without validation."""
        with super().running(), pyro.validation_enabled(False):
            self._weights.check_kinds()
            self._weights.check_known()
            buffers = [buffer for module in self.modules.values() for buffer in module.buffers()]
            self._undone = UndoneStep(self.noise.read, self.noise.write, buffers, list(self.parameters.values()))
            if self.recorded:
                self.recorded.kept.look()
            yield

    def report(self, whole: bool) -> Progress:
        """The mean log p(x, z) at the chains since the last report, which begins anew if it is a whole one."""
        if found := self.gathered.first_non_finite():
            where = f"{found[1]} at step {self.step - found[0]}"
            raise NonFiniteLossError(f"log p(x, z) became {where}: take a smaller step size")
        self._check_space()
        gathered = self.gathered
        log_joint = gathered.mean()
        self._watch.look(gathered, log_joint)
        if whole:
            self.gathered = Gathered()
        return Progress(self.samples_seen, math.nan, log_joint=log_joint)

    # ------------------------------------------------------------ one step

    def take_steps(self, target: int) -> None:
        """Move chains, of a minibatch or of all; then update the weights, on those minibatches in turn."""
        self._undone.remember()
        try:
            self._take_step()
        except BaseException:
            if not self.torn:
                self._undone.take_back()
            raise

    def _take_step(self) -> None:
        count = self.batches.per_epoch if self.e_step == "all" else 1
        moved: list[tuple[Visit, EagerSteps | RecordedSteps]] = []
        for visit in map(self.batches.visit, range(self.step, self.step + count)):
            steps = self._move_chains(visit)
            if len(moved) < self.updates:  # a visit may bring its data: no more are kept than are learnt from
                moved.append((visit, steps))
        for update in range(self.updates):
            self._update(*moved[update % count], with_loss=update == 0)
        self.step += count
        self.torn = False

    def _move_chains(self, visit: Visit) -> EagerSteps | RecordedSteps:
        """One transition of these data's chains; returns what made it."""
        rows = visit[0]
        args = self.batches.take(*visit)
        u = self.chains[rows]  # (M, K)
        steps = self.recorded.steps_for(u, self.step_size, *args) if self.recorded else self.eager
        moved, step_size, acceptance = steps.transition(u, self.step_size, *args)
        self.torn = True  # until the weights have followed
        self.chains[rows] = moved
        self.step_size = step_size
        self.acceptance = acceptance
        return steps

    def _update(self, visit: Visit, steps: EagerSteps | RecordedSteps, with_loss: bool) -> None:
        rows = visit[0]
        args = self.batches.take(*visit)
        self.optimizer.zero_grad(set_to_none=True)
        loss = steps.backward(self.chains[rows], *args, with_loss=with_loss)
        if loss is not None:
            self.gathered.add(loss, self.batches.size, len(rows))
        self.optimizer.step()

    def capture(self) -> None:
        """Go on with recordings, where steps can be recorded."""
        self.captured = True
        parts = self.eager, list(self.parameters.values()), list(self.modules.values())
        self.recorded = self.recorded or CapturedSteps(*parts, self.batches.frequent_sizes())

    # ------------------------------------------------------------ the first run

    def _find_modules(self) -> dict[str, nn.Module]:
        """The modules that take part when the model runs, moved to the device."""
        with self.param_store(), seeded(derive(self.seed, "weights"), self.device):
            return traces.moved_parts(self._model, self._model, self.batches[0], self.device)

    def _find_parameters(self) -> dict[str, Tensor]:
        """The modules' weights by name, those of a module within another once."""
        modules = self.modules.items()
        found = ((f"{m}.{n}", p) for m, module in modules for n, p in module.named_parameters() if p.requires_grad)
        parameters: dict[int, tuple[str, Tensor]] = {}
        for name, parameter in found:
            parameters.setdefault(id(parameter), (name, parameter))
        if not parameters:
            raise InputError("the model has no weights in modules, so there is nothing to train")
        return dict(parameters.values())

    def _first_positions(self) -> Tensor:
        """Check the model on the first minibatch with all of Pyro's checks on, and draw each chain's first position."""
        with ExitStack() as stack:
            seed = derive(self.seed, "weights")
            for block in (self.param_store(), seeded(seed, self.device), torch.no_grad(), without_a_trace()):
                stack.enter_context(block)
            args = self.batches[0]
            try:
                with pyro.validation_enabled(True):
                    self.space = traces.latent_space(self._model, args)
                    traces.distributions(self._model, args)
            except InputError:
                raise
            except REFUSALS as error:
                raise InputError(f"the first run of the model failed: {in_one_line(error)}") from error
            self._check_trained(args)
            self.batches.check(self._model, None)
            self._probe = self._one_probe()
            first = torch.arange(self.batches.size, device=self.device).split(self.batches.batch_size)
            key = self.batches.visit(0)[1]
            return torch.cat([self.space.draw(self._model, self.batches.at(rows, key), 1)[0] for rows in first])

    def _check_trained(self, args: tuple[Tensor, ...]) -> None:
        known = {id(p) for m in self.modules.values() for p in m.parameters()}
        met = traces.met_parameters((self._model,), args)
        # What pyro.module registers is a module's, though the store keeps a copy of what is not contiguous.
        own = {name: p for name, p in met.items() if module_from_param_with_module_name(name) == name}
        if others := [name for name, p in own.items() if id(p) not in known]:
            raise InputError(
                f"{others[0]!r} is made by pyro.param, which MonteCarloEM does not train: make it an nn.Parameter of a "
                "module that the model uses"
            )

    def _one_probe(self) -> Tensor:
        """One latent vector, as the bijections onto the supports give it, the same for all data."""
        with self.param_store(), torch.no_grad(), seeded(derive(self.seed, "weights"), self.device):
            args = self.batches[0]
            found = traces.latent_space(self._model, args).probe(len(args[0]))
        values = torch.cat([value.reshape(len(args[0]), -1) for value in found.values()], -1)  # (M, K)
        if not torch.equal(values, values[:1].expand_as(values)):
            raise InputError("a latent's support depends on the data: MonteCarloEM needs one support for all chains")
        return values[0]

    def _check_space(self) -> None:
        if not torch.equal(self._one_probe(), self._probe):
            raise InputError("a latent's support moves with the weights: MonteCarloEM needs one that stays")

    # ------------------------------------------------------------ state

    def own_identity(self) -> dict[str, Any]:
        """How an E-step and an M-step are taken."""
        return {"leapfrog_steps": self.eager.leapfrog_steps, "updates": self.updates, "e_step": self.e_step}

    def own_tensors(self) -> dict[str, Tensor]:
        """The chains' positions, and the leapfrog step size."""
        return {"chains": self.chains, "step_size": self.step_size}


def _acceptance(target: float) -> float:
    if not 0 < real("target_acceptance", target) < 1:
        raise InputError(f"target_acceptance must lie between 0 and 1, not {target}")
    return target
