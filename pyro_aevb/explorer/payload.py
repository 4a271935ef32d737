"""All that a page is made of: numbers, words and graphs of each run, in plain values that JSON holds."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_aevb.data import Rows
from pyro_aevb.data.mapped import in_memory
from pyro_aevb.errors import InputError, choice, whole
from pyro_aevb.explorer.graphs import Live, NotLiveError, live
from pyro_aevb.explorer.numbers import draws_of, latents_of, numbers_of
from pyro_aevb.explorer.rounding import rounding_of
from pyro_aevb.explorer.tiles import plane_of, reconstructions_of
from pyro_aevb.explorer.told import curve_of, data_of, facts_of, gaps_of, gradients_of, labels_of, title_of
from pyro_aevb.runs.run import Run

__all__ = ["FORMAT", "Dtype", "make_payload"]

FORMAT = 1
"""Number of the format, which the page's scripts read."""

MOST_DATA = 1000
"""Number of data that a page shows unless it is told another number."""

ROOM = 1_500_000
"""Numbers of all data of a run together, beyond which a page shows fewer data unless it is told how many."""

Dtype = Literal["float16", "float32"]


def make_payload(
    runs: Sequence[Run],
    *,
    count: int | None = None,
    num_samples: int = 500,
    dtype: Dtype = "float16",
    split: Literal["test", "train"] = "test",
    seed: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """All that a page of saved runs is made of; equal runs and seeds make equal payloads.

    Bound, evidence and q(z|x) of each datum are those of the run's own weights. What the page computes itself is
    computed with weights rounded to ``dtype``, and ``rounding`` of a run tells what that costs in nats.

    Arguments:
        runs: The runs, one at least.
        count: Number of data, the first ones, two at least; by default 1000, fewer where they are large.
        num_samples: Number of importance samples for each datum's log p(x).
        dtype: Type that weights are rounded to in the page, ``float16`` or ``float32``.
        split: Which of the runs' data sets is shown, ``test`` or ``train``.
        seed: Seed of all draws.
        progress: Function that is called after each block of data with the number of data in it; by default nothing is
            called.

    Raises:
        InputError: If there is no run, a number is too small, or a pair cannot be evaluated on its data.
    """
    if not runs:
        raise InputError("a page needs at least one run")
    whole("num_samples", num_samples)
    choice("dtype", dtype, ("float16", "float32"))
    shown = [_rows_of(run, split, count) for run in runs]
    different = _difference(runs, shown)
    names = _names(runs)
    return {
        "format": FORMAT,
        "made_with": f"pyro_aevb {version('pyro_aevb')}",
        "seed": seed,
        "same_data": different is None,
        "same_data_reason": different,
        "runs": [
            {"name": name, **_run(run, rows, num_samples, dtype, split, seed, progress)}
            for name, run, rows in zip(names, runs, shown, strict=True)
        ],
    }


def _rows_of(run: Run, split: Literal["test", "train"], count: int | None) -> Rows:
    """The data that are shown, in memory."""
    if count is not None:
        whole("count", count, least=2)
    fits = min(MOST_DATA, max(2, ROOM // run.data.dim))
    rows = run.data.rows(split).first(count or fits)
    if len(rows.x) < 2:
        raise InputError(f"{run.path} has one {split} datum alone: a page compares data, two at least")
    return Rows(in_memory(rows.x), rows.labels, rows.beside)


def _names(runs: Sequence[Run]) -> list[str]:
    """The names of the runs' folders; where two are the same, as the user gave their paths."""
    names = [run.path.resolve().name for run in runs]
    return [name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)]


def _difference(runs: Sequence[Run], shown: Sequence[Rows]) -> str | None:
    """Why runs are not on the same data, so that their numbers are no pairs; ``None`` where they are."""
    first, *others = shown
    for run, rows in zip(runs[1:], others, strict=True):
        both = f"{runs[0].path.name} and {run.path.name}"
        if rows.x.shape != first.x.shape:
            shapes = f"{_shape(first.x)} and {_shape(rows.x)}"
            return f"{both} are on other data, {shapes}: each is shown by itself, without differences"
        if rows.names() != first.names() or not torch.equal(rows.x.nan_to_num(-1e30), first.x.nan_to_num(-1e30)):
            return f"{both} are on data of other values: each is shown by itself, without differences"
    return None


def _shape(x: Tensor) -> str:
    return f"{len(x):,} data of {x.shape[1]:,} numbers"


def _run(
    run: Run,
    rows: Rows,
    num_samples: int,
    dtype: Dtype,
    split: str,
    seed: int,
    progress: Callable[[int], Any] | None,
) -> dict[str, Any]:
    """All that is told of one run."""
    numbers = numbers_of(run, rows, num_samples, seed, progress)
    found, not_live = _live(run, rows, dtype)
    latents = latents_of(run, rows, numbers.means, seed)
    notes: list[str] = []
    return {
        "title": title_of(run),
        "facts": facts_of(run),
        "checkpoint": run.checkpoint,
        "samples_seen": run.samples_seen,
        "count": len(rows.x),
        "weights_dtype": dtype,
        **latents.told,
        "labels": labels_of(run, rows),
        "data": {**data_of(run, rows, split), **numbers.arrays, "num_samples": num_samples},
        **draws_of(run, rows, seed),
        "pair": None if found is None else found.pair,
        "without": {} if found is None else found.without,
        "not_live": not_live,
        "tiles": None if found else plane_of(run, rows, numbers.means, latents.weight),
        "reconstructions": None if found else reconstructions_of(run, rows, seed),
        "rounding": _rounding(run, rows, found, dtype, seed),
        "curve": curve_of(run, notes),
        "gaps": gaps_of(run, notes),
        "gradients": gradients_of(run, notes),
        "notes": notes,
    }


def _live(run: Run, rows: Rows, dtype: Dtype) -> tuple[Live | None, str | None]:
    """The pair as the page runs it, or why it does not."""
    try:
        return live(run.model, run.guide, rows.x[:1], dtype), None
    except NotLiveError as error:
        shown = "reconstructions and a plane of latent space were computed beforehand"
        return None, f"The pair is not run in this page, since {error}; {shown}."


def _rounding(run: Run, rows: Rows, found: Live | None, dtype: Dtype, seed: int) -> dict[str, Any] | None:
    return rounding_of(run, found, rows.x, dtype, seed) if found and dtype == "float16" else None
