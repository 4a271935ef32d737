"""``pyro-aevb explore``: saved runs as a page to look, drag and draw in, that opens from disk."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from pyro_aevb.cli.options import RunOptions, check_count, opened
from pyro_aevb.explorer.build import check_page, write_page
from pyro_aevb.explorer.payload import Dtype, make_payload
from pyro_aevb.runs.parser import read_options
from pyro_aevb.runs.words import taken_apart

__all__ = ["ExploreOptions", "explore"]


@dataclass(frozen=True)
class ExploreOptions(RunOptions):
    """Make a page of saved runs: a map of the latents, each datum with its numbers, what is drawn with the mouse.

    The page is one file that opens from disk, without a server or a network.

    Arguments:
        run: Folder of a run, which train made; several, one after another, are switchable in the page.
        out: The page, a file that ends in .html; one that this command made is replaced, nothing else is.
        count: Number of data, the first ones, at least 2; by default 1000, fewer where they are large.
        num_samples: Importance samples for each datum's log p(x).
        dtype: Type that the weights are rounded to in the page; it tells what the rounding costs in nats.
        split: Which of the run's data sets to show.
    """

    out: str = "explorer.html"
    count: int | None = None
    num_samples: int = 500
    dtype: Dtype = "float16"
    split: Literal["test", "train"] = "test"


def explore(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb explore``.

    Raises:
        InputError: If an option does not fit, or what is at ``--out`` was not made by this command.
    """
    first, others = _runs_apart(arguments)
    config = read_options(ExploreOptions, "explore", first)
    check_count("num_samples", config.num_samples)
    check_count("count", 2 if config.count is None else config.count, least=2)
    out = Path(config.out)
    check_page(out)
    runs = [opened(each) for each in (config, *(replace(config, run=other) for other in others))]
    with tqdm(desc="log p(x)", unit="data", disable=not sys.stderr.isatty(), leave=False) as bar:
        payload = make_payload(
            runs,
            count=config.count,
            num_samples=config.num_samples,
            dtype=config.dtype,
            split=config.split,
            seed=config.seed,
            progress=bar.update,
        )
    write_page(payload, out)
    for said in _said(payload):
        print(f"pyro-aevb: note: {said}", file=sys.stderr)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


def _runs_apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What was typed with the first run alone, and the other runs."""
    typed = taken_apart(arguments)
    begin = [each.words for each in typed if not each.name]
    options = [word for each in typed if each.name for word in each.words]
    runs = list(begin[0]) if begin else []
    return [*runs[:1], *options], runs[1:]


def _said(payload: dict[str, Any]) -> list[str]:
    """What a user must know of the page before it is opened."""
    said = [payload["same_data_reason"]] if not payload["same_data"] else []
    for run in payload["runs"]:
        said += [f"{run['name']}: {note}" for note in (run["not_live"], *run["notes"]) if note]
        said += [f"{run['name']}: the page has no {name}, since {why}" for name, why in run["without"].items()]
    return said
