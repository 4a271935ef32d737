"""``pyro-aevb report``: what it prints and writes, and wrong use."""

import json
import re
import shutil

import pytest

from pyro_aevb.cli.options import runs_and_options
from pyro_aevb.cli.report import ReportOptions
from pyro_aevb.reports import compare_runs
from tests.reports import made

QUICK = ("--num_samples=20", "--count=60", "--device=cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return made.make_runs(tmp_path_factory.mktemp("digits"))


def test_it_prints_a_table_with_verdicts_and_writes_a_page_and_tables(cli, runs, tmp_path):
    code, printed, errors = cli("report", runs, *QUICK)
    assert (code, errors) == (0, "")
    found = compare_runs(runs, num_samples=20, count=60, device="cpu")
    assert printed.startswith(str(found))
    names = ["report.html", "report.csv", "report_runs.csv", "report_differences.csv"]
    assert printed.splitlines()[-4:] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "Comparison of 4 runs" in page


def test_json_is_all_that_it_prints_then(cli, runs):
    code, printed, errors = cli("report", "--json", runs / "prior=Laplace,seed=0", *QUICK, "--out", "x.html")
    assert code == 0
    told = json.loads(printed)
    assert told["unit"] == "nats per datum"
    assert [line["seeds"] for line in told["settings"]] == [1]
    assert errors.splitlines()[0] == "x.html"


def test_folders_may_stand_before_and_after_options(cli, runs):
    names = sorted(runs.iterdir())
    code, printed, _ = cli("report", names[0], names[1], "--out=y.html", *QUICK, "--by", "bound", names[2])
    assert code == 0
    assert re.search("highest mean bound of 2 settings|best of 2 settings by bound", printed)
    words = ["a", "--seed", "3", "b", "--json", "c", "--out=d", "e", "-h"]
    assert runs_and_options(words, ReportOptions) == (["a", "b", "c", "e"], ["--seed", "3", "--json", "--out=d", "-h"])


def test_a_baseline_and_options_that_are_ignored(cli, runs):
    code, printed, _ = cli(
        "report", runs, *QUICK, "--baseline=lapl", "--ignore=prior.scale, batch_size", "--out=z.html"
    )
    assert code == 0
    assert "Compared with Laplace by log p(x)." in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "nowhere is no folder"),
        ((), "give the folder of a run"),
        (("RUNS", "--out=x.pdf"), "--out x.pdf: give a file that ends in .html"),
        (("RUNS", "--count=1"), "--count must be 0 for all, or at least 2"),
        (("RUNS", "--num_samples=0"), "--num_samples must be at least 1"),
        (("RUNS", "--by=loss"), "--by must be evidence or bound"),
        (("RUNS", "--baselin=x"), "unknown option --baselin"),
        (("RUNS", "--baseline=Cauchy"), "is no setting"),
    ],
)
def test_wrong_use_is_told_in_one_line_and_writes_nothing(cli, runs, tmp_path, words, said):
    code, printed, errors = cli("report", *QUICK, *(runs if word == "RUNS" else word for word in words))
    assert (code, printed) == (2, "")
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_refused_before_anything_is_measured(cli, runs, tmp_path, monkeypatch):
    (tmp_path / "report.csv").write_text("mine")
    monkeypatch.setattr("pyro_aevb.cli.report.compare_runs", lambda *given, **named: pytest.fail("measured"))
    code, _, errors = cli("report", runs, *QUICK)
    assert code == 2
    assert "report.csv exists already" in errors


def test_a_run_that_cannot_be_opened_is_named(cli, runs, tmp_path):
    run = shutil.copytree(runs / "prior=Laplace,seed=0", tmp_path / "mine")
    (run / "last.pt").unlink()
    code, _, errors = cli("report", "mine", runs, *QUICK)
    assert code == 2
    assert "mine/last.pt" in errors
