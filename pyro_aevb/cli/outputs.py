"""``pyro-aevb encode``, ``reconstruct`` and ``impute``: what a saved run makes of each datum, in a new file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from pyro_aevb import plots, predictions
from pyro_aevb.cli.options import DataOptions, check_count, check_table, opened, rows_asked, write_table
from pyro_aevb.data import Rows
from pyro_aevb.errors import InputError
from pyro_aevb.files import replaced
from pyro_aevb.runs.parser import read_options
from pyro_aevb.runs.run import Run
from pyro_aevb.runs.tables import codes_frame, decoded_frame, imputed_frame, values_frame

__all__ = ["EncodeOptions", "ImputeOptions", "ReconstructOptions", "encode", "impute", "reconstruct", "write_values"]

ARRAYS = (".npy", ".png")


@dataclass(frozen=True)
class EncodeOptions(DataOptions):
    """Tell q(z|x) of each datum: mean, standard deviation and draws of each latent dimension, counted from 0.

    Arguments:
        out: A new .csv or .parquet file with index and label, and the columns z0, z0_sd, z0_draw0, ..., which are mean,
            standard deviation and draws of dimension z[0].
        draws: Number of draws from q(z|x) for each datum.
    """

    out: str = "codes.csv"
    draws: int = 0


@dataclass(frozen=True)
class ReconstructOptions(DataOptions):
    """Tell how the model reconstructs each datum: the mean of p(x|z) at the mean of q(z|x).

    Arguments:
        condition: What to decode all data as, a category or the value of each column of the condition, separated by
            commas; by default each as its own.
        out: A new .csv or .parquet file with the columns of the data; .npy for an array; .png for pictures.
    """

    condition: str | None = None
    out: str = "reconstructions.csv"


@dataclass(frozen=True)
class ImputeOptions(DataOptions):
    """Fill the gaps of data by what was observed: of a run that was trained with --missing.

    Arguments:
        out: A new .csv or .parquet file with the columns of the data; .npy for an array; .png for pictures.
        num_samples: Number of importance samples for each datum.
        draws: Number of draws of the missing values, one table after another; 0 for their mean, of a category the most
            probable one.
    """

    out: str = "imputed.csv"
    num_samples: int = 1000
    draws: int = 0


def encode(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb encode``."""
    config = read_options(EncodeOptions, "encode", arguments)
    check_count("draws", config.draws, least=0)
    out = check_table(config.out)
    run = opened(config)
    write_table(codes_frame(run, rows_asked(run, config), config.draws, config.seed), out)
    print(out)


def reconstruct(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb reconstruct``."""
    config = read_options(ReconstructOptions, "reconstruct", arguments)
    out = check_table(config.out, ARRAYS)
    run = opened(config)
    rows = rows_asked(run, config)
    x, table = decoded_frame(run, rows, config.condition, config.seed)
    if out.suffix in ARRAYS:
        write_values(run, x, out, rows)
    else:
        write_table(table, out)
    print(out)


def impute(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb impute``.

    Raises:
        InputError: If an option does not fit, or the run was trained without ``--missing``.
    """
    config = read_options(ImputeOptions, "impute", arguments)
    check_count("num_samples", config.num_samples)
    check_count("draws", config.draws, least=0)
    out = check_table(config.out, ARRAYS)
    run = opened(config)
    if not run.model.missing:
        raise InputError(f"{run.path} was trained without --missing: it does not know what a gap is")
    rows = rows_asked(run, config)
    with tqdm(total=len(rows.x), unit="data", disable=not sys.stderr.isatty(), leave=False) as bar:
        found = predictions.impute(
            run.model,
            run.guide,
            rows.arguments,
            config.num_samples,
            config.draws,
            seed=config.seed,
            progress=bar.update,
        )
    if out.suffix in ARRAYS:
        write_values(run, found.draws.flatten(0, 1) if config.draws else found.mean, out, rows)
    else:
        write_table(imputed_frame(run, rows, found), out)
    few = int((found.effective_samples < 5).sum())
    if few:
        print(
            f"pyro-aevb: warning: fewer than 5 effective importance samples stand behind {few} of {len(rows.x)} data: "
            "give more --num_samples",
            file=sys.stderr,
        )
    print(out)


def write_values(run: Run, x: Tensor, out: Path, rows: Rows | None = None) -> None:
    """Write values of the data, ``(N, D)``, as a table, an array of the data's own shape, or pictures.

    Arguments:
        run: The run.
        x: The values.
        out: The new file, ending in ``.csv``, ``.parquet``, ``.npy`` or ``.png``.
        rows: The rows that they belong to; by default they are numbered.
    """
    x = x.cpu()
    if out.suffix == ".npy":
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(out) as file:
            np.save(file, x.view(-1, *run.data.shape).numpy())
    elif out.suffix == ".png":
        out.parent.mkdir(parents=True, exist_ok=True)
        plots.save(_picture(run, x), out)
    else:
        write_table(values_frame(run, x, rows), out)


def _picture(run: Run, x: Tensor) -> Figure:
    """Values as pictures side by side; a table's as a heat map with the names of its columns."""
    columns = run.data.schema.columns
    if columns:
        return plots.heat_map({"": x}, [column.name for column in columns], run.title)
    return plots.image_grid(torch.nan_to_num(x), run.data.shape, title=run.title)
