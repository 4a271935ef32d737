"""``aevb.train``: the same bytes as the command line, a call at each report, errors in place of an exit."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import pyro_aevb as aevb
from pyro_aevb.runs.entry import train, words_of
from pyro_aevb.runs.folder import Folder

SMALL = {"hidden": [8], "latent_dim": 2, "samples": 400, "report_every": 100}
TYPED = ["--hidden=[8]", "--latent_dim=2", "--samples=400", "--report_every=100"]


class EnoughError(Exception):
    pass


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def without_seconds(path):
    return [{key: value for key, value in each.items() if key != "seconds"} for each in Folder(path).metrics()]


def assert_same_training(one, other):
    """The same to the last bit, in files that may be written differently, as those of a run that was gone on with."""
    configs = [yaml.safe_load((Path(each) / "config.yaml").read_text()) for each in (one, other)]
    assert configs[0] == configs[1]
    for name in ("last", "best"):
        states = [Folder(each).load(name) for each in (one, other)]
        digests = [(state.pop("trainer")["digest"], state.pop("digest", None))[0] for state in states]
        assert digests[0] == digests[1], name
        assert states[0] == states[1], name
    assert without_seconds(one) == without_seconds(other)


def assert_same_run(one, other):
    """The same files byte for byte, but for the seconds in the metrics."""
    for name in ("config.yaml", "last.pt", "best.pt"):
        assert (Path(one) / name).read_bytes() == (Path(other) / name).read_bytes(), name
    assert without_seconds(one) == without_seconds(other)


@pytest.mark.parametrize(
    ("options", "typed"),
    [
        ({}, []),
        (
            {"prior": {"class_path": "GaussianMixture", "init_args": {"components": 3}}, "seed": np.int64(2)},
            ["--prior=GaussianMixture", "--prior.components=3", "--seed=2"],
        ),
        (
            {"prior": "laplace", "optimizer": "Adam", "optimizer.lr": 0.003, "early_stopping": 1, "held_out": 0.2},
            ["--prior=Laplace", "--optimizer=Adam", "--optimizer.lr=0.003", "--early_stopping=1", "--held_out=0.2"],
        ),
    ],
)
def test_the_same_bytes_as_from_the_command_line(cli, options, typed):
    reports = []
    run = train(out="function", on_report=reports.append, **SMALL, **options)
    assert cli("train", *TYPED, *typed, "--out=typed")[0] == 0
    assert_same_run("function", "typed")
    assert [each.samples_seen for each in reports] == [100, 200, 300, 400]
    assert [each.bound for each in reports] == [each["bound"] for each in run.metrics if "bound" in each]
    assert (run.samples_seen, run.path) == (400, Path("function"))


def test_a_configuration_with_something_else():
    first = train(out="first", prior="Laplace", **SMALL)
    train(first.config, out="again", seed=0)
    other = train("first/config.yaml", out="other", seed=1)
    assert_same_run("first", "again")
    assert other.config.prior == first.config.prior
    assert other.metrics != first.metrics


def test_going_on():
    whole = train(out="whole", **SMALL)
    train(out="parts", **{**SMALL, "samples": 200})
    parts = train(resume="parts", samples=400)
    assert parts.samples_seen == 400
    assert Folder("parts").load()["trainer"]["digest"] == Folder("whole").load()["trainer"]["digest"]
    assert [r["bound"] for r in parts.metrics if "bound" in r] == [r["bound"] for r in whole.metrics if "bound" in r]


@pytest.mark.parametrize("kind", [EnoughError, KeyboardInterrupt])
def test_a_call_that_raises_ends_the_training_and_loses_nothing(kind):
    def look(progress):
        if progress.samples_seen >= 200:
            raise kind("that will do")

    with pytest.raises(kind, match="that will do") as caught:
        train(out="run", on_report=look, save_every=1000, **SMALL)
    assert caught.value.__notes__ == ["200 samples are saved, go on with: pyro-aevb train --resume run"]
    assert Folder("run").load()["samples_seen"] == 200
    train(resume="run")
    train(out="whole", save_every=1000, **SMALL)
    assert_same_training("run", "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": "two"}, "--latent_dim must be a whole number, not 'two'"),
        ({"latent": 2}, "unknown option --latent"),
        ({"prior": "Laplas"}, "unknown prior 'Laplas': did you mean Laplace"),
        ({"prior": object()}, "prior must be a number, text, or a list or mapping"),
        ({"prior.scale": 2}, "StandardNormal has no option 'scale'"),
        ({"seeds": "0-3"}, "seeds is not for this function"),
        ({"on_report": 3}, "on_report must be a function"),
        ({"out": "there"}, "there exists already"),
        ({"resume": "there"}, "no run at there"),
        ({"config": "there/none.yaml"}, "does not exist"),
    ],
)
def test_what_does_not_fit_is_an_error(options, message):
    Path("there").mkdir()
    with pytest.raises(aevb.InputError, match=message):
        train(**{**({} if "resume" in options else {"samples": 100, "out": "run"}), **options})
    assert not Path("run").exists()


def test_options_as_words():
    assert words_of({"hidden": [50, 20], "early_stopping": None, "missing": True}) == [
        "--hidden=[50, 20]",
        "--early_stopping=null",
        "--missing",
    ]
    assert words_of({"samples": 1e6, "condition": "a,b", "missing": False}) == [
        "--samples=1000000.0",
        "--condition=a,b",
    ]
    nested = {
        "guide": {"class_path": "Flow", "init_args": {"network": {"class_path": "MLP", "init_args": {"hidden": 3}}}}
    }
    assert words_of(nested) == ["--guide=Flow", "--guide.network=MLP", "--guide.network.hidden=3"]


def test_test_points_are_spread_over_the_curve_unless_said_otherwise(cli):
    """1, 2, ..., 9 times each power of ten, and at the end."""
    run = train(out="run", **{**SMALL, "samples": 2500})
    expected = [*range(100, 1000, 100), 1000, 2000, 2500]
    assert [each["samples_seen"] for each in run.metrics if "test_bound" in each] == expected
    assert yaml.safe_load(Path("run/config.yaml").read_text())["evaluate_every"] == "log"
    shutil.rmtree("run")
    every = train(out="run", evaluate_every=1000, **{**SMALL, "samples": 2500})
    assert [each["samples_seen"] for each in every.metrics if "test_bound" in each] == [1000, 2000, 2500]
