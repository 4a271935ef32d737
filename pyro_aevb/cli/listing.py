"""``pyro-aevb list`` and ``--PART.help``: all parts and their options, from ``__all__``, signatures and docstrings."""

import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

from pyro_aevb.data import LOADERS
from pyro_aevb.errors import InputError, did_you_mean
from pyro_aevb.runs.offered import Choice, choices_of, class_named, offered
from pyro_aevb.runs.options import PARTS
from pyro_aevb.runs.parser import filled
from pyro_aevb.runs.words import taken_apart, wanted

__all__ = ["families", "help_of_part", "list_parts", "table"]

_PARTS = {f"{part}s": part for part in (*PARTS, "network")}


def families() -> list[str]:
    """What can be listed."""
    return [*_PARTS, "data"]


def list_parts(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb list [FAMILY ...]``.

    Raises:
        InputError: If there is no such family.
    """
    if unknown := [name for name in arguments if name not in families()]:
        near = did_you_mean(unknown[0], families())
        raise InputError(f"unknown family {unknown[0]!r}{near or ':'} give one of {', '.join(families())}")
    print("\n\n".join(table(name) for name in arguments or families()))


def table(family: str) -> str:
    """One family's parts: name, what it is, where it comes from, and its options."""
    parts: dict[str, Any] = LOADERS if family == "data" else offered(_PARTS[family])
    return "\n".join([family, *(_row(name, part) for name, part in parts.items())])


def _row(name: str, part: Any) -> str:
    lines = [f"  {name:<23}{_summary(part)}"]
    if (reference := _reference(part)) is not None:
        lines.append(f"{'':<25}{reference}")
    if inspect.isclass(part) and (options := _options(part)):
        lines.append(f"{'':<25}options: {', '.join(options)}")
    return "\n".join(lines)


def _summary(part: Any) -> str:
    """What its docstring begins with, one sentence of torch's and Pyro's."""
    paragraph = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    whose = part.__module__.partition(".")[0]
    sentence = f"{whose}'s own. {paragraph.partition('. ')[0]}" if whose in ("torch", "pyro") else paragraph
    named = re.sub(r":(?:class|meth):`(?:~[\w.]*\.)?([\w.]+)`", r"\1", sentence)  # after ~ a path's last word alone
    return re.sub(r"(\s*:math:`.*?`|:\s*)+\.?$", "", named).replace("``", "")


def _reference(part: Any) -> str | None:
    match = re.search(r"References:\s*\|\s*(.+)", inspect.getdoc(part) or "")
    return match[1] if match else None


def _options(part: type) -> list[str]:
    """What can be chosen: all but the sizes, which come first and have no default, and what is passed on."""
    found = inspect.signature(part).parameters.values()
    return [each.name for each in found if each.kind is each.KEYWORD_ONLY or each.default is not each.empty]


# ---------------------------------------------------------------- help of a part


def help_of_part(arguments: Sequence[str]) -> bool:
    """Print what ``--prior.help``, ``--prior.help Laplace`` or ``--guide.network.help MLP`` asks for, if one does.

    Arguments:
        arguments: What was typed after ``train``.

    Returns:
        Whether something was asked for, and printed.

    Raises:
        InputError: If there is no such part.
    """
    for typed in taken_apart(arguments):
        option, _, last = typed.name.rpartition(".")
        part = option.rpartition(".")[2]
        if last == "help" and part in _PARTS.values():
            print(_help(option, part, typed.value))
            return True
    return False


def _help(option: str, part: str, name: str | None) -> str:
    """The options of a class, or which classes there are."""
    if name is None:
        return f"{table(f'{part}s')}\n\n--{option}.help NAME tells what the options of one are for"
    module, _, name = class_named(part, name).rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if kind is None:  # a class that is loaded under a short name alone
        raise InputError(f"--{option}.help: give the import path of {name}, such as my_module.{name}")
    lines = [f"--{option} {name}", *filled(_summary(kind), "  ")]
    for each in choices_of(kind).values():
        lines += ["", f"  --{option}.{each.name}", *filled(_words(each), " " * 6)]
    return "\n".join(lines)


def _words(choice: Choice) -> str:
    """What a choice is for, what it takes, and its default."""
    default = "; needed" if choice.default is inspect.Parameter.empty else f"; default: {_shown(choice.default)}"
    nothing = choice.default is None
    said = re.sub(r":\w+:`~?([^`]*)`", r"\1", choice.help).replace("``", "")
    said = re.sub(r" \(default: .*\)$", "", said)  # which torch writes into its words too
    return f"{said} ({wanted(choice.kind)}{'' if nothing else default})"


def _shown(default: Any) -> str:
    return f"[{','.join(map(str, default))}]" if isinstance(default, list | tuple) else str(default)
