"""A run on disk: configuration, metrics, resumable state. Tensors and text only, nothing is unpickled.

========================  =====================================================================
``config.yaml``           every option of the run; ``pyro-aevb train --config`` repeats it
``metrics.jsonl``         one line a report: samples_seen, bound, seconds; test bounds in between
``last.pt``               the latest state: what ``--resume`` goes on from
``best.pt``               the state with the highest mean *training* bound between two saves, so
                          that choosing it never looks at the test set
``figures/``              pictures
========================  =====================================================================

Configuration and states are written under another name, synced, and renamed, so that a kill at any moment leaves the
old or the new one; ``metrics.jsonl`` grows by whole lines, and a line cut short is dropped.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import torch

from pyro_aevb.errors import InputError

__all__ = ["Run", "replaced"]

CheckpointName = Literal["last", "best"]


class Run:
    """A run's folder.

    Arguments:
        path: An existing run.

    Raises:
        InputError: If there is no run at ``path``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "config.yaml").is_file():
            raise InputError(f"no run at {self.path}: it has no config.yaml; give a folder that 'train' made")

    @classmethod
    def create(cls, path: str | Path, config: str, state: dict[str, Any]) -> "Run":
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
            _save(folder / "last.pt", state)
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
        _save(self.path / f"{name}.pt", state)

    def load(self, name: CheckpointName = "last", device: torch.device | str = "cpu") -> dict[str, Any]:
        """A saved state, its tensors on ``device``.

        Raises:
            InputError: If the file is missing, damaged, or holds anything but tensors and plain values.
        """
        path = self.path / f"{name}.pt"
        if not path.exists():
            raise InputError(
                f"{path} does not exist" + (": 'best' appears with the first save" if name == "best" else "")
            )
        try:
            state = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises whatever the damage leads to; nothing in the file has been run
            raise InputError(f"{path} is damaged or no checkpoint of this package, so it was not loaded") from error
        if not _is_checkpoint(state):
            raise InputError(f"{path} is no checkpoint of this package: give a run that 'train' made")
        return dict(state)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one line to ``metrics.jsonl``."""
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``; a kill may have cut the last one."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        try:
            records = [json.loads(line) for line in lines if line.endswith("\n")]
            return sorted(records, key=lambda record: record["samples_seen"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} has a line that is no record: remove it") from error

    def go_back_to(self, samples_seen: int) -> None:
        """Drop metrics past a state that the run goes on from, and what a kill has left half written."""
        for leftover in self.path.glob(".*.*"):
            leftover.unlink()
        kept = [record for record in self.metrics() if record["samples_seen"] <= samples_seen]
        with replaced(self.path / "metrics.jsonl") as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())

    def figure(self, name: str) -> Path:
        """Path of a picture in ``figures/``."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.png"


def _is_checkpoint(state: Any) -> bool:
    kinds = {"trainer": dict, "samples_seen": int, "best_bound": float}
    return isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in kinds.items())


def refuse_existing(path: Path) -> None:
    """Raise ``InputError`` if something is there: nothing of the user's is written over."""
    if path.exists():
        raise InputError(f"{path} exists already: give another --out, or go on with --resume {path}")


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all: under another name beside it, synced, then renamed over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _save(path: Path, state: dict[str, Any]) -> None:
    save: Callable[[Any, IO[bytes]], None] = torch.save
    with replaced(path) as file:
        save(state, file)


def _sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
