"""How things look in a notebook: small tables, whose colours are the page's own, and a bar while a training runs."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pyro_aevb.errors import flag

if TYPE_CHECKING:
    from pyro_aevb.training.progress import Progress

__all__ = ["MOST_ROWS", "NATS", "html_table", "in_words", "mean_row", "with_bar"]

MOST_ROWS = 20
"""Number of rows of a table that are shown; how many more there are is said below it."""

NATS = ("", "mean, nats per datum", "s.e. over data")
"""Names of the columns of rows that :func:`mean_row` makes."""

CELL = "border:0;background:transparent;color:inherit;padding:0.1em 0.8em 0.1em 0;vertical-align:top"
LINE = "border-bottom:1px solid currentColor"
WHOLE = "margin:0.2em 0;border:0;border-collapse:collapse;background:transparent;color:inherit;font-size:0.9em"
NOTE = "color:inherit;font-size:0.9em;margin:0.2em 0"


def html_table(
    rows: Iterable[Sequence[Any]], head: Sequence[str] = (), title: str = "", notes: Iterable[str] = ()
) -> str:
    """A table as HTML for a notebook, in the colours of the page, light or dark; all text is escaped.

    Arguments:
        rows: Its rows, numbers and words; the first :data:`MOST_ROWS` are shown.
        head: Names of the columns; by default there are none.
        title: What stands above it; by default nothing.
        notes: What stands below it, a line each; by default nothing.

    >>> html_table([("samples seen", 1000)], title="<digits>").count("&lt;digits&gt;")
    1
    """
    listed = list(rows)
    left = len(listed) - MOST_ROWS
    below = [*([f"and {left:,} more"] if left > 0 else []), *notes]
    parts = [f'<div style="{NOTE}"><strong>{escape(title)}</strong></div>'] if title else []
    parts += [f'<table style="{WHOLE}">', *_head(head), *map(_row, listed[:MOST_ROWS]), "</table>"]
    return "".join(["<div>", *parts, *(f'<div style="{NOTE}">{escape(note)}</div>' for note in below), "</div>"])


def _head(names: Sequence[str]) -> list[str]:
    cells = (_cell("th", name, "left" if i == 0 else "right", LINE) for i, name in enumerate(names))
    return [f"<tr>{''.join(cells)}</tr>"] if names else []


def _row(values: Sequence[Any]) -> str:
    cells = (_cell("td", value, "right" if _is_number(value) else "left") for value in values)
    return f"<tr>{''.join(cells)}</tr>"


def _cell(tag: str, value: Any, align: str, more: str = "") -> str:
    return f'<{tag} style="{CELL};text-align:{align};{more}">{escape(in_words(value))}</{tag}>'


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def in_words(value: Any) -> str:
    """A value as a table shows it: whole numbers with commas, others to a hundredth, small ones to three digits.

    Arguments:
        value: The value; ``None`` for an empty cell.

    >>> in_words(60000), in_words(-89.1234), in_words(0.00123), in_words(True), in_words(None)
    ('60,000', '-89.12', '0.00123', 'yes', '')
    """
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.1 else f"{value:,.2f}"
    return str(value)


def mean_row(name: str, values: Any) -> tuple[str, float, float | None]:
    """A row of a table: a name, the mean of a tensor's numbers over data, and its standard error.

    Arguments:
        name: What the numbers are.
        values: The numbers, a tensor ``(B,)``; of one datum there is no standard error.
    """
    numbers = values.detach().double().flatten()
    error = numbers.std().item() / math.sqrt(len(numbers)) if len(numbers) > 1 else None
    return name, numbers.mean().item(), error


# ---------------------------------------------------------------- a bar


def with_bar(trainer: Any, samples: float, show: bool = True) -> Iterator["Progress"]:
    """Run a training with a bar of tqdm, a widget in a notebook and text in a terminal, that tells the bound.

    ::

        for progress in aevb.views.with_bar(trainer, 1e6):
            ...

    Arguments:
        trainer: What has a ``run`` that yields reports: a :class:`~pyro_aevb.Trainer`, a
            :class:`~pyro_aevb.MonteCarloEM` or an :class:`~pyro_aevb.EarlyStopping`.
        samples: Number of further data to train on, as its ``run`` takes it.
        show: Whether to show the bar.

    Yields:
        The trainer's reports as they are.
    """
    seen = _samples_seen(trainer)
    with _bar()(total=round(samples), unit=" samples", disable=not flag("show", show)) as bar:
        for progress in trainer.run(samples):
            bar.set_postfix_str(_bound_of(progress), refresh=False)
            bar.update(progress.samples_seen - seen)
            seen = progress.samples_seen
            yield progress


def _samples_seen(trainer: Any) -> int:
    """How many data a training has seen, or the one that it is around."""
    return int(trainer.samples_seen if hasattr(trainer, "samples_seen") else trainer.trainer.samples_seen)


def _bound_of(progress: "Progress") -> str:
    name, value = ("log p(x, z)", progress.log_joint) if progress.log_joint is not None else ("bound", progress.bound)
    return f"{name} {value:.2f} nats per datum"


def _bar() -> Any:
    """tqdm's own choice between a widget and text, without its warning where a notebook has no widgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm  # looks for IPython, so only where it is used
    return tqdm
