"""What a training says while it runs, and where it is interrupted."""

import io
import os
import shlex
import signal
from pathlib import Path

import pytest

from pyro_aevb.cli.progress import EVERY, Shown
from pyro_aevb.engines import eager
from pyro_aevb.runs.folder import Folder
from pyro_aevb.training.progress import Progress
from tests.commands import SMALL, train

PART = "from pyro_aevb.priors import StandardNormal\n\n\nclass Own(StandardNormal):\n    '''Like its base.'''\n"


def said(times, target=1_000_000, seen=0):
    """Lines of reports at these seconds, of 10,000 data each."""
    now, file = [0.0], io.StringIO()
    with Shown(seen, target, lambda: now[0], file) as shown:
        for i, moment in enumerate(times):
            now[0] = moment
            shown.report(Progress(seen + 10_000 * (i + 1), -98.214))
    return file.getvalue().splitlines()


def test_off_a_terminal_a_line_every_so_often():
    assert said([1, EVERY - 1]) == []
    assert said([10, 20, 31, 40, 60, 61]) == [
        "pyro-aevb: 30,000 of 1,000,000 samples, bound -98.21 nats per datum, 16 min 42 s left",
        "pyro-aevb: 60,000 of 1,000,000 samples, bound -98.21 nats per datum, 15 min 56 s left",
    ]
    assert said([100], seen=500_000, target=1_000_000)[0].endswith("1 h 21 min left")
    assert said([40, 80], target=20_000) == [
        "pyro-aevb: 10,000 of 20,000 samples, bound -98.21 nats per datum, 40 s left"
    ]


def test_on_a_terminal_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    with Shown(0, 100, file=file) as shown:
        shown.report(Progress(50, -3.0))
        assert shown._bar.postfix == "bound -3.00 nats per datum"
    assert "0/100" in file.getvalue()
    assert "pyro-aevb:" not in file.getvalue()


def test_compiling_is_told_before_the_wait(cli, caplog):
    train(cli, "--engine=captured", "--samples=200")
    told = [r.getMessage().split()[0] for r in caplog.records if r.getMessage().startswith(("compiling", "recorded"))]
    assert told[:2] == ["compiling", "recorded"]


def test_a_finite_divergence_is_one_line(cli):
    code, _, errors = cli("train", *SMALL, "--out=run", "--optimizer=Adam", "--optimizer.lr=1000", "--engine=eager")
    assert code == 0
    (line,) = errors.splitlines()
    assert line.startswith("pyro-aevb: warning: training may diverge though it stays finite: -")


@pytest.mark.parametrize("own", [False, True])
def test_ctrl_c_prints_the_command_that_goes_on(own, cli, monkeypatch):
    Path("my_parts.py").write_text(PART)
    words = [*SMALL, "--engine=eager", "--out=runs/a b", *(["--prior=my_parts.Own"] if own else [])]
    original, taken = eager.EagerGradients.__call__, []

    def then_stop(self, visit):
        taken.append(visit)
        if len(taken) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, visit)

    monkeypatch.setattr(eager.EagerGradients, "__call__", then_stop)
    code, _, errors = cli("train", *words)
    assert code == 130
    command = shlex.split(errors.split("go on with: ")[1])
    assert command == ["pyro-aevb", "train", "--resume", "runs/a b", *(["--trust", "my_parts"] if own else [])]
    code, printed, errors = cli(*command[1:])
    assert code == 0, errors
    assert "400 samples" in printed
    assert Folder("runs/a b").load()["samples_seen"] == 400
