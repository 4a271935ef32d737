"""The options of a run, which are its ``config.yaml``, and those of ``pyro-aevb train``, which begins one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
import yaml
from jsonargparse import Namespace
from pyro.infer import ELBO
from torch.optim.lr_scheduler import LRScheduler

from pyro_aevb.errors import InputError
from pyro_aevb.guides import Guide
from pyro_aevb.hardware import Precision
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.priors import Prior
from pyro_aevb.runs.parser import FLAG, Parser, made_by

__all__ = [
    "NOT_KEPT",
    "PARTS",
    "SCALE_OF_EARLIER",
    "Config",
    "Every",
    "Part",
    "TrainOptions",
    "check_numbers",
    "config_of",
    "dumped",
    "parser",
]

Every = int | Literal["log"]

NOT_KEPT = ("out", "config", "resume", "trust", "seeds", "jobs", "track")
"""Options of ``pyro-aevb train`` that are typed anew each time, and stand in no ``config.yaml``."""

SCALE_OF_EARLIER = "bytes"
"""How runs whose configuration does not say so scaled their data: all bytes were divided by 255."""

PRIOR = made_by(Callable[[int], Prior], "pyro_aevb.priors.StandardNormal")
LIKELIHOOD = made_by(Callable[[int, int], Likelihood], "pyro_aevb.likelihoods.Bernoulli")
GUIDE = made_by(Callable[[int, int], Guide], "pyro_aevb.guides.DiagonalNormal")
ESTIMATOR = made_by(ELBO, "pyro_aevb.estimators.SGVB")
OPTIMIZER = made_by(
    Callable[[Iterable[Any]], torch.optim.Optimizer],
    "pyro_aevb.optimizers.Adagrad",
    lr=0.02,
    weight_decay=1.0,
    warm_up=0,
)
SCHEDULER = {"type": Callable[[torch.optim.Optimizer], LRScheduler] | None, "part": True}


@dataclass(frozen=True)
class Part:
    """A part of a run as its configuration names it.

    Arguments:
        class_path: Import path of its class, or of a function that makes it.
        init_args: Arguments that it is made with, numbers, text, lists and mappings, by name.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """What a run was trained with: every option that its ``config.yaml`` holds, as plain values.

    Arguments:
        prior: The prior p(z).
        likelihood: The likelihood p(x|z); of a table, when nothing is said, Columns.
        guide: The guide q(z|x).
        estimator: The objective, any ``pyro.infer.ELBO``.
        optimizer: How the weights are stepped; Adagrad's weight_decay 1 is the paper's prior N(0, I) on them.
        scheduler: Scheduler of the optimizer's step size, a class of torch.optim.lr_scheduler; none by default.
        scheduler_every: What the scheduler is stepped after.
        clip_norm: Largest norm of all gradients together, longer ones are scaled down to it; no clipping by default.
        clip_value: Largest absolute value of a gradient's elements; no clipping by default.
        averaging: Decay of a moving average of the weights over steps, 0.999 say, which test bounds and all commands
            that open the run then use in place of the weights; none by default.
        early_stopping: Number of reports without a better bound of held-out data after which training ends; by default
            it does not end early.
        held_out: Share of the training data that --early_stopping holds out, between 0 and 1.
        data: mnist, fashion_mnist, frey_face, digits, or a .csv, .tsv, .parquet, .npy or .npz file.
        binarize: How grey pixels become binary: not at all, once, or at each visit; ``auto`` is dynamic for a
            likelihood of binary data, else none.
        scale: Number that values are divided by; auto divides bytes of images by 255 and nothing else, bytes all bytes.
        missing: An empty cell or NaN means that a value is missing: it is left out of the bound.
        columns: Columns of a table that are modelled, separated by commas; by default all without another role.
        labels: Column of labels, numbers or text; they colour pictures, and stand beside each row.
        index: Column that names the rows.
        condition: Columns, separated by commas, that the model is conditioned on, or labels for the labels.
        exposure: Column of each row's exposure, which multiplies the mean of counts; total for each row's own total.
        kinds: Kinds of columns where they are not what their values suggest, a=real,b=count,c=category,d=binary.
        data_root: Folder of data sets; else $PYRO_AEVB_DATA, else the user's cache folder.
        split_seed: Seed of random splits and fixed binarisations.
        latent_dim: Number of latent dimensions.
        samples: Number of training samples to see in all; a datum counts each time that it is visited.
        batch_size: Number of data in a minibatch; all of them, when nothing is said and there are fewer.
        seed: Seed of initial weights, order, binarisation and noise.
        engine: How a step is taken: captured is compiled, eager is not, svi is Pyro's own SVI.
        precision: bfloat16 allows products in bfloat16 where the processor has units for it.
        device: auto, cpu, cuda, cuda:1, mps, ...
        report_every: Number of samples between two reports of the training bound.
        evaluate_every: Number of samples between two bounds on the test set, which are computed when a report is made,
            so not more often; ``log`` for 1, 2, ..., 9 times each power of ten, evenly spread over a learning curve.
        save_every: Number of samples between two saves, made when a report is; or ``log``, as above.
    """

    prior: Part = field(metadata=PRIOR)
    likelihood: Part = field(metadata=LIKELIHOOD)
    guide: Part = field(metadata=GUIDE)
    estimator: Part = field(metadata=ESTIMATOR)
    optimizer: Part = field(metadata=OPTIMIZER)
    scheduler: Part | None = field(default=None, metadata=SCHEDULER)
    scheduler_every: Literal["step", "epoch", "report"] = "step"
    clip_norm: float | None = None
    clip_value: float | None = None
    averaging: float | None = None
    early_stopping: int | None = None
    held_out: float = 0.1
    data: str = "digits"
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"
    scale: Literal["auto", "bytes"] | float = "auto"
    missing: bool = field(default=False, metadata=FLAG)
    columns: str | None = None
    labels: str | None = None
    index: str | None = None
    condition: str | None = None
    exposure: str | None = None
    kinds: str | None = None
    data_root: str | None = None
    split_seed: int = 0
    latent_dim: int = 20
    samples: float = 1e6
    batch_size: int = 100
    seed: int = 0
    engine: Literal["auto", "captured", "eager", "svi"] = "auto"
    precision: Precision = "float32"
    device: str = "auto"
    report_every: int = 10_000
    evaluate_every: Every = "log"
    save_every: Every = 100_000

    def __str__(self) -> str:
        """The text of ``config.yaml``, an option a line."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


PARTS = tuple(each.name for each in fields(Config) if "type" in each.metadata)


@dataclass(frozen=True)
class TrainOptions(Config):
    """Train a model and its guide, and keep the run in a folder; with --seeds several, each in a folder of its own.

    Arguments:
        hidden: Hidden units of likelihood and guide, where not given for one by itself; a number or a list, [500,300].
        activation: Activation of likelihood and guide, where not given for one by itself; a name from torch.nn.
        out: The run's folder; by default the first free of runs/DATA-1, runs/DATA-2, ...
        trust: Modules, separated by commas, whose parts the configuration of --config or --resume may name.
        seeds: Seeds of several runs, 0-4 or 0,3,7, which are trained side by side in OUT/seed=0 and so on.
        jobs: Number of processes that train at once with --seeds; by default as many as there are processors, on a GPU
            one.
        track: Trackers to watch the training with, separated by commas: tensorboard, wandb, mlflow; in the run's folder
            unless their own environment variables say otherwise, and without a network.
    """

    hidden: int | list[int] | None = None
    activation: str | None = None
    out: str | None = None
    trust: str | None = None
    seeds: str | None = None
    jobs: int | None = None
    track: str | None = None


def parser(kind: type[Parser] = Parser) -> Parser:
    """The parser of ``pyro-aevb train``, and of each run's ``config.yaml``.

    Arguments:
        kind: Class of the parser, which says what becomes of an error.
    """
    made = kind.of(TrainOptions, "pyro-aevb train")
    made.option("--config", help="Start from a run's config.yaml; other options override it.")
    made.option("--resume", help="Go on with a run; --samples says up to where, in all.")
    return made


def config_of(options: Mapping[str, Any]) -> Config:
    """The plain options among those of a configuration; ``hidden``, say, stands in the parts by then.

    Arguments:
        options: What ``config.yaml`` holds, or would, option by option.

    Raises:
        InputError: If a part is no class path, alone or with arguments.
    """
    made: dict[str, Any] = {each.name: options[each.name] for each in fields(Config) if each.name in options}
    made = {"scale": SCALE_OF_EARLIER, **made}
    made |= {name: _part(name, made[name]) for name in PARTS if name != "scheduler" or made.get(name) is not None}
    return Config(**made)


def check_numbers(options: Mapping[str, Any] | Namespace, before: str = "") -> None:
    """Refuse numbers that no run can have, of which a configuration that was edited may have some.

    Arguments:
        options: What was parsed, or what ``config.yaml`` holds, option by option.
        before: What stands before an option's name in the message.

    Raises:
        InputError: Names the first option.
    """
    samples = options["samples"]
    if not 1 <= samples < 1e15 or samples != int(samples):
        raise InputError(f"{before}samples must be a whole number of at least 1, such as 1e6, not {samples:g}")
    for name in ("batch_size", "report_every", "evaluate_every", "save_every", "latent_dim", "early_stopping"):
        if options.get(name) not in ("log", None) and options[name] < 1:
            raise InputError(f"{before}{name} must be at least 1, not {options[name]}")


def _part(name: str, value: Any) -> Part:
    """A part from its class path, alone or with what it is made with."""
    spec = value if isinstance(value, dict) else {"class_path": value}
    class_path = spec.get("class_path")
    named, more = (spec.get(key) or {} for key in ("init_args", "dict_kwargs"))
    if not isinstance(class_path, str) or not isinstance(named, dict) or not isinstance(more, dict):
        raise InputError(f"{name} must be a class path, or class_path and init_args, in config.yaml")
    return Part(class_path, {**named, **more})


def dumped(grammar: Parser, options: Namespace) -> str:
    """The text of ``config.yaml``: all options but those that are typed anew each time.

    Arguments:
        grammar: The parser that the options came from.
        options: Options that the parser read.
    """
    kept = options.clone()
    for name in NOT_KEPT:
        kept.pop(name, None)
    return str(grammar.dump(kept))
