"""What the pages of results share: the committed files of ``experiments/``, as tables, pictures and words.

Every number on these pages comes from such a file, at the time when the page is built; nothing is trained for them.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

EXPERIMENTS = Path(os.environ["PYRO_AEVB_CHECKOUT"]) / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
from shared import paper  # noqa: E402  # the paper's own curves, read off its pictures

__all__ = [
    "BLUE", "GREEN", "MINUS", "NAMES", "ORANGE", "PANELS", "Table", "at", "count", "glued", "listed",
    "markdown", "measured", "minutes", "named", "nine_panels", "number", "only", "panel_name", "panels_named",
    "paper", "read", "settings", "spread",
]  # fmt: skip

NAMES = {"mnist": "MNIST", "frey_face": "Frey Face", "AEVB": "AEVB", "WS": "wake-sleep", "MCEM": "Monte Carlo EM"}
PANELS = [("mnist", k) for k in (3, 5, 10, 20, 200)] + [("frey_face", k) for k in (2, 5, 10, 20)]
BLUE = "#0072B2"  # these three are told apart by the colour-blind too
ORANGE = "#D55E00"
GREEN = "#009E73"
MINUS = "\u2212"  # the proper sign, as long as a plus
UNBROKEN = 22  # characters of a cell as far as which it stays on one line
SMALL = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


# ---------------------------------------------------------------- files


def read(name: str) -> pd.DataFrame:
    """The rows of a CSV file in ``experiments/``."""
    return pd.read_csv(EXPERIMENTS / name)


def settings(name: str) -> dict[str, Any]:
    """What a JSON file in ``experiments/`` keeps."""
    return json.loads((EXPERIMENTS / name).read_text())


def markdown(name: str) -> list[Table]:
    """The tables of a Markdown file in ``experiments/``."""
    parts = (EXPERIMENTS / name).read_text().split("\n\n")
    found = []
    for part in parts:
        lines = [line for line in part.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        found += [Table(cells[0], cells[2:])] if cells else []
    return found


def only(rows: pd.DataFrame, **wanted: object) -> pd.Series:
    """The one row whose columns have these values; an error where there is none, or more than one."""
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    if len(rows) != 1:
        raise LookupError(f"{len(rows)} rows have {wanted}")
    return rows.iloc[0]


def at(curve: list[tuple[float, float]], samples: float) -> float:
    """A curve's value after so many samples, on the line between its nearest points; an error outside of it."""
    found = paper.at(curve, samples)
    if found is None:
        raise LookupError(f"the curve has no point on one side of {samples:g} samples")
    return found


# ---------------------------------------------------------------- words


def number(value: float, decimals: int = 1, signed: bool = False) -> str:
    """A number with a proper minus sign; an empty text where there is none."""
    if value is None or pd.isna(value):
        return ""
    return f"{value:{'+' if signed else ''},.{decimals}f}".replace("-", MINUS)


def spread(values: Iterable[float], decimals: int = 1) -> str:
    """The least and the largest of some values, as "2.6 to 14.0"."""
    found = sorted(values)
    return f"{number(found[0], decimals)} to {number(found[-1], decimals)}"


def count(how_many: int) -> str:
    """A count in words as far as twelve."""
    return SMALL[how_many] if how_many < len(SMALL) else f"{how_many:,}"


def listed(parts: Sequence[str]) -> str:
    """Some words as a list in a sentence."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def named(samples: float) -> str:
    """A number of samples, as 10⁷ or 3 × 10⁷."""
    digits, power = f"{samples:.3g}".split("e") if samples >= 1e6 else ("", "")
    if not power:
        return f"{samples:,.0f}"
    raised = str(int(power)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1" else f"{digits} \u00d7 10{raised}"


def panel_name(data: str, latent_dim: int) -> str:
    """What a panel of Figure 2 is called here."""
    return f"{NAMES[data]}, {latent_dim} latents"


def panels_named(panels: Iterable[tuple[str, int]]) -> str:
    """Some panels of Figure 2 in a sentence, as "MNIST with 3 and 200 latents and Frey Face with 2 latents"."""
    found: dict[str, list[str]] = {}
    for data, latent_dim in panels:
        found.setdefault(data, []).append(str(latent_dim))
    return listed([f"{NAMES[data]} with {listed(dims)} latents" for data, dims in found.items()])


def records(folder: str) -> list[dict[str, Any]]:
    """What ``settings.json`` of an experiment says of each training, or of all of them together."""
    found = settings(f"{folder}/settings.json")
    return [found] if "device" in found else [record for record in found.values() if "device" in record]


def measured(*folders: str) -> str:
    """On which processors, and with which PyTorch, the numbers in some folders were measured."""
    found = [record for folder in folders for record in records(folder)]
    threads: dict[str, set[int]] = {}
    for record in found:
        how_many, of, make = record["device"].partition(" threads of ")
        threads.setdefault(make if of else record["device"], set()).update({int(how_many)} if of else ())
    where = [processor(make, sorted(some)) for make, some in sorted(threads.items())]
    torches = sorted({record["torch"].split("+")[0] for record in found})
    return f"on {listed(where)}, with PyTorch {listed(torches)}"


def processor(make: str, threads: list[int]) -> str:
    """A processor as ``settings.json`` has it, in words, and how many threads ran on it; a GPU where there are none."""
    makes = {
        "x86_64": "an x86-64 processor whose make was not recorded",
        "Intel(R) Xeon(R) Processor": "an Intel Xeon processor",
        "AMD EPYC": "an AMD EPYC processor",
    }
    if not threads:
        return f"an {make} GPU"
    words = " or ".join(count(number) for number in threads)
    return f"{words} {'thread' if threads == [1] else 'threads'} of {makes.get(make, make)}"


def minutes(folder: str) -> float:
    """How long all trainings of an experiment took together, each by the clock of its own process."""
    found = settings(f"{folder}/settings.json")
    return sum(record["minutes"] for record in found.get("runs", records(folder)))


def glued(**texts: str) -> None:
    """Give texts to the page, which has each by its name."""
    from myst_nb import glue  # only a build of the site has it

    for name, text in texts.items():
        glue(name, text, display=False)


# ---------------------------------------------------------------- tables and pictures


class Table:
    """Rows under headings; the first ``left`` columns are words, the others numbers."""

    def __init__(self, heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
        self.heads = list(heads)
        self.rows = [list(row) for row in rows]
        self.left = left

    def _repr_html_(self) -> str:
        head = "".join(self._cell("th", i, text) for i, text in enumerate(self.heads))
        body = "".join(f"<tr>{''.join(self._cell('td', i, t) for i, t in enumerate(row))}</tr>" for row in self.rows)
        table = (
            f'<table class="table" style="font-size: 90%"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        )
        return f'<div class="pst-scrollable-table-container">{table}</div>'

    def _cell(self, tag: str, column: int, text: str) -> str:
        side = "left" if column < self.left else "right"
        style = f"text-align: {side}; padding: 0.25rem 0.5rem"
        if tag == "td" and max(len(row[column]) for row in self.rows) <= UNBROKEN:
            style += "; white-space: nowrap"
        breaks = re.sub("(?<=[a-z_])(?=[A-Z])", "<wbr>", html.escape(text))  # long names may break between their words
        return f'<{tag} style="{style}">{breaks}</{tag}>'


def nine_panels(draw: Callable[[Axes, str, int], None]) -> None:
    """Draw the nine panels of Figure 2, three in a line, with one legend below."""
    figure, axes = plt.subplots(3, 3, figsize=(7.5, 7.6), layout="constrained", sharex=True)
    for panel, (data, latent_dim) in zip(axes.flat, PANELS, strict=True):
        draw(panel, data, latent_dim)
        panel.set(xscale="log", title=panel_name(data, latent_dim))
        panel.set_ylim(*((-165, -95) if data == "mnist" else (350, 1450)))
        panel.grid(alpha=0.3)
    axes[2, 1].set_xlabel("training samples seen")
    axes[1, 0].set_ylabel("bound on test images, nats per datum")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
