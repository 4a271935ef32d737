"""``pyro-aevb compare``: trainings over seeds, their table, file and figure."""

import csv

import pytest
import torch

from pyro_aevb import InputError
from pyro_aevb.cli.compare import seeds_of
from tests.commands import train

QUICK = ["--draws=2", "--reference_draws=2", "--batch_size=5", "--particles=1", "--train_seconds=0"]


def test_each_estimator_is_trained_from_each_seed(cli, tmp_path):
    train(cli)
    words = ["--estimators=SGVB,ScoreFunction", "--train_samples=300", "--train_seeds=0,2-3"]
    code, printed, _ = cli("compare", "run", *QUICK, *words)
    assert code == 0
    with (tmp_path / "run/comparison/training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["estimator"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("SGVB", "ScoreFunction") for seed in "023"
    ]
    bounds = {(row["estimator"], row["seed"]): float(row["bound_at_samples"]) for row in rows}
    assert len(set(bounds.values())) == 6
    difference = torch.tensor([bounds["ScoreFunction", s] - bounds["SGVB", s] for s in "023"], dtype=torch.float64)
    error = difference.std() / 3**0.5
    line = next(line for line in printed.split("from the seeds 0, 2, 3")[1].splitlines() if "ScoreFunction" in line)
    assert line.split()[4:6] == [f"{difference.mean():.2f}", f"{error:.2f}"]
    assert "paired, seed by seed" in printed
    assert (tmp_path / "run/comparison/training.png").read_bytes()[:4] == b"\x89PNG"
    assert printed.split()[-2:] == [f"run/comparison/training.{kind}" for kind in ("csv", "png")]


def test_the_runs_own_seed_is_the_default_and_gives_the_same(cli, tmp_path):
    """A training does not depend on what was trained before it, nor on how its seed was named."""
    train(cli, "--seed=7")
    found = []
    for words in (["--estimators=SGVB"], ["--estimators=IWAE,SGVB", "--train_seeds=5,7"]):
        assert cli("compare", "run", *QUICK, "--train_samples=200", *words)[0] == 0
        with (tmp_path / "run/comparison/training.csv").open() as file:
            found += [row for row in csv.DictReader(file) if (row["estimator"], row["seed"]) == ("SGVB", "7")]
    assert len(found) == 2
    assert found[0]["bound_at_samples"] == found[1]["bound_at_samples"]


def test_one_training_has_a_difference_and_no_error(cli):
    train(cli)
    code, printed, _ = cli("compare", "run", *QUICK, "--estimators=SGVB,IWAE", "--train_samples=100")
    assert code == 0
    told = printed.split("from the run's own start")[1]
    assert "±" not in told
    assert next(line for line in told.splitlines() if line.startswith("SGVB")).split()[3] == "0.00"


def test_seeds_in_words():
    assert seeds_of("3") == [3]
    assert seeds_of("0-2, 7") == [0, 1, 2, 7]
    for words in ("", "a", "-1", "2-0", "1.5", "0-", "0,,1", "0-2-4"):
        with pytest.raises(InputError, match="--train_seeds must be whole numbers or ranges"):
            seeds_of(words)
    with pytest.raises(InputError, match="has a seed twice"):
        seeds_of("0-2,1")
    with pytest.raises(InputError, match="are more than 1,000 trainings"):
        seeds_of("0-99999999999")


def test_what_does_not_fit_is_told_before_anything_runs(cli, tmp_path):
    train(cli)
    code, printed, errors = cli("compare", "run", *QUICK, "--train_seeds=0-2")
    assert (code, printed) == (2, "")
    assert "there are none without --train_samples" in errors
    (tmp_path / "there").mkdir()
    (tmp_path / "there/training.png").write_text("mine")
    code, printed, errors = cli("compare", "run", *QUICK, "--train_samples=100", "--out=there")
    assert (code, printed) == (2, "")
    assert "there/training.png exists already" in errors
    assert (tmp_path / "there/training.png").read_text() == "mine"
