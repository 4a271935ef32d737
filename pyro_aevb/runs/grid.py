"""The grid of a sweep: which runs several values of options come to, and what each run's folder is called."""

import importlib
import inspect
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import yaml

from pyro_aevb.errors import InputError
from pyro_aevb.runs.offered import class_named, offered
from pyro_aevb.runs.options import NOT_KEPT, PARTS, TrainOptions
from pyro_aevb.runs.words import taken_apart

__all__ = ["Grid", "Point", "seeds_of", "split_values"]

TEXT = {each.name for each in fields(TrainOptions) if each.type in (str, str | None)}
"""Options whose value is text, whatever it looks like."""
OF_TEXT = ("columns", "condition", "kinds")
"""Options whose value is text with commas: around one, brackets are taken off."""
NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?")
MOST_SEEDS = 10_000
LONGEST_VALUE = 40
LONGEST_NAME = 200
PLAIN = re.compile(r"[A-Za-z0-9_.+-]*[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


class Point(NamedTuple):
    """A run of a sweep."""

    name: str
    """Name of the run's folder, ``prior=Laplace,latent_dim=2,seed=0`` say."""
    values: dict[str, str]
    """What varies in the sweep, by the names of options, as it is typed."""
    words: tuple[str, ...]
    """Words of ``pyro-aevb train`` for the run, all but where it lies."""


class Grid:
    """The runs that options with several values come to.

    An option of a part that varies, ``prior.components``, varies too, though it may have one value. It goes to those
    values of the part that take it, and the others have no runs for its values.

    Arguments:
        arguments: Words of the command line.
        varied: Options that vary although only one value was typed, as those that vary in the sweep's folder.
        split: Whether commas separate values; else only the seeds vary.

    Raises:
        InputError: If an option has no value, or one twice.
    """

    def __init__(self, arguments: Sequence[str], varied: Sequence[str] = (), split: bool = True) -> None:
        self.split = split
        self._common: list[str] = []
        values = self._read(arguments)
        seeds = self._seeds(arguments, values.pop("seed", None))
        several = {name for name, each in values.items() if len(each) > 1 or name in varied}
        several |= {name for name in values if name.partition(".")[0] in several}  # which another grid may vary
        order = [*(name for name in varied if name in several), *(name for name in values if name in several)]
        self.axes = {**{name: values[name] for name in order}, "seed": seeds}
        """Values of each option that varies."""
        self.base = {name: each[0] for name, each in values.items() if name not in several}
        """The value of each option that all runs have in common."""

    def _read(self, arguments: Sequence[str]) -> dict[str, list[str]]:
        """The values of each option, the last ones that were typed, as for ``train``."""
        values: dict[str, list[str]] = {}
        for typed in taken_apart(arguments):
            if not typed.name:
                raise InputError(f"unexpected {typed.words[0]}, where options begin with --")
            if typed.name == "missing":  # the one option that takes no value
                self._common.append(f"--{typed.name}")
            elif typed.name in ("config", "trust"):
                self._common.append(f"--{typed.name}={typed.value}")
            elif typed.name not in NOT_KEPT:
                name = typed.name.replace(".init_args.", ".")
                values[name] = self._values(name, typed.value or "")
        return values

    def _values(self, name: str, text: str) -> list[str]:
        values = [canonical(name, each) for each in (split_values(name, text) if self.split else [text])]
        if not all(values):
            raise InputError(f"--{name} needs a value")
        if twice := [each for each in values if values.count(each) > 1]:
            raise InputError(f"--{name} has {twice[0]} twice: give each value once")
        return values

    @staticmethod
    def _seeds(arguments: Sequence[str], given: list[str] | None) -> list[str]:
        typed = [each.value or "" for each in taken_apart(arguments) if each.name == "seeds"]
        if typed and given:
            raise InputError("--seed and --seeds are both given: leave one out")
        return [str(seed) for seed in seeds_of(typed[-1])] if typed else given or ["0"]

    def points(self) -> list[Point]:
        """The runs, those of one seed after another, so that all settings have their first run early.

        Raises:
            InputError: If two runs would have the same folder.
        """
        seeds = self.axes["seed"]
        others = {name: values for name, values in self.axes.items() if name != "seed"}
        settings = _unique(
            self._setting(dict(zip(others, each, strict=True))) for each in itertools.product(*others.values())
        )
        points = [self._point({**setting, "seed": seed}) for seed in seeds for setting in settings]
        names = [each.name.lower() for each in points]  # some file systems take upper for lower case
        if len(set(names)) < len(names):
            raise InputError("two values of an option give folders the same name: rename the files that they name")
        return points

    def _setting(self, values: dict[str, str]) -> dict[str, str]:
        """Values without options that a part of them does not take."""
        return {name: value for name, value in values.items() if self._takes(name, values)}

    def _takes(self, name: str, values: Mapping[str, str]) -> bool:
        """Whether an option is for a run with these values: one of a part that varies only where the part has it."""
        part, dot, option = name.partition(".")
        if not dot or part not in self.axes or not any(_takes(part, each, option) for each in self.axes[part]):
            return True  # what no value takes is refused by name where the run's options are parsed
        return _takes(part, values[part], option)

    def _point(self, values: dict[str, str]) -> Point:
        words = [f"--{name}={value}" for name, value in {**self.base, **values}.items()]
        return Point(_name(values), values, (*words, *self._common))


def _unique(settings: Iterator[dict[str, str]]) -> list[dict[str, str]]:
    """Each setting once: without the options that a part does not take, several become one."""
    return list({json.dumps(each, sort_keys=True): each for each in settings}.values())


def _takes(part: str, value: str, option: str) -> bool:
    """Whether a class is made with an option; one whose arguments cannot be told is."""
    if part not in PARTS or option == "help":
        return True
    names = _arguments(class_named(part, value))
    return names is None or option.partition(".")[0] in names


def _arguments(path: str) -> set[str] | None:
    """Names of what a class, or a function, takes; ``None`` where that cannot be told."""
    made = _at(path)
    names: set[str] = set()
    makers = (
        [vars(each)["__init__"] for each in made.__mro__ if "__init__" in vars(each)]
        if isinstance(made, type)
        else [made]
    )
    for maker in filter(callable, makers):
        parameters = inspect.signature(maker).parameters.values()
        names |= {each.name for each in parameters}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            return names
    return None


# ---------------------------------------------------------------- values


def split_values(name: str, text: str) -> list[str]:
    """The values that commas separate; what stands in brackets or braces is one.

    Arguments:
        name: Name of the option.
        text: What was typed for it.

    >>> split_values("hidden", "50,[500,300]"), split_values("columns", "[a,b]")
    (['50', '[500,300]'], ['a,b'])
    """
    values = [""]
    depth = 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    stripped = [each.strip() for each in values]
    return [each.removeprefix("[").removesuffix("]") if name in OF_TEXT else each for each in stripped]


def canonical(name: str, value: str) -> str:
    """A value in the one way in which it is compared and named: a class by its own name, a number in few digits.

    Arguments:
        name: Name of the option.
        value: What was typed for it.

    >>> canonical("prior", "laplace"), canonical("samples", "1e6"), canonical("optimizer.lr", "0.010")
    ('Laplace', '1000000', '0.01')
    """
    if name in PARTS:
        return _class_name(name, value)
    if name in TEXT or not NUMBER.fullmatch(value):
        return value
    number = float(value)
    if value.lstrip("+-").isdigit():
        return str(int(value))
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _class_name(part: str, value: str) -> str:
    """The name of a class of ours or torch's, which says it all; the import path of another."""
    path = class_named(part, value)
    name = path.rpartition(".")[2]
    return name if offered(part).get(name) is _at(path) else path


def _at(path: str) -> Any:
    """What an import path leads to; ``None`` for what is none."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module and name.isidentifier() else None


def seeds_of(text: str) -> list[int]:
    """The seeds that ``0-4`` or ``0,3,7`` stands for.

    Arguments:
        text: What was typed.

    Raises:
        InputError: If it is none of these, or a seed stands there twice.

    >>> seeds_of("0-3"), seeds_of("0,3,7-8")
    ([0, 1, 2, 3], [0, 3, 7, 8])
    """
    seeds: list[int] = []
    for each in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,15})(?:-(\d{1,15}))?\s*", each)
        if match is None:
            raise InputError(f"--seeds must be whole numbers, such as 0-4 or 0,3,7, not {text!r:.60}")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first or last - first >= MOST_SEEDS:
            raise InputError(f"--seeds {each.strip()}: give the smaller seed first, and at most {MOST_SEEDS:,}")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {text}: a seed stands there twice")
    return seeds


# ---------------------------------------------------------------- names of folders


def _name(values: Mapping[str, str]) -> str:
    """A name that any file system takes, and that depends on nothing but the run's own values."""
    name = ",".join(f"{option}={_safe(value)}" for option, value in values.items())
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{_digest(name)}"


def _safe(value: str) -> str:
    """A value as part of a file's name: of a list its elements, of other text what may stand there and a digest.

    >>> _safe("Laplace"), _safe("[500, 300]"), _safe("my data/a.csv")
    ('Laplace', '500-300', 'a.csv-0abb9b90')
    """
    if PLAIN.fullmatch(value) and len(value) <= LONGEST_VALUE:
        return value
    listed = _listed(value)
    if listed is not None:
        return listed
    last = value.replace("\\", "/").rpartition("/")[2]
    return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', last)[:LONGEST_VALUE]}-{_digest(value)}"


def _listed(value: str) -> str | None:
    """The elements of a short list of numbers."""
    try:
        found: Any = yaml.safe_load(value) if value.startswith("[") else None
    except yaml.YAMLError:
        return None
    if not isinstance(found, list) or not found or not all(type(each) in (int, float) for each in found):
        return None
    text = "-".join(map(str, found))
    return text if len(text) <= LONGEST_VALUE else None


def _digest(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
