"""What is measured of one run: numbers for each datum, kept in the run's folder, and pictures."""

import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import pyro_aevb
from pyro_aevb import evidence, plots, predictions
from pyro_aevb.data import Rows
from pyro_aevb.data.sets import fingerprint
from pyro_aevb.distributions.columns import EachColumns
from pyro_aevb.distributions.supports import innermost, support_of
from pyro_aevb.errors import InputError
from pyro_aevb.evaluation import DATA_BLOCK, SAMPLE_BLOCK, AfterBlock
from pyro_aevb.evidence.importance import LARGEST_KHAT
from pyro_aevb.files import load_tensors, save_tensors
from pyro_aevb.plots.checked import is_image
from pyro_aevb.runs.options import PARTS
from pyro_aevb.runs.origin import versions
from pyro_aevb.runs.run import BOUND_DRAWS, Run
from pyro_aevb.runs.tables import sampled, values_frame
from pyro_aevb.runs.trust import PATH
from pyro_aevb.states import check_digest, digest_of, sealed

__all__ = ["ACTIVE", "PerDatum", "RunMeasured", "Shown", "leaves", "measure"]

ACTIVE = 0.01
"""Variance over data of a latent's posterior mean above which it counts as active."""

FORMAT = "pyro_aevb evaluation 1"
PLACE = "evaluations"  # folder in a run's
OWN = ("pyro_aevb.", "torch.", "pyro.")  # what a class path begins with whose source is known here
NAME = re.compile(r"[0-9a-f]{16}\.pt")  # of a file there
MOST_KEPT = 20  # files of a run: each checkpoint, count and seed has its own

SAMPLES = 16  # pictures of a run, in lines of SAMPLES_ACROSS
SAMPLES_ACROSS = 8
RECONSTRUCTED = 8
TABLE_ROWS = 4  # of a table's samples and reconstructions
TABLE_COLUMNS = 10


class PerDatum(NamedTuple):
    """Numbers of each of B data, in nats, and of each of K latents."""

    evidence: Tensor
    """log p(x) by importance sampling, ``(B,)``"""
    evidence_error: Tensor
    """Its Monte Carlo standard error, ``(B,)``"""
    khat: Tensor
    """Pareto k-hat of its weights, ``(B,)``"""
    bound: Tensor
    """The bound, ``(B,)``"""
    kl: Tensor
    """KL(q(z|x) || p(z)), ``(B,)``"""
    activity: Tensor
    """Variance over data of each latent's posterior mean, ``(K,)``"""


class Shown(NamedTuple):
    """Pictures of data or of what a model makes of them: a PNG file, or a table of words."""

    png: bytes
    """The file; empty where the data are no pictures"""
    columns: tuple[str, ...]
    """Names of a table's columns; empty for pictures"""
    rows: tuple[tuple[str, ...], ...]
    """Its cells"""
    more: int
    """Number of further columns that are not shown"""


@dataclass(frozen=True, eq=False)
class RunMeasured:
    """What is kept of a run once it is closed: the data sets of many would not fit into memory together.

    Arguments:
        path: Its folder.
        options: Its options by their dotted names, ``prior``, ``prior.components``, ``latent_dim``.
        seed: Its seed.
        samples_seen: Training data that its weights have seen.
        unfinished: Whether it was to see more, and does not end early by itself.
        data: What it was measured on, in words.
        identity: Digest of what its numbers are of: two runs with the same one can be compared.
        metrics: Records of its training.
        values: Its numbers.
        samples: Draws from its model, means of p(x|z).
        originals: The first data.
        reconstructions: What its pair makes of them.
    """

    path: Path
    options: dict[str, Any]
    seed: int
    samples_seen: int
    unfinished: bool
    data: str
    identity: str
    metrics: list[dict[str, Any]]
    values: PerDatum
    samples: Shown | None = field(repr=False)
    originals: Shown | None = field(repr=False)
    reconstructions: Shown | None = field(repr=False)

    @property
    def active_units(self) -> int:
        """Number of latents whose posterior mean varies over the data."""
        return int((self.values.activity > ACTIVE).sum())

    @property
    def training_bound(self) -> float:
        """The last report's bound on training data, in nats per datum; NaN where there is none."""
        return float(_last(self.metrics, "bound"))

    @property
    def minutes(self) -> float:
        """Minutes of training, as the last report told them; NaN where there is none."""
        return float(_last(self.metrics, "seconds")) / 60

    @property
    def untrusted(self) -> int:
        """Number of data whose k-hat is above 0.7."""
        return int((self.values.khat > LARGEST_KHAT).sum())


def _last(metrics: Sequence[dict[str, Any]], name: str) -> float:
    return next((each[name] for each in reversed(metrics) if name in each), math.nan)


def measure(
    run: Run, count: int | None, num_samples: int, seed: int, progress: AfterBlock | None = None
) -> RunMeasured:
    """Measure a run on its first test data.

    Arguments:
        run: The run.
        count: Number of data; ``None`` for all.
        num_samples: Number of importance samples for each datum.
        seed: Seed of the noise.
        progress: Function that is called with a number of data once they are done.

    Raises:
        InputError: If the run cannot be evaluated.
    """
    rows = run.data.rows("test").first(count)
    kind = _kind(run, rows)
    shown = _Pictures(run, rows, seed)
    return RunMeasured(
        path=run.path,
        options=_options(run),
        seed=run.config.seed,
        samples_seen=run.samples_seen,
        unfinished=run.samples_seen < run.config.samples and run.config.early_stopping is None,
        data=f"{Path(run.data.name).name}, binarize={run.data.binarize}, {len(rows.x):,} test data, {kind}",
        identity=digest_of([_digest_of_rows(rows), kind]),
        metrics=run.metrics,
        values=_values(run, rows, num_samples, seed, progress),
        samples=shown.samples(),
        originals=shown.originals(),
        reconstructions=shown.reconstructions(),
    )


# ---------------------------------------------------------------- what is compared with what


def _digest_of_rows(rows: Rows) -> list[str]:
    """Digests of the values, and of condition and exposure where there are some."""
    return [fingerprint(rows.x), *(f"{name} {fingerprint(part)}" for name, part in rows.beside.tensors().items())]


@torch.no_grad()
def _kind(run: Run, rows: Rows) -> str:
    """What log p(x|z) is the logarithm of, in words: a density, a probability, of some columns each, or neither."""
    first = rows.first(1).to(run.device)
    values = rows.x[:DATA_BLOCK]
    if getattr(run.model.likelihood, "relaxed", False) and not bool(((values == 0) | (values == 1)).all()):
        return "cross-entropy of grey pixels, no likelihood"
    z = torch.zeros(1, run.config.latent_dim, device=run.device)
    made: Any = run.model.likelihood_at(z, **first.beside.tensors())
    support = innermost(support_of(getattr(made, "product", made)))
    if not isinstance(support, EachColumns):
        return "probabilities" if support.is_discrete else "densities"
    discrete = sorted(column for columns, one in support.each() if one.is_discrete for column in columns)
    names = [column.name for column in run.data.schema.columns]
    said = ", ".join(names[column] if names else str(column) for column in discrete)
    if len(discrete) == run.data.dim:
        return "probabilities"
    return f"densities, but probabilities of {said}" if discrete else "densities"


UNIMPORTANT = {"seed", "device", "data_root", "report_every", "evaluate_every", "save_every"}
"""Options that do not tell settings apart: the seed, and those that change no number that training leads to."""


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every single option by its dotted name; that of a part is its class, before its own options.

    >>> leaves({"prior": {"class_path": "pyro_aevb.priors.Laplace", "init_args": {"scale": 2.0}}, "latent_dim": 2})
    {'prior': 'pyro_aevb.priors.Laplace', 'prior.scale': 2.0, 'latent_dim': 2}

    Arguments:
        value: Options, or the value of one.
        name: Its dotted name.
    """
    if not isinstance(value, dict):
        return {name: value}
    if "class_path" in value:
        own = value.get("init_args") or {}
        return {name: value["class_path"], **(leaves(own, name) if own else {})}
    inner = (leaves(each, f"{name}.{key}".lstrip(".")) for key, each in value.items())
    return {key: each for of in inner for key, each in of.items()}


def _options(run: Run) -> dict[str, Any]:
    """The options that make a setting; data by their name and what they are, wherever they lie."""
    found = {name: value for name, value in leaves(asdict(run.config)).items() if name not in UNIMPORTANT}
    data = {"data": Path(run.data.name).name, "training data": fingerprint(run.data.train)[:12]}
    return {**found, **data, "samples": int(run.config.samples)}


# ---------------------------------------------------------------- numbers, kept


def _values(run: Run, rows: Rows, num_samples: int, seed: int, progress: AfterBlock | None) -> PerDatum:
    """The numbers, read from the run's folder where they are there and were computed alike; else computed and kept."""
    key = _key(run, rows, num_samples, seed)
    path = None if key is None else run.path / PLACE / f"{key[:16]}.pt"
    if path is not None and key is not None and (found := _read(path, key)) is not None:
        if progress:
            progress(len(rows.x))
        return found
    values = _computed(run, rows, num_samples, seed, progress)
    if path is not None and key is not None:
        _keep(run, path, key, values)
    return values


def _computed(run: Run, rows: Rows, num_samples: int, seed: int, progress: AfterBlock | None) -> PerDatum:
    x = rows.arguments
    weights = evidence.importance_weights(run.model, run.guide, x, num_samples, seed=seed, progress=progress)
    bound = evidence.bound(run.model, run.guide, x, BOUND_DRAWS, seed=seed)
    several = len(rows.x) > 1
    activity = evidence.activity(run.guide, x, seed=seed) if several else torch.zeros(run.config.latent_dim)
    found = (weights.log_likelihood, weights.standard_error, weights.khat, bound.bound, bound.kl, activity)
    return PerDatum(*(part.detach().cpu() for part in found))


def _key(run: Run, rows: Rows, num_samples: int, seed: int) -> str | None:
    """Digest of all that the numbers depend on; ``None`` where a part is of a module whose source is not known here."""
    options = leaves(asdict(run.config))
    of_parts = [value for name, value in options.items() if name.split(".")[0] in PARTS]
    if any(isinstance(value, str) and PATH.fullmatch(value) and not value.startswith(OWN) for value in of_parts):
        return None
    settings = [num_samples, BOUND_DRAWS, DATA_BLOCK, SAMPLE_BLOCK, seed, run.device.type]
    weights = {name: part.state_dict() for name, part in (("model", run.model), ("guide", run.guide))}
    return digest_of([FORMAT, options, weights, _digest_of_rows(rows), settings, versions(), _digest_of_package()])


@cache
def _digest_of_package() -> str:
    """Digest of this package's own sources: numbers that another version of them made are computed anew."""
    digest = hashlib.sha256()
    root = Path(pyro_aevb.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def _read(path: Path, key: str) -> PerDatum | None:
    """What a file keeps; ``None`` where there is none, or it is damaged or of another computation."""
    if path.parent.is_symlink() or not path.is_file():
        return None
    try:
        state = load_tensors(path)
        check_digest(state, str(path), required=True)
        if state["key"] != key:
            return None
        return PerDatum(*(state["values"][name] for name in PerDatum._fields))
    except (InputError, KeyError, TypeError, AttributeError):
        return None


def _keep(run: Run, path: Path, key: str, values: PerDatum) -> None:
    """Write the numbers to the run's folder, where that is allowed."""
    try:
        folder = run.folder.subfolder(PLACE)
        own = [each for each in folder.iterdir() if NAME.fullmatch(each.name)]
        for old in sorted(own, key=lambda each: each.stat().st_mtime)[: -MOST_KEPT + 1]:
            old.unlink()
        save_tensors(sealed({"key": key, "values": values._asdict()}), path)
    except (OSError, InputError):
        return  # a folder that only others may write, or a link: the numbers are computed anew each time


# ---------------------------------------------------------------- pictures


class _Pictures:
    """What a run's model draws and reconstructs, small; ``None`` where it refuses to."""

    def __init__(self, run: Run, rows: Rows, seed: int) -> None:
        self.run = run
        self.seed = seed
        self.is_image = not run.data.schema.columns and is_image(run.data.shape)
        self.first = rows.first(RECONSTRUCTED if self.is_image else TABLE_ROWS)

    def samples(self) -> Shown | None:
        """Means of p(x|z) of a few z from the prior."""
        try:
            count = SAMPLES if self.is_image else TABLE_ROWS
            values, rows = sampled(self.run, count, None, None, self.is_image, self.seed)
        except InputError:
            return None
        return self._shown(values, rows, SAMPLES_ACROSS)

    def originals(self) -> Shown | None:
        """The first test data; a gap of a picture is black."""
        values = self.first.x.nan_to_num(0.0) if self.is_image else self.first.x
        return self._shown(values, self.first, RECONSTRUCTED)

    def reconstructions(self) -> Shown | None:
        """What the pair makes of the first test data."""
        try:
            made = predictions.reconstruct(self.run.model, self.run.guide, self.first.arguments, seed=self.seed)
        except InputError:
            return None
        return self._shown(made.cpu(), self.first, RECONSTRUCTED)

    def _shown(self, values: Tensor, rows: Rows, across: int) -> Shown | None:
        if self.is_image:
            return Shown(_png(values, self.run.data.shape, across), (), (), 0)
        table = values_frame(self.run, values, rows)
        names = [str(name) for name in table.columns]
        cells = tuple(tuple(map(_cell, row[:TABLE_COLUMNS])) for row in table.itertuples(index=False, name=None))
        return Shown(b"", tuple(names[:TABLE_COLUMNS]), cells, max(0, len(names) - TABLE_COLUMNS))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


def _png(values: Tensor, shape: Sequence[int], across: int) -> bytes:
    """A picture of pictures, a pixel for each of their own, so that a page can show them at any size."""
    from matplotlib.image import imsave

    axes = plots.image_grid(values, shape, columns=across).axes[0]
    pixels = axes.get_images()[0].get_array()
    file = io.BytesIO()
    imsave(file, np.asarray(pixels), cmap="gray", vmin=0, vmax=1, format="png")
    return file.getvalue()
