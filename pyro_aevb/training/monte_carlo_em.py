"""Monte Carlo EM, the paper's baseline without a guide (appendix E)."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import pyro
import torch
from pyro.params import module_from_param_with_module_name
from torch import Tensor, nn

from pyro_aevb import traces
from pyro_aevb.data.batches import Batches, Data, Visit
from pyro_aevb.engines.eager import MakeOptimizer, check_optimizer_like, load_optimizer_state, make_optimizer
from pyro_aevb.errors import REFUSALS, InputError, NonFiniteLossError, choice, function, in_one_line, real, whole
from pyro_aevb.hardware import current_device, find_device, find_settings, largest_product
from pyro_aevb.optimizers import Adagrad
from pyro_aevb.pairs import without_a_trace
from pyro_aevb.process import Deferred, alone
from pyro_aevb.seeds import GlobalNoise, derive, seeded
from pyro_aevb.states import (
    check_digest,
    check_gathered,
    check_identity,
    check_kinds,
    check_noise,
    check_optimizer,
    check_plain,
    check_tensors,
    sealed,
)
from pyro_aevb.training.em_steps import CapturedSteps, EagerSteps, RecordedSteps
from pyro_aevb.training.progress import Gathered, Progress
from pyro_aevb.training.trainer import AUTO_CAPTURE_STEPS, TORN, count_of_samples

__all__ = ["MonteCarloEM"]

STATE_FORMAT = "pyro_aevb Monte Carlo EM state 3"
EARLIER_FORMATS = {  # and what they do not have
    "pyro_aevb Monte Carlo EM state 2": {"digest", "captured"},
    "pyro_aevb Monte Carlo EM state 1": {"digest", "captured"},
}
KINDS: dict[str, type] = {
    "identity": dict,
    "step": int,
    "modules": dict,
    "optimizer": dict,
    "chains": Tensor,
    "step_size": Tensor,
    "captured": bool,
    "noise": dict,
    "gathered": dict,
}
FIRST_STEP_SIZE = 0.1


class MonteCarloEM:
    r"""Expectation maximisation with one persistent Markov chain for each datum in place of a guide.

    The E-step moves chains by one transition of Hamiltonian Monte Carlo towards :math:`p(z \mid x)`, those of one
    minibatch or of all data; the M-step takes a few steps up the gradient of

    .. math:: \frac NM \sum_{i=1}^M \log p_\theta(x_i, z_i) + \log p(\theta)

    with the chains' latents held fixed. The leapfrog step size is one for all data and follows the wanted acceptance.
    It reports :math:`\log p(x, z)` at the chains, which is no bound of log p(x): ``Progress.bound`` is NaN.

    Arguments:
        model: The model, any Pyro function with continuous latents in one data plate and weights in modules.
        data: As for :class:`~pyro_aevb.Trainer`.
        optimizer: As there, of ``torch.optim``; by default the paper's: Adagrad with step size 0.02 and the prior
            N(0, I) on all weights.
        batch_size: Data per minibatch, the paper's M.
        seed: Seed of order, binarisation, first positions and noise.
        engine: ``captured``, transition and gradients recorded as graphs and compiled; ``eager``, the same step
            without; ``auto``, ``captured`` from the first ``run`` on that is long enough, as for
            :class:`~pyro_aevb.Trainer`. The two round differently.
        leapfrog_steps: In each transition.
        target_acceptance: That the leapfrog step size adapts to.
        updates: Steps of the optimizer in each M-step.
        e_step: Whose chains move before the weights do: a ``minibatch``'s, of which the weights then learn; or ``all``,
            and the weights learn from one minibatch after the other.
        device: As for :class:`~pyro_aevb.Trainer`.
        report_every: Data between reports.

    Raises:
        InputError: If the data do not fit the model, a latent is discrete or global, or the model has no weights; if
            ``engine`` is unknown or a count not positive.

    References:
        | Auto-Encoding Variational Bayes, appendix E (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

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
    ) -> None:
        self.model, self.seed = function("model", model), seed
        self.e_step = choice("e_step", e_step, ("minibatch", "all"))
        self.updates, self.report_every = whole("updates", updates), whole("report_every", report_every)
        check_optimizer_like(optimizer)
        self.device = find_device(device)
        self.batches = Batches(data, batch_size, seed, self.device)
        self._store: Any = {"params": {}, "constraints": {}}
        self._modules = self._find_modules()
        self.parameters = self._find_parameters()
        self.step, self._gathered, self._torn = 0, Gathered(), False
        self._noise = GlobalNoise(derive(seed, "noise"), self.device)
        self.chains = self._begin()  # (N, K)
        self.step_size = torch.tensor(FIRST_STEP_SIZE, device=self.device, dtype=self.chains.dtype)
        self.acceptance = torch.full_like(self.step_size, math.nan)
        default = partial(Adagrad, lr=0.02, weight_decay=1.0, warm_up=0)  # the prior N(0, I) in this loss's units
        self.optimizer = make_optimizer(default if optimizer is None else optimizer, self.parameters)
        self.settings = find_settings(largest_product(self.parameters, batch_size), self.device, "float32")
        settings = whole("leapfrog_steps", leapfrog_steps), _acceptance(target_acceptance)
        self.eager = EagerSteps(model, self.space, self.batches.size, *settings, self._modules.values())
        self.captured: CapturedSteps | None = None
        self._auto = choice("engine", engine, ("auto", "captured", "eager")) == "auto"
        if engine == "captured":
            self._capture()

    @property
    def samples_seen(self) -> int:
        """Training data visited so far, one for each datum in an E-step."""
        return self.batches.samples_seen(self.step)

    def run(self, samples: float) -> Iterator[Progress]:
        """Train on this many more data, at least; the last minibatch, or move of all chains, is finished.

        Yields:
            :class:`~pyro_aevb.Progress` whenever another ``report_every`` data have been seen, and at the end.

        Raises:
            NonFiniteLossError: If log p(x, z) was NaN or infinite.
            InputError: If ``samples`` is no whole number of at least 0, or the last step broke off.
        """
        target = self.samples_seen + count_of_samples(samples)
        if self._torn:
            raise InputError(TORN)
        if self._auto and samples >= AUTO_CAPTURE_STEPS * self.batches.batch_size:
            self._capture()
        if self.captured:
            self.captured.check_next()  # the caller may have changed anything since the last run
        signals = Deferred()
        while self.samples_seen < target:
            report = (self.samples_seen // self.report_every + 1) * self.report_every
            with signals, self._running():
                while self.samples_seen < min(report, target):
                    signals.deliver()
                    self._torn = True
                    self._take_step()
                    self._torn = False
            if found := self._gathered.first_non_finite():
                where = f"{found[1]} at step {self.step - found[0]}"
                raise NonFiniteLossError(f"log p(x, z) became {where}: take a smaller step size")
            self._check_space()
            gathered, self._gathered = self._gathered, Gathered() if self.samples_seen >= report else self._gathered
            try:
                yield Progress(self.samples_seen, math.nan, log_joint=gathered.mean())
            finally:
                signals.deliver()  # of the last step: its report comes first

    # ------------------------------------------------------------ one step

    def _take_step(self) -> None:
        """Move chains, of a minibatch or of all; then update the weights, on those minibatches in turn."""
        count = self.batches.per_epoch if self.e_step == "all" else 1
        visits = map(self.batches.visit, range(self.step, self.step + count))
        moved = [(visit, self._move_chains(visit)) for visit in visits]
        for update in range(self.updates):
            self._update(*moved[update % count], with_loss=update == 0)
        self.step += count

    def _move_chains(self, visit: Visit) -> EagerSteps | RecordedSteps:
        """One transition of these data's chains; returns what made it."""
        rows, args = visit[0], self.batches.take(*visit)
        u = self.chains[rows]  # (M, K)
        steps = self.captured.steps_for(u, self.step_size, *args) if self.captured else self.eager
        self.chains[rows], self.step_size, self.acceptance = steps.transition(u, self.step_size, *args)
        return steps

    def _update(self, visit: Visit, steps: EagerSteps | RecordedSteps, with_loss: bool) -> None:
        rows, args = visit[0], self.batches.take(*visit)
        self.optimizer.zero_grad(set_to_none=True)
        loss = steps.backward(self.chains[rows], *args, with_loss=with_loss)
        if loss is not None:
            self._gathered.add(loss, self.batches.size, len(rows))
        self.optimizer.step()

    def _capture(self) -> None:
        """Go on with recordings, those that there are."""
        parts = self.eager, self.parameters, list(self._modules.values()), self.batches.frequent_sizes()
        self.captured = self.captured or CapturedSteps(*parts)

    def _find_modules(self) -> dict[str, nn.Module]:
        """Those that take part when the model runs, moved to the device."""
        with self._in_store(), seeded(derive(self.seed, "weights"), self.device):
            return traces.moved_parts(self.model, self.model, self.batches[0], self.device)

    def _find_parameters(self) -> list[Tensor]:
        """The modules' weights, those of a module within another once."""
        found = (p for module in self._modules.values() for p in module.parameters() if p.requires_grad)
        parameters: list[Tensor] = list({id(p): p for p in found}.values())
        if not parameters:
            raise InputError("the model has no weights in modules, so there is nothing to train")
        return parameters

    def _begin(self) -> Tensor:
        """Check the model on the first minibatch with all of Pyro's checks on, and draw each chain's first position."""
        with ExitStack() as stack:
            seed = derive(self.seed, "weights")
            for block in (self._in_store(), seeded(seed, self.device), torch.no_grad(), without_a_trace()):
                stack.enter_context(block)
            args = self.batches[0]
            try:
                with pyro.validation_enabled(True):
                    self.space = traces.latent_space(self.model, args)
                    traces.distributions(self.model, args)
            except InputError:
                raise
            except REFUSALS as error:
                raise InputError(f"the first run of the model failed: {in_one_line(error)}") from error
            self._check_trained(args)
            self.batches.check(self.model, None)
            self._probe = self._one_probe()
            first = torch.arange(self.batches.size, device=self.device).split(self.batches.batch_size)
            key = self.batches.visit(0)[1]
            return torch.cat([self.space.draw(self.model, self.batches.take(rows, key), 1)[0] for rows in first])

    def _check_trained(self, args: tuple[Tensor, ...]) -> None:
        known = {id(p) for m in self._modules.values() for p in m.parameters()}
        met = traces.met_parameters((self.model,), args)
        # What pyro.module registers is a module's, though the store keeps a copy of what is not contiguous.
        own = {name: p for name, p in met.items() if module_from_param_with_module_name(name) == name}
        if others := [name for name, p in own.items() if id(p) not in known]:
            raise InputError(
                f"{others[0]!r} is made by pyro.param, which MonteCarloEM does not train: make it an nn.Parameter of a "
                "module that the model uses"
            )

    def _one_probe(self) -> Tensor:
        """One latent vector, as the bijections onto the supports give it, the same for all data."""
        with self._in_store(), torch.no_grad(), seeded(derive(self.seed, "weights"), self.device):
            args = self.batches[0]
            found = traces.latent_space(self.model, args).probe(len(args[0]))
        values = torch.cat([value.reshape(len(args[0]), -1) for value in found.values()], -1)  # (M, K)
        if not torch.equal(values, values[:1].expand_as(values)):
            raise InputError("a latent's support depends on the data: MonteCarloEM needs one support for all chains")
        return values[0]

    def _check_space(self) -> None:
        if not torch.equal(self._one_probe(), self._probe):
            raise InputError("a latent's support moves with the weights: MonteCarloEM needs one that stays")

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to continue bit for bit: tensors, numbers and text, and a digest of them."""
        return sealed(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "format": STATE_FORMAT,
            "identity": self._identity(),
            "step": self.step,
            "modules": {name: copy.deepcopy(module.state_dict()) for name, module in self._modules.items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "chains": self.chains.clone(),
            "step_size": self.step_size.clone(),
            "captured": self.captured is not None,
            "noise": dict(self._noise.states),
            "gathered": self._gathered.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InputError: If it is no state of a Monte Carlo EM, or of another model, data, seed or batch size; nothing
                has changed then.
        """
        if not isinstance(state, Mapping) or state.get("format") not in (STATE_FORMAT, *EARLIER_FORMATS):
            raise InputError("this is not a state of MonteCarloEM: give what its state_dict made")
        before = self._state()
        later = EARLIER_FORMATS.get(state["format"], set())
        if missing := before.keys() - state.keys() - later:
            raise InputError(f"this state lacks {', '.join(sorted(missing))}: it is not whole")
        check_kinds(state, {key: kind for key, kind in KINDS.items() if key in state})
        check_identity(state["identity"], self._identity(state["format"]))
        check_plain(state, "state")
        check_digest(state, "the state", required="digest" not in later)
        self._check_tensors(state, before)
        try:
            self._load(state)
        except (RuntimeError, KeyError, ValueError) as error:
            self._load(before)
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the saved run has another model or optimizer ({reason})") from error
        self._torn = False
        if self._auto and state.get("captured"):
            self._capture()

    def _check_tensors(self, state: Mapping[str, Any], own: dict[str, Any]) -> None:
        """See that all tensors suit their places, before any is used."""
        for name, module in self._modules.items():
            saved = state["modules"].get(name, {})
            check_tensors(saved, own["modules"][name], name, finite=False)
            check_tensors(saved, dict(module.named_parameters()), name)
        check_tensors(state, {key: own[key] for key in ("chains", "step_size")}, "state")
        check_noise(state["noise"], own["noise"])
        check_gathered(state["gathered"])
        check_optimizer(state["optimizer"], self.optimizer, stepped=state["step"] > 0)

    def _load(self, state: dict[str, Any]) -> None:
        for name, module in self._modules.items():
            module.load_state_dict(state["modules"][name])
        load_optimizer_state(self.optimizer, copy.deepcopy(state["optimizer"]))
        if state["chains"].shape != self.chains.shape:
            raise ValueError(f"chains of shape {tuple(state['chains'].shape)}, not {tuple(self.chains.shape)}")
        self.step, self.chains = state["step"], state["chains"].to(self.device).clone()
        self.step_size = state["step_size"].to(self.device).clone()
        self._noise.states = {key: value.cpu().clone() for key, value in state["noise"].items()}
        self._gathered.load_state_dict(state["gathered"], self.device)

    def _identity(self, state_format: str = STATE_FORMAT) -> dict[str, Any]:
        known = state_format != "pyro_aevb Monte Carlo EM state 1"
        return {
            "data": self.batches.fingerprint if known else self.batches.earlier_fingerprint,
            "seed": self.seed,
            "batch_size": self.batches.batch_size,
            "leapfrog_steps": self.eager.leapfrog_steps,
            "updates": self.updates,
            "e_step": self.e_step,
        }

    @contextmanager
    def _in_store(self) -> Iterator[None]:
        with alone(), pyro.get_param_store().scope(self._store):
            yield

    @contextmanager
    def _running(self) -> Iterator[None]:
        with ExitStack() as stack:
            fast = pyro.validation_enabled(False)
            for each in (self._in_store(), self._noise.swapped_in(), self.settings.applied(), fast):
                stack.enter_context(each)
            stack.enter_context(current_device(self.device))
            yield


def _acceptance(target: float) -> float:
    if not 0 < real("target_acceptance", target) < 1:
        raise InputError(f"target_acceptance must lie between 0 and 1, not {target}")
    return target
