"""``--optimizer.lr auto``: the step size with the highest training bound in short trials, as the paper chose its own.

The paper tried 0.01, 0.02 and 0.1 with Adagrad and looked at the training bound. Here each trial is the beginning of a
whole run, and the best one is gone on with, so that the run is to the last bit what it would have been with its step
size typed.
"""

import contextlib
import importlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pyro_aevb.errors import DivergenceWarning, InputError, NonFiniteLossError, in_one_line
from pyro_aevb.files import check_place, replaced
from pyro_aevb.runs.begin import begun, free_path, parsed, resumed, settled, trust_typed, value_of
from pyro_aevb.runs.folder import Folder, is_run
from pyro_aevb.runs.offered import choices_of
from pyro_aevb.runs.origin import FREE
from pyro_aevb.runs.parser import Parser
from pyro_aevb.runs.training import OnReport, Training
from pyro_aevb.runs.words import taken_apart
from pyro_aevb.training.progress import Progress

__all__ = ["FACTORS", "FIRST", "OnTrial", "Trial", "choose", "is_auto", "read_trials", "without_auto"]

logger = logging.getLogger(__name__)

FIRST = 300_000
"""Training data that each trial sees, or all that the run is to see. After 100,000, MNIST with 200 latents got 0.01, by
0.2 nats, and was 3 nats worse after a million."""

FACTORS = (0.5, 1, 5)
"""Factors of the optimizer's own default step size: 0.01, 0.02 and 0.1 for :class:`~pyro_aevb.optimizers.Adagrad`."""

TRIALS = "step_sizes.json"
AUTO = re.compile(r"auto(\[(?P<given>[^\[\]]*)\])?")
NAMES = ("optimizer.lr", "optimizer.init_args.lr")

OnTrial = Callable[[float, Progress], object]
"""What is called with each report of a trial, and its step size before it."""


class Trial(NamedTuple):
    """What a step size came to."""

    step_size: float
    """The step size."""
    bound: float | None
    """Mean training bound over the last third of the trial, nats per datum; ``None`` where a loss was not finite."""
    reports: list[tuple[int, float]]
    """Samples seen and training bound of each report."""
    failed: str = ""
    """What was said of the loss that was not finite."""


def is_auto(arguments: Sequence[str]) -> bool:
    """Whether typed options want the step size chosen.

    Arguments:
        arguments: Words of the command line.
    """
    return AUTO.fullmatch(_typed(arguments)) is not None


def without_auto(arguments: Sequence[str]) -> list[str]:
    """Typed options without the step size, where it is to be chosen.

    Arguments:
        arguments: Words of the command line.
    """
    return _others(arguments) if is_auto(arguments) else list(arguments)


def _others(arguments: Sequence[str]) -> list[str]:
    return [word for each in taken_apart(arguments) if each.name not in NAMES for word in each.words]


def _typed(arguments: Sequence[str]) -> str:
    return next((each.value or "" for each in reversed(taken_apart(arguments)) if each.name in NAMES), "")


def choose(
    grammar: Parser, arguments: Sequence[str], source: dict[str, Any] | None = None, on_trial: OnTrial | None = None
) -> Path:
    """Try step sizes, and leave the best one's run in the run's place, to be gone on with.

    Trials lie beside the run's place, in ``.RUN.step_sizes``, until the choice is made. Interrupted, they are gone on
    with by the same options.

    Arguments:
        grammar: The parser of ``pyro-aevb train``.
        arguments: Words of the command line, ``--optimizer.lr auto`` or ``auto[0.001,0.003]`` among them.
        source: Options that stand where nothing is typed; by default those of the file that ``--config`` names.
        on_trial: Function that is called with each report of a trial.

    Returns:
        The run's folder, which holds the trials in ``step_sizes.json``.

    Raises:
        InputError: If an option does not fit, or trials of other options are there.
        NonFiniteLossError: If the loss becomes NaN or infinite with each of the step sizes.
    """
    others = [word for each in taken_apart(_others(arguments)) if each.name != "out" for word in each.words]
    out = value_of("out", arguments)
    path = Path(out) if out else free_path(value_of("data", arguments) or "digits")
    check_place("out", path)
    step_sizes = _step_sizes(grammar, others, source, _typed(arguments))
    trials = path.with_name(f".{path.name}.step_sizes")
    if not (found := _chosen(trials)):
        settled(grammar, [*others, f"--optimizer.lr={step_sizes[0]:g}", f"--out={path}"], source)
        with _interrupted(trials):
            found = _best(trials, [_tried(grammar, others, source, trials, each, on_trial) for each in step_sizes])
    for other in trials.iterdir():
        if other != found:
            shutil.rmtree(other)
    os.rename(found, path)
    trials.rmdir()
    return path


def _step_sizes(grammar: Parser, others: Sequence[str], source: dict[str, Any] | None, typed: str) -> list[float]:
    """The step sizes to try: those that were typed, or some around the optimizer's own."""
    options, _ = parsed(grammar, others, source)
    module, _, name = options.optimizer.class_path.rpartition(".")
    own = choices_of(getattr(importlib.import_module(module), name)).get("lr")
    if own is None:
        raise InputError(f"--optimizer.lr auto: {name} has no lr")
    match = AUTO.fullmatch(typed)
    if match is not None and match["given"] is not None:
        return _numbers(match["given"])
    if not isinstance(own.default, int | float):
        raise InputError(f"--optimizer.lr auto: {name} has no step size of its own: give some, auto[0.001,0.003,0.01]")
    return [float(f"{own.default * factor:g}") for factor in FACTORS]


def _numbers(given: str) -> list[float]:
    try:
        found = [float(each) for each in given.split(",")]
    except ValueError:
        found = []
    if not found or len(set(found)) < len(found) or not all(0 < each < float("inf") for each in found):
        raise InputError(f"--optimizer.lr auto[{given}]: give positive numbers, each once, as in auto[0.001,0.003]")
    return found


def _chosen(trials: Path) -> Path | None:
    """The trial that was chosen by a process which ended before it was in the run's place."""
    return next((path.parent for path in trials.glob(f"*/{TRIALS}")), None)


def _tried(
    grammar: Parser,
    others: Sequence[str],
    source: dict[str, Any] | None,
    trials: Path,
    step_size: float,
    on_trial: OnTrial | None,
) -> Trial:
    words = [*others, f"--optimizer.lr={step_size:g}", f"--out={trials / f'lr={step_size:g}'}"]
    with _trial(grammar, words, source) as training, warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # of a step size that is then not chosen
        every = training.trainer.report_every
        failed = _failure(training, partial(on_trial, step_size) if on_trial else None, -(-FIRST // every) * every)
        reports = [(m["samples_seen"], m["bound"]) for m in training.folder.metrics() if "bound" in m]
    trial = Trial(step_size, None if failed else _last_third(reports), reports, failed)
    logger.info("step size %g: %s", step_size, failed or f"training bound {trial.bound:.2f} nats per datum")
    return trial


def _failure(training: Training, on_report: OnReport | None, until: int) -> str:
    """What was said of a loss, or of distributions, that did not stay finite in a training; empty where all did."""
    try:
        training.go_on(on_report, until)
    except NonFiniteLossError as error:
        return in_one_line(error)
    except InputError as error:  # of a pair that ran until its weights became too large, just before a report
        if training.samples_seen == 0:
            raise
        return f"after {training.samples_seen:,} samples {in_one_line(error)}"
    return ""


@contextlib.contextmanager
def _trial(grammar: Parser, words: Sequence[str], source: dict[str, Any] | None) -> Iterator[Training]:
    """A trial, begun or gone on with."""
    path = Path(str(value_of("out", words)))
    if not is_run(path):
        with begun(grammar, words, source) as training:
            yield training
        return
    wanted, there = (
        yaml.safe_load(text)
        for text in (settled(grammar, words, source, check_out=False).text, (path / "config.yaml").read_text())
    )
    if other := [name for name in wanted if name not in FREE and wanted[name] != there.get(name)]:
        raise InputError(f"{path.parent} has trials with another --{other[0]}: remove it, or give another --out")
    with resumed(grammar, [f"--resume={path}", *trust_typed(words, source)]) as training:
        yield training


def _last_third(reports: list[tuple[int, float]]) -> float:
    """Mean bound over the last third of the samples, as there is always at least one report in."""
    last = [bound for seen, bound in reports if seen > reports[-1][0] * 2 // 3]
    return sum(last) / len(last)


def _best(trials: Path, tried: list[Trial]) -> Path:
    """The trial with the highest bound, after all trials were written into its folder."""
    finite = [each for each in tried if each.bound is not None]
    if not finite:
        sizes = ", ".join(f"{each.step_size:g}" for each in tried)
        raise NonFiniteLossError(f"the loss did not stay finite with step sizes {sizes}: give others, auto[0.0001]")
    best = max(finite, key=lambda each: float(each.bound or 0))
    path = trials / f"lr={best.step_size:g}"
    told = {"step_size": best.step_size, "tried": [each._asdict() for each in tried]}
    with replaced(path / TRIALS) as file:
        file.write((json.dumps(told) + "\n").encode())
    return path


@contextlib.contextmanager
def _interrupted(trials: Path) -> Iterator[None]:
    """Say of an interruption in a block that the trials are kept."""
    try:
        yield
    except BaseException as stop:
        if trials.exists():
            stop.__notes__ = ["the trials of step sizes are saved, go on with the same command"]
        raise


def read_trials(run: str | Path) -> list[Trial]:
    """The trials that a run's step size was chosen by, in the order in which they were made.

    Arguments:
        run: The run's folder.

    Raises:
        InputError: If there are none, or what is there is damaged.
    """
    path = Folder(run).path / TRIALS
    try:
        told = json.loads(path.read_text())["tried"]
        return [
            Trial(each["step_size"], each["bound"], [(n, b) for n, b in each["reports"]], each["failed"])
            for each in told
        ]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: the run's step size was not chosen by --optimizer.lr auto") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {in_one_line(error)}") from error
