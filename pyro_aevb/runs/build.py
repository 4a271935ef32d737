"""From a configuration to a pair, its data and its trainer; and back from a run on disk."""

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from pyro_aevb import likelihoods
from pyro_aevb.data import DataSet, find_root, fingerprint, load
from pyro_aevb.data.loaders import is_there
from pyro_aevb.data.sets import earlier_fingerprint
from pyro_aevb.distributions.family import DistributionFamily
from pyro_aevb.errors import InputError, in_one_line
from pyro_aevb.guides import Guide
from pyro_aevb.hardware import find_device
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.runs.folder import CheckpointName, Run
from pyro_aevb.runs.options import parser
from pyro_aevb.runs.parser import Parser, read_config
from pyro_aevb.runs.trust import KINDS, importable, modules_of
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.states import check_digest, check_tensors, holds_tensors
from pyro_aevb.training.trainer import Trainer

__all__ = [
    "PAIR",
    "TRAINED",
    "Loaded",
    "Pair",
    "check_config_of",
    "check_data_of",
    "instantiated",
    "load_data",
    "load_run",
    "make_pair",
    "make_trainer",
    "origin",
]

PAIR = ("prior", "likelihood", "guide")
TRAINED = (*PAIR, "estimator", "optimizer")


@dataclass(frozen=True)
class Pair:
    """Model and guide, built alike for training and evaluation."""

    model: GenerativeModel
    guide: RecognitionModel


@dataclass(frozen=True)
class Loaded:
    """A saved run, ready to be looked at."""

    run: Run
    config: Namespace
    data: DataSet
    pair: Pair
    samples_seen: int
    device: torch.device

    @property
    def model(self) -> GenerativeModel:
        """The model with the saved weights."""
        return self.pair.model

    @property
    def guide(self) -> RecognitionModel:
        """The guide with the saved weights."""
        return self.pair.guide

    @property
    def title(self) -> str:
        """What stands beside every number and picture."""
        seen = f"{self.samples_seen:,} samples"
        return f"{self.run.path.name}: {self.data.name}, binarize={self.data.binarize}, {seen}"


def load_data(config: Namespace, *, download: bool = True) -> DataSet:
    """The configuration's data set; to a likelihood of counts, bytes are counts.

    Raises:
        InputError: If it cannot be loaded, or, where nothing is to be downloaded, is not there.
    """
    try:
        root = find_root(config.data_root or None)
        if not download and not is_there(config.data, root):
            raise InputError(
                f"{config.data} is not in {root}, and opening a run downloads nothing: name its folder with "
                "--data_root, or load it with pyro_aevb.data.load first"
            )
        counts = _are_counts(config.likelihood)
        return load(config.data, binarize=config.binarize, data_root=root, split_seed=config.split_seed, counts=counts)
    except (RuntimeError, ValueError, TypeError) as error:  # of names that are none, ~nobody or with a zero byte
        if isinstance(error, InputError):
            raise
        raise InputError(f"the data {config.data!r} cannot be loaded: {in_one_line(error)}") from error


def _are_counts(likelihood: Any) -> bool:
    kind: Any = _class(likelihood)
    if isinstance(kind, type) and issubclass(kind, likelihoods.Family):
        family = DistributionFamily(likelihood.init_args.distribution, 1, likelihood.init_args.fixed)
        return family.counts
    return bool(getattr(kind, "counts", False))


def _class(part: Any) -> Any:
    """The class that a part is made by, or the function."""
    if callable(part):
        return part
    module, _, name = part.class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def make_pair(config: Namespace, parts: Namespace, data: DataSet) -> Pair:
    """The pair for these data, its initial weights from the seed alone."""
    size = len(data.train)
    try:
        with seeded(derive(config.seed, "weights")):
            guide = parts.guide(data.dim, config.latent_dim)
            prior = parts.prior(config.latent_dim, **_shared(config.prior, guide))
            likelihood = parts.likelihood(config.latent_dim, data.dim)
        for name, made in (("prior", prior), ("likelihood", likelihood), ("guide", guide)):
            if not isinstance(made, KINDS[name]):
                raise InputError(f"--{name} made a {type(made).__name__}, not a {KINDS[name].__name__}")
    except InputError:
        raise
    except (RuntimeError, MemoryError, TypeError) as error:  # no memory for so many units, say
        raise InputError(f"model and guide cannot be built: {error}") from error
    return Pair(GenerativeModel(prior, likelihood, size), RecognitionModel(guide, size))


def _shared(prior: Any, guide: Guide) -> dict[str, Guide]:
    """The guide, for a prior that takes one."""
    takes = inspect.signature(_class(prior)).parameters
    return {"guide": guide} if "guide" in takes else {}


def make_trainer(config: Namespace, parts: Namespace, data: DataSet, pair: Pair) -> Trainer:
    """The configuration's trainer."""
    return Trainer(
        pair.model,
        pair.guide,
        data.train,
        parts.estimator,
        parts.optimizer,
        config.batch_size,
        config.seed,
        config.engine,
        device=config.device,
        precision=config.precision,
        report_every=config.report_every,
    )


def instantiated(grammar: Parser, config: Namespace, wanted: Sequence[str] = TRAINED) -> Namespace:
    """These parts of a configuration: callables that make prior, likelihood, guide and optimizer; the estimator.

    Raises:
        InputError: If one cannot be made.
    """
    chosen = config.clone()
    for name in set(KINDS) - set(wanted):
        chosen.pop(name, None)
    try:
        return grammar.instantiate(chosen)
    except InputError:
        raise
    except Exception as error:  # whatever a constructor raises of arguments that do not suit it
        raise InputError(f"the configuration does not fit: {in_one_line(error)}") from error


def load_run(
    path: str | Path,
    checkpoint: CheckpointName = "last",
    device: str = "auto",
    data_root: str | None = None,
    trust: str | Sequence[str] | None = None,
    building: Sequence[str] = PAIR,
) -> Loaded:
    """Open a saved run: its data, and its model and guide with the saved weights, in ``eval()``.

    Nothing that the run's files name is imported or called but classes of this package, ``torch.nn``, ``torch.optim``
    and Pyro, each of the kind that its place asks for.

    Arguments:
        path: A folder that ``pyro-aevb train`` made.
        checkpoint: ``last`` or ``best``.
        device: Where model and guide are put, as for :class:`~pyro_aevb.Trainer`.
        data_root: Folder of data sets, where it is not the one that the run was trained from.
        trust: Modules whose classes and functions the configuration may name too.
        building: Parts of the configuration that are needed; of others it does not matter what they are.

    Raises:
        InputError: If the run, its checkpoint or its data are missing, damaged, or do not fit each other; if the
            configuration names what may not be followed.
    """
    run = Run(path)
    where = find_device(device)
    grammar = parser()
    trusted = modules_of(trust)
    others = set(KINDS) - set(building)
    source = read_config(run.path / "config.yaml", trusted, without=others)
    with importable(trusted):
        config = grammar.parse([], {key: value for key, value in source.items() if key not in others})
        if data_root:
            config.data_root = data_root
        state = run.load(checkpoint, where)
        check_digest(state["trainer"], f"{run.path}/{checkpoint}.pt", required="format" in state)
        check_config_of(state, source, run.path)
        data = load_data(config, download=False)
        check_data_of(state, data, run.path)
        pair = make_pair(config, instantiated(grammar, config, PAIR), data)
    _load_weights(pair, state["trainer"], run.path / f"{checkpoint}.pt")
    for part in (pair.model, pair.guide):
        part.to(where).eval()
    return Loaded(run, config, data, pair, state["samples_seen"], where)


def _load_weights(pair: Pair, state: dict[str, Any], path: Path) -> None:
    modules = {"model": pair.model, "guide": pair.guide}
    try:
        for name, module in modules.items():
            check_tensors(state["modules"][name], module.state_dict(), name, finite=False)
            check_tensors(state["modules"][name], dict(module.named_parameters()), name)
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (RuntimeError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} holds another model than config.yaml beside it describes") from error


# ---------------------------------------------------------------- what a state was trained with

FREE = {"samples", "device", "data", "data_root", "evaluate_every", "save_every"}
"""Options that may be other ones than a state was trained with; the data's values are compared, not their place."""


def origin(config: dict[str, Any], data: DataSet) -> dict[str, Any]:
    """What a state remembers of its configuration, option by option, and digests of its data."""
    leaves = {name: value for name, value in _leaves(config).items() if name.split(".")[0] not in FREE}
    return {"config": leaves, "data": {"train": fingerprint(data.train), "test": fingerprint(data.test)}}


def check_config_of(state: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    """See that a configuration is the one that a state was trained with; earlier versions did not save theirs.

    Raises:
        InputError: Names the option that is another.
    """
    leaves = _leaves(config)
    for name, value in _origin_of(state, path)["config"].items():
        if name not in leaves or not _same(leaves[name], value):
            raise InputError(
                f"{path}/config.yaml has {name}: {leaves.get(name)}, and the state beside it was trained with {value}: "
                "put the original config.yaml back"
            )


def check_data_of(state: dict[str, Any], data: DataSet, path: Path) -> None:
    """See that data are those that a state was trained with; of the test set earlier versions saved no digest.

    Raises:
        InputError: If they are not.
    """
    known = {"train": {fingerprint(data.train), earlier_fingerprint(data.train)}, "test": {fingerprint(data.test)}}
    identity = state["trainer"].get("identity")
    expected = {
        "train": identity.get("data") if isinstance(identity, dict) else None,
        **_origin_of(state, path)["data"],
    }
    if any(expected[split] not in known[split] for split in known.keys() & expected.keys()):
        raise InputError(f"{data.name} is not what {path} was trained on: put the original data back")


def _same(one: Any, other: Any) -> bool:
    """Equal values; a number for a number, however it is written, and a switch for a switch."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _origin_of(state: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    found = state.get("origin", {"config": {}, "data": {}})
    right = isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ("config", "data"))
    if not right or holds_tensors(found) or not all(isinstance(each, str) for each in found["data"].values()):
        raise InputError(f"{path}: the state does not say what it was trained with: it is damaged")
    return found


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every single option by its dotted name."""
    if not isinstance(value, dict):
        return {name: value}
    inner = (_leaves(each, f"{name}.{key}".lstrip(".")) for key, each in value.items())
    return {key: each for leaves in inner for key, each in leaves.items()}
