"""Blocks of data, each with noise of its own: a result is a function of the data, in their order, and the seed."""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import pyro
import torch
from pyro.params import module_from_param_with_module_name
from torch import Tensor

from pyro_aevb import traces
from pyro_aevb.checkpoints import replaced
from pyro_aevb.errors import InputError
from pyro_aevb.pairs import Pair, evaluating, modules_of
from pyro_aevb.seeds import derive, seeded

__all__ = ["DATA_BLOCK", "SAMPLE_BLOCK", "Data", "Progress", "map_blocks"]

DATA_BLOCK = 100
SAMPLE_BLOCK = 1000
KEPT_FORMAT = "pyro_aevb kept blocks 1"

Data = Tensor | tuple[Tensor, ...]
Progress = Callable[[int], Any]
Result = TypeVar("Result", bound=tuple[Tensor, ...])


def map_blocks(
    function: Callable[[tuple[Tensor, ...]], Result],
    model: Pair,
    guide: Pair,
    x: Data,
    seed: int,
    progress: Progress | None = None,
    keep: str | Path | None = None,
    settings: str = "",
) -> list[Tensor]:
    """Apply a function to blocks of data on the pair's device, each with noise of its own, in evaluation mode.

    Arguments:
        function: From a block's arguments to tensors, ``(B,)`` each, or whose first dimension is the block's.
        model: The model.
        guide: Its guide, or the model again.
        x: Data, ``(B, ...)``, or a tuple.
        seed: Seed of the noise.
        progress: Called with the number of data finished after each block.
        keep: File that finished blocks are kept in, and taken from when they are there.
        settings: What else the result depends on: kept blocks of other settings, weights or data are refused.

    Returns:
        The function's tensors, the blocks' one after another.

    Raises:
        InputError: If there are no data, or the file is of another computation.
    """
    data = x if isinstance(x, tuple) else (x,)
    if len(data[0]) == 0:
        raise InputError("there are no data to evaluate: the data set is empty")
    parameters = (p for module in modules_of(model, guide).values() for p in module.parameters())
    device = next((p.device for p in parameters), data[0].device)
    if len({len(part) for part in data}) > 1:
        raise InputError(f"the data's tensors have different lengths: {[len(part) for part in data]}")
    results: list[tuple[Tensor, ...]] = []
    with _params_as_they_are(model, guide), evaluating(model, guide):
        kept = None
        if keep is not None:
            with seeded(derive(seed, "evaluation"), device):
                first = tuple(d[:1].to(device) for d in data)
                kept = _Kept(Path(keep), _identity(model, guide, data, first, f"{settings} seed={seed}"))
        for i, block in enumerate(zip(*(d.split(DATA_BLOCK) for d in data), strict=True)):
            if kept is not None and i < len(kept.blocks):
                results.append(tuple(part.to(device) for part in kept.blocks[i]))
            else:
                with seeded(derive(seed, "evaluation", i), device):
                    results.append(tuple(function(tuple(d.to(device) for d in block))))
                if kept is not None:
                    kept.add(results[-1])
            if progress:
                progress(len(block[0]))
    return [torch.cat(parts) for parts in zip(*results, strict=True)]


class _Kept:
    """Finished blocks in a file, tensors and text only."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self.blocks: list[tuple[Tensor, ...]] = []
        if path.exists():
            try:
                state = torch.load(path, weights_only=True)
                same = state["identity"] == identity
            except Exception as error:  # torch raises whatever the damage leads to; nothing in the file has been run
                raise InputError(f"{path} is damaged or no file of kept results: remove it") from error
            if not same:
                raise InputError(
                    f"{path} keeps results of other data, weights or settings: remove it, or keep them elsewhere"
                )
            self.blocks = [tuple(block) for block in state["blocks"]]

    def add(self, block: tuple[Tensor, ...]) -> None:
        """Keep one more."""
        self.blocks.append(tuple(part.cpu() for part in block))
        save: Callable[[Any, IO[bytes]], None] = torch.save
        with replaced(self.path) as file:
            save({"identity": self.identity, "blocks": self.blocks}, file)


def _identity(model: Pair, guide: Pair, data: tuple[Tensor, ...], first: tuple[Tensor, ...], settings: str) -> str:
    """Of data, settings, modules as they print themselves, weights, and what ``pyro.param`` gives.

    A Python number that a model keeps to itself is not seen.
    """
    modules = modules_of(model, guide).values()
    digest = hashlib.sha256(f"{KEPT_FORMAT} {DATA_BLOCK} {SAMPLE_BLOCK} {settings} {list(modules)}".encode())
    weights = [t for module in modules for t in module.state_dict().values()]
    met = traces.met_parameters((model, guide), first)
    for tensor in (*data, *weights, *(met[name] for name in sorted(met))):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _params_as_they_are(model: Pair, guide: Pair) -> Iterator[None]:
    """Use the current parameter store, add nothing to it, and warn where a ``pyro.param`` had no value there."""
    store = pyro.get_param_store()
    state: Any = store.get_state()
    before = set(state["params"])
    with store.scope(state):
        yield
    own = {id(p) for module in modules_of(model, guide).values() for p in module.parameters()}
    new = [name for name, p in state["params"].items() if name not in before and id(p) not in own]
    # What pyro.module registers is read from its module, whatever the store has.
    if new := [name for name in new if module_from_param_with_module_name(name) == name]:
        warnings.warn(
            f"evaluated at initial values: the parameter store does not have {new[0]!r}, nor {len(new) - 1} more that "
            "pyro.param made; evaluate a trained pair inside 'with trainer.param_store()'",
            stacklevel=4,
        )
