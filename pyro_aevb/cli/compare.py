"""``pyro-aevb compare``: estimators side by side on a saved run's pair and data."""

import csv
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyro_aevb import estimators, plots
from pyro_aevb.cli.options import RunOptions, check_count, opened, place_of
from pyro_aevb.diagnostics import gradients
from pyro_aevb.diagnostics.gradients import GradientStatistics, TrainedBound, TrainingStatistics
from pyro_aevb.errors import InputError, did_you_mean, real
from pyro_aevb.estimators import Estimator
from pyro_aevb.files import replaced
from pyro_aevb.runs.build import make_pair, make_trainer
from pyro_aevb.runs.parser import read_options
from pyro_aevb.runs.run import Run
from pyro_aevb.seeds import unchanged_random_state
from pyro_aevb.training.loop import count_of_samples
from pyro_aevb.training.trainer import Trainer

__all__ = [
    "CompareOptions",
    "about_training",
    "compare",
    "make_estimators",
    "seeds_of",
    "table",
    "train_each",
    "training_table",
    "write",
    "write_training",
]

TEST_DATA = 1000
MOST_SEEDS = 1000

FILES = ("gradients.csv", "gradients.png")
TRAINING_FILES = ("training.csv", "training.png")


@dataclass(frozen=True)
class CompareOptions(RunOptions):
    """Compare the gradients of estimators on a saved run's pair: bias, variance, signal-to-noise ratio, time.

    Arguments:
        estimators: Names of estimators, separated by commas; ``all`` for all that suit the pair.
        particles: Numbers of particles (samples of z per datum), separated by commas; an estimator that needs more is
            given the fewest that it takes.
        draws: Number of gradients drawn of each estimator.
        reference_draws: Number of gradients whose mean bias is measured against.
        batch_size: Number of data in the one minibatch that all gradients are of, the first data of the training set.
        train_samples: Number of training samples after which the bound on test data is compared, of trainings with
            each estimator; 0 to train none.
        train_seconds: Seconds of such a training after which the bound is compared too.
        train_seeds: Seeds of these trainings, 0-2 or 0,3,7, each estimator from the same weights with the same seed;
            by default one training from the start that the run had.
        out: Folder for gradients.csv, gradients.png and, where there were trainings, training.csv and training.png,
            which it must not have yet; by default the folder comparison in the run's, where they replace those of an
            earlier call.
    """

    estimators: str = "SGVB,SGVBAnalyticKL,StickingTheLanding,ScoreFunction,IWAE,DoublyReparameterized"
    particles: str = "1,5"
    draws: int = 100
    reference_draws: int = 1000
    batch_size: int = 100
    train_samples: float = 0
    train_seconds: float = 5.0
    train_seeds: str | None = None
    out: str | None = None


LEGEND = """\
part: whose parameters the gradient is taken by, the model's or the guide's
bias: length of the gradient's bias divided by the length of the gradient, ± its standard error; 0 if unbiased
variance: variance of one gradient, summed over its coordinates
SNR: signal-to-noise ratio, |mean| / standard deviation of a coordinate, averaged over coordinates
ms: median time of one loss and its gradient, in milliseconds"""
"""What the columns of the table are."""


def compare(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb compare``.

    Raises:
        InputError: If an option does not fit.
    """
    config = read_options(CompareOptions, "compare", arguments)
    for name, least in (("draws", 2), ("reference_draws", 2), ("batch_size", 1)):
        check_count(name, getattr(config, name), least)
    real("--train_seconds", config.train_seconds, least=0)
    samples = count_of_samples(config.train_samples) if config.train_samples else 0
    seeds = None if config.train_seeds is None else seeds_of(config.train_seeds)
    if seeds and not samples:
        raise InputError("--train_seeds is of trainings, and there are none without --train_samples: give it too")
    chosen = make_estimators(config.estimators, config.particles)
    out = place_of(config.out, (*FILES, *TRAINING_FILES) if samples else FILES)
    run = opened(config)
    if config.train_samples:
        run.parts()  # to hear now, and not after the gradients, of one that may not be followed
    minibatch = run.data.rows("train").first(config.batch_size).to(run.device)
    x = minibatch.arguments
    if config.estimators == "all":
        chosen = list(_suiting(chosen, run, x))
    show = (lambda name: print(f"\r{name:<40}", end="", file=sys.stderr)) if sys.stderr.isatty() else None
    rows = gradients.compare(
        run.model,
        run.guide,
        x,
        chosen,
        draws=config.draws,
        reference_draws=config.reference_draws,
        seed=config.seed,
        progress=show,
    )
    print(run.title)
    print(f"{config.draws} gradients of each estimator's bound, nats per datum, on one minibatch of {len(minibatch.x)}")
    print(f"{table(rows)}\n\n{LEGEND}")
    folder = out or run.folder.subfolder("comparison")
    paths = write(rows, folder, run.title)
    if samples:
        trained = train_each(run, chosen, samples, config.train_seconds, show, seeds)
        print(f"\n{about_training(samples, config.train_seconds, seeds)}\n{training_table(trained)}")
        paths += write_training(trained, folder, run.title)
    print(*paths, sep="\n")


def seeds_of(text: str) -> list[int]:
    """Seeds from words: whole numbers and ranges, both ends included, separated by commas.

    Arguments:
        text: What was typed after ``--train_seeds``.

    Raises:
        InputError: If it is something else, or a seed stands twice.

    >>> seeds_of("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = (each.strip() for each in part.partition("-"))
        if not low.isdecimal() or not (high.isdecimal() if dash else True) or (dash and int(high) < int(low)):
            raise InputError(f"--train_seeds must be whole numbers or ranges of them, 0-2 or 0,3,7, not {text!r}")
        if dash and int(high) - int(low) >= MOST_SEEDS:
            raise InputError(f"--train_seeds {text} are more than {MOST_SEEDS:,} trainings: give a shorter range")
        found += range(int(low), int(high if dash else low) + 1)
    if len(set(found)) < len(found):
        raise InputError(f"--train_seeds {text} has a seed twice, which trains the same again: give each once")
    return found


def about_training(samples: int, seconds: float, seeds: Sequence[int] | None) -> str:
    """What the table of trainings is of."""
    start = "one training with each estimator from the run's own start"
    if seeds is not None:
        listed = ", ".join(map(str, seeds))
        start = f"trainings with each estimator from the seed{'s' * (len(seeds) > 1)} {listed}"
    about = [
        f"bound on test data, nats per datum, of {start},",
        f"after {samples:,} training samples and after {seconds:g} seconds; difference: to the first estimator",
    ]
    if seeds is not None and len(seeds) > 1:
        about.append("±: standard error of the mean over seeds; of differences it is paired, seed by seed")
    return "\n".join(about)


def train_each(
    run: Run,
    chosen: Sequence[Estimator],
    samples: int,
    seconds: float,
    show: Callable[[str], None] | None,
    seeds: Sequence[int] | None = None,
) -> list[TrainingStatistics]:
    """Train the run's pair with each estimator.

    Arguments:
        run: The saved run.
        chosen: The estimators.
        samples: Number of training data after which the bounds are compared.
        seconds: Seconds of training after which they are compared too.
        show: Function that is called with the name of what is being trained; ``None`` to call nothing.
        seeds: Seeds of the trainings; by default one training of each, from the start that the run had.
    """

    def make(estimator: Estimator, seed: int) -> Trainer:
        """The run's training from its start, or from a seed, with another estimator."""
        parts = replace(run.parts(), estimator=estimator)
        every = max(1, min(run.config.report_every, samples // 10))
        config = replace(run.config, engine="eager", report_every=every, seed=seed)
        return make_trainer(config, parts, run.data, make_pair(config, parts, run.data))

    test = run.data.rows("test").first(TEST_DATA).arguments
    return gradients.compare_training(
        make, chosen, test, samples=samples, seconds=seconds, seeds=seeds or [run.config.seed], progress=show
    )


def training_table(rows: Sequence[TrainingStatistics]) -> str:
    """Bounds on test data after equal samples and equal seconds of training, as text, a line for each estimator."""
    found = gradients.training_summary(rows)
    several = found[0].seeds > 1
    head = "".join(f"{'at ' + what:>11}{'±':>7}{'difference':>12}{'±':>7}" for what in ("samples", "seconds"))
    head = head if several else "".join(f"{'at ' + what:>12}{'difference':>12}" for what in ("samples", "seconds"))
    lines = [f"{'estimator':<24}{'particles':>9}{head}"]
    for row in found:
        numbers = "".join(_trained(each, several) for each in (row.at_samples, row.at_seconds))
        lines.append(f"{row.estimator:<24}{row.num_particles:>9}{numbers}")
    return "\n".join(lines)


def _trained(each: TrainedBound, several: bool) -> str:
    """A bound and its difference to the first estimator's, with their errors over seeds where there are several."""
    if not several:
        return f"{each.bound:>12.2f}{each.difference:>12.2f}"
    return f"{each.bound:>11.2f}{each.bound_error:>7.2f}{each.difference:>12.2f}{each.difference_error:>7.2f}"


def make_estimators(names: str, particles: str) -> list[Estimator]:
    """Every named estimator with every number of particles that it takes, or with the fewest.

    Raises:
        InputError: If a name is not that of an estimator, or a number of particles not a whole number.
    """
    known = {name.lower(): name for name in estimators.__all__}
    typed = estimators.__all__ if names == "all" else [name.strip() for name in names.split(",")]
    wanted = [known.get(name.lower(), name) for name in typed]
    if unknown := [name for name in wanted if name not in estimators.__all__]:
        near = did_you_mean(unknown[0], estimators.__all__)
        raise InputError(f"unknown estimator {unknown[0]!r}{near or ':'} give some of {', '.join(estimators.__all__)}")
    try:
        counts = [int(count) for count in particles.split(",")]
    except ValueError as error:
        raise InputError(f"--particles must be whole numbers separated by commas, not {particles!r}") from error
    kinds: list[type[Estimator]] = [getattr(estimators, name) for name in wanted]
    return [
        kind(count, vectorize_particles=count > 1, max_plate_nesting=1)
        for kind in kinds
        for count in _taken(kind, counts)
    ]


def _suiting(chosen: Iterable[Estimator], run: Run, x: Any) -> Iterator[Estimator]:
    """The estimators that do not refuse the run's pair; of the others it is told why."""
    for estimator in chosen:
        try:
            with unchanged_random_state(run.device):
                estimator.loss(run.model, run.guide, **(x if isinstance(x, dict) else {"x": x}))
        except InputError as error:
            print(f"without {gradients.label(estimator)}: {error}", file=sys.stderr)
        else:
            yield estimator


def _taken(kind: type[Estimator], counts: Sequence[int]) -> list[int]:
    """The numbers of particles that an estimator takes, or the fewest; below one it is refused when it is made."""
    return [count for count in counts if not 1 <= count < kind.least_particles] or [kind.least_particles]


def table(rows: Sequence[GradientStatistics]) -> str:
    """The statistics of gradients as text: aligned columns, a line for each estimator and part of the pair."""
    lines = [f"{'estimator':<24}{'particles':>9} {'part':<6}{'bias':>9}{'±':>9}{'variance':>11}{'SNR':>9}{'ms':>9}"]
    lines += [
        f"{r.estimator:<24}{r.num_particles:>9} {r.part:<6}{r.bias:>9.3f}{r.bias_error:>9.3f}{r.variance:>11.3g}"
        f"{r.snr:>9.3f}{r.milliseconds:>9.2f}"
        for r in rows
    ]
    return "\n".join(lines)


def write(rows: Sequence[GradientStatistics], folder: Path, title: str) -> list[Path]:
    """Write the statistics of gradients into a folder, as a CSV file and as a figure; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _write_rows(rows, folder / FILES[0])
    return [path, plots.save(plots.draw_comparison(rows, title), folder / FILES[1])]


def write_training(rows: Sequence[TrainingStatistics], folder: Path, title: str) -> list[Path]:
    """Write bounds after training into a folder, a line for each training, and their figure; returns their paths."""
    path = _write_rows(rows, folder / TRAINING_FILES[0])
    return [path, plots.save(plots.draw_training(rows, title), folder / TRAINING_FILES[1])]


def _write_rows(rows: Sequence[GradientStatistics] | Sequence[TrainingStatistics], path: Path) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows[0]._fields)
    writer.writerows(rows)
    with replaced(path) as file:
        file.write(text.getvalue().encode())
    return path
