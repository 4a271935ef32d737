"""Where results go: a run's own files are replaced by the same command, nothing of the user's is."""

import csv
import errno
import json
import os

import pytest

from pyro_aevb.cli.compare import LEGEND
from tests.commands import train

QUICK = {
    "compare": ["--draws=2", "--reference_draws=2", "--batch_size=5", "--estimators=sgvb", "--particles=1"],
    "diagnose": ["--gap_count=0", "--count=20"],
    "sample": ["--count=4"],
    "plot": ["--count=4", "--side=2"],
}


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(cli, *words):
    code, printed, errors = cli(*words)
    assert (code, printed, errors.count("\n")) == (2, "", 1), (printed, errors)
    assert "Errno" not in errors
    return errors.removeprefix("pyro-aevb: ").strip()


def test_no_command_replaces_what_another_has_written(cli, tmp_path):
    train(cli)
    written = {}
    for command, words in {**QUICK, "sample x": ["--count=4", "--draw=x"]}.items():
        before = contents(tmp_path)
        assert cli(command.split()[0], "run", *words)[0] == 0
        after = contents(tmp_path)
        assert all(after[path] == content for path, content in before.items()), command
        written[command] = after.keys() - before.keys()
    assert {path.name for path in written["sample"] | written["sample x"]} == {"sample_mean.png", "sample_x.png"}
    assert {path.name for path in written["compare"]} == {"gradients.csv", "gradients.png"}
    assert "samples.png" in {path.name for path in written["plot"]}


@pytest.mark.parametrize("command", QUICK)
def test_a_command_replaces_its_own_in_the_run(command, cli, tmp_path):
    train(cli)
    assert cli(command, "run", *QUICK[command])[0] == 0
    first = contents(tmp_path)
    assert cli(command, "run", *QUICK[command], "--seed=3")[0] == 0
    second = contents(tmp_path)
    assert first.keys() == second.keys()
    assert first != second


@pytest.mark.parametrize("command", ["compare", "diagnose"])
def test_a_folder_of_the_users_keeps_what_it_has(command, cli, tmp_path):
    train(cli)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/notes.txt").write_text("mine")
    words = [command, "run", *QUICK[command], "--out=there"]
    assert cli(*words)[0] == 0
    before = contents(tmp_path)
    said = refused(cli, *words, "--seed=3")
    name = {"compare": "gradients.csv", "diagnose": "diagnostics.json"}[command]
    assert said == f"--out there: there/{name} exists already: remove it, or give another folder"
    assert contents(tmp_path) == before


def test_trainings_of_the_users_folder_are_kept_too(cli, tmp_path):
    train(cli)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/training.csv").write_text("mine")
    assert cli("compare", "run", *QUICK["compare"], "--out=there")[0] == 0
    (tmp_path / "there/gradients.csv").unlink()
    (tmp_path / "there/gradients.png").unlink()
    assert "training.csv exists" in refused(
        cli, "compare", "run", *QUICK["compare"], "--out=there", "--train_samples=100"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sample run --out=mine.txt", "mine.txt exists already: remove it, or give another --out"),
        ("sample run --out=run", "run exists already: remove it, or give another --out"),
        ("sample run --out=mine.txt/a.png", "--out: mine.txt is a file, where a folder is needed"),
        ("compare run --out=mine.txt", "--out: mine.txt is a file, where a folder is needed"),
        ("diagnose run --out=mine.txt/deep", "--out: mine.txt is a file, where a folder is needed"),
        ("evaluate run --keep=mine.txt", "--keep: mine.txt is a file, where a folder is needed"),
        ("train --out=mine.txt/run", "--out: mine.txt is a file, where a folder is needed"),
        ("train --out=mine.txt", "mine.txt exists already: give another --out"),
        ("train --out=run", "run exists already: give another --out, or go on with --resume run"),
        ("plot run --side=0", "--side must be at least 1, not 0"),
        ("compare run --draws=1", "--draws must be at least 2, not 1"),
        ("compare run --batch_size=0", "--batch_size must be at least 1, not 0"),
        ("compare run --train_seconds=-1", "--train_seconds must be at least 0, not -1.0"),
        ("compare run --estimators=sgbv", "unknown estimator 'sgbv': did you mean SGVB? give some of"),
        ("evaluate run --count=0", "--count must be at least 1, not 0"),
        ("evaluate run --num_samples=-1", "--num_samples must be at least 0, not -1"),
        ("evaluate run --evidence=aiss", "unknown --evidence 'aiss': did you mean ais? give some of"),
    ],
)
def test_what_cannot_be_written_or_counted_is_told_before_anything_runs(words, said, cli, tmp_path):
    train(cli)
    (tmp_path / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    assert refused(cli, *words.split()).startswith(said)
    assert contents(tmp_path) == before


def test_more_pictures_than_memory_names_its_own_option(cli):
    train(cli)
    assert refused(cli, "plot", "run", "--side=1000000").startswith("--side 1000000 takes 264,000 GB of memory")
    assert refused(cli, "sample", "run", "--count=10000000000").startswith("--count 10000000000 takes 2,640 GB")


def test_where_nothing_may_be_written(cli, tmp_path, monkeypatch):
    """Of which the system is asked, that says yes to root whatever the folder's mode."""
    train(cli)
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path / "closed"))
    assert refused(cli, "diagnose", "run", "--out=closed/a") == "--out: nothing may be written in closed"


def test_evaluate_s_json_has_its_settings(cli):
    train(cli)
    words = ["--num_samples=20", "--chunk_size=7", "--draws=9", "--steps=3", "--chains=2", "--seed=5", "--float64=true"]
    told = json.loads(cli("evaluate", "run", *words, "--count=10", "--device=cpu", "--json")[1])
    assert told["settings"] == {
        "evidence": "importance",
        "num_samples": 20,
        "chunk_size": 7,
        "draws": 9,
        "steps": 3,
        "chains": 2,
        "float64": True,
        "keep": None,
    }
    assert (told["seed"], told["device"], told["split"], told["checkpoint"]) == (5, "cpu", "test", "last")


def test_compare_says_what_its_columns_are(cli, tmp_path):
    train(cli)
    printed = cli("compare", "run", *QUICK["compare"])[1]
    assert LEGEND in printed
    head = next(line for line in printed.splitlines() if line.startswith("estimator"))
    for column in ("part", "bias", "variance", "SNR", "ms"):
        assert column in head.split()
        assert f"{column}:" in LEGEND
    with (tmp_path / "run/comparison/gradients.csv").open() as file:
        assert len(list(csv.reader(file))) == 3


def test_what_the_system_refuses_is_told_without_its_number(cli, monkeypatch):
    def full(arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/last.pt")

    monkeypatch.setattr("pyro_aevb.cli.train.train", full)
    assert refused(cli, "train") == "run/last.pt: No space left on device"
