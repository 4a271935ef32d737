"""``--optimizer.lr auto``: the step size of the highest training bound, and then the very run that it alone gives."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pyro_aevb.errors import InputError, NonFiniteLossError
from pyro_aevb.runs import step_sizes
from pyro_aevb.runs.entry import train
from pyro_aevb.runs.folder import Folder
from pyro_aevb.runs.options import parser
from pyro_aevb.runs.step_sizes import read_trials
from tests.runs.test_train import SMALL, assert_same_training


@pytest.fixture(autouse=True)
def _short_trials(tmp_path, monkeypatch):
    """Trials of 600 of the 1,200 samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step_sizes, "FIRST", 600)


def chosen(out="run", typed="auto", **options):
    return train(out=out, **{**SMALL, "samples": 1200, "save_every": 1000, "optimizer.lr": typed, **options})


def alone(step_size, samples=1200, out=None, **options):
    name = out or f"alone-{step_size}-{samples}"
    return train(out=name, **{**SMALL, "samples": samples, "save_every": 1000, "optimizer.lr": step_size, **options})


def last_third(run, first):
    """The criterion, written out once more: the mean of the reports after two thirds of the samples."""
    bounds = [
        each["bound"] for each in run.metrics if "bound" in each and 2 * first / 3 < each["samples_seen"] <= first
    ]
    return math.fsum(bounds) / len(bounds)


def test_the_paper_s_three_and_then_the_best_run_itself():
    run = chosen()
    trials = read_trials("run")
    assert [each.step_size for each in trials] == [0.01, 0.02, 0.1]
    whole = {each.step_size: alone(each.step_size) for each in trials}
    for trial in trials:
        assert trial.bound == pytest.approx(last_third(whole[trial.step_size], 600), rel=1e-12)
        assert trial.reports[-1][0] == 600
    best = max(trials, key=lambda each: each.bound).step_size
    assert run.config.optimizer.init_args["lr"] == best
    assert_same_training("run", f"alone-{best}-1200")
    assert json.loads(Path("run/step_sizes.json").read_text())["step_size"] == best
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_a_short_run_is_its_own_trial():
    run = chosen(typed="auto[0.001,0.05]", samples=400)
    assert [each.step_size for each in read_trials("run")] == [0.001, 0.05]
    assert run.config.optimizer.init_args["lr"] == 0.05
    alone(0.05, 400)
    assert_same_training("run", "alone-0.05-400")


@pytest.mark.parametrize(
    ("optimizer", "expected"), [("Adam", [0.0005, 0.001, 0.005]), ("RMSprop", [0.005, 0.01, 0.05])]
)
def test_other_optimizers_around_their_own_step_size(optimizer, expected):
    chosen(optimizer=optimizer, samples=100)
    assert [each.step_size for each in read_trials("run")] == expected


@pytest.mark.parametrize(
    ("options", "message"),  # met by the step after a report, or between two
    [({"report_every": 100}, "after 100 samples the model cannot be run"), ({"report_every": 200}, "nan at step 2")],
)
def test_a_loss_that_is_not_finite_is_not_chosen(options, message):
    run = chosen(optimizer="SGD", **{"optimizer.lr": "auto[1e30,1e-5]", **options})
    trials = read_trials("run")
    assert trials[0].bound is None
    assert message in trials[0].failed
    assert run.config.optimizer.init_args["lr"] == 1e-5


def test_where_none_is_finite_the_error_names_them():
    with pytest.raises(NonFiniteLossError, match=r"step sizes 1e\+30, 1e\+31: give others"):
        chosen(optimizer="SGD", **{"optimizer.lr": "auto[1e30,1e31]"})
    assert not Path("run").exists()


def test_a_tracker_of_the_trials_and_an_interruption(monkeypatch):
    seen = []

    def stop(step_size, progress):
        seen.append((step_size, progress.samples_seen))
        if seen[-1] == (0.02, 300):
            raise KeyboardInterrupt

    words = ["--hidden=[8]", "--latent_dim=2", "--samples=1200", "--report_every=100", "--save_every=1000"]
    words += ["--optimizer.lr=auto", "--out=run"]
    with pytest.raises(KeyboardInterrupt) as caught:
        step_sizes.choose(parser(), words, None, stop)
    assert caught.value.__notes__ == ["the trials of step sizes are saved, go on with the same command"]
    assert not Path("run").exists()
    assert seen[:7] == [(0.01, each) for each in range(100, 700, 100)] + [(0.02, 100)]
    seen.clear()
    step_sizes.choose(parser(), words, None, lambda size, progress: seen.append((size, progress.samples_seen)))
    assert seen[:3] == [(0.02, 400), (0.02, 500), (0.02, 600)]
    assert Folder("run").load()["samples_seen"] == 600  # where the trial ended, and nothing is trained twice
    train(resume="run")
    chosen("whole")
    assert_same_training("run", "whole")
    assert read_trials("run") == read_trials("whole")


def test_a_kill_between_choice_and_move(monkeypatch):
    """The choice stands in the chosen trial's folder, so that the next process has only to move it."""

    def killed(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(step_sizes, "os", SimpleNamespace(rename=killed))
        with pytest.raises(KeyboardInterrupt):
            chosen()
    left = list(Path(".run.step_sizes").iterdir())
    assert len(left) == 1
    chosen()
    chosen("whole")
    assert_same_training("run", "whole")


def test_trials_of_other_options_are_not_taken():
    def stop(step_size, progress):
        raise KeyboardInterrupt

    words = ["--hidden=[8]", "--samples=1200", "--report_every=100", "--optimizer.lr=auto", "--out=run"]
    with pytest.raises(KeyboardInterrupt):
        step_sizes.choose(parser(), [*words, "--latent_dim=3"], None, stop)
    with pytest.raises(InputError, match="has trials with another --latent_dim: remove it, or give another --out"):
        step_sizes.choose(parser(), [*words, "--latent_dim=2"])
    shutil.rmtree(".run.step_sizes")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("auto[]", "give positive numbers"),
        ("auto[0.1,x]", "give positive numbers"),
        ("auto[0.1,0.1]", "each once"),
        ("auto[-1]", "give positive numbers"),
        ("automatic", "--optimizer.lr"),
    ],
)
def test_what_is_no_choice_is_refused(typed, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        chosen(typed=typed)
    assert not list(Path().iterdir())


def test_on_the_command_line(cli):
    words = ["--hidden=[8]", "--latent_dim=2", "--samples=400", "--report_every=100", "--out=run"]
    code, printed, errors = cli("train", *words, "--optimizer.lr=auto[0.01,0.1]")
    assert code == 0, errors
    assert "400 samples" in printed
    assert yaml.safe_load(Path("run/config.yaml").read_text())["optimizer"]["init_args"]["lr"] in (0.01, 0.1)
    code, _, errors = cli("train", *words, "--optimizer.lr=auto")
    assert code == 2
    assert "run exists already" in errors


def test_trials_of_a_run_without_any():
    alone(0.01, 100, out="run")
    with pytest.raises(InputError, match="was not chosen by --optimizer"):
        read_trials("run")
    Path("run/step_sizes.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        read_trials("run")
    assert Folder("run").load()["samples_seen"] == 100
