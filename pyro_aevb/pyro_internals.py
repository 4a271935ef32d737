"""What this package uses of Pyro that Pyro does not promise to keep: names that begin with ``_``.

Each stands here once, with the reason why nothing public does. ``tests/test_private_names.py`` uses each of them, so
that a version of Pyro that moves one fails there by name.
"""

from typing import Any

from pyro.distributions import MaskedDistribution
from pyro.nn import PyroModule
from pyro.optim import PyroOptim
from torch import Tensor

__all__ = ["constrained_parameters", "is_straight_through", "made_by", "own_mask"]


def constrained_parameters(module: PyroModule) -> dict[str, Tensor]:
    """The unconstrained tensors behind a module's own ``PyroParam`` s, by the names of these.

    What a module registers is the unconstrained tensor, under a name of its own: only Pyro's list of what it constrains
    tells it from a parameter that somebody gave such a name.
    """
    registered = dict(module.named_parameters(recurse=False))
    return {name: registered[f"{name}_unconstrained"] for name in module._pyro_params}


def is_straight_through(value: Any) -> bool:
    """Whether a value was drawn by a straight-through estimator: its density is that of the value that it hides."""
    return hasattr(value, "_unquantize")


def own_mask(masked: MaskedDistribution) -> Any:
    """The mask that ``distribution.mask(...)`` was given, a tensor or a switch; nothing public tells it."""
    return masked._mask


def made_by(optimizer: PyroOptim, parameter: Tensor) -> Any:
    """The optimizer or schedule that Pyro makes for a parameter when it first meets it.

    ``optim_objs`` has it only once a step was taken, and a saved state is looked at before.
    """
    return optimizer._get_optim(parameter)
