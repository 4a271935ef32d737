"""What a notebook shows of runs, reports, data, evidence and a diagnosis, and what re-running its cells does."""

import gc
import io
import os
import re
import sys
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.cli import main
from pyro_aevb.views import MOST_ROWS, html_table, in_words, mean_row, with_bar
from tests.pairs import LinearGaussian, binary, paper_pair


class Shown(HTMLParser):
    """The rows of all tables, what stands beside them, the tags and the styles; refuses what is not closed."""

    def __init__(self, html):
        super().__init__()
        self.rows = []
        self.beside = []
        self.tags = set()
        self.styles = set()
        self._open = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.styles |= {value for name, value in attributes if name == "style"}
        assert {name for name, _ in attributes} <= {"style"}
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.beside.append(data)

    def value(self, name):
        """What stands behind a name in the first row that it begins."""
        return next(row[1] for row in self.rows if row[0] == name)


def shown(thing):
    """What a notebook shows of it, parsed."""
    return Shown(thing._repr_html_())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small run."""
    path = tmp_path_factory.mktemp("runs") / "<b>run"
    arguments = ["--data=digits", "--latent_dim=3", "--hidden=8", "--samples=1000", "--report_every=500"]
    assert main(["train", *arguments, "--evaluate_every=500", f"--out={path}"]) == 0
    return path


@pytest.fixture(scope="module")
def pair():
    """A pair with a known evidence, its guide a little off."""
    return LinearGaussian(shift=0.2)


def everything(folder, pair):
    """One of each thing that a notebook shows as a table."""
    run = aevb.load_run(folder, device="cpu")
    both = pair.model, pair.guide
    return [
        run,
        run.data,
        aevb.Progress(1000, -20.5),
        aevb.evidence.bound(*both, pair.x),
        aevb.evidence.importance_weights(*both, pair.x, 100),
        aevb.evidence.annealed_importance_sampling(*both, pair.x[:3], steps=5, chains=2),
        aevb.evidence.bidirectional(*both, pair.x[:3], steps=5, chains=2),
        aevb.evidence.appendix_d(pair.model, pair.x[:3], num_samples=20, burn_in=10),
        aevb.diagnostics.diagnose(*both, pair.x, gap_count=0),
    ]


def test_all_are_tables_in_the_colours_of_the_page(folder, pair):
    for thing in everything(folder, pair):
        found = shown(thing)
        assert found.tags <= {"div", "strong", "table", "tr", "th", "td"}, type(thing)
        assert found.rows
        for style in found.styles:
            colours = re.findall(r"(?:^|;)(?:color|background):([^;]*)", style)
            assert set(colours) <= {"inherit", "transparent"}
            assert not re.search(r"#[0-9a-f]{3}|rgb|url", style)
        assert len(repr(thing)) > 10
        assert "<table" not in repr(thing)


# ---------------------------------------------------------------- the table itself


def test_text_is_escaped_and_long_tables_are_cut():
    html = html_table(
        [("<script>alert(1)</script>", "a & b")] * (MOST_ROWS + 3), ["<i>", '"'], "<title>", ["<img src=x>"]
    )
    found = Shown(html)
    assert found.tags == {"div", "strong", "table", "tr", "th", "td"}
    assert found.rows[0] == ["<i>", '"']
    assert found.rows[1] == ["<script>alert(1)</script>", "a & b"]
    assert len(found.rows) == 1 + MOST_ROWS
    assert found.beside == ["<title>", "and 3 more", "<img src=x>"]


def test_numbers_in_words():
    values = [0, 60_000, -89.126, 1234.5, 0.0, 0.0123, -0.00012345, float("nan"), None, True, False, "1.0"]
    told = ["0", "60,000", "-89.13", "1,234.50", "0.00", "0.0123", "-0.000123", "nan", "", "yes", "no", "1.0"]
    assert [in_words(value) for value in values] == told


def test_the_mean_of_a_row_and_its_standard_error():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    name, mean, error = mean_row("it", values)
    found = aevb.evaluation.mean_of(values)
    assert (name, mean, error) == ("it", pytest.approx(found.mean), pytest.approx(found.se))
    assert mean_row("one", values[:1]) == ("one", values[0].item(), None)


# ---------------------------------------------------------------- what each says


def test_a_run(folder):
    run = aevb.load_run(folder, device="cpu")
    found = shown(run)
    assert found.beside == ["Run <b>run"]
    assert found.value("samples seen") == "1,000"
    assert found.value("latent dimensions") == "3"
    assert found.value("prior") == "priors.StandardNormal"
    last = [record for record in run.metrics if "test_bound" in record][-1]
    assert found.value("last test bound").startswith(f"{last['test_bound']:.2f} ± {last['test_se']:.2f} nats per datum")
    assert repr(run) == f"<Run {run.title}>"


def test_a_run_whose_metrics_are_damaged(folder, tmp_path):
    copy = tmp_path / "run"
    copy.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    run = aevb.load_run(copy, device="cpu")
    (copy / "metrics.jsonl").write_text("nonsense\n" * 3)
    assert "metrics.jsonl" in shown(run).value("bounds")


def test_a_report():
    found = shown(aevb.Progress(1000, -20.5, 0.25, None, -21.25))
    assert found.rows == [
        ["samples seen", "1,000", ""],
        ["bound", "-20.50", "nats per datum"],
        ["bound of held-out data", "-21.25", "nats per datum"],
        ["weight of the KL", "0.25", ""],
    ]


def test_a_data_set_of_a_table():
    frame = pd.DataFrame({"<a>": np.arange(40) / 7, "b": ["x", "y", "<z>", "x"] * 10})
    found = shown(aevb.data.load(frame, missing=True))
    assert found.value("training data") == "36"
    assert found.value("NaN") == "a missing value"
    assert found.rows[-2:] == [["<a>", "real", ""], ["b", "category", "<z>, x, y"]]


def test_evidence(pair):
    both = pair.model, pair.guide
    bound = aevb.evidence.bound(*both, pair.x)
    found = shown(bound)
    assert found.value("bound") == f"{bound.bound.mean():.2f}"
    assert float(found.value("log p(x|z)")) - float(found.value("KL(q(z|x) || p(z))")) == pytest.approx(
        float(found.value("bound")), abs=0.011
    )
    weights = aevb.evidence.importance_weights(*both, pair.x, 1000)
    found = shown(weights)
    error = float(found.rows[1][2])
    assert abs(float(found.value("log p(x)")) - pair.log_evidence.mean().item()) < 0.1
    assert error == pytest.approx(pair.log_evidence.std().item() / 37**0.5, rel=0.1)
    assert f"{int((weights.khat > 0.7).sum())} data" in found.beside[-1]
    assert len(shown(aevb.evidence.importance_weights(*both, pair.x, 10)).beside) == 3  # too few draws for k-hat


def test_evidence_of_one_datum(pair):
    found = shown(aevb.evidence.importance_weights(pair.model, pair.guide, pair.x[:1], 100))
    assert found.rows[1][2] == ""


def test_a_diagnosis(pair):
    found = aevb.diagnostics.diagnose(pair.model, pair.guide, pair.x)  # whose guide has no network, so no gaps
    seen = shown(found)
    assert seen.value("KL(q(z|x) || p(z))") == f"{found.kl.total.mean():.2f}"
    assert f"note: {found.notes[0]}" in seen.beside
    assert not any("gap" in row[0] for row in seen.rows)
    dimensions = seen.rows[-3:]
    assert sorted(row[0] for row in dimensions) == ["z[0]", "z[1]", "z[2]"]
    shares = [float(row[1]) for row in dimensions]
    assert shares == sorted(shares, reverse=True)
    assert [f"warning: {each}" for each in found.warnings or ["none"]] == [
        each for each in seen.beside if each.startswith("warning")
    ]


def test_a_diagnosis_with_gaps():
    trainer = small_trainer()
    both = trainer.model, trainer.guide
    evidence = partial(aevb.evidence.importance_weights, num_samples=20)
    quick = {"steps": 5, "rounds": 1, "evaluation_samples": 10, "log_evidence": evidence}
    gaps = aevb.diagnostics.inference_gaps(*both, binary()[:3], **quick)
    found = aevb.diagnostics.diagnose(*both, binary(), gap_count=0)._replace(gaps=gaps)
    seen = shown(found)
    assert seen.value("bound of the first 3") == f"{found.gaps.bound.mean():.2f}"
    assert seen.value("approximation gap of the first 3") == in_words(found.gaps.approximation.mean().item())


# ---------------------------------------------------------------- a bar


class Terminal(io.StringIO):
    """Standard error."""


def small_trainer():
    """A trainer of a small pair."""
    with aevb.seeded(0):
        model, guide = paper_pair(size=11)
    return aevb.Trainer(model, guide, binary(), batch_size=5, seed=0, engine="eager", report_every=22)


def test_the_bar_passes_the_reports_on_and_tells_the_bound(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    reports = list(with_bar(small_trainer(), 110))
    assert reports == list(small_trainer().run(110))
    assert f"bound {reports[-1].bound:.2f} nats per datum" in sys.stderr.getvalue()
    assert "110/110" in sys.stderr.getvalue()


def test_no_bar_where_none_is_wanted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(with_bar(small_trainer(), 22, show=False)) == list(small_trainer().run(22))
    assert not sys.stderr.getvalue()
    with pytest.raises(aevb.InputError, match="show must be True or False"):
        list(with_bar(small_trainer(), 22, show="no"))


def test_the_bar_of_a_training_around_another(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    stopping = aevb.EarlyStopping(small_trainer(), binary(), patience=5)
    reports = list(with_bar(stopping, 44))
    assert [report.samples_seen for report in reports] == [22, 44]
    assert reports[0].held_out_bound is not None


# ---------------------------------------------------------------- a cell that is run again


def test_a_cell_that_trains_goes_on():
    """``run`` in a cell that is run twice, or is interrupted and run again, is the training that it would be in one."""
    trainer = small_trainer()
    for _ in range(2):
        last = list(with_bar(trainer, 66, show=False))[-1]
    assert trainer.samples_seen == last.samples_seen == 132
    broken = small_trainer()
    for progress in broken.run(132):
        if progress.samples_seen >= 44:
            break
    list(broken.run(132 - broken.samples_seen))
    for part in ("model", "guide"):
        ours, theirs = (getattr(each, part).state_dict() for each in (trainer, broken))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def in_use():
    """How many tensors there are, and how many files are open."""
    gc.collect()
    return sum(isinstance(each, torch.Tensor) for each in gc.get_objects()), len(os.listdir("/proc/self/fd"))


CELLS = {
    "open a run": lambda folder: aevb.load_run(folder, device="cpu")._repr_html_(),
    "go on with a run": lambda folder: list(aevb.load_run(folder, device="cpu").trainer().run(200)),
    "train": lambda folder: list(small_trainer().run(44)),
    "evaluate": lambda folder: aevb.load_run(folder, device="cpu").evaluate(num_samples=5),
}


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_that_is_run_again_leaves_nothing_behind(folder, cell):
    """No more tensors and open files after the fifth time than after the second; others' may have gone by then."""
    counts = []
    for _ in range(5):
        found = CELLS[cell](folder)
        del found
        counts.append(in_use())
    assert all(fifth <= second for second, fifth in zip(counts[1], counts[4], strict=True))
