"""Whose code a class or a function is."""

from typing import Any

__all__ = ["comes_from"]


def comes_from(thing: Any, *packages: str) -> bool:
    """Whether a class or function was defined in one of some packages.

    Python keeps no other link from a class to the package that defines it than ``__module__``, a name. Where a base
    class tells what is asked, ask ``isinstance`` instead: a subclass that somebody wrote elsewhere does not come from
    torch.

    Arguments:
        thing: A class or a function; of an instance, give its type.
        packages: Names of top-level packages, ``"torch"`` say.

    >>> import torch
    >>> comes_from(torch.optim.Adam, "torch", "pyro"), comes_from(comes_from, "torch", "pyro")
    (True, False)
    """
    module = getattr(thing, "__module__", None)  # a function made by ``exec`` may have None
    return isinstance(module, str) and module.partition(".")[0] in packages
