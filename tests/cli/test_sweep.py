"""``pyro-aevb sweep`` and ``train --seeds``: each run is that of its seed alone, and no run is lost with another."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from pyro_aevb.cli import side_by_side
from pyro_aevb.cli.side_by_side import Order, Worker
from pyro_aevb.cli.sweep import table
from pyro_aevb.runs.entry import train
from pyro_aevb.runs.folder import Folder
from pyro_aevb.runs.grid import Point
from pyro_aevb.runs.sweeps import Row
from tests.runs.test_train import SMALL, TYPED, EnoughError, assert_same_run, assert_same_training

PARTS = """
import os
import signal
import pyro_aevb as aevb

class Killed(aevb.priors.StandardNormal):
    def __init__(self, latent_dim):
        os.kill(os.getpid(), signal.SIGKILL)

class Interrupting(aevb.priors.StandardNormal):
    "Interrupts the command, once, at its third step, and waits until the command has told this process to end."
    calls = 0

    def forward(self):
        Interrupting.calls += 1
        if Interrupting.calls == 30 and not os.path.exists("interrupted"):
            open("interrupted", "w").close()
            told, tell = os.pipe()
            os.set_blocking(tell, False)
            signal.set_wakeup_fd(tell)
            os.kill(os.getppid(), signal.SIGINT)
            os.read(told, 1)
            signal.set_wakeup_fd(-1)
        return super().forward()
"""


def rows(folder="runs"):
    with open(Path(folder) / "table.csv", newline="") as file:
        return {row.pop("run"): row for row in csv.DictReader(file)}


def stamps(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(folder).rglob("*") if path.is_file()}


def test_each_run_is_the_run_alone_and_is_left_alone_when_it_is_done(cli):
    """Several runs of a process one after another are as those of processes of their own."""
    words = ["sweep", "--prior=StandardNormal,GaussianMixture", "--prior.components=3", *TYPED, "--out=runs"]
    code, printed, errors = cli(*words, "--seeds=0-1", "--jobs=1")
    assert code == 0, errors
    assert "runs: 4 of 4 runs done" in printed
    found = rows()
    for seed in (0, 1):
        for varied in ({"prior": "StandardNormal"}, {"prior": "GaussianMixture", "prior.components": 3}):
            name = ",".join(f"{option}={value}" for option, value in [*varied.items(), ("seed", seed)])
            run = train(out=name, seed=seed, **varied, **SMALL)
            assert_same_run(f"runs/{name}", name)
            assert found[name]["state"] == "done"
            assert float(found[name]["bound"]) == pytest.approx(run.metrics[-2]["bound"], abs=1e-4)
            assert float(found[name]["test_bound"]) == pytest.approx(run.metrics[-1]["test_bound"], abs=1e-4)
            assert float(found[name]["test_se"]) == pytest.approx(run.metrics[-1]["test_se"], abs=1e-4)
            assert name in printed
    before = {name: stamps(Path("runs") / name) for name in found}
    again = "prior=GaussianMixture,prior.components=3,seed=1"
    shutil.rmtree(f"runs/{again}")
    code, printed, errors = cli(*words, "--seeds=0-2", "--jobs=2")
    assert code == 0, errors
    assert "6 of 6 runs done" in printed
    assert_same_run(
        "runs/prior=GaussianMixture,prior.components=3,seed=1", "prior=GaussianMixture,prior.components=3,seed=1"
    )
    del before["prior=GaussianMixture,prior.components=3,seed=1"]
    assert before == {name: stamps(Path("runs") / name) for name in before}
    assert len(rows()) == 6


def test_seeds_of_train_and_an_unfinished_run(cli):
    words = ["train", *TYPED, "--columns=a,b", "--out=runs"]
    assert "columns" in cli(*words, "--seeds=0-1")[2]
    assert not Path("runs").exists()
    words = ["train", *TYPED, "--out=runs", "--seeds=0,3"]
    code, printed, errors = cli(*words)
    assert code == 0, errors
    assert "seed=3" in printed

    def stop(progress):
        raise EnoughError

    shutil.move("runs/seed=3", "whole")
    with pytest.raises(EnoughError):
        train(out="runs/seed=3", seed=3, on_report=stop, **SMALL)
    assert Folder("runs/seed=3").load()["samples_seen"] == 100
    assert cli(*words)[0] == 0
    assert_same_training("runs/seed=3", "whole")


def test_one_that_fails_and_one_that_is_killed_lose_no_other(cli, monkeypatch):
    Path("sweep_parts.py").write_text(PARTS)
    words = [*TYPED, "--report_every=200", "--out=runs", "--jobs=1", "--optimizer=SGD"]
    code, printed, errors = cli(
        "sweep", "--prior=sweep_parts.Killed,StandardNormal", "--optimizer.lr=1e30,1e-5", *words
    )
    assert code == 1
    found = rows()
    states = {name: row["state"] for name, row in found.items()}
    good = [name for name, state in states.items() if state == "done"]
    assert len(good) == 1
    assert "prior=StandardNormal" in good[0]
    assert "optimizer.lr=1e-05" in good[0]
    assert sum("SIGKILL" in row["message"] for row in found.values()) == 2
    assert sum("nan at step 2" in row["message"] for row in found.values()) == 1
    assert "3 of 4 runs failed; to try these again: pyro-aevb sweep" in errors
    assert "its process was ended by SIGKILL" in errors
    assert "1 of 4 runs done, 3 failed" in printed
    assert len(Folder(Path("runs") / good[0]).metrics()) == 4  # two reports, each with a test bound


def test_an_interruption_saves_all_and_the_same_command_goes_on(cli):
    Path("sweep_parts.py").write_text(PARTS)
    words = ["sweep", "--prior=sweep_parts.Interrupting", "--seeds=0-1", *TYPED, "--out=runs", "--jobs=1"]
    words += ["--engine=eager", "--batch_size=10"]
    code, printed, errors = cli(*words)
    assert code == 130, errors
    assert Path("interrupted").exists()
    assert "pyro-aevb: interrupted: 0 of 2 runs done, 1 stopped, 1 waiting, go on with: pyro-aevb sweep" in errors
    assert not printed
    assert [row["state"] for row in rows().values()] == ["stopped", "waiting"]
    seen = Folder("runs/seed=0").load()["samples_seen"]
    assert 0 < seen < 400
    assert cli(*words)[0] == 0
    for seed in (0, 1):
        train(out=f"whole-{seed}", prior="sweep_parts.Interrupting", seed=seed, engine="eager", batch_size=10, **SMALL)
        assert_same_training(f"runs/seed={seed}", f"whole-{seed}")


def test_a_process_whose_command_is_gone_saves_its_run_and_ends(cli):
    worker = Worker(1)
    assert json.loads(worker.process.stdout.readline()) == {"state": "ready"}
    worker.process.stdout.close()
    worker.process.stdin.write(json.dumps(Order("run", [*TYPED, "--out=run"])._asdict()) + "\n")
    worker.process.stdin.flush()
    assert worker.process.wait() == 0
    assert Folder("run").load()["samples_seen"] == 100


def test_a_step_size_that_each_run_chooses(cli):
    code, _, errors = cli("sweep", *TYPED, "--out=runs", "--optimizer.lr=auto[0.01,0.1]", "--seeds=0")
    assert code == 0, errors
    train(out="alone", **{"optimizer.lr": "auto[0.01,0.1]"}, **SMALL)
    assert_same_training("runs/seed=0", "alone")
    assert Path("runs/seed=0/step_sizes.json").read_bytes() == Path("alone/step_sizes.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--prior=Laplace,Laplas"], "unknown prior 'Laplas': did you mean Laplace"),
        (["sweep", "--prior=StandardNormal,Laplace", "--prior.components=3"], "has no option 'components'"),
        (["sweep", "--latent_dim=2,x"], "--latent_dim must be a whole number, not 'x'"),
        (["sweep", "--latent_dm=2,3"], "unknown option --latent_dm: did you mean --latent_dim"),
        (["sweep", "--data=digits,none.csv"], "none.csv"),
        (["sweep", "--resume=there"], "--resume"),
        (["sweep", "--track=tensorboard"], "--track is for one run"),
        (["sweep", "--jobs=0"], "--jobs must be a whole number of at least 1"),
        (["sweep", "--seeds=1", "--seed=0,1"], "both given"),
        (["train", "--seeds=0-1", "--latent_dim=2,3"], "--latent_dim must be a whole number"),
        (["train", "--seeds=0-1", "--resume=there"], "--seeds and --resume are both given"),
        (["train", "--jobs=2"], "--jobs is for --seeds"),
        (["train", "--seeds"], "--seeds needs a value"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_trained(cli, words, message):
    code, printed, errors = cli(*words, "--samples=100", "--out=runs")
    assert code == 2
    assert not printed
    assert errors.count("\n") == 1, errors
    assert message in errors
    assert not Path("runs").exists()


def test_help_says_what_a_sweep_is(cli):
    code, printed, _ = cli("sweep", "--help")
    assert code == 0
    assert "for each combination of values" in printed
    assert "--seeds" in printed
    assert cli("sweep", "--prior.help", "Laplace")[1] == cli("train", "--prior.help", "Laplace")[1] != ""


def test_the_table_has_a_line_for_each_run():
    done = Row(Point("prior=Laplace,seed=0", {}, ()), "done", 400, -43.25, -42.5, 0.0625, 1.26)
    waiting = Row(Point("seed=1", {}, ()))
    assert table([done, waiting]).splitlines() == [
        "run                   state     samples    train     test  s.e.  minutes",
        "prior=Laplace,seed=0  done          400   -43.25   -42.50  0.06      1.3",
        "seed=1                waiting         0                              0.0",
    ]


def test_a_process_has_the_threads_of_the_sweep(monkeypatch):
    told = "print(json.dumps({'state': 'done', 'threads': os.environ['OMP_NUM_THREADS']}))"
    monkeypatch.setattr(side_by_side, "PROGRAM", f"import json, os; {told}")
    worker = Worker(3)
    assert list(worker.train(Order("run", []))) == [{"state": "done", "threads": "3"}]
    worker.end()


def test_as_many_threads_as_processors_allow(monkeypatch):
    from pyro_aevb.cli import sweep

    monkeypatch.setattr(sweep, "processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [sweep._threads(8, count) for count in (1, 3, 8, 100)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert sweep._threads(8, 100) == 3
    assert os.environ["OMP_NUM_THREADS"] == "3"
