"""``pyro-aevb train``: from options to a run on disk."""

import inspect
import math
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from torch.distributions import constraints

from pyro_aevb import evidence
from pyro_aevb.cli.progress import Shown
from pyro_aevb.cli.stopping import Stopped
from pyro_aevb.data import DataSet
from pyro_aevb.data.batches import steps_of
from pyro_aevb.data.tables import is_table
from pyro_aevb.distributions.supports import innermost
from pyro_aevb.errors import InputError
from pyro_aevb.evaluation import Data
from pyro_aevb.files import check_place, refuse_existing
from pyro_aevb.hardware import find_device
from pyro_aevb.optimizers import CosineAdam
from pyro_aevb.process import Deferred
from pyro_aevb.runs.build import Parts, kinds_of, load_data, make_pair, make_parts, make_trainer
from pyro_aevb.runs.folder import Folder, is_run
from pyro_aevb.runs.options import SCALE_OF_EARLIER, Config, Every, check_numbers, config_of, dumped, parser
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
from pyro_aevb.runs.trust import modules_needed, modules_of
from pyro_aevb.runs.words import taken_apart
from pyro_aevb.training.early_stopping import EarlyStopping
from pyro_aevb.training.loop import AUTO_CAPTURE_STEPS
from pyro_aevb.training.progress import Progress
from pyro_aevb.training.trainer import Trainer, evaluated

__all__ = ["train"]

UNSAID_STEPS = inspect.signature(CosineAdam).parameters["total_steps"].default
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
    given = _read_as_it_was(source) or _of_table(arguments)
    _begin(grammar, grammar.parse(arguments, given), arguments, source or {})


def _read_as_it_was(source: dict[str, Any] | None) -> dict[str, Any] | None:
    """A configuration; one of an earlier version, which says nothing of scale, scales as that version did."""
    return {"scale": SCALE_OF_EARLIER, **source} if source and "split_seed" in source else source


def _of_table(arguments: Sequence[str]) -> dict[str, Any] | None:
    """What a table's likelihood is when nothing is said: that of columns."""
    data = _value_of("data", arguments)
    return {"likelihood": {"class_path": "pyro_aevb.likelihoods.Columns"}} if data and is_table(data) else None


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


def _begin(grammar: Parser, options: Namespace, arguments: Sequence[str], source: dict[str, Any]) -> None:
    if options.out:
        out = Path(options.out)
        check_place("out", out)
        refuse_existing(out, f"give another --out{f', or go on with --resume {out}' if is_run(out) else ''}")
    check_numbers(options, "--")
    typed = {word.split("=")[0] for word in arguments}
    if "--held_out" in typed and options.early_stopping is None:
        raise InputError("--held_out is for --early_stopping, which is not given: add it, or leave both out")
    _spread_shorthand(options, typed)
    parts = make_parts(grammar, options)
    options.binarize = _choose_binarize(options, parts)
    options.engine = _choose_engine(options)
    if Path(options.data).is_file():
        options.data = str(Path(options.data).resolve())  # so that the run is found out about from any folder
    data = load_data(config_of(yaml.safe_load(dumped(grammar, options))))
    if not {"--batch_size", "--config"} & typed and options.batch_size > len(data.train):
        options.batch_size = len(data.train)  # of a small table, which is one minibatch
    changed = [_tell_kinds(options, data, grammar), _follow_samples(options, typed, source, len(data.train))]
    if any(changed):
        parts = make_parts(grammar, options)
    text = dumped(grammar, options)
    training = Training.of(yaml.safe_load(text), parts, data)
    path = Path(options.out) if options.out else _free_path(options.data)
    folder = Folder.create(path, text, training.state())
    with folder.locked():
        training.go_on(folder)


def _tell_kinds(options: Namespace, data: DataSet, grammar: Parser) -> bool:
    """Let the configuration say which column is of what kind, and say so.

    Returns:
        Whether the likelihood takes kinds that nobody has named.
    """
    kinds = kinds_of(config_of(yaml.safe_load(dumped(grammar, options))), data)
    if not kinds:
        return False
    options.likelihood.init_args.kinds = ",".join(kinds["kinds"])
    of_kind: dict[str, list[str]] = {}
    for column in data.schema.columns:
        of_kind.setdefault(column.kind, []).append(column.name)
    told = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in of_kind.items())
    print(f"{data.name}: {told} (to change one: --kinds COLUMN=KIND)", file=sys.stderr)
    return True


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
    training.take(state, folder)
    if (
        options.samples < training.trainer.samples_seen
    ):  # nothing to do, and the run stays one of as many as it has seen
        plain["samples"] = source["samples"]
    folder.go_back_to(training.trainer.samples_seen)
    folder.write_config(yaml.safe_dump(plain, sort_keys=False))
    training.go_on(folder)


def _bounds(state: dict[str, Any]) -> list[float]:
    """The bounds since the last save, which a state that was saved at a signal to end brings along."""
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


def _follow_samples(options: Namespace, typed: Collection[str], source: dict[str, Any], size: int) -> bool:
    """Let CosineAdam's step size fall over as many steps as the run takes, unless somebody says otherwise.

    Returns:
        Whether it does.
    """
    optimizer = options.optimizer
    known = {"--optimizer.total_steps", "--optimizer.init_args.total_steps"} & set(typed)
    in_file = source.get("optimizer") if "--optimizer" not in typed else None
    in_file = in_file.get("init_args", {}) if isinstance(in_file, dict) else {}
    ours = getattr(optimizer, "class_path", None) == f"{CosineAdam.__module__}.{CosineAdam.__name__}"
    if not ours or known or "total_steps" in in_file or optimizer.init_args.total_steps != UNSAID_STEPS:
        return False
    optimizer.init_args.total_steps = steps_of(int(options.samples), size, options.batch_size)
    return True


def _choose_binarize(options: Namespace, parts: Parts) -> str:
    if options.binarize != "auto":
        return str(options.binarize)
    if options.missing:
        return "none"
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
        self.early: EarlyStopping | None = None
        if config.early_stopping is not None and data.held_out is not None:
            self.early = EarlyStopping(trainer, data.held_out, config.early_stopping)

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
            **({} if self.early is None else {"early_stopping": self.early.state_dict()}),
        }

    def take(self, state: dict[str, Any], folder: Folder) -> None:
        """Go on from a saved state, with early stopping back to the best one of the folder.

        Raises:
            InputError: If it does not fit, or is damaged.
        """
        self.trainer.load_state_dict(state["trainer"])
        self.best_bound = state["best_bound"]
        self.since_save = _bounds(state)
        if self.early is not None:
            there = (folder.path / "best.pt").exists()
            best = folder.load("best", self.trainer.device) if there else {"best_bound": None, "trainer": None}
            same = best["best_bound"] == self.best_bound  # else of a save that a kill has cut in two
            self.early.load_state_dict(state.get("early_stopping", {}), best["trainer"] if same else None)

    def go_on(self, folder: Folder) -> None:
        """Train up to the samples that are wanted; where the user interrupts, save what was done."""
        target = int(self.config.samples)
        seen = self.trainer.samples_seen
        began = time.perf_counter()
        signals = Deferred()
        try:
            with Shown(seen, target) as shown:
                for progress in (self.early or self.trainer).run(max(0, target - seen)):
                    with signals:  # to end wait until the report is whole
                        self._report(folder, progress, seen, round(time.perf_counter() - began, 3))
                    shown.report(progress)
                    seen = progress.samples_seen
                    signals.deliver()
        except (KeyboardInterrupt, Stopped) as stop:
            if self.trainer.engine.updating:  # the second signal, which did not wait
                raise
            with signals:
                self._save_best_held_out(folder)
                folder.save("last", self.state())
            raise Stopped(getattr(stop, "number", signal.SIGINT), self._saved(folder)) from stop
        _print_summary(folder, self.config, self.data, seen, self.early)

    def _saved(self, folder: Folder) -> str:
        """What was kept, and the command that goes on from it; what was typed for the run stands in its config.yaml."""
        needed = modules_needed(asdict(self.config))
        trust = ["--trust", ",".join(needed)] if needed else []
        command = shlex.join(["pyro-aevb", "train", "--resume", str(folder.path), *trust])
        return f"{self.trainer.samples_seen:,} samples are saved, go on with: {command}"

    def _report(self, folder: Folder, progress: Progress, seen: int, seconds: float) -> None:
        config = self.config
        now = progress.samples_seen
        ends = now >= int(config.samples) or (self.early is not None and self.early.stopped)
        folder.append_metrics({**_record(progress), "seconds": seconds})
        self.since_save.append(progress.bound)
        if _crossed(seen, now, config.evaluate_every) or ends:
            folder.append_metrics(_evaluate(progress, self.trainer, self.data.arguments("test")))
        if _crossed(seen, now, config.save_every) or ends:
            self._save(folder)

    def _save_best_held_out(self, folder: Folder) -> None:
        """The state of the highest bound of held-out data, if there is a new one since the last save."""
        if self.early is None or self.early.best_state is None or self.early.best == self.best_bound:
            return
        self.best_bound = self.early.best
        best = self.early.best_state
        seen = self.trainer.batches.samples_seen(best["step"])
        folder.save("best", {**self.state(), "samples_seen": seen, "since_save": [], "trainer": best})

    def _save(self, folder: Folder) -> None:
        """The state, as the best one too if the mean bound since the last save is, or the bound of held-out data."""
        if self.early is not None:
            self._save_best_held_out(folder)
            self.since_save = []
            folder.save("last", self.state())
            return
        mean_bound = sum(self.since_save) / len(self.since_save)
        is_best = mean_bound > self.best_bound
        self.best_bound = max(self.best_bound, mean_bound)
        self.since_save = []
        state = self.state()
        if is_best:
            folder.save("best", state)
        folder.save("last", state)


def _record(progress: Progress) -> dict[str, Any]:
    return {key: value for key, value in progress._asdict().items() if value is not None}


def _crossed(before: int, now: int, every: Every) -> bool:
    every = 10 ** (len(str(now)) - 1) if every == "log" else every
    return before // every != now // every


def _evaluate(progress: Progress, trainer: Trainer, test: Data) -> dict[str, Any]:
    with evaluated(trainer):
        bound = evidence.bound(trainer.model, trainer.guide, test).bound
    standard_error = (bound.std() / len(bound) ** 0.5).item() if len(bound) > 1 else 0.0
    return {"samples_seen": progress.samples_seen, "test_bound": bound.mean().item(), "test_se": standard_error}


def _print_summary(folder: Folder, config: Config, data: DataSet, seen: int, early: EarlyStopping | None) -> None:
    records = folder.metrics()
    since = (seen - 1) % config.report_every + 1  # the last report may come early, at the end
    train = [f"{r['bound']:.2f} on train (last {since:,} samples)" for r in records if "bound" in r]
    test = [f"{r['test_bound']:.2f} ± {r['test_se']:.2f} on test" for r in records if "test_bound" in r]
    print(
        f"{folder.path}: {seen:,} samples of {data.name} (binarize={data.binarize}), nats per datum: "
        f"bound {', '.join([*train[-1:], *test[-1:]]) or 'not yet known'}"
        f"{' with averaged weights' if config.averaging is not None and test else ''}"
    )
    held = [r for r in records if "held_out_bound" in r]
    if early is not None and held:
        best = max(held, key=lambda r: float(r["held_out_bound"]))
        how = f"stopped early, after {early.waited} reports without a better one" if early.stopped else "not stopped"
        print(
            f"{how}: {best['held_out_bound']:.2f} on held-out data at {best['samples_seen']:,} samples, which "
            "--checkpoint best opens"
        )
