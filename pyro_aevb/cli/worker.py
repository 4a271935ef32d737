"""A process of a sweep, which trains one run after another: what :mod:`~pyro_aevb.cli.side_by_side` starts.

Each line that it reads is a run's options, and each that it writes says how far the run is, both in JSON.
"""

import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from pyro_aevb.cli.stopping import Stopped, stopping
from pyro_aevb.errors import InputError, NonFiniteLossError, in_one_line
from pyro_aevb.runs.entry import RaisingParser, opened
from pyro_aevb.runs.options import parser
from pyro_aevb.runs.trust import importable, modules_typed
from pyro_aevb.training.progress import Progress

__all__ = ["main"]

EVERY = 0.2  # seconds between two reports that are told

Say = Callable[..., None]


def main() -> None:
    """Train what is read from standard input, until it ends, a run fails or somebody stops it."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere

    def say(state: str, **more: Any) -> None:
        """Tell the sweep."""
        print(json.dumps({"state": state, **more}), file=told, flush=True)

    with suppress(BrokenPipeError), stopping():  # of a command that is gone: the run was saved at its last report
        _serve(sys.stdin, say)


def _serve(orders: TextIO, say: Say) -> None:
    try:
        say("ready")
        for line in orders:
            words = json.loads(line)
            _as_the_command_line_tells(words["name"])
            say(_train(words["arguments"], say))
    except (KeyboardInterrupt, Stopped):
        say("stopped")
    except (InputError, NonFiniteLossError, OSError) as error:
        _show(error)
        say("failed", message=in_one_line(error))
    except Exception as error:  # of a part of the user's own, say: the other runs go on
        _show(error)
        say("failed", message=f"{type(error).__name__}: {in_one_line(error)}")


def _train(arguments: Sequence[str], say: Say) -> str:
    last = 0.0

    def tell(progress: Progress, state: str = "running") -> None:
        """Say how far the training is, but not all the time."""
        nonlocal last
        if (now := time.monotonic()) - last >= EVERY:
            last = now
            say(state, samples=progress.samples_seen, bound=progress.bound)

    def tell_of_trial(step_size: float, progress: Progress) -> None:
        """Say how far a trial of a step size is."""
        tell(progress, f"step size {step_size:g}")

    with (
        importable(modules_typed(arguments)),
        opened(parser(RaisingParser), arguments, None, tell_of_trial) as training,
    ):
        training.go_on(tell)
    return "done"


def _as_the_command_line_tells(name: str) -> None:
    """Warnings and what is logged, in one line each, behind the run's name."""
    logging.basicConfig(format=f"{name}: %(message)s", force=True)

    def shown(message: Warning | str, *place: Any, **more: Any) -> None:
        """What ``warnings`` calls to show one."""
        print(f"{name}: warning: {message}", file=sys.stderr)

    warnings.showwarning = shown


def _show(error: BaseException) -> None:
    if os.environ.get("PYRO_AEVB_DEBUG"):
        traceback.print_exception(error)
