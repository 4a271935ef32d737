"""``pyro-aevb train``: from options to a run on disk."""

import math
import signal
import sys
import time
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from torch import Tensor
from torch.distributions import constraints
from tqdm import tqdm

from pyro_aevb import evidence
from pyro_aevb.cli.stopping import Stopped
from pyro_aevb.data import DataSet
from pyro_aevb.distributions.supports import innermost
from pyro_aevb.errors import InputError
from pyro_aevb.files import check_place, refuse_existing
from pyro_aevb.hardware import find_device
from pyro_aevb.process import Deferred
from pyro_aevb.runs.build import Parts, load_data, make_pair, make_parts, make_trainer
from pyro_aevb.runs.folder import Folder, is_run
from pyro_aevb.runs.options import Config, Every, check_numbers, config_of, dumped, parser
from pyro_aevb.runs.origin import (
    FREE,
    VersionsWarning,
    check_config_of,
    check_data_of,
    difference_of_versions,
    origin,
    versions,
)
from pyro_aevb.runs.parser import Parser, read_config
from pyro_aevb.runs.trust import modules_of
from pyro_aevb.runs.words import taken_apart
from pyro_aevb.training.loop import AUTO_CAPTURE_STEPS
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer

__all__ = ["train"]

RESUMABLE = {"samples", "device", "data_root", "evaluate_every", "save_every", "resume", "trust"}


def train(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb train``.

    Raises:
        InputError: If an option does not fit.
        NonFiniteLossError: If a loss is NaN or infinite; the last good checkpoint stays.
    """
    grammar = parser()
    grammar.check_known(arguments)
    config, resume, trust = (_value_of(name, arguments) for name in ("config", "resume", "trust"))
    if resume is not None:
        _resume(grammar, Path(resume), arguments, modules_of(trust))
        return
    source = None if config is None else read_config(Path(config), modules_of(trust))
    _begin(grammar, grammar.parse(arguments, source), arguments)


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The last value given to an option, before all are parsed.

    Raises:
        InputError: If it is missing, or empty, as of a shell variable that is not set.
    """
    given = [each.value for each in taken_apart(arguments) if each.name == option]
    if given and not given[-1]:
        unset = ": was a variable of the shell not set?" if given[-1] == "" else ""
        raise InputError(f"--{option} needs a value{unset}")
    return given[-1] if given else None


def _begin(grammar: Parser, options: Namespace, arguments: Sequence[str]) -> None:
    if options.out:
        out = Path(options.out)
        check_place("out", out)
        refuse_existing(out, f"give another --out{f', or go on with --resume {out}' if is_run(out) else ''}")
    check_numbers(options, "--")
    _spread_shorthand(options, {word.split("=")[0] for word in arguments})
    parts = make_parts(grammar, options)
    options.binarize = _choose_binarize(options, parts)
    options.engine = _choose_engine(options)
    if Path(options.data).is_file():
        options.data = str(Path(options.data).resolve())  # so that the run is found out about from any folder
    text = dumped(grammar, options)
    plain = yaml.safe_load(text)
    training = Training.of(plain, parts, load_data(config_of(plain)))
    path = Path(options.out) if options.out else _free_path(options.data)
    folder = Folder.create(path, text, training.state())
    with folder.locked():
        training.go_on(folder)


def _resume(grammar: Parser, path: Path, arguments: Sequence[str], trust: Sequence[str]) -> None:
    folder = Folder(path)
    given = {word.split("=")[0].removeprefix("--") for word in arguments if word.startswith("--")}
    if other := sorted(given - RESUMABLE):
        raise InputError(
            f"--{other[0]} cannot change in a resumed run: only {', '.join(sorted(RESUMABLE - {'resume'}))} can; "
            f"for another run, use --config {path}/config.yaml"
        )
    with folder.locked():
        _resume_locked(grammar, folder, arguments, trust)


def _resume_locked(grammar: Parser, folder: Folder, arguments: Sequence[str], trust: Sequence[str]) -> None:
    path = folder.path
    source = read_config(path / "config.yaml", trust)
    options = grammar.parse(arguments, source)
    check_numbers(options, "--")
    state = folder.load("last", find_device(options.device))
    check_config_of(state, source, path)
    parts = make_parts(grammar, options)
    parsed = yaml.safe_load(dumped(grammar, options))
    # Not options that another version has besides: the states say what they were trained with, and no more.
    plain = {**source, **{name: parsed[name] for name in FREE if name in parsed}}
    data = load_data(config_of(plain), download=False)
    check_data_of(state, data, path)
    if said := difference_of_versions(state, path / "last.pt"):
        warnings.warn(said, VersionsWarning, stacklevel=2)
    training = Training.of(plain, parts, data)
    training.take(state)
    if (
        options.samples < training.trainer.samples_seen
    ):  # nothing to do, and the run stays one of as many as it has seen
        plain["samples"] = source["samples"]
    folder.go_back_to(training.trainer.samples_seen)
    folder.write_config(yaml.safe_dump(plain, sort_keys=False))
    training.go_on(folder)


def _bounds(state: dict[str, Any]) -> list[float]:
    """Those since the last save, which a state that was saved by a signal to end brings along."""
    found = state.get("since_save", [])
    if not isinstance(found, list) or not all(type(bound) is float and math.isfinite(bound) for bound in found):
        raise InputError("the state's bounds since the last save are no numbers: it is damaged")
    return found


def _spread_shorthand(options: Namespace, typed: Collection[str]) -> None:
    """Give ``hidden`` and ``activation`` to each part that takes them, where the configuration will show them.

    A part's own option wins where it was typed too; a part with a network of its own has no use for them.

    Raises:
        InputError: If no part takes one.
    """
    for key in ("hidden", "activation"):
        value = options[key]
        options[key] = None
        # A function has no init_args.
        found = {part: getattr(options[part], "init_args", {}) for part in ("likelihood", "guide")}
        taking = {part: made for part, made in found.items() if key in made and made.get("network") is None}
        if value is not None and not taking:
            raise InputError(f"--{key}: neither the likelihood nor the guide takes it: leave it out")
        for part, made in taking.items() if value is not None else ():
            if f"--{part}.{key}" not in typed:
                made[key] = value


def _choose_binarize(options: Namespace, parts: Parts) -> str:
    if options.binarize != "auto":
        return str(options.binarize)
    support = parts.likelihood(1, 1)(torch.zeros(1, 1)).support
    return "dynamic" if innermost(support) is constraints.boolean else "none"


def _choose_engine(options: Namespace) -> str:
    """Once for the whole run, however it will be cut: the engines round differently."""
    long = options.samples >= AUTO_CAPTURE_STEPS * options.batch_size
    return str(options.engine) if options.engine != "auto" else "captured" if long else "eager"


def _free_path(data: str) -> Path:
    stem = Path(data).stem
    return next(p for p in (Path("runs") / f"{stem}-{i}" for i in range(1, 10**6)) if not p.exists())


# ---------------------------------------------------------------- the loop


class Training:
    """A trainer whose reports, evaluations and states are kept in a run's folder.

    Arguments:
        config: The run's options.
        data: Its data.
        trainer: Its trainer, which has model and guide.
        origin: What each saved state remembers of configuration and data.
    """

    def __init__(self, config: Config, data: DataSet, trainer: Trainer, origin: dict[str, Any]) -> None:
        self.config = config
        self.data = data
        self.trainer = trainer
        self.origin = origin
        self.best_bound = float("-inf")
        self.since_save: list[float] = []

    @classmethod
    def of(cls, options: dict[str, Any], parts: Parts, data: DataSet) -> "Training":
        """The training that the options of a ``config.yaml`` want, at its beginning."""
        config = config_of(options)
        trainer = make_trainer(config, parts, data, make_pair(config, parts, data))
        return cls(config, data, trainer, origin(options, data))

    def state(self) -> dict[str, Any]:
        """What ``last.pt`` and ``best.pt`` hold."""
        return {
            "samples_seen": self.trainer.samples_seen,
            "best_bound": self.best_bound,
            "since_save": list(self.since_save),
            "origin": self.origin,
            "versions": versions(),
            "trainer": self.trainer.state_dict(),
        }

    def take(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            InputError: If it does not fit, or is damaged.
        """
        self.trainer.load_state_dict(state["trainer"])
        self.best_bound = state["best_bound"]
        self.since_save = _bounds(state)

    def go_on(self, folder: Folder) -> None:
        """Train up to the samples that are wanted; where the user interrupts, save what was done."""
        target = int(self.config.samples)
        seen = self.trainer.samples_seen
        began = time.perf_counter()
        signals = Deferred()
        try:
            with tqdm(total=target, initial=seen, unit="samples", disable=not sys.stderr.isatty(), leave=False) as bar:
                for progress in self.trainer.run(max(0, target - seen)):
                    with signals:  # to end wait until the report is whole
                        self._report(folder, progress, seen, round(time.perf_counter() - began, 3))
                    _show(bar, progress, seen)
                    seen = progress.samples_seen
                    signals.deliver()
        except (KeyboardInterrupt, Stopped) as stop:
            if self.trainer.engine.updating:  # the second signal, which did not wait
                raise
            with signals:
                folder.save("last", self.state())
            raise Stopped(getattr(stop, "number", signal.SIGINT), _saved(folder, self.trainer)) from stop
        _print_summary(folder, self.config, self.data, self.trainer)

    def _report(self, folder: Folder, progress: Progress, seen: int, seconds: float) -> None:
        config = self.config
        now = progress.samples_seen
        ends = now >= int(config.samples)
        folder.append_metrics({**_record(progress), "seconds": seconds})
        self.since_save.append(progress.bound)
        if _crossed(seen, now, config.evaluate_every) or ends:
            folder.append_metrics(_evaluate(progress, self.trainer, self.data.test))
        if _crossed(seen, now, config.save_every) or ends:
            self._save(folder)

    def _save(self, folder: Folder) -> None:
        """The state, as the best one too if the mean bound since the last save is."""
        mean_bound = sum(self.since_save) / len(self.since_save)
        is_best = mean_bound > self.best_bound
        self.best_bound = max(self.best_bound, mean_bound)
        self.since_save = []
        state = self.state()
        if is_best:
            folder.save("best", state)
        folder.save("last", state)


def _saved(folder: Folder, trainer: Trainer) -> str:
    return f"{trainer.samples_seen:,} samples are saved, go on with --resume {folder.path}"


def _record(progress: Progress) -> dict[str, Any]:
    return {key: value for key, value in progress._asdict().items() if value is not None}


def _crossed(before: int, now: int, every: Every) -> bool:
    every = 10 ** (len(str(now)) - 1) if every == "log" else every
    return before // every != now // every


def _evaluate(progress: Progress, trainer: Trainer, test: Tensor) -> dict[str, Any]:
    bound = evidence.bound(trainer.model, trainer.guide, test).bound
    standard_error = (bound.std() / len(bound) ** 0.5).item() if len(bound) > 1 else 0.0
    return {"samples_seen": progress.samples_seen, "test_bound": bound.mean().item(), "test_se": standard_error}


def _show(bar: Any, progress: Progress, seen: int) -> None:
    bar.set_postfix(bound=f"{progress.bound:.2f}", refresh=False)
    bar.update(progress.samples_seen - seen)


def _print_summary(folder: Folder, config: Config, data: DataSet, trainer: Trainer) -> None:
    records = folder.metrics()
    since = (trainer.samples_seen - 1) % config.report_every + 1  # the last report may come early, at the end
    train = [f"{r['bound']:.2f} on train (last {since:,} samples)" for r in records if "bound" in r]
    test = [f"{r['test_bound']:.2f} ± {r['test_se']:.2f} on test" for r in records if "test_bound" in r]
    print(
        f"{folder.path}: {trainer.samples_seen:,} samples of {data.name} (binarize={data.binarize}), nats per datum: "
        f"bound {', '.join([*train[-1:], *test[-1:]]) or 'not yet known'}"
    )
