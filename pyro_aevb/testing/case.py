"""What is under test, and how a broken rule is told."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_aevb.errors import InputError, in_one_line
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.models import call_part
from pyro_aevb.priors import Prior
from pyro_aevb.seeds import seeded

__all__ = ["BATCH", "LEADING", "PARTICLES", "Case", "require", "rule_repr", "told"]

PARTICLES = 5
BATCH = 4

LEADING = (
    "z is (..., K), so count dimensions from the last one, and flatten all others before a layer that reads dimension "
    "1, such as batch normalisation or a convolution"
)

PARAMETERS = "give the distribution parameters that it takes for any weights: a positive scale, by exp or softplus"


@dataclass(frozen=True)
class Case:
    """What is under test: how it is made, what it is called with, and what it must return then."""

    make: Callable[..., Any]
    sizes: dict[str, int]
    kind: type
    arguments: Callable[[int], tuple[Tensor, ...]] = lambda rows: ()
    event: int = 0
    shares: tuple[nn.Module, ...] = ()

    @property
    def name(self) -> str:
        """What its author calls it."""
        made = self.make
        while isinstance(made, partial):
            made = made.func
        return getattr(made, "__name__", type(made).__name__)

    def built(self, seed: int = 0, **options: Any) -> Any:
        """A new one, of the kind and the sizes asked for, its initial values drawn at a seed."""
        given = ", ".join(f"{name}={value}" for name, value in {**self.sizes, **options}.items())
        try:
            with seeded(seed):
                made = self.make(*self.sizes.values(), **options)
        except Exception as error:  # whatever a stranger's constructor raises
            raise AssertionError(f"{self.name}({given}) failed: {told(error)}: {_ADVICE[self.kind]}") from error
        require(
            isinstance(made, self.kind),
            f"{self.name}({given}) made a {type(made).__name__}: make it a subclass of {_where(self.kind)}",
        )
        for name, size in self.sizes.items():
            found = getattr(made, name, None)
            require(
                found == size,
                f"{self.name}({given}) has {name} {found}: pass it on, super().__init__({', '.join(self.sizes)})",
            )
        return made

    def run(self, part: nn.Module, *arguments: Tensor) -> Any:
        """The distribution that a part returns, its shapes checked; without arguments, for those of the case."""
        given = arguments or self.arguments(BATCH)
        batch = given[0].shape[:-1] if given else torch.Size()
        try:
            return call_part(part, *given, batch=batch, event=self.event)
        except InputError as error:  # which names the part, what it returned and what was expected
            raise AssertionError(f"{error}{_called_with(given)}") from error
        except Exception as error:  # whatever a stranger's forward raises
            advice = f": {LEADING}" if self.kind is Likelihood else ""
            if _is_of_parameters(error):
                advice = f": {PARAMETERS}"
            raise AssertionError(f"{self.name}.forward failed, {told(error)}{_called_with(given)}{advice}") from error

    def drawn(self, made: Any, shape: tuple[int, ...] = ()) -> Tensor:
        """Draws of a distribution that a part returned, by its ``sample``."""
        try:
            value: Tensor = made.sample(shape)
        except Exception as error:  # of a scale below zero that nobody checked, say
            raise AssertionError(
                f"{self.name}: what it returned cannot be sampled, {told(error)}: {PARAMETERS}"
            ) from error
        return value

    def draw(self, part: nn.Module, seed: int = 1) -> tuple[Tensor, Tensor]:
        """A draw from what the part returns, and its log density."""
        with seeded(seed), torch.no_grad():
            made = self.run(part)
            value = self.drawn(made)
            return value, made.log_prob(value)


_ADVICE: dict[type, str] = {
    Prior: "a prior takes latent_dim first and everything else as keywords that have defaults",
    Likelihood: "a likelihood takes latent_dim and data_dim first and everything else as keywords that have defaults",
    Guide: "a guide takes data_dim and latent_dim first and everything else as keywords that have defaults",
    ELBO: "an estimator takes num_particles first, which has a default, and as keywords what pyro.infer.ELBO takes "
    "(**elbo_arguments, passed on to super().__init__)",
}


def require(held: bool, words: str) -> None:
    """An ``AssertionError`` where a rule is broken; not by ``assert``, which ``python -O`` leaves out."""
    if not held:
        raise AssertionError(words)


def told(error: Exception) -> str:
    """What was raised, in one line."""
    return f"{type(error).__name__}: {in_one_line(error)}"


def _is_of_parameters(error: BaseException) -> bool:
    """Whether torch's distributions refused a parameter: whether the error, or its cause, was raised where they do."""
    place = (error.__cause__ or error).__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__") == torch.distributions.Distribution.__module__


def _where(kind: type) -> str:
    return f"{kind.__module__.removesuffix('.base')}.{kind.__name__}"


def _called_with(given: tuple[Tensor, ...]) -> str:
    shapes = ", ".join(str(tuple(argument.shape)) for argument in given)
    return f" (called with {shapes})" if given else ""


def rule_repr(case: Case) -> None:
    """It can be printed, and its class is named."""
    part = case.built()
    try:
        words = repr(part)
    except Exception as error:  # whatever a stranger's __repr__ raises
        raise AssertionError(f"repr of {case.name} failed, {told(error)}: repair it, or leave it to torch") from error
    require(
        type(part).__name__ in words,
        f"repr of {case.name} is {words[:60]!r}, without its class's name {type(part).__name__}: begin with it",
    )
