"""``pyro-aevb explore``: what it writes and says, what it refuses, and that equal seeds give equal bytes."""

import json
import re
import shutil

import pytest

from pyro_aevb import explorer
from pyro_aevb.cli import main
from tests.commands import SMALL, train

QUICK = ("--count=10", "--num_samples=20")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run, made once."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", *SMALL, f"--out={folder}"]) in (0, None)
    return folder


@pytest.fixture
def run(cli, tmp_path, trained):
    """The run in the test's own folder, where the command line is."""
    return shutil.copytree(trained, tmp_path / "run")


def payload_in(path):
    return json.loads(re.search(r'id="payload">(.*?)</script>', path.read_text())[1])


def test_it_writes_one_page_and_says_where(run, cli, tmp_path):
    code, printed, errors = cli("explore", "run", *QUICK)
    assert (code, errors) == (0, "")
    assert re.fullmatch(r"explorer\.html \(\d+\.\d MB\)\n", printed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explorer.html", "run"]
    (shown,) = payload_in(tmp_path / "explorer.html")["runs"]
    assert (shown["name"], shown["count"], shown["data"]["num_samples"]) == ("run", 10, 20)
    assert shown["pair"] is not None


def test_equal_seeds_give_equal_bytes(run, cli, tmp_path):
    pages = []
    for out, seed in (("a.html", 3), ("b.html", 3), ("c.html", 4)):
        assert cli("explore", "run", *QUICK, f"--out={out}", f"--seed={seed}")[0] == 0
        pages.append((tmp_path / out).read_bytes())
    assert pages[0] == pages[1] != pages[2]


def test_several_runs_are_in_one_page(run, cli, tmp_path):
    train(cli, "--seed=4", out="other")
    code, _, errors = cli("explore", "run", "other", *QUICK, "--out=both/page.html", "--dtype=float32")
    assert (code, errors) == (0, "")
    found = payload_in(tmp_path / "both/page.html")
    assert [each["name"] for each in found["runs"]] == ["run", "other"]
    assert found["same_data"]
    assert [each["weights_dtype"] for each in found["runs"]] == ["float32", "float32"]


def test_runs_on_other_data_are_told(run, cli):
    train(cli, "--split_seed=4", out="other")
    code, _, errors = cli("explore", "run", "other", *QUICK)
    assert code == 0
    assert errors.startswith("pyro-aevb: note: run and other are on data of other values: each is shown by itself")


def test_its_own_page_is_replaced_and_nothing_else(run, cli, tmp_path):
    assert cli("explore", "run", *QUICK)[0] == 0
    first = (tmp_path / "explorer.html").read_bytes()
    assert cli("explore", "run", *QUICK, "--seed=1")[0] == 0
    assert (tmp_path / "explorer.html").read_bytes() != first
    (tmp_path / "mine.html").write_text("<!doctype html><p>my own</p>")
    (tmp_path / "link.html").symlink_to(tmp_path / "explorer.html")
    (tmp_path / "folder.html").mkdir()
    for name in ("mine.html", "link.html", "folder.html"):
        code, printed, errors = cli("explore", "run", *QUICK, f"--out={name}")
        assert (code, printed) == (2, "")
        assert errors == (
            f"pyro-aevb: {name} exists already, and was not made by explore: remove it, or give another --out\n"
        )
    assert (tmp_path / "mine.html").read_text() == "<!doctype html><p>my own</p>"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out=page.txt"], "--out page.txt: give a file that ends in .html"),
        (["--count=1"], "--count must be at least 2, not 1"),
        (["--num_samples=0"], "--num_samples must be at least 1, not 0"),
        (["--dtype=float8"], "--dtype must be float16 or float32, not 'float8'"),
        (["--split=all"], "--split must be test or train, not 'all'"),
        (["--cuont=3"], "unknown option --cuont: did you mean --count?"),
        (["--checkpoint=first"], "--checkpoint must be last or best"),
        (["--out=run/config.yaml/page.html"], "config.yaml is a file, where a folder is needed"),
    ],
)
def test_wrong_options_are_refused_in_one_line(run, cli, options, words):
    code, printed, errors = cli("explore", "run", *options)
    assert (code, printed) == (2, "")
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_a_run_is_needed_and_must_be_one(run, cli):
    assert "give the folder of a run that train made" in cli("explore")[2]
    code, _, errors = cli("explore", "run", "gone")
    assert (code, errors) == (2, "pyro-aevb: no run at gone: it has no config.yaml; give a folder that 'train' made\n")


def test_a_run_of_a_strangers_part_needs_trust(cli, tmp_path):
    (tmp_path / "strange_part.py").write_text(
        "from pyro_aevb.priors import StandardNormal\nclass Own(StandardNormal): pass\n"
    )
    train(cli, "--prior=strange_part.Own", "--trust=strange_part")
    assert "--trust strange_part" in cli("explore", "run", *QUICK)[2]
    assert cli("explore", "run", *QUICK, "--trust=strange_part")[0] == 0
    assert explorer.MARK in (tmp_path / "explorer.html").read_text()
