"""What every experiment keeps its results with: CSV, and where the numbers come from."""

import csv
import io
import json
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_aevb.files import replaced
from pyro_aevb.hardware import find_device

HERE = Path(__file__).parent.parent  # experiments, where results are kept, unless --results says where


def provenance(threads: int | None = None, device: str = "cpu", **settings: object) -> dict:
    """Commit, versions and device, with an experiment's own settings first; ``threads`` of its runs, if not ours."""
    cpu = f"{threads or torch.get_num_threads()} threads of {processor()}"
    where = find_device(device)
    return {
        **settings,
        "commit": commit(),
        "pyro": pyro.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else cpu,
    }


def commit() -> str:
    """The revision these numbers were measured at; marked where code differs from it."""
    try:
        found, changed = (
            subprocess.run(["git", *words], capture_output=True, text=True, cwd=HERE).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", ":/*.py"])
        )
    except FileNotFoundError:  # no git on this machine
        return ""
    return f"{found}, changed" if changed else found


def processor() -> str:
    """The name of the CPU, where Linux tells it; else its architecture."""
    with suppress(OSError, IndexError):
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].split(":")[1].strip()
    return platform.machine()


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write rows as a CSV with the first row's columns."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    write(path, text.getvalue())


def write(path: Path, text: str) -> None:
    """Write a text file whole or not at all: what is there stays as it is when we are interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        file.write(text.encode())


def taken(rows: list[dict], known: list[dict], *keys: str) -> list[dict]:
    """The rows of those curves that are not there already with more samples; says which stay.

    A curve is what the keys tell apart.
    """
    before = far(known, keys)
    now = far(rows, keys)
    for curve in (curve for curve in now if now[curve] < before.get(curve, 0)):
        print(f"results stay: {curve} is there with {before[curve]:,} samples, more than {now[curve]:,}")
    return [row for row in rows if now[of(row, keys)] >= before.get(of(row, keys), 0)]


def of_its_length(row: dict, known: list[dict], *keys: str) -> bool:
    """Whether a row belongs among results of several lengths: as :func:`taken`, or one of its length is there."""
    lengths = {other["samples"] for other in known if of(other, keys) == of(row, keys)}
    return row["samples"] in lengths or bool(taken([row], known, *keys))


def shorter(rows: list[dict], known: list[dict], *keys: str) -> bool:
    """Whether some curve that is there reaches farther than these rows, or is not among them; says which.

    For results that all curves share, a picture of all or their differences, and that stay then.
    """
    before = far(known, keys)
    now = far(rows, keys)
    less = [curve for curve, samples in before.items() if samples > now.get(curve, 0)]
    for curve in less:
        print(f"results stay: {curve} is there with {before[curve]:,} samples, more than {now.get(curve, 0):,}")
    return bool(less)


def beside(known: list[dict], rows: list[dict], *keys: str) -> list[dict]:
    """What is known of other curves, and these rows."""
    new = {of(row, keys) for row in rows}
    return [row for row in known if of(row, keys) not in new] + rows


def read_csv(path: Path) -> list[dict]:
    """What ``write_csv`` wrote; nothing where there is no file."""
    if not path.exists():
        return []
    with path.open() as file:
        return [{name: value_of(text) for name, text in row.items()} for row in csv.DictReader(file)]


def of(row: dict, keys: tuple[str, ...]) -> tuple:
    """What tells a row's curve from others."""
    return tuple(row[key] for key in keys)


def far(rows: list[dict], keys: tuple[str, ...]) -> dict[tuple, int]:
    """The last number of samples of each curve."""
    found: dict[tuple, int] = {}
    for row in rows:
        found[of(row, keys)] = max(found.get(of(row, keys), 0), row.get("samples", 0))
    return found


def value_of(text: str) -> int | float | str | None:
    """The number or text that ``write_csv`` wrote as this text; ``None`` of an empty one."""
    if not text:
        return None
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def keep_row(
    row: dict, path: Path, keys: tuple[str, ...], order: Callable[[dict], Any], device: str, draw: Callable[[Path], Any]
) -> None:
    """Write a row into a CSV of several lengths of each curve, where it comes from beside it, and draw the folder anew.

    Arguments:
        row: A result, of a training with one thread.
        path: Path of the CSV.
        keys: Names of the columns that tell a curve from others.
        order: Function of a row that returns what rows are sorted by.
        device: Device that the result was trained on.
        draw: Function that draws the folder's pictures and tables anew; called with the folder where the row belongs
            there, see :func:`of_its_length`.
    """
    known = read_csv(path)
    if of_its_length(row, known, *keys):
        keys = (*keys, "samples")
        write_csv(path, sorted(beside(known, [row], *keys), key=order))
        note(path.with_name("settings.json"), **{"-".join(map(str, of(row, keys))): provenance(1, device, **row)})
        draw(path.parent)


def note(path: Path, **about: dict) -> None:
    """Write what is to be said of some curves into a JSON file, beside what it says of others.

    A script that finds a curve finished says the same of it again: then the commit that measured it stays.
    """
    known = json.loads(path.read_text()) if path.exists() else {}
    for name, new in about.items():
        if name not in known or any(known[name].get(key) != new[key] for key in new.keys() - provenance().keys()):
            known[name] = new
    write(path, json.dumps(known, indent=1) + "\n")
