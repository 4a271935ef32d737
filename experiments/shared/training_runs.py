"""Runs of this project's own command line, several at once, each on one core; interrupted, they are gone on with."""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.results import HERE

from pyro_aevb.runs import sweeps
from pyro_aevb.runs.folder import Folder


class RunFailedError(Exception):
    """The command line ended with an error: its words, and ``code``, 1 for a loss that is not finite."""

    def __init__(self, words: str, code: int = 1) -> None:
        super().__init__(words)
        self.code = code


def arguments(doc: str, name: str, samples: float, smoke: str, redraw: bool = True) -> argparse.ArgumentParser:
    """The parser of what every figure's command line takes.

    Arguments:
        doc: The script's docstring, of which the first line is shown.
        name: The script's name, which is that of the folder in ``runs`` that its runs are kept in.
        samples: Default of ``--samples``.
        smoke: What ``--smoke`` does, for ``--help``.
        redraw: Whether there is a ``--redraw``, which draws pictures from the results alone.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--samples", type=float, default=samples)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once, each on one core")
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=HERE, help="where results are kept, beside the longer there")
    if redraw:
        parser.add_argument("--redraw", action="store_true", help="tables and figures from the results there")
    parser.add_argument("--smoke", action="store_true", help=smoke)
    return parser


@contextmanager
def said() -> Iterator[None]:
    """End with a failed run's words, without a traceback, and exit code 1, where one fails in a block."""
    try:
        yield
    except RunFailedError as error:
        sys.exit(str(error))


def train(path: Path, options: list[str], samples: int, every: int | str) -> list[dict]:
    """Begin a run, or go on with it, up to so many samples; its metrics up to there.

    Arguments:
        path: Folder of the run.
        options: Options of ``pyro-aevb train`` but for how far to train and how often to evaluate and save.
        samples: Number of samples up to which to train.
        every: Samples between two evaluations, and between two saves; or ``log``, for ever more between them.

    Raises:
        RunFailedError: If the run that is there was begun with other options.
    """
    check_options(path, options)
    known = path.exists()
    # A kill can leave metrics without their checkpoint.
    if not known or Folder(path).load()["samples_seen"] < samples:
        device = [option for option in options if option.startswith("--device=")]
        begin = [f"--resume={path}", *device] if known else [f"--out={path}", *options]
        call("train", *begin, f"--samples={samples}", f"--evaluate_every={every}", f"--save_every={every}")
    return [m for m in Folder(path).metrics() if m["samples_seen"] <= samples]


def check_options(path: Path, options: list[str]) -> None:
    """Keep a run's options beside it; refuse others, but of the device, which a run may change."""
    kept = path.parent / f"{path.name}.options.json"
    options = [option for option in options if not option.startswith("--device=")]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and kept.exists() and json.loads(kept.read_text()) != options:
        raise RunFailedError(f"{path} was begun with other options, those in {kept}: remove it or give --runs", 2)
    kept.write_text(json.dumps(options))


def call(*words: str) -> str:
    """What ``pyro-aevb`` printed, in a process of its own with one thread: two such do more than one with two."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "pyro_aevb", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RunFailedError(f"pyro-aevb {' '.join(words)}\n{done.stderr}", done.returncode)
    return done.stdout


def all_of(function: Callable[..., Any], cases: Iterable[tuple], jobs: int) -> list[Any]:
    """Call a function with each case, so many at once in threads; its results in the cases' order."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda case: function(*case), cases))


def all_kept(function: Callable[..., Any], keep: Callable[[Any], None], cases: Iterable[tuple], jobs: int) -> list[Any]:
    """Call a function as :func:`all_of` does; ``keep`` is called with each result as it comes, one at a time."""
    lock = threading.Lock()

    def run_and_keep(*case: object) -> object:
        found = function(*case)
        with lock:
            keep(found)
        return found

    return all_of(run_and_keep, cases, jobs)


def minutes_of(metrics: list[dict]) -> float:
    """Minutes of training, all sessions of a run together."""
    return round(sweeps.minutes_of(metrics), 1)
