"""Blocks of data, each with noise of its own: a result is a function of the data, in their order, and the seed."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pyro.params import module_from_param_with_module_name
from torch import Tensor, nn

from pyro_aevb import traces
from pyro_aevb.data.arguments import Called, Data
from pyro_aevb.data.given import as_rows, in_precision
from pyro_aevb.data.mapped import OnDemand, spans
from pyro_aevb.errors import InputError, function, instance, path
from pyro_aevb.files import load_tensors, save_tensors
from pyro_aevb.pairs import Pair, evaluating, modules_named_by, precision_of
from pyro_aevb.process import alone
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.states import check_digest, check_plain, sealed

__all__ = ["DATA_BLOCK", "SAMPLE_BLOCK", "AfterBlock", "Data", "Mean", "map_blocks", "mean_of", "not_nan"]

DATA_BLOCK = 100
"""Number of data that are evaluated together, with noise from one seed."""

SAMPLE_BLOCK = 1000
"""Number of samples per datum that are drawn from one seed."""

KEPT_FORMAT = "pyro_aevb kept blocks 1"

FAILED = "model and guide cannot be run on these data"

AfterBlock = Callable[[int], Any]
"""What is called after each block of data, with the number of data in it."""
Result = TypeVar("Result", bound=tuple[Tensor, ...])


@alone()
def map_blocks(
    of_block: Callable[..., Result],
    model: Pair,
    guide: Pair,
    x: Data,
    seed: int,
    progress: AfterBlock | None = None,
    keep: str | Path | None = None,
    settings: str = "",
    beside: tuple[Tensor, ...] = (),
) -> list[Tensor]:
    """Apply a function to blocks of data on the pair's device, each with noise of its own, in evaluation mode.

    Each block is first checked: do its data lie where the model has a density for them?

    Arguments:
        of_block: Function from the tuple of a block's arguments to a tuple of tensors, ``(M, ...)`` each for a block of
            M data.
        model: The model, any Pyro function.
        guide: Its guide, or the model again where there is none.
        x: Data, ``(B, ...)``, or a tuple of what model and guide take; tensors, NumPy arrays, or what is not in
            memory, of which a block at a time is fetched.
        seed: Seed of the noise; the caller's random state is left alone.
        progress: Function that is called after each block of data with the number of data in it; by default nothing is
            called.
        keep: File that each block's result is written to, and read from when it is there already; by default nothing
            is kept.
        settings: What the result depends on besides pair, data and seed, in words that are compared: kept blocks of
            other settings, weights or data are refused.
        beside: Further tensors, ``(B, ...)`` each, of which ``of_block`` is given the block's rows after the pair's
            arguments; by default none.

    Returns:
        The function's tensors, ``(B, ...)`` each, the blocks' one after another.

    Raises:
        InputError: If there are no data, the pair cannot be run on them, or they lie outside the likelihood's support;
            if the file is of another computation.
    """
    if progress is not None:
        function("progress", progress)
    data, device = _given(model, guide, x)
    size_of_block = _block_of(model, guide, data, device)
    rows = torch.arange(len(data[0])).split(size_of_block)
    first = tuple(d[:size_of_block].to(device) for d in data)
    with traces.refused_in_one_line(FAILED, first, model, guide), seeded(derive(seed, "evaluation"), device):
        modules = traces.modules_of(model, guide, first)
        own_guide = None if guide is model else guide
        every_block = not _checked_at_once(model, own_guide, data, first, modules)
    results: list[tuple[Tensor, ...]] = []
    with _params_as_they_are(modules), evaluating(modules.values()):
        with seeded(derive(seed, "evaluation"), device):
            of = (*data, *beside), first, f"{settings} seed={seed}"
            kept = None if keep is None else _Kept(path("keep", keep), _identity(model, guide, modules, *of))
        for i, chosen in enumerate(rows):
            if kept is not None and i < len(kept.blocks):
                results.append(tuple(part.to(device) for part in kept.blocks[i]))
            else:
                block = [d[chosen[0] : chosen[-1] + 1].to(device) for d in (*data, *beside)]
                refused = traces.refused_in_one_line(FAILED, first, model, guide)
                with refused, seeded(derive(seed, "evaluation", i), device):
                    if every_block:
                        traces.check_observed(model, own_guide, tuple(block[: len(data)]), chosen)
                    results.append(tuple(of_block(tuple(block))))
                if kept is not None:
                    kept.add(results[-1])
            if progress:
                progress(len(chosen))
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


def _block_of(model: Pair, guide: Pair, data: tuple[Any, ...], device: torch.device) -> int:
    """Number of data in a block: all, of a pair with latents that belong to no datum. What fails here is told later."""
    size = len(data[0])
    if guide is model or size <= DATA_BLOCK:
        return DATA_BLOCK
    # Plates of the data's whole size take no fewer; of data that are not in memory all are not tried.
    for some in (DATA_BLOCK,) if any(isinstance(part, OnDemand) for part in data) else (DATA_BLOCK, size):
        with suppress(Exception), seeded(0, device), evaluating(modules_named_by(model, guide).values()):
            joint = traces.Particles(model, guide).is_joint(tuple(part[:some].to(device) for part in data))
            return size if joint else DATA_BLOCK
    return DATA_BLOCK


class _Precise(OnDemand):
    """Rows that are fetched when they are needed, in the precision of a pair's weights."""

    def __init__(self, rows: OnDemand, dtype: torch.dtype | None) -> None:
        super().__init__(rows.shape, in_precision(torch.empty(0, dtype=rows.dtype), dtype).dtype)
        self.is_array = rows.is_array
        self.rows = rows

    def fetch(self, rows: Tensor) -> Tensor:
        """Some of the rows, ``(B, ...)``."""
        return self.rows.fetch(rows).to(self.dtype)


def _given(model: Pair, guide: Pair, x: Any) -> tuple[tuple[Any, ...], torch.device]:
    """The data in the precision of the pair's weights, tensors or rows on demand, and where those weights lie."""
    function("model", model)
    function("guide", guide)
    parts: Any = as_rows(x, evaluated=True)
    if len(parts[0]) == 0:
        raise InputError("there are no data to evaluate: the data set is empty")
    named = modules_named_by(model, guide).values()
    own = parts[0].device if isinstance(parts[0], Tensor) else torch.device("cpu")
    device = next((p.device for module in named for p in module.parameters()), own)
    dtype = precision_of(model, guide)
    return tuple(
        _Precise(part, dtype) if isinstance(part, OnDemand) else in_precision(part, dtype) for part in parts
    ), device


def _checked_at_once(
    model: Pair, guide: Pair | None, data: tuple[Any, ...], first: tuple[Tensor, ...], modules: dict[str, nn.Module]
) -> bool:
    """Whether all data are checked by now, which is done if the supports of the first block's sites are those of all.

    Raises:
        InputError: If a datum lies outside its support.
    """
    with evaluating(modules.values()):
        sites = traces.observed(model, guide, first)
    places = [next((i for i, arg in enumerate(first) if site.value is arg), None) for site in sites]
    if None in places or not all(site.is_universal for site in sites):
        return False
    for site, place in zip(sites, places, strict=True):
        values = data[place or 0]
        for span in spans(values):
            site = traces.check_values(values[span], site, torch.arange(*span.indices(len(values))))
    return True


def not_nan(values: Tensor, what: str) -> Tensor:
    """Numbers for each datum, if none is NaN.

    Arguments:
        values: The numbers, ``(..., B)``.
        what: What they are, for the message.

    Raises:
        InputError: Names the first datum of the block for which one is NaN.
    """
    broken = values.isnan().reshape(-1, values.shape[-1]).any(0)
    if broken.any():
        row = int(broken.nonzero()[0, 0])
        raise InputError(f"{what} is NaN for a datum, number {row} of its {len(broken)}: look at data and parameters")
    return values


class Mean(NamedTuple):
    """A mean over data in nats per datum, and its standard error."""

    mean: float
    """The mean, nats per datum"""
    se: float
    """Standard error of the mean, over data, nats per datum"""


def mean_of(values: Tensor) -> Mean:
    """Mean and standard error of numbers per datum, ``(B,)``.

    Arguments:
        values: Number of each datum, ``(B,)``, in nats.

    Raises:
        InputError: If there are fewer than 2.
    """
    if instance("values", values, Tensor).dim() != 1 or len(values) < 2:
        raise InputError(f"values must be at least 2 numbers, one a datum, not of shape {tuple(values.shape)}")
    values = values.double()
    return Mean(values.mean().item(), values.std().item() / len(values) ** 0.5)


class _Kept:
    """Finished blocks in a file, tensors and text only."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.identity = identity
        self.blocks: list[tuple[Tensor, ...]] = []
        if path.exists():
            state = load_tensors(path)
            if not isinstance(state, dict) or not isinstance(state.get("blocks"), list) or "identity" not in state:
                raise InputError(f"{path} is no file of kept results: remove it")
            check_plain(state, "its result")
            if "digest" in state:  # a flipped bit in an archive's index leaves all checksums right
                check_digest(state, str(path), required=True)
            same = state["identity"] == identity
            if not same:
                raise InputError(
                    f"{path} keeps results of other data, weights or settings: remove it, or keep them elsewhere"
                )
            self.blocks = [tuple(block) for block in state["blocks"]]

    def add(self, block: tuple[Tensor, ...]) -> None:
        """Write a block's result to the file, after those that are in it."""
        self.blocks.append(tuple(part.cpu() for part in block))
        save_tensors(sealed({"identity": self.identity, "blocks": self.blocks}), self.path)


def _identity(
    model: Pair,
    guide: Pair,
    modules: dict[str, nn.Module],
    data: tuple[Tensor | OnDemand, ...],
    first: tuple[Tensor, ...],
    settings: str,
) -> str:
    """A digest of all that kept results depend on: data, settings, modules, weights, and what ``pyro.param`` gives.

    Of what modules are made of, besides tensors, torch tells no more than how they print themselves: a Python number
    that a module neither prints nor keeps in a tensor is not seen.
    """
    digest = hashlib.sha256(f"{KEPT_FORMAT} {DATA_BLOCK} {SAMPLE_BLOCK} {settings} {list(modules.values())}".encode())
    weights = [t for module in modules.values() for t in (*module.parameters(), *module.buffers())]
    met = traces.met_parameters((model, guide), first)
    digest.update(" ".join(each.form.fingerprint for each in (model, guide) if isinstance(each, Called)).encode())
    for tensor in (*data, *weights, *(met[name] for name in sorted(met))):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        rows = tensor.reshape(1) if isinstance(tensor, Tensor) and tensor.dim() == 0 else tensor
        for span in spans(rows):
            digest.update(rows[span].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _params_as_they_are(modules: dict[str, nn.Module]) -> Iterator[None]:
    """Use the current parameter store, add nothing to it, and warn where a ``pyro.param`` had no value there."""
    store = pyro.get_param_store()
    state: Any = store.get_state()
    before = set(state["params"])
    with store.scope(state):
        yield
    own = {id(p) for module in modules.values() for p in module.parameters()}
    new = [name for name, p in state["params"].items() if name not in before and id(p) not in own]
    # What pyro.module registers is read from its module, whatever the store has.
    if new := [name for name in new if module_from_param_with_module_name(name) == name]:
        warnings.warn(
            f"evaluated at initial values: the parameter store does not have {new[0]!r}, nor {len(new) - 1} more that "
            "pyro.param made; evaluate a trained pair inside 'with trainer.param_store()'",
            stacklevel=4,
        )
