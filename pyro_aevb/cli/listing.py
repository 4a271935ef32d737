"""``pyro-aevb list``: tables of all parts, read from each family's ``__all__`` and docstrings."""

import inspect
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from pyro_aevb import estimators, guides, likelihoods, nn, priors
from pyro_aevb.data import LOADERS
from pyro_aevb.errors import InputError

__all__ = ["families", "list_parts", "table"]

_MODULES: dict[str, ModuleType] = {
    "priors": priors,
    "likelihoods": likelihoods,
    "guides": guides,
    "estimators": estimators,
    "networks": nn,
}


def families() -> list[str]:
    """What can be listed."""
    return [*_MODULES, "data"]


def list_parts(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb list [FAMILY ...]``.

    Raises:
        InputError: If there is no such family.
    """
    if unknown := [name for name in arguments if name not in families()]:
        raise InputError(f"unknown family {unknown[0]!r}: give one of {', '.join(families())}")
    print("\n\n".join(table(name) for name in arguments or families()))


def table(family: str) -> str:
    """One family's parts: name, what it is, where it comes from, and its options."""
    parts: dict[str, Any] = (
        LOADERS if family == "data" else {n: getattr(_MODULES[family], n) for n in _MODULES[family].__all__}
    )
    return "\n".join([family, *(_row(name, part) for name, part in parts.items())])


def _row(name: str, part: Any) -> str:
    lines = [f"  {name:<23}{_summary(part)}"]
    if (reference := _reference(part)) is not None:
        lines.append(f"{'':<25}{reference}")
    if inspect.isclass(part) and (options := _options(part)):
        lines.append(f"{'':<25}options: {', '.join(options)}")
    return "\n".join(lines)


def _summary(part: Any) -> str:
    paragraph = (inspect.getdoc(part) or "").split("\n\n")[0]
    return re.sub(
        r"(\s*:math:`.*?`|:\s*)+\.?$", "", re.sub(r":class:`~?([\w.]+)`", r"\1", " ".join(paragraph.split()))
    ).replace("``", "")


def _reference(part: Any) -> str | None:
    match = re.search(r"References:\s*\|\s*(.+)", inspect.getdoc(part) or "")
    return match[1] if match else None


def _options(part: type) -> list[str]:
    """What can be chosen: all but the sizes, which come first and have no default, and what is passed on."""
    found = inspect.signature(part).parameters.values()
    return [each.name for each in found if each.kind is each.KEYWORD_ONLY or each.default is not each.empty]
