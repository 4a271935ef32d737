"""What a saved state was trained with: its options, its data, and the versions of what computed it."""

import contextlib
import hashlib
import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_aevb.data import DataSet, fingerprint
from pyro_aevb.data.schema import plain_schema, schema_from
from pyro_aevb.data.sets import earlier_fingerprint
from pyro_aevb.errors import InputError
from pyro_aevb.states import holds_tensors

__all__ = [
    "FREE",
    "VersionsWarning",
    "check_config_of",
    "check_data_of",
    "data_without_rows",
    "difference_of_versions",
    "origin",
    "versions",
]

FREE = {"samples", "device", "data", "data_root", "evaluate_every", "save_every"}
"""Options that may be other ones than a state was trained with; the data's values are compared, not their place."""


class VersionsWarning(UserWarning):
    """A run was saved with other versions than it is opened with; the command line prints it as one line."""


def origin(config: dict[str, Any], data: DataSet) -> dict[str, Any]:
    """What a state remembers of its configuration, option by option, and digests of its data."""
    digests = {"train": fingerprint(data.train), "test": fingerprint(data.test)}
    read = {"columns": plain_schema(data.schema), "labels": list(data.label_names)}
    return {"config": _bound(config), "data": {**digests, **_beside(data)}, "read": read}


def data_without_rows(state: dict[str, Any], name: str, binarize: Any, split_seed: int, path: Path) -> DataSet | None:
    """A data set without rows, by which new data are read where those that a run was trained on are not there.

    Arguments:
        state: The run's state.
        name: The data set's name.
        binarize: How grey values became binary.
        split_seed: Seed of fixed binarisations.
        path: The run's folder, for messages.

    Returns:
        The data set; ``None`` for a state of an earlier version, which does not say how its data were read.

    Raises:
        InputError: If what the state says of its data is damaged.
    """
    found = _origin_of(state, path).get("read")
    if found is None:
        return None
    try:
        schema = schema_from(found["columns"])
        labels = tuple(found["labels"])
        if not all(isinstance(label, str) for label in labels):
            raise InputError("a label is no text")
    except (InputError, TypeError, KeyError) as error:
        raise InputError(f"{path}: the state does not say how its data were read: it is damaged") from error
    nothing = torch.empty(0, math.prod(schema.shape))
    return DataSet(name, nothing, nothing, schema.shape, binarize, None, None, split_seed, schema, labels)


def _beside(data: DataSet) -> dict[str, str]:
    """Digest of what belongs to the data besides their values, and of how they are read, where there is any."""
    parts = [part for of in (data.beside_train, data.beside_test) for part in (of.condition, of.exposure)]
    there = [fingerprint(part) for part in parts if part is not None]
    if not there and not data.schema.columns:
        return {}
    words = json.dumps(plain_schema(data.schema), sort_keys=True)
    return {"beside": hashlib.sha256(" ".join([*there, words]).encode()).hexdigest()}


def check_config_of(state: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    """See that a configuration is the one that a state was trained with; earlier versions did not save theirs.

    Arguments:
        state: The state.
        config: What ``config.yaml`` holds now.
        path: The run's folder, for messages.

    Raises:
        InputError: Names the option that is another.
    """
    saved = _origin_of(state, path)["config"]
    if not saved:
        return
    leaves = _bound(config)
    for name in (*saved, *leaves):  # what only one of them has was null in the other
        now = leaves.get(name)
        then = saved.get(name)
        if not _same(now, then):
            raise InputError(
                f"{path}/config.yaml has {name}: {now}, and the state beside it was trained with {then}: put the "
                "original config.yaml back"
            )


def check_data_of(state: dict[str, Any], data: DataSet, path: Path) -> None:
    """See that data are those that a state was trained with; of the test set earlier versions saved no digest.

    Arguments:
        state: The state.
        data: The data that were found.
        path: The run's folder, for messages.

    Raises:
        InputError: If they are not.
    """
    known = {"train": {fingerprint(data.train), earlier_fingerprint(data.train)}, "test": {fingerprint(data.test)}}
    known |= {name: {digest} for name, digest in _beside(data).items()}
    identity = state["trainer"].get("identity")
    expected = {
        "train": identity.get("data") if isinstance(identity, dict) else None,
        **_origin_of(state, path)["data"],
    }
    if any(expected[split] not in known[split] for split in known.keys() & expected.keys()):
        raise InputError(f"{data.name} is not what {path} was trained on: put the original data back")


def _same(one: Any, other: Any) -> bool:
    """Equal values; a number for a number, however it is written, and a switch for a switch."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _origin_of(state: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    found = state.get("origin", {"config": {}, "data": {}})
    right = isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in ("config", "data"))
    if not right or holds_tensors(found) or not all(isinstance(each, str) for each in found["data"].values()):
        raise InputError(f"{path}: the state does not say what it was trained with: it is damaged")
    return found


def _bound(config: dict[str, Any]) -> dict[str, Any]:
    """The options, by their dotted names, that a state was trained with and cannot do without."""
    return {name: value for name, value in _leaves(config).items() if name.split(".")[0] not in FREE}


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    """Every single option by its dotted name."""
    if not isinstance(value, dict):
        return {name: value}
    inner = (_leaves(each, f"{name}.{key}".lstrip(".")) for key, each in value.items())
    return {key: each for leaves in inner for key, each in leaves.items()}


# ---------------------------------------------------------------- versions


def versions() -> dict[str, str]:
    """The versions of what computes here, by name: they stand in each saved state."""
    found = {"torch": str(torch.__version__), "pyro": str(pyro.__version__)}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a copy of the sources, not installed
        found["pyro_aevb"] = importlib.metadata.version("pyro_aevb")
    return found


def difference_of_versions(state: dict[str, Any], path: Path) -> str:
    """Which versions are others than those that a state was saved with, in a sentence; empty where none is.

    States of earlier versions do not say theirs, and nothing is said of them.

    Arguments:
        state: The state.
        path: Its file, for the sentence.

    Raises:
        InputError: If what the state says of versions is no text.
    """
    saved = state.get("versions", {})
    if not isinstance(saved, dict) or not all(isinstance(word, str) for each in saved.items() for word in each):
        raise InputError(f"{path}: the state does not say with which versions it was saved: it is damaged")
    here = versions()
    others = [name for name in here if saved.get(name, here[name]) != here[name]]
    if not others:
        return ""
    then, now = (", ".join(f"{name} {of[name]}" for name in others) for of in (saved, here))
    return f"{path} was saved with {then}, and this is {now}: numbers may differ in rounding"
