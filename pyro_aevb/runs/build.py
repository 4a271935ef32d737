"""From options to data, a pair and its trainer: alike where a run begins, goes on, and is opened."""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from pyro.infer import ELBO
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb import likelihoods
from pyro_aevb.data import DataSet, DynamicBinarization, find_root, load
from pyro_aevb.data.held_out import with_held_out
from pyro_aevb.data.loaders import LOADERS, is_there
from pyro_aevb.data.mapped import in_memory
from pyro_aevb.distributions.family import DistributionFamily
from pyro_aevb.errors import InputError, in_one_line
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.priors import Prior
from pyro_aevb.runs.options import PARTS, Config, Part
from pyro_aevb.runs.parser import Parser
from pyro_aevb.runs.trust import KINDS
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.training.trainer import Trainer

__all__ = ["PAIR", "Parts", "is_gone", "kinds_of", "load_data", "make_pair", "make_parts", "make_trainer"]

PAIR = ("prior", "likelihood", "guide")


@dataclass(frozen=True)
class Parts:
    """What the parts of a configuration became: what makes prior, likelihood, guide and optimizer; the estimator.

    Arguments:
        prior: Makes the prior of a latent dimension.
        likelihood: Makes the likelihood of latent and data dimension.
        guide: Makes the guide of data and latent dimension.
        estimator: The objective; ``None`` where only the pair was wanted.
        optimizer: Makes the optimizer of parameters; ``None`` where only the pair was wanted.
        scheduler: Makes the scheduler of an optimizer; ``None`` where there is none, or only the pair was wanted.
    """

    prior: Callable[..., Prior]
    likelihood: Callable[[int, int], Likelihood]
    guide: Callable[[int, int], Guide]
    estimator: ELBO | None = None
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer] | None = None
    scheduler: Callable[[torch.optim.Optimizer], LRScheduler] | None = None


def make_parts(grammar: Parser, options: Namespace, wanted: Sequence[str] = PARTS) -> Parts:
    """The parts that options name.

    Arguments:
        grammar: The parser that the options came from.
        options: Options that the parser read.
        wanted: Names of the parts that are needed; by default all.

    Raises:
        InputError: If one cannot be made.
    """
    chosen = options.clone()
    for name in set(PARTS) - set(wanted):
        chosen.pop(name, None)
    try:
        made = grammar.instantiate(chosen)
    except InputError:
        raise
    except Exception as error:  # whatever a constructor raises of arguments that do not suit it
        raise InputError(f"the configuration does not fit: {in_one_line(error)}") from error
    nesting = getattr(made.get("estimator"), "max_plate_nesting", None)
    if isinstance(nesting, float) and nesting.is_integer():  # of Pyro's, typed for a float, since it may be infinite
        made["estimator"].max_plate_nesting = int(nesting)
    return Parts(**{name: made.get(name) for name in wanted})


def load_data(config: Config, *, download: bool = True) -> DataSet:
    """The configuration's data set; to a likelihood of counts, bytes are counts; with early stopping, a part held out.

    Arguments:
        config: The run's options.
        download: Whether what is not there may be downloaded, as where a run begins.

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
        how: Any = config.binarize  # auto no longer, since the run began
        data = load(
            config.data,
            binarize=how,
            data_root=root,
            split_seed=config.split_seed,
            counts=_are_counts(config.likelihood),
            scale=config.scale,
            missing=config.missing,
            columns=config.columns,
            labels=config.labels,
            index=config.index,
            condition=config.condition,
            exposure=config.exposure,
            kinds=_kinds(config.kinds),
        )
        return data if config.early_stopping is None else with_held_out(data, config.held_out)
    except (RuntimeError, ValueError, TypeError) as error:  # of names that are none, ~nobody or with a zero byte
        if isinstance(error, InputError):
            raise
        raise InputError(f"the data {config.data!r} cannot be loaded: {in_one_line(error)}") from error


def is_gone(config: Config) -> bool:
    """Whether the configuration's data are of a file that is not there."""
    if config.data in LOADERS:
        return False
    places = Path(config.data), find_root(config.data_root or None) / Path(config.data).name
    return not any(map(os.path.lexists, places))


def _kinds(text: str | None) -> dict[str, str]:
    """Kinds by the names of columns, from ``a=real,b=count``."""
    given = [each.strip() for each in (text or "").split(",") if each.strip()]
    if wrong := [each for each in given if not each.partition("=")[2]]:
        raise InputError(f"--kinds {wrong[0]!r} is no kind of a column: give COLUMN=KIND, separated by commas")
    return {name: kind for name, _, kind in (each.rpartition("=") for each in given)}


def _are_counts(likelihood: Part) -> bool:
    kind = _maker(likelihood)
    if isinstance(kind, type) and issubclass(kind, likelihoods.Family):
        family = DistributionFamily(likelihood.init_args["distribution"], 1, likelihood.init_args.get("fixed"))
        return family.counts
    return bool(getattr(kind, "counts", False))


def _maker(part: Part) -> Any:
    """The class that a part is made by, or the function; whoever parsed the configuration has imported it."""
    module, _, name = part.class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def make_pair(config: Config, parts: Parts, data: DataSet) -> tuple[GenerativeModel, RecognitionModel]:
    """Model and guide for these data, their initial weights from the seed alone.

    Arguments:
        config: The run's options.
        parts: What they name.
        data: The run's data.

    Raises:
        InputError: If a part is none of its kind, or too large for the memory.
    """
    _check_no_codes(config, data)
    size = len(data.train) or None  # of a run whose data are gone
    condition = data.schema.condition_dim
    beside: dict[str, Any] = {
        "condition": condition,
        "missing": config.missing,
        "exposure": data.schema.exposure is not None,
    }
    make_likelihood = partial(parts.likelihood, config.latent_dim + condition, data.dim, **kinds_of(config, data))
    try:
        inputs = _inputs(config.likelihood, make_likelihood, data)
        with seeded(derive(config.seed, "weights")):
            guide = parts.guide(RecognitionModel.input_dim(data.dim, **beside, inputs=inputs), config.latent_dim)
            prior = parts.prior(config.latent_dim, **_shared(config.prior, guide, condition))
            likelihood = make_likelihood()
        for name, made in (("prior", prior), ("likelihood", likelihood), ("guide", guide)):
            if not isinstance(made, KINDS[name]):
                raise InputError(f"--{name} made a {type(made).__name__}, not a {KINDS[name].__name__}")
    except InputError:
        raise
    except (RuntimeError, MemoryError, TypeError) as error:  # no memory for so many units, say
        raise InputError(f"model and guide cannot be built: {error}") from error
    _start(likelihood, data)
    model = GenerativeModel(prior, likelihood, size, **beside)
    return model, RecognitionModel(guide, size, **beside, inputs=inputs)


def _check_no_codes(config: Config, data: DataSet) -> None:
    """Refuse categories of text under a likelihood that would take their numbers for what they say."""
    categories = [column.name for column in data.schema.columns if column.kind == "category"]
    name = config.likelihood.class_path.rpartition(".")[2]
    if categories and "kinds" not in inspect.signature(_maker(config.likelihood)).parameters:
        raise InputError(
            f"column {categories[0]!r} is of categories, whose numbers {name} would take for values: leave out "
            "--likelihood, for Columns, or the column, with --columns"
        )


def _start(likelihood: Likelihood, data: DataSet) -> None:
    """Give the likelihood its units, of training data that are there; a saved state has them too."""
    train: Any = data.train.probabilities if isinstance(data.train, DynamicBinarization) else data.train
    if len(train) and type(likelihood).start_from is not Likelihood.start_from:
        likelihood.start_from(in_memory(train), [column.name for column in data.schema.columns])


def _inputs(part: Part, make: Callable[[], Likelihood], data: DataSet) -> torch.nn.Module | None:
    """What the guide sees the data through; the likelihood that tells is made once more, so that no draw is used up."""
    if getattr(_maker(part), "inputs", Likelihood.inputs) is Likelihood.inputs:
        return None
    with seeded(0):
        likelihood = make()
    _start(likelihood, data)
    return likelihood.inputs()


def kinds_of(config: Config, data: DataSet) -> dict[str, list[str]]:
    """The kinds of a table's columns, for a likelihood that takes them and was not told any.

    Arguments:
        config: The run's options.
        data: The run's data.
    """
    takes = "kinds" in inspect.signature(_maker(config.likelihood)).parameters
    if not takes or not data.schema.columns or config.likelihood.init_args.get("kinds", "real") != "real":
        return {}
    return {"kinds": [column.kind_of_likelihood for column in data.schema.columns]}


def _shared(prior: Part, guide: Guide, condition: int) -> dict[str, Any]:
    """The guide, for a prior that takes one, and the number of columns of the condition, likewise."""
    takes = inspect.signature(_maker(prior)).parameters
    shared = {"guide": guide} if "guide" in takes else {}
    return {**shared, "condition": condition} if "condition" in takes and condition else shared


def make_trainer(
    config: Config, parts: Parts, data: DataSet, pair: tuple[GenerativeModel, RecognitionModel]
) -> Trainer:
    """The trainer of model and guide as the options want it.

    Arguments:
        config: The run's options.
        parts: What they name, estimator and optimizer among them.
        data: The run's data.
        pair: Model and guide, which the trainer moves to its device and trains.
    """
    return Trainer(
        *pair,
        data.training,
        parts.estimator,
        parts.optimizer,
        config.batch_size,
        config.seed,
        config.engine,
        device=config.device,
        precision=config.precision,
        report_every=config.report_every,
        scheduler=parts.scheduler,
        scheduler_every=config.scheduler_every,
        clip_norm=config.clip_norm,
        clip_value=config.clip_value,
        averaging=config.averaging,
    )
