"""Weights of a pair as safetensors, and back into a pair."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_aevb.errors import InputError, in_one_line, instance
from pyro_aevb.errors import path as path_of
from pyro_aevb.files import regular_file
from pyro_aevb.states import check_tensors

__all__ = ["load_weights", "packed_weights"]

KEY = "pyro_aevb"
"""The one entry of the file's metadata, in JSON: several would stand in another order in each process."""


def packed_weights(model: nn.Module, guide: nn.Module, about: Mapping[str, Any]) -> bytes:
    """The content of ``model.safetensors``: all tensors of a pair, ``model.`` and ``guide.`` before their names.

    Arguments:
        model: The model.
        guide: Its guide.
        about: What the file says of itself, plain values.

    Raises:
        InputError: If safetensors is not installed.
    """
    save = _safetensors().save
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in _tensors(model, guide).items()}
    return bytes(save(tensors, metadata={KEY: json.dumps(about, sort_keys=True)}))


@torch.no_grad()
def load_weights(path: str | os.PathLike[str], model: nn.Module, guide: nn.Module) -> dict[str, Any]:
    """Load the weights of a ``model.safetensors`` into a pair of the same parts.

    Nothing is loaded unless all fits.

    Arguments:
        path: The file, which ``pyro-aevb export`` made.
        model: The model, whose tensors are replaced.
        guide: Its guide, likewise.

    Returns:
        What the file says of itself, such as the run's title and the versions it was made with.

    Raises:
        InputError: If safetensors is not installed; if the file is missing, damaged, or of another pair.
    """
    file = regular_file(path_of("path", path))
    own = _tensors(instance("model", model, nn.Module), instance("guide", guide, nn.Module))
    found, about = _read(file)
    if other := own.keys() ^ found.keys():
        name = min(other)
        raise InputError(f"{file} {'has' if name in found else 'lacks'} {name}: it is of another pair than this one")
    try:
        check_tensors(found, own, "tensors")
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    for name, tensor in own.items():
        tensor.copy_(found[name])
    return about


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError("safetensors are missing: pip install 'pyro_aevb[export]'") from error
    return safetensors.torch


def _tensors(model: nn.Module, guide: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a pair by name, the modules' own tensors and no copies."""
    parts = {"model": model, "guide": guide}
    states = {part: module.state_dict(keep_vars=True) for part, module in parts.items()}
    return {f"{part}.{name}": tensor for part, state in states.items() for name, tensor in state.items()}


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and what the file says of itself."""
    _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
            about = json.loads((opened.metadata() or {}).get(KEY, "{}"))
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{file} is no file of safetensors, or damaged ({in_one_line(error)})") from error
    return found, about if isinstance(about, dict) else {}
