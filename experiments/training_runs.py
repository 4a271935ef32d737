"""Runs of this project's own command line, several at once, each on one core; interrupted, they are gone on with."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyro_aevb.checkpoints import Run


class RunFailedError(Exception):
    """The command line ended with an error: its words, and ``code``, 1 for a loss that is not finite."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code


def arguments(doc: str, name: str, samples: float, smoke: str) -> argparse.ArgumentParser:
    """What every figure takes.

    Arguments:
        doc: The script's docstring, of which the first line is shown.
        name: The script's; its runs are kept in the folder of that name.
        samples: By default.
        smoke: What ``--smoke`` does.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--samples", type=float, default=samples)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once, each on one core")
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="where runs are kept")
    parser.add_argument("--smoke", action="store_true", help=smoke)
    return parser


def train(path: Path, options: list[str], samples: int, every: int | str) -> list[dict]:
    """Begin a run, or go on with it, up to so many samples; its metrics up to there.

    Arguments:
        path: Of the run.
        options: The command line's, but how far and how often.
        samples: Up to which to train.
        every: Samples between two evaluations, and saves; or ``log``.

    Raises:
        RunFailedError: If the run that is there was begun with other options.
    """
    check_options(path, options)
    known = path.exists()
    if not known or Run(path).load()["samples_seen"] < samples:  # a kill can leave metrics without their checkpoint
        begin = [f"--resume={path}"] if known else [f"--out={path}", *options]
        call("train", *begin, f"--samples={samples}", f"--evaluate_every={every}", f"--save_every={every}")
    return [m for m in Run(path).metrics() if m["samples_seen"] <= samples]


def check_options(path: Path, options: list[str]) -> None:
    """Keep a run's options beside it; refuse others."""
    kept = path.parent / f"{path.name}.options.json"
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
    """A function of each case, so many at once; results in the cases' order."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda case: function(*case), cases))


def minutes_of(metrics: list[dict]) -> float:
    """Of training, all sessions of a run together: the clock in ``metrics.jsonl`` starts anew with each."""
    seconds = [m["seconds"] for m in metrics if "seconds" in m]
    sessions = (now for now, following in zip(seconds, [*seconds[1:], 0.0], strict=True) if following < now)
    return round(sum(sessions) / 60, 1)


def training_bound(metrics: list[dict], since: int = 0) -> float:
    """Mean of the training bounds reported after so many samples."""
    bounds = [m["bound"] for m in metrics if "bound" in m and m["samples_seen"] > since]
    return sum(bounds) / len(bounds)
