"""Runs compared: measured on the same data with the same noise, by setting, with paired differences and verdicts."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from pyro_aevb.errors import InputError, choice, did_you_mean, flag, told, whole
from pyro_aevb.evidence.importance import LARGEST_KHAT
from pyro_aevb.reports.found import found_runs, names_of
from pyro_aevb.reports.measured import PerDatum, RunMeasured, measure
from pyro_aevb.reports.settings import Setting, differing, settings_of, words_of
from pyro_aevb.reports.statistics import (
    LEVEL,
    Difference,
    Estimate,
    difference,
    holm,
    mean_of_trainings,
    number,
    verdict,
)
from pyro_aevb.runs.folder import CheckpointName
from pyro_aevb.runs.run import Run, load_run
from pyro_aevb.views import html_table

if TYPE_CHECKING:
    import pandas

__all__ = ["PER_DATUM", "PER_RUN", "Comparison", "Group", "Pair", "Quantity", "compare_runs"]

Values = np.ndarray[Any, Any]


class Quantity(NamedTuple):
    """Something that is measured of each run."""

    name: str
    """What tables call it"""
    words: str
    """What a reader is told"""
    of: Callable[[Any], Any]
    """Takes it from a run's numbers of each datum, or from the run"""
    better: bool = False
    """Whether more is better"""


PER_DATUM = (
    Quantity("evidence", "log p(x)", lambda values: values.evidence, True),
    Quantity("bound", "bound", lambda values: values.bound, True),
    Quantity("gap", "log p(x) less bound", lambda values: values.evidence - values.bound),
    Quantity("kl", "KL(q(z|x) || p(z))", lambda values: values.kl),
)
"""What is measured of each datum, in nats."""

PER_RUN = (
    Quantity("active_units", "active units", lambda run: run.active_units),
    Quantity("training_bound", "bound on training data", lambda run: run.training_bound, True),
    Quantity("minutes", "minutes of training", lambda run: run.minutes),
)
"""What is one number a run, which has no error over data."""

MOST_NAMED = 4  # settings in a note
DOUBTFUL = 0.05  # share of data with a large k-hat from which on it is said


class Pair(NamedTuple):
    """Two settings, and the difference of one quantity between them, the first less the second."""

    first: Setting
    second: Setting
    quantity: Quantity
    found: Difference
    p_value: float
    """Of this difference alone"""
    corrected: float
    """Corrected by Holm for all of this quantity that are compared"""

    @property
    def is_one(self) -> bool:
        """Whether the difference is called one, after the correction."""
        return self.corrected <= LEVEL

    @property
    def words(self) -> str:
        """What it shows, a sentence without a full stop."""
        names = self.first.name, self.second.name
        seeds = len(self.first.runs), len(self.second.runs)
        return verdict(names, self.found, self.corrected, seeds, self.quantity.better)


@dataclass(frozen=True, eq=False)
class Group:
    """Settings that are compared, all of them measured on the same data.

    Arguments:
        name: The data, in words.
        settings: The settings, the best one first.
        baseline: The one that all others are compared with; ``None`` where each is compared with each.
        by: What they are ranked by.
        ignore: Options in which runs of one setting may differ.
    """

    name: str
    settings: tuple[Setting, ...]
    baseline: Setting | None
    by: Quantity
    ignore: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of data."""
        return len(self.settings[0].runs[0].values.bound)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """All differences, quantity by quantity, each corrected for those of the same quantity."""
        return tuple(pair for quantity in PER_DATUM for pair in self._pairs_of(quantity))

    def _pairs_of(self, quantity: Quantity) -> list[Pair]:
        who = self._compared()
        found = [_difference(*each, quantity) for each in who]
        p_values = [each.estimate.p_value() for each in found]
        together = zip(who, found, p_values, holm(p_values), strict=True)
        return [Pair(*pair, quantity, each, p, corrected) for pair, each, p, corrected in together]

    def _compared(self) -> list[tuple[Setting, Setting]]:
        if self.baseline is not None:
            return [(each, self.baseline) for each in self.settings if each is not self.baseline]
        return [(one, other) for i, one in enumerate(self.settings) for other in self.settings[i + 1 :]]

    def estimate(self, setting: Setting, quantity: Quantity) -> Estimate:
        """A setting's mean of a quantity, with its errors.

        Arguments:
            setting: The setting.
            quantity: One of :data:`PER_DATUM` or :data:`PER_RUN`.
        """
        if quantity in PER_DATUM:
            return mean_of_trainings(_values(setting, quantity))
        return mean_of_trainings(np.array([[quantity.of(run)] for run in setting.runs], dtype=np.float64))

    def rank_range(self, setting: Setting) -> str:
        """Ranks that the differences leave open, ``1`` or ``1-3``; empty where not each is compared with each."""
        if self.baseline is not None:
            return ""
        shown = [pair for pair in self.pairs if pair.quantity is self.by and pair.is_one]
        above = sum(pair.second is setting for pair in shown)
        below = sum(pair.first is setting for pair in shown)
        low = 1 + above
        high = len(self.settings) - below
        return str(low) if low == high else f"{low}-{high}"

    @property
    def verdicts(self) -> list[str]:
        """What the differences show by the quantity that settings are ranked by: a sentence for each."""
        if len(self.settings) < 2:
            return [f"There is one setting, {self.settings[0].name}, and nothing to compare it with."]
        own = [pair for pair in self.pairs if pair.quantity is self.by]
        best = self.settings[0]
        against = best if self.baseline is None else self.baseline
        chosen = [pair for pair in own if against in (pair.first, pair.second)]
        compared = f"with {against.name}" if self.baseline is not None else "with each other"
        said = [self._first_words(chosen)]
        said += [f"{_capital(pair.words)}." for pair in chosen]
        return [*said, f"{_corrected(len(own))} Compared {compared} by {self.by.words}."]

    def _first_words(self, pairs: Sequence[Pair]) -> str:
        """What the differences of the best setting to the others say together, a sentence."""
        best = self.settings[0]
        highest = f"{best.name} has the highest mean {self.by.words} of {len(self.settings)} settings"
        if self.baseline is not None:
            return f"{highest}."
        shown = sum(pair.is_one for pair in pairs)
        seeds = "" if all(len(each.runs) > 1 for each in self.settings) else ", on these data and with seeds unknown"
        if shown == len(pairs):
            return f"{best.name} is the best of {len(self.settings)} settings by {self.by.words}{seeds}."
        if shown:
            return f"{highest}, and is better than {shown} of the others{seeds}."
        return f"{highest}, but is not shown to be better than any other."

    @property
    def options(self) -> dict[str, list[str]]:
        """Options that are not equal in all settings: their values in words, in the order of the settings."""
        each = [setting.options for setting in self.settings]
        names = differing(each, self.ignore)
        return {name: [words_of(options.get(name)) for options in each] for name in names}


def _capital(words: str) -> str:
    return words[0].upper() + words[1:] if words.startswith("no difference") else words


def _corrected(count: int) -> str:
    if count == 1:
        return f"A difference is called one where its p-value is at most {LEVEL}."
    return (
        f"A difference is called one where its p-value is at most {LEVEL} after Holm's correction for {count} "
        "comparisons."
    )


def _values(setting: Setting, quantity: Quantity) -> Values:
    """A setting's numbers, ``(R, N)``."""
    return torch.stack([quantity.of(run.values).double() for run in setting.runs]).numpy()


def _difference(first: Setting, second: Setting, quantity: Quantity) -> Difference:
    """The difference, paired by seed where both have the same seeds."""
    paired = first.seeds == second.seeds
    return difference(_values(first, quantity), _values(second, quantity), paired)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Runs side by side; :func:`compare_runs` makes it. All numbers of data are in nats per datum.

    Arguments:
        groups: Settings by the data that they were measured on: only those of one group are compared.
        names: Short names of the runs' folders, by their paths.
        notes: What a reader should know: runs left out, unfinished ones, estimates that are not to be trusted.
        num_samples: Importance samples for each datum.
        seed: Seed of the noise.
    """

    groups: tuple[Group, ...]
    names: dict[Path, str]
    notes: tuple[str, ...]
    num_samples: int
    seed: int

    @property
    def verdicts(self) -> list[str]:
        """What the differences show, in sentences; those of several groups begin with their data."""
        if len(self.groups) == 1:
            return self.groups[0].verdicts
        return [f"{group.name}: {said}" for group in self.groups for said in group.verdicts]

    @cached_property
    def settings(self) -> "pandas.DataFrame":
        """A line for each setting: means with standard errors ``_se_data``, ``_se_seeds``, and ``_se`` over both.

        The columns are ``data``, ``rank``, ``ranks`` that differences leave open, number of ``seeds``; ``evidence``
        (log p(x) by importance sampling), ``bound``, their ``gap``, and ``kl``, each with the three errors, NaN where
        one is not known; ``active_units``, ``training_bound`` and ``minutes`` with the error over seeds; the Monte
        Carlo error of the evidence; and for how many data of the worst run its ``khat`` is above 0.7.
        """
        lines = [_setting_line(group, i) for group in self.groups for i in range(len(group.settings))]
        return _frame(lines, "setting")

    @cached_property
    def runs(self) -> "pandas.DataFrame":
        """A line for each run, with standard errors over data alone."""
        pairs = [(group, setting) for group in self.groups for setting in group.settings]
        lines = [_run_line(self.names[run.path], *each, run) for each in pairs for run in each[1].runs]
        return _frame(lines, "run")

    @cached_property
    def differences(self) -> "pandas.DataFrame":
        """A line for each two settings that are compared and each quantity: ``setting`` less ``against``.

        ``low`` and ``high`` are the ends of the 95 % interval, by itself; ``p_holm`` is ``p`` corrected for the number
        of comparisons of the quantity. With one seed, intervals and p-values are over data alone.
        """
        return _frame([_pair_line(group, pair) for group in self.groups for pair in group.pairs], "setting")

    @cached_property
    def options(self) -> "pandas.DataFrame":
        """A line for each setting: the options that are not equal in all of them."""
        lines = []
        for group in self.groups:
            columns = group.options
            lines += [
                {"setting": each.name, "data": group.name, **{name: values[i] for name, values in columns.items()}}
                for i, each in enumerate(group.settings)
            ]
        return _frame(lines, "setting")

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values, as ``pyro-aevb report --json`` prints it; what is not known is ``None``."""
        frames = {
            "settings": self.settings,
            "options": self.options,
            "runs": self.runs,
            "differences": self.differences,
        }
        tables = {name: [_plain(line) for line in _records(frame)] for name, frame in frames.items()}
        header = {"unit": "nats per datum", "num_samples": self.num_samples, "seed": self.seed}
        return {**header, "verdicts": self.verdicts, "notes": list(self.notes), **tables}

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.names)} runs in {sum(len(each.settings) for each in self.groups)} settings>"

    def __str__(self) -> str:
        parts = [_text(group) for group in self.groups]
        notes = [f"note: {note}" for note in self.notes]
        return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])

    def _repr_html_(self) -> str:
        """As a notebook shows it: the table of settings, verdicts and notes."""
        tables = "".join(map(_html, self.groups))
        return tables + (html_table([], notes=self.notes) if self.notes else "")


# ---------------------------------------------------------------- tables


def _frame(lines: Sequence[dict[str, Any]], index: str) -> "pandas.DataFrame":
    import pandas  # a second to import, so only where it is used

    return pandas.DataFrame(lines).set_index(index) if lines else pandas.DataFrame()


def _records(frame: "pandas.DataFrame") -> list[dict[str, Any]]:
    return [] if frame.empty else frame.reset_index().to_dict("records")


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: NaN is ``None``, NumPy's numbers are Python's."""
    values = {key: value.item() if isinstance(value, np.generic) else value for key, value in line.items()}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}


def _setting_line(group: Group, place: int) -> dict[str, Any]:
    setting = group.settings[place]
    line: dict[str, Any] = {"setting": setting.name, "data": group.name, "rank": place + 1}
    line |= {"ranks": group.rank_range(setting), "seeds": len(setting.runs)}
    for quantity in PER_DATUM:
        found = group.estimate(setting, quantity)
        errors = {f"{quantity.name}_{name}": getattr(found, name) for name in ("se_data", "se_seeds", "se")}
        line |= {quantity.name: found.mean, **errors}
    for quantity in PER_RUN:
        found = group.estimate(setting, quantity)
        line |= {quantity.name: found.mean, f"{quantity.name}_se_seeds": found.se_seeds}
    line["evidence_monte_carlo_se"] = _monte_carlo_error([run.values for run in setting.runs])
    line["khat_above_0.7"] = max(run.untrusted for run in setting.runs)
    return line


def _monte_carlo_error(values: Sequence[PerDatum]) -> float:
    """Standard error of the mean evidence that the importance samples cause, as if those of each run were its own."""
    each = torch.stack([value.evidence_error.double() for value in values])
    return float((each**2).sum().sqrt()) / each.numel()


def _run_line(name: str, group: Group, setting: Setting, run: RunMeasured) -> dict[str, Any]:
    line: dict[str, Any] = {"run": name, "setting": setting.name, "data": group.name, "seed": run.seed}
    line["samples_seen"] = run.samples_seen
    for quantity in PER_DATUM:
        found = mean_of_trainings(quantity.of(run.values).double().numpy()[None])
        line |= {quantity.name: found.mean, f"{quantity.name}_se_data": found.se_data}
    line |= {quantity.name: quantity.of(run) for quantity in PER_RUN}
    line["evidence_monte_carlo_se"] = _monte_carlo_error([run.values])
    return {**line, "khat_above_0.7": run.untrusted}


def _pair_line(group: Group, pair: Pair) -> dict[str, Any]:
    found = pair.found.estimate
    low, high = found.interval()
    return {
        "setting": pair.first.name,
        "against": pair.second.name,
        "data": group.name,
        "quantity": pair.quantity.name,
        "difference": found.mean,
        "se_data": found.se_data,
        "se_seeds": found.se_seeds,
        "se": found.se,
        "df_seeds": found.df_seeds,
        "low": low,
        "high": high,
        "p": pair.p_value,
        "p_holm": pair.corrected,
        "seeds_paired": pair.found.paired,
        "verdict": pair.words,
    }


def _cells(group: Group, place: int, quantities: Sequence[Quantity]) -> list[str]:
    """A setting's means, each with the errors that it is told with; - where one is not known."""
    cells = []
    for quantity in quantities:
        found = group.estimate(group.settings[place], quantity)
        mean = f"{found.mean:.0f}" if found.mean.is_integer() else number(found.mean)
        cells += [mean or "-", *(_error(getattr(found, f"se_{of}")) for of in _errors_told(quantity))]
    return cells


def _errors_told(quantity: Quantity) -> list[str]:
    """What a quantity varies over, as far as a short table has room for it."""
    if quantity in PER_DATUM:
        return ["data", "seeds"]
    return ["seeds"] if quantity.better else []


def _error(value: float) -> str:
    """A standard error of two digits at least; a dash where it is not known."""
    if math.isnan(value):
        return "-"
    return "0" if value == 0 else number(value, value if value < 0.1 else math.nan)


def _place(group: Group, place: int) -> list[str]:
    """A setting's name, rank and number of seeds."""
    setting = group.settings[place]
    return [setting.name, group.rank_range(setting) or str(place + 1), str(len(setting.runs))]


SHORT = {"gap": "gap", "kl": "KL", "active_units": "active", "training_bound": "training", "minutes": "minutes"}
"""Names of columns where there is little room."""

SPACE = "\N{NO-BREAK SPACE}"
RANKED = (*PER_DATUM[:2], PER_RUN[2])
REST = (*PER_DATUM[2:], *PER_RUN[:2])


def _text(group: Group) -> str:
    """A group as text: what settings are ranked by and what they took, all else that is measured, then verdicts."""
    places = range(len(group.settings))
    first = [[*_place(group, i), *_cells(group, i, RANKED)] for i in places]
    rest = [[group.settings[i].name, *_cells(group, i, REST)] for i in places]
    lines = [
        f"{group.name}",
        "nats per datum; after each mean its standard errors, over data and over seeds",
        *_aligned(["setting", "rank", "seeds", *_head(RANKED)], first),
        "",
        *_aligned(["setting", *_head(REST)], rest),
    ]
    return "\n".join([*lines, "", *group.verdicts])


def _head(quantities: Sequence[Quantity]) -> list[str]:
    each = [(SHORT.get(quantity.name, quantity.words), _errors_told(quantity)) for quantity in quantities]
    return [word for name, errors in each for word in (name, *(f"±{error}" for error in errors))]


def _aligned(head: list[str], lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    return ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in [head, *lines]]


def _html(group: Group) -> str:
    """A group as a notebook shows it, a mean and its errors in one cell."""
    quantities = (*PER_DATUM, *PER_RUN)
    head = ["setting", "rank", "seeds", *(" ".join(_head([quantity])) for quantity in quantities)]
    rows = [
        [*_place(group, i), *(f"{SPACE}±{SPACE}".join(_cells(group, i, [quantity])) for quantity in quantities)]
        for i in range(len(group.settings))
    ]
    said = "Means in nats per datum, each ± its standard errors; - where one is not known."
    return html_table(rows, head, group.name, [said, *group.verdicts])


# ---------------------------------------------------------------- from runs


def compare_runs(
    runs: str | os.PathLike[str] | Run | Iterable[str | os.PathLike[str] | Run],
    *,
    num_samples: int = 200,
    count: int | None = 1000,
    seed: int = 0,
    baseline: str | None = None,
    by: Literal["evidence", "bound"] = "evidence",
    ignore: Sequence[str] = (),
    checkpoint: CheckpointName = "last",
    device: str | torch.device = "auto",
    data_root: str | os.PathLike[str] | None = None,
    trust: str | Sequence[str] | None = None,
    show: bool = True,
) -> Comparison:
    """Measure runs on the same test data with the same noise, and compare their settings.

    Runs that differ by their seed alone are one setting. Means have their standard error over data and over seeds
    apart, and differences are paired datum by datum, and seed by seed where two settings have the same seeds; the
    formulas are in :mod:`pyro_aevb.reports.statistics`. Runs on other data, or whose log p(x) is another thing, a
    density in place of a probability say, are in a group of their own.

    What is computed for each datum is kept in the runs' folders, so that the same comparison takes seconds the next
    time; it is computed anew once weights, data, options or versions are others.

    Arguments:
        runs: A folder with runs somewhere below it, the folder of a run, an open run, or several of these.
        num_samples: Importance samples for each datum's log p(x).
        count: Number of test data, the first ones; ``None`` for all.
        seed: Seed of the noise, which is the same for all runs.
        baseline: Setting that all others are compared with: its name, a part of it, or the folder of one of its runs;
            by default each is compared with each.
        by: What settings are ranked by, and verdicts are about: log p(x), or the bound.
        ignore: Options by their dotted names, ``optimizer.lr`` say, in which runs of one setting may differ.
        checkpoint: Which saved state of each run is opened, ``last`` or ``best``.
        device: Where the runs are evaluated.
        data_root: Folder of data sets, where it is not the one that the runs were trained from.
        trust: Modules whose classes the runs' configurations may name too.
        show: Whether to show a bar on standard error, where that is a terminal.

    Raises:
        InputError: If there is no run, one that was named cannot be opened or measured, or the baseline is none of the
            settings. Of runs that were found below a folder, those that cannot be opened are left out, with a note.
    """
    whole("num_samples", num_samples)
    choice("by", by, ("evidence", "bound"))
    chosen = None if count is None else whole("count", count, least=2)
    given = found_runs(runs)
    how = {"checkpoint": checkpoint, "device": device, "data_root": data_root, "trust": trust}
    bar = tqdm(total=len(given), unit="run", disable=not flag("show", show) or not sys.stderr.isatty(), leave=False)
    with bar:
        measured, notes = _measured(given, lambda run: measure(run, chosen, num_samples, seed), how, bar)
    if not measured:
        raise InputError(f"none of the {len(given)} runs can be compared: {notes[0]}")
    names = dict(zip((run.path for run in measured), names_of([run.path for run in measured]), strict=True))
    quantity = next(each for each in PER_DATUM if each.name == by)
    groups, repeated = _groups(measured, quantity, baseline, tuple(ignore))
    notes += [f"{names[less.path]} is left out: {names[more.path]} has its setting and seed" for less, more in repeated]
    notes += [note for group in groups for note in _notes(group, names)]
    if len(groups) > 1:
        notes.insert(0, f"the runs are of {len(groups)} kinds of data or of likelihoods, which are not compared")
    return Comparison(groups, names, tuple(notes), num_samples, seed)


def _measured(
    given: Sequence[tuple[Path | Run, bool]], of: Callable[[Run], RunMeasured], how: dict[str, Any], bar: Any
) -> tuple[list[RunMeasured], list[str]]:
    """Each run measured, one open at a time; and what is said of those that cannot be."""
    measured = []
    notes = []
    for each, named in given:
        bar.set_postfix_str((each.path if isinstance(each, Run) else each).name)
        try:
            measured.append(of(each if isinstance(each, Run) else load_run(each, **how)))
        except InputError as error:
            if named:
                path = each.path if isinstance(each, Run) else each
                words = str(error)  # load_run names the folder itself, an evaluation does not know it
                raise InputError(words if str(path) in words else f"{path}: {words}") from error
            notes.append(f"{each} is left out: {error}")
        bar.update()
    return measured, notes


def _groups(
    measured: Sequence[RunMeasured], by: Quantity, baseline: str | None, ignore: tuple[str, ...]
) -> tuple[tuple[Group, ...], list[tuple[RunMeasured, RunMeasured]]]:
    """Groups of runs whose numbers are of the same data, the settings of each from the best to the worst."""
    alike: dict[str, list[RunMeasured]] = {}
    for run in measured:
        alike.setdefault(run.identity, []).append(run)
    repeated: list[tuple[RunMeasured, RunMeasured]] = []
    groups = []
    for runs in alike.values():
        settings, twice = settings_of(runs, ignore)
        repeated += twice
        ranked = sorted(settings, key=lambda each: -float(_values(each, by).mean()))
        groups.append((runs, tuple(ranked)))
    named = _names_of_groups([(runs[0].data, runs[0].identity) for runs, _ in groups])
    found = [None if baseline is None else _baseline(settings, str(baseline)) for _, settings in groups]
    if baseline is not None and not any(found):
        every = [each.name for _, settings in groups for each in settings]
        near = did_you_mean(str(baseline), every)
        raise InputError(f"baseline {told(baseline)} is no setting{near or ':'} give one of {', '.join(every)}")
    together = zip(named, groups, found, strict=True)
    return tuple(Group(name, settings, each, by, ignore) for name, (_, settings), each in together), repeated


def _names_of_groups(data: Sequence[tuple[str, str]]) -> list[str]:
    """The data of each group in words, and a digest where two have the same."""
    words = [name for name, _ in data]
    return [name if words.count(name) == 1 else f"{name} (digest {digest[:6]})" for name, digest in data]


def _baseline(settings: Sequence[Setting], wanted: str) -> Setting | None:
    """The setting of that name, of a run at that path, or the only one whose name has that in it."""
    for each in settings:
        if each.name == wanted or Path(wanted).resolve() in [run.path.resolve() for run in each.runs]:
            return each
    parts = [each for each in settings if wanted.lower() in each.name.lower()] if wanted else []
    if len(parts) > 1:
        raise InputError(
            f"baseline {told(wanted)} could be {', '.join(each.name for each in parts)}: give a whole name"
        )
    return parts[0] if parts else None


def _notes(group: Group, names: dict[Path, str]) -> Iterable[str]:
    """What a reader should know of a group's numbers."""
    for setting in group.settings:
        for run in setting.runs:
            if run.unfinished:
                goal = run.options["samples"]
                yield f"{names[run.path]} is unfinished: it has seen {run.samples_seen:,} of {goal:,} samples"
    worst = {setting.name: max(run.untrusted for run in setting.runs) for setting in group.settings}
    doubtful = [f"{name} ({many})" for name, many in worst.items() if many > DOUBTFUL * group.count]
    if doubtful:
        some = ", ".join(doubtful) if len(doubtful) <= MOST_NAMED else f"{len(doubtful)} of {len(worst)} settings"
        yield (
            f"log p(x) may be too low: k-hat is above {LARGEST_KHAT} for more than one in twenty of {group.count:,} "
            f"data, of the worst run each, of {some}; see pyro-aevb evaluate --evidence importance,ais"
        )
    single = [setting.name for setting in group.settings if len(setting.runs) == 1]
    if single:
        some = "each of the settings" if len(single) == len(group.settings) else ", ".join(single)
        yield f"there is one seed of {some}: how much seeds matter there is unknown"
