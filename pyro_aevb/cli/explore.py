"""``pyro-aevb explore``: saved runs as a page to look, drag and draw in, that opens from disk."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from pyro_aevb.cli.options import RunOptions, check_count, opened, runs_and_options
from pyro_aevb.explorer.build import check_page, write_page
from pyro_aevb.explorer.payload import Dtype, make_payload
from pyro_aevb.runs.parser import SEVERAL, read_options

__all__ = ["ExploreOptions", "explore"]


@dataclass(frozen=True)
class ExploreOptions(RunOptions):
    """Make a page of saved runs: a map of the latents, each datum with its numbers, what is drawn with the mouse.

    The page is one file that opens from disk, without a server or a network.

    Arguments:
        run: Folder of a run, which train made; several, separated by blanks, are switchable in the page.
        out: The page, a file that ends in .html; one that this command made is replaced, nothing else is.
        count: Number of data, the first ones, at least 2; by default 1000, fewer where they are large.
        num_samples: Importance samples for each datum's log p(x).
        dtype: Type that the weights are rounded to in the page; it tells what the rounding costs in nats.
        split: Which of the run's data sets to show.
    """

    run: str = field(metadata=SEVERAL)
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
    named, others = runs_and_options(arguments, ExploreOptions)
    config = read_options(ExploreOptions, "explore", [*named[:1], *others])
    check_count("num_samples", config.num_samples)
    check_count("count", 2 if config.count is None else config.count, least=2)
    out = Path(config.out)
    check_page(out)
    runs = [opened(each) for each in (config, *(replace(config, run=other) for other in named[1:]))]
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


def _said(payload: dict[str, Any]) -> list[str]:
    """What a user must know of the page before it is opened."""
    said = [payload["same_data_reason"]] if not payload["same_data"] else []
    for run in payload["runs"]:
        said += [f"{run['name']}: {note}" for note in (run["not_live"], *run["notes"]) if note]
        said += [f"{run['name']}: the page has no {name}, since {why}" for name, why in run["without"].items()]
    return said
