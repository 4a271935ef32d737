"""The options of ``pyro-aevb train``, which are those of a run's ``config.yaml``."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pyro.infer import ELBO

from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Likelihood
from pyro_aevb.priors import Prior
from pyro_aevb.runs.parser import Parser

__all__ = ["Every", "options", "parser"]

Every = int | Literal["log"]


def options(
    prior: Callable[[int], Prior],
    likelihood: Callable[[int, int], Likelihood],
    guide: Callable[[int, int], Guide],
    estimator: ELBO,
    optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
    data: str = "digits",
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto",
    data_root: str | None = None,
    split_seed: int = 0,
    latent_dim: int = 20,
    hidden: int | list[int] | None = None,
    activation: str | None = None,
    samples: float = 1e6,
    batch_size: int = 100,
    seed: int = 0,
    engine: Literal["auto", "captured", "eager", "svi"] = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    device: str = "auto",
    report_every: int = 10_000,
    evaluate_every: Every = 100_000,
    save_every: Every = 100_000,
    out: str | None = None,
    trust: str | None = None,
) -> None:
    """Train a model and its guide, and keep the run in a folder.

    Args:
        prior: The prior p(z).
        likelihood: The likelihood p(x|z).
        guide: The guide q(z|x).
        estimator: The objective, any ``pyro.infer.ELBO``.
        optimizer: What steps the weights; Adagrad's weight_decay 1 is the paper's prior N(0, I) on them.
        data: mnist, fashion_mnist, frey_face, digits, or a .npy or .npz file.
        binarize: How grey pixels become binary: not at all, once, or at each visit; ``auto`` is dynamic for a
            likelihood of binary data, else none.
        data_root: Folder of data sets; else $PYRO_AEVB_DATA, else the user's cache folder.
        split_seed: Seed of random splits and fixed binarisations.
        latent_dim: Number of latent dimensions.
        hidden: Hidden units of likelihood and guide, one number or a list such as [500,300].
        activation: Activation of likelihood and guide, a name from torch.nn.
        samples: Training data to see, in all.
        batch_size: Data per step.
        seed: Seed of initial weights, order, binarisation and noise.
        engine: How a step is taken: captured is compiled, eager is not, svi is Pyro's own SVI.
        precision: bfloat16 allows products in bfloat16 where the processor has units for it.
        device: auto, cpu, cuda, cuda:1, mps, ...
        report_every: Samples between two reports of the training bound.
        evaluate_every: Samples between two bounds on the test set; ``log`` for 1, 2, ..., 9 times each power of ten.
        save_every: Samples between two saves; or ``log``, as above.
        out: The run's folder; by default the first free of runs/DATA-1, runs/DATA-2, ...
        trust: Modules, separated by commas, whose parts the configuration of --config or --resume may name.
    """


def parser() -> Parser:
    """The parser of ``pyro-aevb train``."""
    made = Parser.of(options, "pyro-aevb train")
    made.add_argument("--config", metavar="FILE", help="Start from a run's config.yaml; other options override it.")
    made.add_argument("--resume", metavar="RUN", help="Go on with a run; --samples says up to where, in all.")
    return made
