"""The command line: the only place that prints and exits.

Exit codes: 0 for success, 1 where training met a loss that is not finite, 2 for input that cannot be used, 130 where
the user interrupted, 143 for SIGTERM, 129 for SIGHUP.
"""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import torch

from pyro_aevb.cli import compare, diagnose, evaluate, listing, outputs, pictures, train
from pyro_aevb.cli.stopping import Stopped, stopping
from pyro_aevb.errors import DivergenceWarning, InputError, NonFiniteLossError, did_you_mean
from pyro_aevb.runs.origin import VersionsWarning, versions
from pyro_aevb.runs.trust import importable, modules_typed
from pyro_aevb.torch_internals import is_failed_allocation

__all__ = ["main"]

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "train": (train.train, "train a model and its guide, and keep the run in a folder"),
    "evaluate": (evaluate.evaluate, "the bound and its parts, the log-likelihood, active units of a saved run"),
    "compare": (
        compare.compare,
        "gradients of several estimators on a saved run: bias, variance, signal-to-noise, time",
    ),
    "diagnose": (diagnose.diagnose, "KL by latent dimension, aggregate posterior, gaps, collapse of a saved run"),
    "encode": (outputs.encode, "q(z|x) of each datum of a run or of new data, in a table"),
    "reconstruct": (outputs.reconstruct, "what a saved run's model makes of each datum"),
    "impute": (outputs.impute, "fill gaps of data by what was observed"),
    "sample": (pictures.sample, "draw from a saved run's model"),
    "plot": (pictures.plot, "draw all figures of a saved run"),
    "list": (listing.list_parts, "tables of all priors, likelihoods, guides, estimators, optimizers, networks, data"),
}

# As matplotlib comes: a matplotlibrc in the current folder may be a stranger's, and a setting of it runs TeX.
PICTURES = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}

OWN_WARNINGS = (VersionsWarning, DivergenceWarning)

LARGE = {
    "train": "--hidden, --latent_dim or --batch_size",
    "evaluate": "--chunk_size, --chains or --draws",
    "encode": "--draws",
    "impute": "--num_samples or --draws",
    "compare": "--batch_size or one of --particles",
    "diagnose": "--count",
    "sample": "--count",
    "plot": "--count or --side",
}
"""Options of each command that ask for memory."""

USAGE = "\n".join(
    [
        "usage: pyro-aevb COMMAND [options]",
        "",
        "Auto-Encoding Variational Bayes on Pyro and PyTorch.",
        "",
        *(f"  {name:<12}{summary}" for name, (_, summary) in COMMANDS.items()),
        "",
        "pyro-aevb COMMAND --help tells the options; pyro-aevb train --prior.help NAME (likewise --likelihood.help,",
        "--guide.help, --estimator.help, --optimizer.help, --scheduler.help) those of a part; pyro-aevb --version the",
        "versions. PYRO_AEVB_DEBUG=1 shows where an error arose.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``pyro-aevb``; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(", ".join(f"{name} {version}" for name, version in sorted(versions().items())))
        return 0
    logging.basicConfig(format="pyro-aevb: %(message)s")
    logging.getLogger("pyro_aevb").setLevel(logging.INFO)  # recordings, and why a step cannot be recorded
    with stopping(), importable(modules_typed(words)), matplotlib.rc_context(PICTURES), _warnings_in_one_line():
        return _run(words[0], words[1:])


def _run(command: str, arguments: Sequence[str]) -> int:
    try:
        if command not in COMMANDS:
            near = did_you_mean(command, COMMANDS)
            raise InputError(f"unknown command {command!r}{near or ':'} give one of {', '.join(COMMANDS)}")
        if command == "list" and {"-h", "--help"} & set(arguments):
            print(f"usage: pyro-aevb list [FAMILY ...]\n\nFamilies: {', '.join(listing.families())}; by default all.")
        elif not (command == "train" and listing.help_of_part(arguments)):
            COMMANDS[command][0](arguments)
        return 0
    except NonFiniteLossError as error:
        return _fail(error, f"{error}; the last good checkpoint is kept", 1)
    except InputError as error:
        return _fail(error, str(error), 2)
    except OSError as error:
        return _fail(error, _words_of(error), 2)
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        asked = re.search(r"allocate (\d+) bytes", str(error))
        size = f" for {int(asked[1]) / 1e9:,.1f} GB more" if asked else ""
        return _fail(error, f"there is not enough memory{size}: is {LARGE[command]} too large?", 2)
    except KeyboardInterrupt:
        print("pyro-aevb: interrupted", file=sys.stderr)
        return 130
    except Stopped as stop:
        print(f"pyro-aevb: {stop}", file=sys.stderr)
        return 128 + stop.number


def _words_of(error: OSError) -> str:
    """What the system refused, and at which path, without its number."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print our own warnings as one line each on standard error, without the place in our code."""
    show: Callable[..., None] = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        """What ``warnings`` calls to show one; all others are shown as they were."""
        if issubclass(category, OWN_WARNINGS):
            print(f"pyro-aevb: warning: {message}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    with warnings.catch_warnings():
        for own in OWN_WARNINGS:
            warnings.simplefilter("always", own)
        warnings.showwarning = shown
        yield


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_failed_allocation(error)


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("PYRO_AEVB_DEBUG"):
        traceback.print_exception(error)
    print(f"pyro-aevb: {' '.join(message.split())}", file=sys.stderr)
    return code
