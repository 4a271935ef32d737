"""The classes that the command line offers by name for each part of a run, and what each can be made with."""

import importlib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyro.infer
import torch
from docstring_parser import parse
from pyro.infer import ELBO
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb import estimators, guides, likelihoods, nn, optimizers, priors
from pyro_aevb.errors import InputError, did_you_mean
from pyro_aevb.runs.trust import KINDS, PATH, UNSUITED, check_suited, folder_of

__all__ = [
    "Choice",
    "choices_of",
    "class_named",
    "offered",
]

FAMILIES = {"prior": priors, "likelihood": likelihoods, "guide": guides, "estimator": estimators}


def offered(part: str) -> dict[str, type]:
    """What a part may be called, name by name: this package's own classes first, then torch's or Pyro's that work.

    Arguments:
        part: ``prior``, ``likelihood``, ``guide``, ``estimator``, ``optimizer``, ``scheduler``, or ``network``, of
            which a likelihood and a guide may have one.
    """
    if part == "network":
        return _classes(nn, nn.__all__)
    if part == "optimizer":
        return {**_suited(torch.optim, torch.optim.Optimizer), **_suited(optimizers, torch.optim.Optimizer)}
    if part == "scheduler":
        return _suited(torch.optim.lr_scheduler, LRScheduler)
    own = _classes(FAMILIES[part], FAMILIES[part].__all__)
    return {**own, **_suited(pyro.infer, ELBO)} if part == "estimator" else own


def _classes(module: Any, names: Iterable[str]) -> dict[str, type]:
    return {name: getattr(module, name) for name in names}


def _suited(module: Any, kind: type) -> dict[str, type]:
    """The classes of a kind that a module makes public, without its base and those that do not suit."""
    found = _classes(module, sorted(module.__all__))
    return {
        name: each
        for name, each in found.items()
        if inspect.isclass(each)
        and issubclass(each, kind)
        and each is not kind
        and name not in UNSUITED
        and not name.startswith("Jit")  # which compile by what torch no longer keeps up, and may be typed all the same
    }


def class_named(part: str, name: str) -> str:
    """The import path of what was typed for a part: a name in upper or lower case, or an import path.

    Arguments:
        part: As for :func:`offered`.
        name: What was typed.

    Raises:
        InputError: If no class is called so, there is no such module, or the class suits no run.
    """
    check_suited(name)
    if PATH.fullmatch(name):
        return _import_path(part, name)
    known = {each.lower(): kind for each, kind in offered(part).items()}
    if (found := known.get(name.lower())) is not None:
        return path_of(found)
    if part == "network" and isinstance(getattr(torch.nn, name, None), type):
        return f"torch.nn.{name}"
    if any(each.__name__ == name for each in _loaded(KINDS.get(part, torch.nn.Module))) or name.startswith("{"):
        return name  # of the user's own, say, which jsonargparse finds among the classes that are loaded; or a mapping
    near = did_you_mean(name, offered(part))
    raise InputError(
        f"unknown {part} {name!r}{near or ':'} see 'pyro-aevb list {part}s', or give an import path such as "
        "my_module.MyClass"
    )


def path_of(kind: type) -> str:
    """The shortest import path of a class that is public there.

    >>> path_of(torch.optim.Adam), path_of(priors.Laplace)
    ('torch.optim.Adam', 'pyro_aevb.priors.Laplace')
    """
    words = kind.__module__.split(".")
    for end in range(1, len(words)):
        module = ".".join(words[:end])
        if getattr(importlib.import_module(module), kind.__name__, None) is kind:
            return f"{module}.{kind.__name__}"
    return f"{kind.__module__}.{kind.__name__}"


def _import_path(part: str, path: str) -> str:
    """The path, if its module can be found and has what it ends in."""
    module, _, name = path.rpartition(".")
    top = module.partition(".")[0]
    if folder_of(top) is None:
        raise InputError(
            f"--{part} {path}: there is no module {top} here: cd to the folder of {top}.py, or put that folder on "
            "PYTHONPATH"
        )
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"--{part} {path}: {module} cannot be imported: {error}") from error
    if not hasattr(found, name):
        raise InputError(f"--{part} {path}: {module} has no {name}{did_you_mean(name, vars(found))}")
    return path


def _loaded(kind: type) -> set[type]:
    found: set[type] = set()
    inner: list[type] = type.__subclasses__(kind)
    for each in inner:
        found |= {each, *_loaded(each)}
    return found


# ---------------------------------------------------------------- what a class can be made with


class Choice(NamedTuple):
    """An option of a part: what may be chosen when its class is made."""

    name: str
    """Name of the option."""
    kind: Any
    """The type that its class's signature gives it; ``None`` where it gives none."""
    default: Any
    """Default of the option; ``inspect.Parameter.empty`` where it has none."""
    help: str
    """What the class's docstring says of it; empty where it says nothing."""


def choices_of(kind: Any) -> dict[str, Choice]:
    """The options of a class, by name: all but the sizes, which come first and have no default, and other parts.

    What a class passes on to the one that it extends, ``**more``, counts too.

    Arguments:
        kind: The class, or a function that makes one of it.
    """
    found: dict[str, Choice] = {}
    for base, made_by in _makers(kind):
        parameters = inspect.signature(made_by).parameters.values()
        helps = _helps(base, made_by)
        for each in parameters:
            chosen = each.kind is each.KEYWORD_ONLY or each.default is not each.empty
            if chosen and each.name not in KINDS and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                annotation = None if each.annotation is each.empty else each.annotation
                found.setdefault(each.name, Choice(each.name, annotation, each.default, helps.get(each.name, "")))
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return found


def _makers(kind: Any) -> Iterator[tuple[Any, Any]]:
    """A class and those that it extends, each with its constructor; a function alone."""
    if not isinstance(kind, type):
        yield kind, kind
        return
    for base in kind.__mro__[:-1]:
        if "__init__" in vars(base):
            yield base, vars(base)["__init__"]


def _helps(kind: Any, made_by: Any) -> dict[str, str]:
    texts = (inspect.cleandoc(text) for text in (kind.__doc__, made_by.__doc__) if text)
    said = [each for text in texts for each in parse(text).params]
    return {each.arg_name: " ".join((each.description or "").split()) for each in said}
