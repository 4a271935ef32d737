"""Settings of runs: runs that differ by their seed alone are one, and its name says what others do not share."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pyro_aevb.errors import told
from pyro_aevb.reports.measured import RunMeasured
from pyro_aevb.runs.options import PARTS

__all__ = ["Setting", "differing", "settings_of", "words_of"]

MISSING = object()


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that differ by their seed alone.

    Arguments:
        name: What tells it from the other settings, in words.
        runs: Its runs, by seed.
    """

    name: str
    runs: tuple[RunMeasured, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The options that its runs share."""
        return self.runs[0].options

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of its runs."""
        return tuple(run.seed for run in self.runs)


def settings_of(
    runs: Sequence[RunMeasured], ignore: Collection[str] = ()
) -> tuple[list[Setting], list[tuple[RunMeasured, RunMeasured]]]:
    """The settings of runs that can be compared, in the order of the runs; and runs that another one repeats.

    Two runs with one setting and one seed are one training: counted twice, they would make seeds look more alike than
    they are. The one that has seen more data is kept.

    Arguments:
        runs: The runs.
        ignore: Options, by their dotted names, in which runs of one setting may differ.

    Returns:
        The settings; and pairs of a run that is left out and the one that it repeats.
    """
    groups: dict[str, dict[int, RunMeasured]] = {}
    repeated = []
    for run in runs:
        key = repr(sorted((name, repr(value)) for name, value in run.options.items() if name not in ignore))
        own = groups.setdefault(key, {})
        other = own.get(run.seed)
        if other is not None:
            less, more = sorted((run, other), key=lambda each: each.samples_seen)
            repeated.append((less, more))
        own[run.seed] = run if other is None else repeated[-1][1]
    each = [tuple(own[seed] for seed in sorted(own)) for own in groups.values()]
    names = _names([own[0].options for own in each], ignore)
    return [Setting(name, own) for name, own in zip(names, each, strict=True)], repeated


def differing(options: Sequence[dict[str, Any]], ignore: Collection[str] = ()) -> list[str]:
    """Dotted names of the options that are not equal in all settings, those of parts first.

    Arguments:
        options: The options of each setting.
        ignore: Options that are left out.
    """
    names = dict.fromkeys(name for each in options for name in each if name not in ignore)
    return [name for name in names if len({repr(each.get(name, MISSING)) for each in options}) > 1]


def _names(options: Sequence[dict[str, Any]], ignore: Collection[str]) -> list[str]:
    """A name of each setting: the classes and values in which it differs from others."""
    names = [name for name in differing(options, ignore) if not _is_said_by_class(name, options)]
    if not names:
        return [f"{_last(options[0]['prior'])}, {options[0]['latent_dim']} latents"] if options else []
    said = _together(names, options)
    made = [", ".join(_said(name, each.get(first), options) for name, first in said.items()) for each in options]
    return [name if made.count(name) == 1 else f"{name} ({made[:i].count(name) + 1})" for i, name in enumerate(made)]


def _is_said_by_class(name: str, options: Sequence[dict[str, Any]]) -> bool:
    """Whether a part's option differs only because the parts do: all of one class have the same."""
    part = name.partition(".")[0]
    if name == part or part not in PARTS:
        return False
    by_class: dict[Any, set[str]] = {}
    for each in options:
        by_class.setdefault(each.get(part), set()).add(repr(each.get(name, MISSING)))
    return len(by_class) > 1 and all(len(values) == 1 for values in by_class.values())


def _together(names: Sequence[str], options: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By what it is called, an option: ``hidden`` where those of likelihood and guide are equal in each setting."""
    said: dict[str, str] = {}
    for name in names:
        short = name.rpartition(".")[2]
        same = [other for other in names if other.rpartition(".")[2] == short]
        alike = all(len({repr(each.get(other)) for other in same}) == 1 for each in options)
        said.setdefault(short if alike else name, name)
    return said


def _said(name: str, value: Any, options: Sequence[dict[str, Any]]) -> str:
    if name not in PARTS:
        return f"{name}={words_of(value)}"
    short = {_last(each.get(name)) for each in options}
    full = {str(each.get(name)) for each in options}
    word = _last(value) if len(short) == len(full) else str(value)
    return word if name in ("prior", "likelihood", "guide", "estimator", "optimizer") else f"{name}={word}"


def _last(path: Any) -> str:
    return str(path).rpartition(".")[2]


def words_of(value: Any) -> str:
    """The value of an option as a table shows it: a class by its name, a long text in short.

    Arguments:
        value: The value; ``None`` where the setting has no such option.

    >>> words_of("pyro_aevb.priors.Laplace"), words_of([500, 300]), words_of(1000000), words_of(None)
    ('Laplace', '[500,300]', '1,000,000', '')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        own = value.startswith(("pyro_aevb.", "torch.", "pyro."))
        return _last(value) if own else value if len(value) <= 60 else told(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace(", ", ",")
