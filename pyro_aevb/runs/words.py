"""Words of the command line: what was typed, option by option, and what is said of it where it does not fit."""

import inspect
import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from torch import Tensor

from pyro_aevb.errors import told

__all__ = ["Typed", "from_the_outside_in", "key_of", "taken_apart", "value_words", "wanted"]


class Typed(NamedTuple):
    """One option as it was typed, or the words before the first."""

    name: str
    """The option's name without dashes, ``prior.scale`` say; empty for the words before the first option."""
    value: str | None
    """What was typed for it; ``None`` where nothing was."""
    words: tuple[str, ...]
    """The words themselves."""


def taken_apart(arguments: Sequence[str]) -> list[Typed]:
    """The words of a command line, option by option.

    >>> [(each.name, each.value) for each in taken_apart(["run", "--seed", "3", "--prior=Flow", "--json"])]
    [('', 'run'), ('seed', '3'), ('prior', 'Flow'), ('json', None)]
    """
    groups: list[list[str]] = [[]]
    for word in arguments:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    return [_typed(group) for group in groups if group]


def _typed(words: list[str]) -> Typed:
    first = words[0]
    if not first.startswith("--"):
        return Typed("", first, tuple(words))
    name, equals, value = first.removeprefix("--").partition("=")
    return Typed(name, value if equals else next(iter(words[1:]), None), tuple(words))


def from_the_outside_in(typed: Sequence[Typed]) -> list[Typed]:
    """A part before its own options, and these before those of the part's network: else jsonargparse refuses them.

    >>> words = "--prior.scale 2 --seed 3 --prior Laplace".split()
    >>> [each.name for each in from_the_outside_in(taken_apart(words))]
    ['seed', 'prior', 'prior.scale']
    """
    return sorted(typed, key=lambda each: each.name.count("."))


def wanted(kind: Any) -> str:
    """What must be typed for a type, in words.

    >>> wanted(int | None), wanted(int | Literal["log"]), wanted(list[int])
    ('a whole number', 'a whole number or log', 'whole numbers in brackets, such as [500,300]')
    """
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in plain:
        return plain[kind]
    origin = get_origin(kind)
    inner = get_args(kind)
    if origin is Literal:
        return " or ".join(filter(None, [", ".join(map(str, inner[:-1])), str(inner[-1])]))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(wanted(each) for each in inner if each not in (NoneType, Tensor)))
    if origin is tuple:
        return f"{len(inner)} numbers in brackets, such as [{','.join(['0.9'] * len(inner))}]"
    if origin is dict:
        return "names and values in braces, such as {scale: 2}"
    if inner == (int,):
        return "whole numbers in brackets, such as [500,300]"
    return "text" if kind in (None, Any, inspect.Parameter.empty) else "the name of a class, or its import path"


def key_of(message: str) -> str:
    """The option that a message of jsonargparse is about, with all dots; empty where it names none."""
    return ".".join(re.findall(r'Parser key "([\w.]+)"', message))


def value_words(key: str, typed: Sequence[Typed], config: Mapping[str, Any]) -> str:
    """What was given for an option, on the command line or in a configuration, in a few words.

    Arguments:
        key: The option, with all dots.
        typed: What was typed.
        config: The configuration, where there is one.
    """
    given = [each.value for each in typed if each.name.removesuffix("+") == key and each.value is not None]
    if given:
        return told(given[-1])
    found: Any = config
    for name in key.split("."):
        inner = {**found, **(found.get("init_args") or {})} if isinstance(found, dict) else {}
        found = inner.get(name)
    return told(found["class_path"] if isinstance(found, dict) and "class_path" in found else found)
