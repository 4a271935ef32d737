"""The command line: the only place that prints and exits.

Exit codes: 0 for success, 1 where training met a loss that is not finite, 2 for input that cannot be used, 130 where
the user interrupted, 143 for SIGTERM, 129 for SIGHUP.

A command's module is imported when the command is asked for, so that usage and versions come without torch.
"""

import logging
import os
import pkgutil
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from pyro_aevb.cli.stopping import Stopped, stopping
from pyro_aevb.errors import DivergenceWarning, InputError, NonFiniteLossError, TrackerWarning, did_you_mean

__all__ = ["main"]

COMMANDS = {
    "train": ("train:train", "train a model and its guide, and keep the run in a folder"),
    "sweep": ("sweep:sweep", "train over several values of options and seeds, resumable, with a table as it goes"),
    "evaluate": ("evaluate:evaluate", "the bound and its parts, the log-likelihood, active units of a saved run"),
    "compare": (
        "compare:compare",
        "gradients of several estimators on a saved run: bias, variance, signal-to-noise, time",
    ),
    "report": ("report:report", "several runs side by side, in a page and a table: errors over data and over seeds"),
    "diagnose": ("diagnose:diagnose", "KL by latent dimension, aggregate posterior, gaps, collapse of a saved run"),
    "encode": ("outputs:encode", "q(z|x) of each datum of a run or of new data, in a table"),
    "reconstruct": ("outputs:reconstruct", "what a saved run's model makes of each datum"),
    "impute": ("outputs:impute", "fill gaps of data by what was observed"),
    "sample": ("pictures:sample", "draw from a saved run's model"),
    "plot": ("pictures:plot", "draw all figures of a saved run"),
    "explore": ("explore:explore", "a page of saved runs to look at, drag and draw in, that opens from disk"),
    "export": ("export:export", "encoder and decoder as ONNX and safetensors, with a model card"),
    "list": (
        "listing:list_parts",
        "tables of all priors, likelihoods, guides, estimators, optimizers, networks, data",
    ),
}
"""Module and function of each command, and what it does."""

DISTRIBUTIONS = {"pyro": "pyro-ppl", "pyro_aevb": "pyro_aevb", "torch": "torch"}
"""What ``--version`` tells of, and the name under which each is installed."""

LARGE = {
    "train": "--hidden, --latent_dim or --batch_size",
    "sweep": "--hidden, --latent_dim, --batch_size or --jobs",
    "report": "--count or --num_samples",
    "explore": "--count or --num_samples",
    "export": "--count or --num_samples",
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
        print(_versions())
        return 0
    logging.basicConfig(format="pyro-aevb: %(message)s")
    logging.getLogger("pyro_aevb").setLevel(logging.INFO)  # recordings, and why a step cannot be recorded
    with stopping():
        return _run(words[0], words[1:])


def _versions() -> str:
    from importlib import metadata  # as slow to import as all else of this file, so only where it is asked for

    found = []
    for name, distribution in DISTRIBUTIONS.items():
        with suppress(metadata.PackageNotFoundError):  # a copy of the sources, not installed
            found.append(f"{name} {metadata.version(distribution)}")
    return ", ".join(found)


def _run(command: str, arguments: Sequence[str]) -> int:
    try:
        if command not in COMMANDS:
            near = did_you_mean(command, COMMANDS)
            raise InputError(f"unknown command {command!r}{near or ':'} give one of {', '.join(COMMANDS)}")
        _call(command, arguments)
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
        question = f": is {LARGE[command]} too large?" if command in LARGE else ""
        return _fail(error, f"there is not enough memory{size}{question}", 2)
    except KeyboardInterrupt:
        print("pyro-aevb: interrupted", file=sys.stderr)
        return 130
    except Stopped as stop:
        print(f"pyro-aevb: {stop}", file=sys.stderr)
        return 128 + stop.number


def _call(command: str, arguments: Sequence[str]) -> None:
    """Import what a command needs, which takes seconds, and call it."""
    from pyro_aevb.cli import listing
    from pyro_aevb.runs.trust import importable, modules_typed

    # All imports come first: what a library only tries to import must not be found in the current folder.
    function = pkgutil.resolve_name(f"{__name__}.{COMMANDS[command][0]}")
    pictures = nullcontext() if command == "list" else _as_matplotlib_comes()
    with importable(modules_typed([command, *arguments])), pictures, _warnings_in_one_line():
        if command == "list" and {"-h", "--help"} & set(arguments):
            print(f"usage: pyro-aevb list [FAMILY ...]\n\nFamilies: {', '.join(listing.families())}; by default all.")
        elif not (command == "train" and listing.help_of_part(arguments)):
            function(arguments)


def _as_matplotlib_comes() -> AbstractContextManager[None]:
    """Draw as it does: a matplotlibrc in the current folder may be a stranger's, and a setting of it runs TeX."""
    import matplotlib  # where nothing is drawn, a tenth of a second for nothing

    plain = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    return matplotlib.rc_context(plain)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print our own warnings as one line each on standard error, without the place in our code."""
    from pyro_aevb.runs.origin import VersionsWarning

    own_warnings = (VersionsWarning, DivergenceWarning, TrackerWarning)
    show: Callable[..., None] = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        """What ``warnings`` calls to show one; all others are shown as they were."""
        if issubclass(category, own_warnings):
            print(f"pyro-aevb: warning: {message}", file=sys.stderr)
        else:
            show(message, category, *place, **more)

    with warnings.catch_warnings():
        for own in own_warnings:
            warnings.simplefilter("always", own)
        warnings.showwarning = shown
        yield


def _words_of(error: OSError) -> str:
    """What the system refused, and at which path, without its number."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there."""
    import torch

    from pyro_aevb.torch_internals import is_failed_allocation

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_failed_allocation(error)


def _fail(error: BaseException, message: str, code: int) -> int:
    if os.environ.get("PYRO_AEVB_DEBUG"):
        traceback.print_exception(error)
    print(f"pyro-aevb: {' '.join(message.split())}", file=sys.stderr)
    return code
