"""Pyro functions whose weights can be replaced for one run, and what of their modules a holder of them shows."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from pyro_aevb import traces
from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair, modules_named_by

__all__ = ["At", "Lifted", "WeightedFunction", "Weights"]

Weights = dict[str, Tensor]
"""Values of weights, by site."""


class WeightedFunction(nn.Module):
    """A Pyro function with the modules behind it, whose weights can be replaced for one run.

    Arguments:
        function: The Pyro function.
        latents: The weights that can be replaced, by the name of the site that samples them.
    """

    def __init__(self, function: Pair, latents: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules_named_by(function, function).values())
        self.original = (function,)  # in a tuple: if it is a module it is already among the parts
        sites = {id(p): site for site, p in latents.items()}
        self.places = {sites[id(p)]: place for place, p in self.named_parameters() if id(p) in sites}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function with the weights that its modules have."""
        return self.original[0](*args, **kwargs)

    def at(self, weights: Weights, args: tuple[Any, ...], kwargs: dict[str, Any], whole: bool = False) -> Any:
        """Run the function with other weights in place of those of its modules that are sites.

        Arguments:
            weights: A value of each weight, by the name of its site.
            args: Positional arguments of the function.
            kwargs: Keyword arguments of the function.
            whole: Whether to refuse parameters that ``pyro.param`` makes and none of its modules holds.

        Raises:
            InputError: If weights have another shape than the module's own.
        """
        given = {place: _stand_in(weights[site]) for site, place in self.places.items()}
        for site, place in self.places.items():
            if given[place].shape != self.get_parameter(place).shape:
                raise InputError(
                    f"{site!r} was sampled with shape {tuple(given[place].shape)}, in a plate around the whole pair: "
                    "draw one set of weights a run, with vectorize_particles=False"
                )
        with traces.given_weights(given.values(), self.parameters() if whole else None):
            return functional_call(self, given, args, kwargs)


def _stand_in(weight: Tensor) -> Tensor:
    """The weight, made to require a gradient even where none is wanted: else ``pyro.module`` warns of it."""
    return weight if weight.requires_grad else weight.detach().requires_grad_()


class At(nn.Module):
    """A Pyro function of a Bayesian pair at given weights.

    Arguments:
        function: The function, whose weights are replaced.
        weights: A value of each weight, by the name of its site.
    """

    def __init__(self, function: WeightedFunction, weights: Weights) -> None:
        super().__init__()
        self.function = function
        self.sites = list(weights)
        self.weights = nn.ParameterList(nn.Parameter(value, requires_grad=False) for value in weights.values())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function at these weights."""
        return self.function.at(dict(zip(self.sites, self.weights, strict=True)), args, kwargs)


class Lifted(nn.Module):
    """Holds a function's modules, so that they move, switch and are saved with it, but not all of their parameters.

    Arguments:
        function: The function, which holds its modules.
        hidden: Parameters of these modules that are neither shown as parameters nor saved.
    """

    def __init__(self, function: WeightedFunction, hidden: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.function = function
        self._hidden = tuple(hidden)  # in a tuple: not registered
        self.register_state_dict_post_hook(_leave_out)  # type: ignore[no-untyped-call]  # of torch
        self.register_load_state_dict_pre_hook(_put_back)  # type: ignore[no-untyped-call]  # of torch

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As of any module, without the weights that the function is no longer run with."""
        hidden = {id(p) for p in self._hidden}
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            if id(parameter) not in hidden:
                yield name, parameter

    def hidden(self) -> dict[str, nn.Parameter]:
        """The parameters that :meth:`named_parameters` leaves out, by all of their names."""
        shown = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        return {name: p for name, p in super().named_parameters(remove_duplicate=False) if name not in shown}


def _leave_out(module: Lifted, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name in module.hidden():
        state.pop(prefix + name, None)


def _put_back(module: Lifted, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Put the hidden parameters' present values into a state being loaded, since torch refuses one without them."""
    for name, parameter in module.hidden().items():
        state[prefix + name] = parameter.detach()
