"""A run on disk as an object: its data, its model and guide with the saved weights, and the training that goes on."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from pyro_aevb import evidence, predictions
from pyro_aevb.data import DataSet, Rows
from pyro_aevb.errors import InputError, choice, flag
from pyro_aevb.errors import path as path_of
from pyro_aevb.hardware import find_device
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.runs.build import PAIR, Parts, is_gone, load_data, make_pair, make_parts, make_trainer
from pyro_aevb.runs.folder import CheckpointName, Folder
from pyro_aevb.runs.options import PARTS, SCALE_OF_EARLIER, Config, check_numbers, config_of, dumped, parser
from pyro_aevb.runs.origin import (
    VersionsWarning,
    check_config_of,
    check_data_of,
    data_without_rows,
    difference_of_versions,
)
from pyro_aevb.runs.parser import read_config
from pyro_aevb.runs.tables import (
    codes_frame,
    decoded_frame,
    evaluated_frame,
    imputed_frame,
    rows_of,
    sampled,
    values_frame,
)
from pyro_aevb.runs.trust import check_config, importable, modules_of
from pyro_aevb.states import check_digest, check_tensors, digest_of
from pyro_aevb.training.trainer import Trainer
from pyro_aevb.views import html_table

if TYPE_CHECKING:
    import pandas

__all__ = ["Run", "load_run"]

BOUND_DRAWS = 100
"""Draws that the bound of each row is an average of."""

UNREAD = set(PARTS) - set(PAIR)
"""Parts that a pair does without: what the configuration says of them is followed where it is trained further."""


@dataclass(frozen=True, repr=False, eq=False)
class _Source:
    """What a run was read from, so that more of it can be read later and still be the same.

    Arguments:
        options: What ``config.yaml`` held.
        trust: Modules whose classes and functions it may name.
        digest: Digest of the saved state.
    """

    options: dict[str, Any]
    trust: Sequence[str]
    digest: str


@dataclass(frozen=True, repr=False, eq=False)
class Run:
    """A saved run, as :func:`pyro_aevb.load_run` opens it.

    Arguments:
        folder: Its folder on disk, where pictures and tables go.
        checkpoint: Which state it was opened at, ``last`` or ``best``.
        config: Its options, plain values; ``print(run.config)`` shows its ``config.yaml``.
        data: Its data set.
        model: The model with the saved weights, an ``nn.Module`` in ``eval()``.
        guide: The guide with the saved weights, likewise.
        samples_seen: Training data that the weights have seen.
        device: Where model and guide are.
        averaged: Whether the weights are averages over steps, as ``--averaging`` keeps them.
    """

    folder: Folder
    checkpoint: CheckpointName
    config: Config
    data: DataSet
    model: GenerativeModel
    guide: RecognitionModel
    samples_seen: int
    device: torch.device
    averaged: bool
    _source: _Source

    def __repr__(self) -> str:
        return f"<Run {self.title}>"

    def _repr_html_(self) -> str:
        """As a notebook shows it: what was trained, for how long, and the last bounds."""
        parts = {name: getattr(self.config, name).class_path for name in (*PAIR, "estimator", "optimizer")}
        facts = {
            "folder": str(self.path),
            "data": f"{self.data.name}, {len(self.data.train):,} to train on and {len(self.data.test):,} to test",
            "binarize": self.data.binarize,
            **{name: class_path.removeprefix("pyro_aevb.") for name, class_path in parts.items()},
            "latent dimensions": f"{self.config.latent_dim:,}",
            "samples seen": f"{self.samples_seen:,}",
            "seed": str(self.config.seed),
            "state": f"{self.checkpoint}.pt{', averaged weights' if self.averaged else ''}, on {self.device}",
            **self._last_bounds(),
        }
        return html_table(facts.items(), title=f"Run {self.path.name}")

    def _last_bounds(self) -> dict[str, str]:
        """The last bounds of ``metrics.jsonl`` in words; where it is damaged what is wrong with it."""
        try:
            records = self.metrics
        except InputError as error:
            return {"bounds": str(error)}
        last = {name: each for each in records for name in ("bound", "test_bound") if each.get(name) is not None}
        names = {"bound": "last training bound", "test_bound": "last test bound"}
        return {names[name]: _bound_in_words(each, name) for name, each in last.items()}

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def title(self) -> str:
        """What stands beside every number and picture."""
        seen = f"trained on {self.samples_seen:,} samples{', averaged weights' if self.averaged else ''}"
        return f"{self.path.name}: {self.data.name}, binarize={self.data.binarize}, {seen}"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """All records of ``metrics.jsonl``, read anew each time, so that a training that goes on can be watched.

        Those with ``bound`` are reports of the training, with ``samples_seen`` and ``seconds``; those with
        ``test_bound`` and its standard error ``test_se`` are evaluations in between. All bounds are in nats per datum.

        Raises:
            InputError: If the file was changed or damaged.
        """
        return self.folder.metrics()

    def parts(self) -> Parts:
        """What makes prior, likelihood, guide and optimizer anew, and the estimator, as the configuration names them.

        Raises:
            InputError: If the configuration names what may not be followed.
        """
        check_config(self._source.options, self.path / "config.yaml", self._source.trust)
        grammar = parser()
        with importable(self._source.trust):
            return make_parts(grammar, grammar.parse([], self._source.options))

    def read(self, source: Any) -> Rows:
        """New data, read as the run's own were: the same columns, categories, scale and binarisation.

        Arguments:
            source: The data: a file, a table of pandas or polars, arrays; see :func:`pyro_aevb.data.load`.

        Raises:
            InputError: If they do not have the run's columns or shape, or hold what its data do not.
        """
        return rows_of(self.data, source, self.config.data_root)

    def encode(self, source: Any = "test", draws: int = 0, seed: int = 0) -> "pandas.DataFrame":
        """Mean and standard deviation of q(z|x) for each row, and draws.

        The columns ``z0``, ``z0_sd``, ``z0_draw0`` are those of dimension ``z[0]``, and so on; all is counted from 0.

        Arguments:
            source: ``test``, ``train``, or new data, as :meth:`read` takes them.
            draws: Number of draws for each row.
            seed: Seed of the draws.
        """
        return codes_frame(self, self.read(source), draws, seed)

    def evaluate(self, source: Any = "test", num_samples: int = 1000, seed: int = 0) -> "pandas.DataFrame":
        """A line for each row: bound, log p(x) by importance sampling, standard error, k-hat, anomaly rank.

        The columns are ``bound`` = ``log_px_given_z`` - ``kl``, ``log_px`` and its Monte Carlo standard error
        ``log_px_se``, in nats; ``khat``, above 0.7 where ``log_px`` is not to be trusted; and ``anomaly_rank``, 1 for
        the least probable row.

        Arguments:
            source: ``test``, ``train``, or new data, as :meth:`read` takes them.
            num_samples: Number of importance samples for each row.
            seed: Seed of the draws.
        """
        rows = self.read(source)
        bound = evidence.bound(self.model, self.guide, rows.arguments, BOUND_DRAWS, seed=seed)
        found = evidence.importance_weights(self.model, self.guide, rows.arguments, num_samples, seed=seed)
        return evaluated_frame(self, rows, bound, {"importance": found})

    def reconstruct(self, source: Any = "test", condition: Any = None, seed: int = 0) -> "pandas.DataFrame":
        """Mean of p(x|z) at the posterior mean of each row, of a category the most probable one.

        Arguments:
            source: ``test``, ``train``, or new data, as :meth:`read` takes them.
            condition: What to decode all rows as, a category or the value of each column of the condition; by default
                each as its own. It then stands in the column ``decoded_as``.
            seed: Seed of draws, where a guide tells no mean.
        """
        rows = self.read(source)
        return decoded_frame(self, rows, condition, seed)[1]

    def impute(
        self, source: Any = "test", num_samples: int = 1000, draws: int = 0, seed: int = 0
    ) -> "pandas.DataFrame":
        """The rows with their gaps filled: by the mean given what was observed, or by so many draws, table after table.

        Arguments:
            source: ``test``, ``train``, or new data, as :meth:`read` takes them.
            num_samples: Number of importance samples for each row.
            draws: Number of draws; 0 for the mean.
            seed: Seed of the draws.
        """
        rows = self.read(source)
        found = predictions.impute(self.model, self.guide, rows.arguments, num_samples, draws, seed=seed)
        return imputed_frame(self, rows, found)

    def sample(
        self,
        count: int = 100,
        condition: Any = None,
        exposure: float | None = None,
        mean: bool = False,
        seed: int = 0,
    ) -> "pandas.DataFrame":
        """Data drawn from the model: z from its own prior, then x from p(x|z,c).

        Arguments:
            count: Number of rows.
            condition: What to condition on: a category, or the value of each column of the condition; ``None`` for each
                category in turn.
            exposure: Exposure of each row, where the model has one; ``None`` for 1.
            mean: Whether to give the mean of p(x|z,c) in place of a draw x.
            seed: Seed of the draws.
        """
        return values_frame(self, *sampled(self, count, condition, exposure, mean, seed))

    def trainer(self) -> Trainer:
        """A trainer that goes on from the saved state as ``pyro-aevb train --resume`` would, bit for bit.

        Weights, optimizer, noise, order of the data and the losses since the last report are those that were saved. The
        trainer has a pair of its own, ``trainer.model`` and ``trainer.guide``: ``run.model`` and ``run.guide`` stay
        what was saved, to compare with. Nothing is written to the run's folder: keep ``trainer.state_dict()``, or go on
        with the run from the command line.

        Raises:
            InputError: If the configuration names what may not be followed, or another process has trained the run
                further since it was opened.
        """
        state = self.folder.load(self.checkpoint, self.device)
        if digest_of(state) != self._source.digest:
            raise InputError(f"{self.path}/{self.checkpoint}.pt is another than when the run was opened: open it anew")
        config = replace(self.config, device=str(self.device))
        parts = self.parts()
        with importable(self._source.trust):
            trainer = make_trainer(config, parts, self.data, make_pair(config, parts, self.data))
        trainer.load_state_dict(state["trainer"])
        return trainer


def _bound_in_words(record: dict[str, Any], name: str) -> str:
    error = f" ± {record['test_se']:.2f}" if name == "test_bound" and "test_se" in record else ""
    return f"{record[name]:.2f}{error} nats per datum, at {record['samples_seen']:,} samples"


def load_run(
    path: str | os.PathLike[str],
    checkpoint: CheckpointName = "last",
    device: str | torch.device = "auto",
    data_root: str | os.PathLike[str] | None = None,
    trust: str | Sequence[str] | None = None,
    averaged: bool | None = None,
) -> Run:
    """Open a saved run: its data, and its model and guide with the saved weights, in ``eval()``.

    Where the file that it was trained on is gone, its data have no rows, and it says something of new data alone.

    Nothing that the run's files name is imported or called but classes of this package, ``torch.nn``, ``torch.optim``
    and Pyro, each of the kind that its place asks for. Nothing is downloaded, nothing written, no global state changed.

    Arguments:
        path: A folder that ``pyro-aevb train`` made.
        checkpoint: ``last``, or ``best`` for the state with the highest mean training bound between two saves; with
            early stopping, the highest bound of held-out data.
        device: Where model and guide are put, as for :class:`~pyro_aevb.Trainer`.
        data_root: Folder of data sets, where it is not the one that the run was trained from.
        trust: Modules whose classes and functions the configuration may name too, a list or one text with commas.
        averaged: Whether the weights are to be the averages that ``--averaging`` keeps; by default they are if the run
            keeps them, and its title says so. :meth:`Run.trainer <pyro_aevb.runs.Run.trainer>` goes on from the
            weights themselves.

    Raises:
        InputError: If the run, its checkpoint or its data are missing, damaged, or do not fit each other; if the
            configuration names what may not be followed.

    Warns:
        VersionsWarning: If the run was saved with other versions of this package, torch or Pyro: numbers may differ in
            rounding. Runs of earlier versions do not say theirs.
    """
    folder = Folder(path_of("path", path))
    choice("checkpoint", checkpoint, ("last", "best"))
    where = find_device(device)
    trusted = modules_of(trust)
    source = read_config(folder.path / "config.yaml", trusted, without=UNREAD)
    state = folder.load(checkpoint, where)
    file = folder.path / f"{checkpoint}.pt"
    check_digest(state["trainer"], str(file), required="format" in state)
    check_config_of(state, source, folder.path)
    with importable(trusted):
        config, parts = _pair_of(source, None if data_root is None else str(path_of("data_root", data_root)))
        data = _data_of(config, state, folder.path)
        model, guide = make_pair(config, parts, data)
    _load_weights({"model": model, "guide": guide}, state["trainer"], file)
    averages = _averages(state["trainer"], averaged, file)
    _put_in(averages, {"model": model, "guide": guide}, file)
    for part in (model, guide):
        part.to(where).eval()
    if said := difference_of_versions(state, file):
        warnings.warn(said, VersionsWarning, stacklevel=2)
    found = _Source(source, trusted, digest_of(state))
    return Run(folder, checkpoint, config, data, model, guide, state["samples_seen"], where, bool(averages), found)


def _data_of(config: Config, state: dict[str, Any], path: Path) -> DataSet:
    """The run's data; where their file is gone a data set without rows, by which new ones are read."""
    if not is_gone(config):
        data = load_data(config, download=False)
        check_data_of(state, data, path)
        return data
    found = data_without_rows(state, config.data, config.binarize, config.split_seed, path)
    if found is None:
        return load_data(config, download=False)  # which says what is missing
    return found


def _pair_of(source: dict[str, Any], data_root: str | None) -> tuple[Config, Parts]:
    """A configuration's plain options, and what makes its pair; what it says of other parts is not followed."""
    grammar = parser()
    read = {name: value for name, value in source.items() if name not in UNREAD}
    options = grammar.parse([], {"scale": SCALE_OF_EARLIER, **read})
    check_numbers(options)
    parts = make_parts(grammar, options, PAIR)
    plain = {**yaml.safe_load(dumped(grammar, options)), **{name: source[name] for name in UNREAD if source.get(name)}}
    return config_of({**plain, "data_root": data_root or plain.get("data_root")}), parts


def _averages(state: dict[str, Any], wanted: bool | None, file: Path) -> dict[str, Any]:
    """The averages of weights in a training's state, by name; empty where none are there, or wanted."""
    optimizer = state.get("optimizer")
    saved = optimizer.get("averages") if isinstance(optimizer, dict) else None
    if wanted and saved is None:
        raise InputError(f"{file} has no averages of weights: train with --averaging 0.999, or open it without")
    if saved is None or (wanted is not None and not flag("averaged", wanted)):
        return {}
    if not isinstance(saved, dict) or not isinstance(saved.get("values"), dict) or not saved["values"]:
        raise InputError(f"{file}: its averages of weights are none: it is damaged")
    return dict(saved["values"])


@torch.no_grad()
def _put_in(averages: dict[str, Any], modules: dict[str, torch.nn.Module], file: Path) -> None:
    """Averages in the place of the modules' weights."""
    own = {f"{name}.{n}": p for name, module in modules.items() for n, p in module.named_parameters()}
    if other := averages.keys() - own.keys():
        raise InputError(f"{file}: its averages have {min(map(str, other))}, which is no weight of the run's pair")
    try:
        check_tensors(averages, {name: own[name] for name in averages}, "averages")
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    for name, value in averages.items():
        own[name].copy_(value)


def _load_weights(modules: dict[str, torch.nn.Module], state: dict[str, Any], file: Path) -> None:
    try:
        for name, module in modules.items():
            check_tensors(state["modules"][name], module.state_dict(), name, finite=False)
            check_tensors(state["modules"][name], dict(module.named_parameters()), name)
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:  # ValueError: of torchvision's own
        raise InputError(f"{file} holds another model than config.yaml beside it describes") from error
