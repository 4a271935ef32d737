"""The folder of a run: configuration, metrics, resumable state. Tensors and text only, nothing is unpickled.

========================  =====================================================================
``config.yaml``           every option of the run; ``pyro-aevb train --config`` repeats it
``metrics.jsonl``         one line a report: samples_seen, bound, seconds; test bounds in between
``last.pt``               the latest state: what ``--resume`` goes on from
``best.pt``               the state with the highest mean *training* bound between two saves, or
                          with early stopping the highest bound of held-out training data, so
                          that choosing it never looks at the test set
``figures/``              pictures
``.lock``                 who writes the run, see :func:`~pyro_aevb.files.locked`
========================  =====================================================================

Configuration and states are written under another name, synced, and renamed, so that a kill at any moment leaves the
old or the new one; ``metrics.jsonl`` grows by whole lines, and a line cut short is dropped. States carry a digest and
lines a checksum, which are compared whenever they are read.
"""

import json
import math
import os
import re
import shutil
import tempfile
import zlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from pyro_aevb.errors import InputError
from pyro_aevb.files import load_tensors, locked, refuse_existing, regular_file, replaced, save_tensors
from pyro_aevb.states import check_digest, check_kinds, check_plain, sealed

__all__ = ["CheckpointName", "Folder", "is_run"]

CheckpointName = Literal["last", "best"]
FORMAT = "pyro_aevb run 2"
HALF_WRITTEN = re.compile(r"\.(last\.pt|best\.pt|config\.yaml|metrics\.jsonl)\.\d+")
NUMBERS = {"samples_seen", "bound", "beta", "log_joint", "held_out_bound", "seconds", "test_bound", "test_se"}
"""What a line of metrics may hold."""


class Folder:
    """A run's folder.

    Arguments:
        path: An existing run.

    Raises:
        InputError: If there is no run at ``path``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._checksum: int | None = None  # of the last line of metrics, once it is known
        if not is_run(self.path):
            raise InputError(f"no run at {self.path}: it has no config.yaml; give a folder that 'train' made")

    @classmethod
    def create(cls, path: str | Path, config: str, state: dict[str, Any]) -> "Folder":
        """Make a run's folder, whole or not at all, with its configuration and first state.

        Raises:
            InputError: If something is there already.
        """
        path = Path(path)
        refuse_existing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            os.chmod(folder, 0o777 & ~_umask())  # mkdtemp's 0700 would lock out the reader of a shared folder
            with replaced(folder / "config.yaml") as file:
                file.write(config.encode())
            (folder / "figures").mkdir()
            (folder / "metrics.jsonl").touch()
            save_tensors(_sealed(state), folder / "last.pt")
            os.rename(folder, path)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return cls(path)

    def write_config(self, config: str) -> None:
        """Replace the configuration."""
        with replaced(self.path / "config.yaml") as file:
            file.write(config.encode())

    def save(self, name: CheckpointName, state: dict[str, Any]) -> None:
        """Replace ``last.pt`` or ``best.pt``."""
        save_tensors(_sealed(state), self.path / f"{name}.pt")

    def load(self, name: CheckpointName = "last", device: torch.device | str = "cpu") -> dict[str, Any]:
        """A saved state, its tensors on ``device``.

        Raises:
            InputError: If the file is missing, damaged, or holds anything but tensors and plain values.
        """
        path = self.path / f"{name}.pt"
        regular_file(path, "'best' appears with the first save" if name == "best" else "give a run that 'train' made")
        state = load_tensors(path, device)
        kinds = {"trainer": dict, "samples_seen": int, "best_bound": float}
        if not isinstance(state, dict) or not kinds.keys() <= state.keys():
            raise InputError(f"{path} is no checkpoint of this package: give a run that 'train' made")
        try:
            check_kinds(state, kinds)
            check_plain(state, "state")
            if math.isnan(state["best_bound"]):
                raise InputError("its best bound is NaN: it is damaged")
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if {
            "format",
            "digest",
        } & state.keys():  # else of an earlier version, which whoever uses its training state says
            check_digest(state, str(path), required=True)
        return state

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        if self._checksum is None:
            self._checksum = self._read_metrics()[1]
        line, self._checksum = _line(record, self._checksum)
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(line)

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``; a kill may have cut the last one.

        Raises:
            InputError: If a line is none that was written here.
        """
        return sorted(self._read_metrics()[0], key=lambda record: record["samples_seen"])

    def _read_metrics(self) -> tuple[list[dict[str, Any]], int]:
        """All records, and the last one's checksum, which the next one's goes on from."""
        path = self.path / "metrics.jsonl"
        records: list[dict[str, Any]] = []
        checksum = 0
        if not os.path.lexists(path):
            return [], 0
        regular_file(path)
        try:
            *lines, last = path.read_bytes().decode().split("\n")
            for value in [*map(json.loads, lines), *_begun(last)]:
                record, checksum = _record(value, checksum)
                records.append(record)
            return records, checksum
        except (ValueError, OverflowError, RecursionError) as error:
            where = f"line {len(records) + 1} of {path}"
            raise InputError(f"{where} was changed or damaged: put the file back, or remove it") from error

    def go_back_to(self, samples_seen: int) -> None:
        """Drop metrics past a state that the run goes on from, and what a kill has left half written."""
        for leftover in self.path.iterdir():
            if HALF_WRITTEN.fullmatch(leftover.name):
                leftover.unlink()  # only under the lock: another process's would be pulled from under it
        kept = [record for record in self.metrics() if record["samples_seen"] <= samples_seen]
        self._checksum = 0
        with replaced(self.path / "metrics.jsonl") as file:
            for record in kept:
                line, self._checksum = _line(record, self._checksum)
                file.write(line.encode())

    def locked(self) -> AbstractContextManager[None]:
        """Be the one process that writes this run, see :func:`~pyro_aevb.files.locked`."""
        return locked(self.path)

    def figure(self, name: str) -> Path:
        """Path of a picture in ``figures/``."""
        return self.subfolder("figures") / f"{name}.png"

    def subfolder(self, name: str) -> Path:
        """A folder of the run's, made where it is missing.

        Raises:
            InputError: If it is a link, which could lead to files of the user's own.
        """
        folder = self.path / name
        if folder.is_symlink():
            raise InputError(f"{folder} is a link: remove it, so that nothing elsewhere is replaced")
        folder.mkdir(exist_ok=True)
        return folder


def is_run(path: Path) -> bool:
    """Whether a folder looks like a run's: it has a configuration."""
    return (path / "config.yaml").is_file()


def _sealed(state: dict[str, Any]) -> dict[str, Any]:
    return sealed({**state, "format": FORMAT})


def _line(record: dict[str, Any], before: int) -> tuple[str, int]:
    """A record's line, and its checksum, which the line before it is part of: none can be left out."""
    checksum = zlib.crc32(json.dumps(record).encode(), before)
    return json.dumps({**record, "crc32": checksum}) + "\n", checksum


def _record(value: Any, before: int) -> tuple[dict[str, Any], int]:
    """A line's numbers, and its checksum; lines of earlier versions have none."""
    if not isinstance(value, dict):
        raise ValueError("no mapping")
    record = {key: number for key, number in value.items() if key != "crc32"}
    seen = record.get("samples_seen")
    if type(seen) is not int or seen < 0 or record.keys() - NUMBERS:
        raise ValueError("no record")
    if ("test_bound" in record) != ("test_se" in record):
        raise ValueError("half an evaluation")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in record.values()):
        raise ValueError("no finite number")
    checksum = _line(record, before)[1] if "crc32" in value or before else 0
    if checksum and value.get("crc32") != checksum:
        raise ValueError("another checksum")
    return record, checksum


def _begun(text: str) -> list[Any]:
    """What follows the last line's end: nothing, or a line that a kill cut short, perhaps before its end alone."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return []
    if text[end:]:
        raise ValueError("more than a record")
    return [value]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
