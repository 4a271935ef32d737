"""A run on disk: nothing unpickled, nothing lost."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_aevb import InputError
from pyro_aevb.runs.folder import Folder, replaced

STATE = {"trainer": {"weights": torch.arange(3.0)}, "samples_seen": 10, "best_bound": -1.5}


@pytest.fixture
def run(tmp_path):
    return Folder.create(tmp_path / "run", "data: digits\n", STATE)


def test_a_run_has_what_the_readme_says(run):
    assert {p.name for p in run.path.iterdir()} == {"config.yaml", "metrics.jsonl", "last.pt", "figures"}
    loaded = run.load()
    torch.testing.assert_close({key: loaded[key] for key in STATE}, STATE)


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        Folder.create(tmp_path / "run", "", STATE)
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_a_failed_beginning_leaves_nothing(tmp_path):
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        Folder.create(tmp_path / "run", "", {"trainer": lambda: 0})
    assert not list(tmp_path.iterdir())


class Crafted:
    """What a malicious pickle does when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch ran-it",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_crafted_pickle_does_not_run(run, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write({"trainer": Crafted()}, run.path / "last.pt")
    with pytest.raises(InputError, match="damaged or no file of this package"):
        run.load()
    assert not (tmp_path / "ran-it").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_named(run, content):
    whole = (run.path / "last.pt").read_bytes()
    (run.path / "last.pt").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        run.load()


def test_a_foreign_file_of_tensors_is_named(run):
    torch.save({"state_dict": torch.zeros(3)}, run.path / "last.pt")
    with pytest.raises(InputError, match="no checkpoint of this package"):
        run.load()


def test_a_missing_run_or_checkpoint_is_named(run, tmp_path):
    with pytest.raises(InputError, match="no run at"):
        Folder(tmp_path)
    with pytest.raises(InputError, match=r"best\.pt does not exist"):
        run.load("best")


def test_metrics_survive_a_cut_line_and_are_cut_back(run):
    for seen in (100, 200, 300):
        run.append_metrics({"samples_seen": seen, "bound": -1.5})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"samples_seen": 400, "bou')
    assert [m["samples_seen"] for m in run.metrics()] == [100, 200, 300]
    run.go_back_to(200)
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 2


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted():
        with replaced(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_kill_9_at_random_places_always_leaves_a_run_that_resumes(tmp_path):
    """Some fifty kills; the run that they interrupted ends as the one that was left alone, bit for bit."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            str(Path(__file__).parent.parent / "kills.py"),
        ],  # -P: tests/ is no folder to import from
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "equal bit for bit" in done.stdout, done.stdout + done.stderr
