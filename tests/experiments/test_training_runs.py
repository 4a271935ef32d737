"""Runs of experiments: gone on with, never mixed up, and interrupted at any moment."""

import importlib
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.fork_server import python

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"


def test_runs_begun_with_other_options_are_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.setattr(sys, "executable", python())
    runs = importlib.import_module("shared.training_runs")
    options = ["--data=digits", "--latent_dim=2", "--hidden=4", "--report_every=200"]
    metrics = runs.train(tmp_path / "run", options, 400, 200)
    assert [m["samples_seen"] for m in metrics if "test_bound" in m] == [200, 400]
    (tmp_path / "run" / "metrics.jsonl").write_text('{"samples_seen": 600, "bound": -1.0}\n')  # a kill before the save
    assert [m["samples_seen"] for m in runs.train(tmp_path / "run", options, 600, 200) if "test_bound" in m] == [600]
    assert all(m["samples_seen"] <= 400 for m in runs.train(tmp_path / "run", options, 400, 200))
    with pytest.raises(runs.RunFailedError, match="other options") as refused:
        runs.train(tmp_path / "run", [*options, "--seed=1"], 800, 200)
    assert refused.value.code == 2


def test_a_run_goes_on_on_another_device(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    runs = importlib.import_module("shared.training_runs")
    (tmp_path / "run").mkdir()
    runs.check_options(tmp_path / "run", ["--seed=0", "--device=cpu"])
    runs.check_options(tmp_path / "run", ["--seed=0", "--device=cuda"])
    with pytest.raises(SystemExit, match="other options"), runs.said():
        runs.check_options(tmp_path / "run", ["--seed=1", "--device=cpu"])
    assert str(pickle.loads(pickle.dumps(runs.RunFailedError("words", 2)))) == "words"  # out of a process pool


def test_appendix_f_refuses_runs_of_other_settings(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    appendix_f = importlib.import_module("appendix_f")
    data = SimpleNamespace(train=torch.zeros(2, 4), test=torch.zeros(2, 4))
    monkeypatch.setattr(appendix_f.aevb.data, "load", lambda *_, **__: data)
    monkeypatch.setattr(appendix_f, "make", lambda *_: None)
    torch.save(({"settings": ["other"], "rows": []}, {}), tmp_path / "1000-VB-0-1000.pt")
    with (
        pytest.raises(SystemExit, match="begun with other settings"),
        importlib.import_module("shared.training_runs").said(),
    ):
        appendix_f.run_curve(tmp_path, "VB", 1000, 0, 1000, "cpu")


def test_a_resumed_run_is_told_its_device_and_cells_are_means_over_seeds(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    runs, wake_sleep, called = (
        importlib.import_module("shared.training_runs"),
        importlib.import_module("wake_sleep"),
        [],
    )
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(runs, "call", lambda *words: called.extend(words))
    known = type("Known", (), {"load": lambda self: {"samples_seen": 1}, "metrics": lambda self: []})
    monkeypatch.setattr(runs, "Folder", lambda path: known())
    runs.train(tmp_path / "run", ["--seed=0", "--device=cuda"], 10, 5)
    assert "--device=cuda" in called
    assert "--seed=0" not in called
    assert wake_sleep.cell([{"test_bound": 560.0}, {"test_bound": 580.0}]) == "570"
    assert wake_sleep.cell([{"test_bound": 560.0}, {"test_bound": None}]) == ""


@pytest.mark.parametrize("name", ["choices", "wake_sleep"])
def test_a_shorter_run_after_a_longer_one_has_its_own_length(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    script, known = importlib.import_module(name), {}

    def train(path, options, samples, every):
        """Evaluates as the command line does, and a run that is there goes on."""
        if max(known.setdefault(path, [0])) < samples:
            known[path] += range(max(known[path]) + every, samples + 1, every)
        return [
            {"samples_seen": n, "test_bound": -1.0, "test_se": 0.1, "seconds": 1.0}
            for n in known[path]
            if 0 < n <= samples
        ]

    monkeypatch.setattr(script, "train", train)
    case = script.cases(1)[0]
    assert [script.run(tmp_path, case, samples, "cpu")["samples"] for samples in (1000, 100)] == [1000, 100]
