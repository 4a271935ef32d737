"""The weights that a training was made with: others that come to stand in their place would not train, silently."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from pyro_aevb.errors import InputError

__all__ = ["Weights"]


class Weights:
    """What trains, and the modules' weights that do not, as they were when a training was made.

    Arguments:
        parameters: Parameters that are trained, by name.
        modules: The modules that take part, by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> None:
        self.parameters = parameters
        self.modules = dict(modules)
        trained = {id(p) for p in parameters.values()}
        self.untrained = {id(p) for _, p in self._moving()} - trained
        self._kinds = {name: (p.dtype, p.device) for name, p in parameters.items()}

    @property
    def known(self) -> set[int]:
        """Identities of all weights of the beginning that are not frozen."""
        return {id(p) for p in self.parameters.values()} | self.untrained

    def check_kinds(self) -> None:
        """Refuse weights that have come to another precision or device.

        Raises:
            InputError: Names the weight.
        """
        for name, parameter in self.parameters.items():
            if (parameter.dtype, parameter.device) != self._kinds[name]:
                raise InputError(
                    f"{name} is {parameter.dtype} on {parameter.device} now, and was {self._kinds[name][0]} on "
                    f"{self._kinds[name][1]} when the trainer was made: make a new one"
                )

    def check_known(self) -> None:
        """Refuse weights that were frozen at the beginning, or are other tensors than then: they would not train.

        Raises:
            InputError: Names the weight.
        """
        known = self.known
        for name, parameter in self._moving():
            if id(parameter) not in known:
                raise InputError(
                    f"{name} was frozen, or another tensor, when the trainer was made, so that it does not train: make "
                    "a new trainer; a weight that is to train later on may be frozen after the trainer was made"
                )

    def _moving(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that are not frozen, of the modules of the beginning, by name."""
        modules = self.modules.items()
        return ((f"{m}.{n}", p) for m, module in modules for n, p in module.named_parameters() if p.requires_grad)
