"""From a configuration to a pair, its data and its trainer; and back from a run on disk."""

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from pyro_aevb import likelihoods
from pyro_aevb.checkpoints import CheckpointName, Run
from pyro_aevb.cli.parser import Parser, read_config
from pyro_aevb.data import DataSet, fingerprint, load
from pyro_aevb.data.sets import earlier_fingerprint
from pyro_aevb.errors import InputError
from pyro_aevb.families import DistributionFamily
from pyro_aevb.guides import Guide
from pyro_aevb.hardware import find_device
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.training import Trainer

__all__ = ["Loaded", "Pair", "load_data", "load_run", "make_pair", "make_trainer"]


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
    def title(self) -> str:
        """What stands beside every number and picture."""
        seen = f"{self.samples_seen:,} samples"
        return f"{self.run.path.name}: {self.data.name}, binarize={self.data.binarize}, {seen}"


def load_data(config: Namespace) -> DataSet:
    """The configuration's data set; to a likelihood of counts, bytes are counts."""
    return load(
        config.data,
        binarize=config.binarize,
        data_root=config.data_root or None,
        split_seed=config.split_seed,
        counts=_are_counts(config.likelihood),
    )


def _are_counts(likelihood: Namespace) -> bool:
    kind: Any = _class(likelihood)
    if isinstance(kind, type) and issubclass(kind, likelihoods.Family):
        family = DistributionFamily(likelihood.init_args.distribution, 1, likelihood.init_args.fixed)
        return family.counts
    return bool(getattr(kind, "counts", False))


def _class(part: Namespace) -> Any:
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
    except (RuntimeError, MemoryError, TypeError) as error:  # no memory for so many units, say
        raise InputError(f"model and guide cannot be built: {error}") from error
    return Pair(GenerativeModel(prior, likelihood, size), RecognitionModel(guide, size))


def _shared(prior: Namespace, guide: Guide) -> dict[str, Guide]:
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


def load_run(
    path: str | Path, parser: Parser, checkpoint: CheckpointName, device: str, data_root: str | None
) -> Loaded:
    """A run's data and its pair with the saved weights.

    Raises:
        InputError: If the run, its checkpoint or its data are missing, damaged, or do not fit each other.
    """
    run, where = Run(path), find_device(device)
    config = parser.parse([], read_config(run.path / "config.yaml"))
    if data_root:
        config.data_root = data_root
    state = run.load(checkpoint, where)
    data = load_data(config)
    pair = make_pair(config, parser.instantiate(config), data)
    if state["trainer"].get("identity", {}).get("data") not in (
        fingerprint(data.train),
        earlier_fingerprint(data.train),
    ):
        raise InputError(f"{config.data} is not what {path} was trained on: put the original data back")
    _load_weights(pair, state["trainer"], run.path / f"{checkpoint}.pt")
    for part in (pair.model, pair.guide):
        part.to(where).eval()
    return Loaded(run, config, data, pair, state["samples_seen"], where)


def _load_weights(pair: Pair, state: dict[str, Any], path: Path) -> None:
    try:
        pair.model.load_state_dict(state["modules"]["model"])
        pair.guide.load_state_dict(state["modules"]["guide"])
    except (RuntimeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} holds another model than config.yaml beside it describes") from error
