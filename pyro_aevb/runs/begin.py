"""From options as they were typed to a training: begun in a new folder, or gone on with where its folder is."""

import inspect
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import Namespace
from torch.distributions import constraints

from pyro_aevb.data import DataSet
from pyro_aevb.data.batches import steps_of
from pyro_aevb.data.tables import is_table
from pyro_aevb.distributions.supports import innermost
from pyro_aevb.errors import InputError
from pyro_aevb.files import check_place, refuse_existing
from pyro_aevb.hardware import find_device
from pyro_aevb.optimizers import CosineAdam
from pyro_aevb.runs.build import Parts, kinds_of, load_data, make_parts
from pyro_aevb.runs.folder import Folder, is_run
from pyro_aevb.runs.options import SCALE_OF_EARLIER, check_numbers, config_of, dumped
from pyro_aevb.runs.origin import FREE, VersionsWarning, check_config_of, check_data_of, difference_of_versions
from pyro_aevb.runs.parser import Parser, read_config
from pyro_aevb.runs.training import Training
from pyro_aevb.runs.trust import modules_needed, modules_of, modules_typed
from pyro_aevb.runs.words import taken_apart
from pyro_aevb.training.loop import AUTO_CAPTURE_STEPS

__all__ = ["Settled", "begun", "check_options", "free_path", "parsed", "resumed", "settled", "trust_typed", "value_of"]

UNSAID_STEPS = inspect.signature(CosineAdam).parameters["total_steps"].default
RESUMABLE = {"samples", "device", "data_root", "evaluate_every", "save_every", "resume", "trust", "track"}


class Settled(NamedTuple):
    """The options of a run with nothing left open, the parts that they name, and its data."""

    text: str
    """The text of ``config.yaml``."""
    parts: Parts
    """What makes the pair, the estimator and the optimizer."""
    data: DataSet
    """The data."""
    told: str
    """Which column of a table is of what kind, where nobody has said so, and how to say so; else empty."""

    def training(self) -> Training:
        """The training at its beginning, which has no folder yet."""
        made = Training.of(yaml.safe_load(self.text), self.parts, self.data)
        made.told = self.told
        return made


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The last value given to an option, before all are parsed.

    Arguments:
        option: The option's name, without dashes.
        arguments: Words of the command line.

    Raises:
        InputError: If it is missing, or empty, as of a shell variable that is not set.
    """
    given = [each.value for each in taken_apart(arguments) if each.name == option]
    if given and not given[-1]:
        unset = ": was a variable of the shell not set?" if given[-1] == "" else ""
        raise InputError(f"--{option} needs a value{unset}")
    return given[-1] if given else None


def trust_typed(arguments: Sequence[str], source: dict[str, Any] | None = None) -> list[str]:
    """``--trust`` for the modules that typed options name, as who goes on with a run that they began must say.

    Arguments:
        arguments: Words of the command line that began the run.
        source: Options that stood where nothing was typed, of the caller's own.
    """
    typed = [path.rpartition(".")[0] or path for path in modules_typed(arguments)]
    others = [*typed, *modules_needed(source or {})]
    names = [name for name in dict.fromkeys(others) if name.partition(".")[0] not in ("pyro_aevb", "torch", "pyro")]
    return [f"--trust={','.join(names)}"] if names else []


# ---------------------------------------------------------------- a new run


@contextmanager
def begun(grammar: Parser, arguments: Sequence[str], source: dict[str, Any] | None = None) -> Iterator[Training]:
    """A new training, for a block in which no other process writes its folder.

    Arguments:
        grammar: The parser of ``pyro-aevb train``.
        arguments: Words of the command line.
        source: Options that stand where nothing is typed; by default those of the file that ``--config`` names.

    Raises:
        InputError: If an option does not fit, or something is in the run's place.
    """
    found = settled(grammar, arguments, source)
    out = value_of("out", arguments)
    path = Path(out) if out else free_path(yaml.safe_load(found.text)["data"])
    training = found.training()
    training.folder = Folder.create(path, found.text, training.state())
    with training.folder.locked():
        yield training


def settled(
    grammar: Parser, arguments: Sequence[str], source: dict[str, Any] | None = None, check_out: bool = True
) -> Settled:
    """The configuration that typed options come to, its parts and its data; nothing is written.

    Arguments:
        grammar: The parser of ``pyro-aevb train``.
        arguments: Words of the command line.
        source: As for :func:`begun`.
        check_out: Whether to see that nothing is in the run's place.

    Raises:
        InputError: If an option does not fit, or something is in the run's place.
    """
    if check_out and (out := value_of("out", arguments)):
        _check_free(Path(out))
    options, source = parsed(grammar, arguments, source)
    typed = {word.split("=")[0] for word in arguments}
    parts = _parts(grammar, options, typed)
    options.binarize = _choose_binarize(options, parts)
    options.engine = _choose_engine(options)
    if Path(options.data).is_file():
        options.data = str(Path(options.data).resolve())  # so that the run is found out about from any folder
    data = load_data(config_of(yaml.safe_load(dumped(grammar, options))))
    if not {"--batch_size", "--config"} & typed and options.batch_size > len(data.train):
        options.batch_size = len(data.train)  # of a small table, which is one minibatch
    told = _tell_kinds(options, data, grammar)
    if _follow_samples(options, typed, source, len(data.train)) or told:
        parts = make_parts(grammar, options)
    return Settled(dumped(grammar, options), parts, data, told)


def check_options(grammar: Parser, arguments: Sequence[str]) -> None:
    """See that typed options fit each other, as far as can be told without the data.

    Arguments:
        grammar: The parser of ``pyro-aevb train``.
        arguments: Words of the command line.

    Raises:
        InputError: If one does not fit.
    """
    options, _ = parsed(grammar, arguments)
    _parts(grammar, options, {word.split("=")[0] for word in arguments})


def _check_free(out: Path) -> None:
    check_place("out", out)
    refuse_existing(out, f"give another --out{f', or go on with --resume {out}' if is_run(out) else ''}")


def _parts(grammar: Parser, options: Namespace, typed: Collection[str]) -> Parts:
    """The parts, after what is typed for several of them was given to each."""
    check_numbers(options, "--")
    if "--held_out" in typed and options.early_stopping is None:
        raise InputError("--held_out is for --early_stopping, which is not given: add it, or leave both out")
    _spread_shorthand(options, typed)
    return make_parts(grammar, options)


def parsed(
    grammar: Parser, arguments: Sequence[str], source: dict[str, Any] | None = None
) -> tuple[Namespace, dict[str, Any]]:
    """The options as they were typed, over a configuration, and that configuration.

    Arguments:
        grammar: The parser of ``pyro-aevb train``.
        arguments: Words of the command line.
        source: As for :func:`begun`.

    Raises:
        InputError: If an option does not fit.
    """
    config, trust = (value_of(name, arguments) for name in ("config", "trust"))
    if config is not None:
        source = read_config(Path(config), modules_of(trust))
    return grammar.parse(arguments, _read_as_it_was(source) or _of_table(arguments)), source or {}


def _read_as_it_was(source: dict[str, Any] | None) -> dict[str, Any] | None:
    """A configuration; one of an earlier version, which says nothing of scale, scales as that version did."""
    return {"scale": SCALE_OF_EARLIER, **source} if source and "split_seed" in source else source


def _of_table(arguments: Sequence[str]) -> dict[str, Any] | None:
    """What a table's likelihood is when nothing is said: that of columns."""
    data = value_of("data", arguments)
    return {"likelihood": {"class_path": "pyro_aevb.likelihoods.Columns"}} if data and is_table(data) else None


def _tell_kinds(options: Namespace, data: DataSet, grammar: Parser) -> str:
    """Let the configuration say which column is of what kind.

    Returns:
        The kinds in words, where the likelihood takes some that nobody has named; else nothing.
    """
    kinds = kinds_of(config_of(yaml.safe_load(dumped(grammar, options))), data)
    if not kinds:
        return ""
    options.likelihood.init_args.kinds = ",".join(kinds["kinds"])
    of_kind: dict[str, list[str]] = {}
    for column in data.schema.columns:
        of_kind.setdefault(column.kind, []).append(column.name)
    told = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in of_kind.items())
    return f"{data.name}: {told} (to change one: --kinds COLUMN=KIND)"


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


def free_path(data: str) -> Path:
    """The first of ``runs/DATA-1``, ``runs/DATA-2``, ... where nothing is.

    Arguments:
        data: Name of the data set, or its file.
    """
    stem = Path(data).stem
    return next(p for p in (Path("runs") / f"{stem}-{i}" for i in range(1, 10**6)) if not p.exists())


# ---------------------------------------------------------------- a run that is there


@contextmanager
def resumed(grammar: Parser, arguments: Sequence[str]) -> Iterator[Training]:
    """The training of a run's folder as it was saved, for a block in which no other process writes it.

    Arguments:
        grammar: The parser of ``pyro-aevb train``.
        arguments: Words of the command line, ``--resume`` among them.

    Raises:
        InputError: If an option cannot change in a run that has begun, or its files do not fit each other.
    """
    folder = Folder(Path(str(value_of("resume", arguments))))
    trust = modules_of(value_of("trust", arguments))
    given = {word.split("=")[0].removeprefix("--") for word in arguments if word.startswith("--")}
    if other := sorted(given - RESUMABLE):
        raise InputError(
            f"--{other[0]} cannot change in a resumed run: only {', '.join(sorted(RESUMABLE - {'resume'}))} can; "
            f"for another run, use --config {folder.path}/config.yaml"
        )
    with folder.locked():
        yield _as_it_was_saved(grammar, folder, arguments, trust)


def _as_it_was_saved(grammar: Parser, folder: Folder, arguments: Sequence[str], trust: Sequence[str]) -> Training:
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
    training.folder = folder
    training.take(state)
    if options.samples < training.samples_seen:  # nothing to do, and the run stays one of as many as it has seen
        plain["samples"] = source["samples"]
    folder.go_back_to(training.samples_seen)
    folder.write_config(yaml.safe_dump(plain, sort_keys=False))
    return training
