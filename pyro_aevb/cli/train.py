"""``pyro-aevb train``: from options to a run on disk, or with ``--seeds`` to several."""

import signal
import sys
from collections.abc import Sequence

from pyro_aevb.cli.progress import Shown
from pyro_aevb.cli.stopping import Stopped
from pyro_aevb.cli.tracking import tracked, tracking
from pyro_aevb.errors import InputError
from pyro_aevb.runs.begin import value_of
from pyro_aevb.runs.entry import opened
from pyro_aevb.runs.options import parser
from pyro_aevb.runs.training import Training

__all__ = ["train"]


def train(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb train``.

    Raises:
        InputError: If an option does not fit.
        NonFiniteLossError: If a loss is NaN or infinite; the last good checkpoint stays.
    """
    track = tracked(arguments)
    if value_of("seeds", arguments) is not None:
        from pyro_aevb.cli.sweep import train_seeds

        train_seeds(arguments)
        return
    if value_of("jobs", arguments) is not None:
        raise InputError("--jobs is for --seeds, which is not given: add it, or leave both out")
    try:
        with opened(parser(), arguments) as training, tracking(track, training) as tell:
            if training.told:
                print(training.told, file=sys.stderr)
            with Shown(training.samples_seen, training.target) as shown:
                training.go_on(lambda progress: [each(progress) for each in (shown.report, tell)])
            _print_summary(training)
    except (KeyboardInterrupt, Stopped) as stop:
        if not (kept := getattr(stop, "__notes__", [])):
            raise
        raise Stopped(getattr(stop, "number", signal.SIGINT), kept[-1]) from stop


def _print_summary(training: Training) -> None:
    config = training.config
    records = training.folder.metrics()
    since = (training.samples_seen - 1) % config.report_every + 1  # the last report may come early, at the end
    train = [f"{r['bound']:.2f} on train (last {since:,} samples)" for r in records if "bound" in r]
    test = [f"{r['test_bound']:.2f} ± {r['test_se']:.2f} on test" for r in records if "test_bound" in r]
    print(
        f"{training.folder.path}: {training.samples_seen:,} samples of {training.data.name} "
        f"(binarize={training.data.binarize}), "
        f"nats per datum: bound {', '.join([*train[-1:], *test[-1:]]) or 'not yet known'}"
        f"{' with averaged weights' if config.averaging is not None and test else ''}"
    )
    held = [r for r in records if "held_out_bound" in r]
    if (early := training.early) is not None and held:
        best = max(held, key=lambda r: float(r["held_out_bound"]))
        how = f"stopped early, after {early.waited} reports without a better one" if early.stopped else "not stopped"
        print(
            f"{how}: {best['held_out_bound']:.2f} on held-out data at {best['samples_seen']:,} samples, which "
            "--checkpoint best opens"
        )
