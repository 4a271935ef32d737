"""Weights that are given rather than learned: Pyro must not meet them as parameters."""

from collections.abc import Iterable

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_aevb.errors import InputError
from pyro_aevb.traces.sites import Site

__all__ = ["given_weights"]


class _GivenWeights(Messenger):
    """Answer ``pyro.param`` for given weights, and let nobody outside hear of it; see :func:`given_weights`."""

    def __init__(self, weights: Iterable[Tensor], points: Iterable[Tensor] | None) -> None:
        super().__init__()
        self.weights = {id(weight) for weight in weights}
        self.points = None if points is None else {id(point) for point in points}

    def _pyro_param(self, msg: Site) -> None:
        initial = msg["args"][1] if len(msg["args"]) > 1 else None
        if id(initial) in self.weights:
            msg["value"] = initial
            msg["done"] = True
            msg["stop"] = True  # handlers outside of the block do not hear of it
        elif self.points is not None and id(initial) not in self.points:
            raise InputError(
                f"parameter {msg['name']!r} of the model is in none of its modules, so it cannot be given a prior: "
                "make it an nn.Parameter of a module, or name with modules= those to be Bayesian; the rest stay points"
            )


def given_weights(weights: Iterable[Tensor], points: Iterable[Tensor] | None = None) -> Messenger:
    """A block in which given weights may stand in modules that ``pyro.module`` registers.

    Without it the parameter store would keep one run's weights as parameters, and give them to the next run.

    Arguments:
        weights: Tensors that are to be taken as they are wherever ``pyro.param`` is given one of these very objects.
        points: The only other tensors that may be parameters; by default any may.

    Raises:
        InputError: When run: names a parameter that is not one of ``points``.
    """
    return _GivenWeights(weights, points)
