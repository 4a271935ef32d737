"""``pyro-aevb diagnose``: what it prints and writes, and wrong use; the figure."""

import json

import pytest
import torch

from pyro_aevb import diagnostics, evidence, plots, runs
from pyro_aevb.cli.pictures import _latent_space
from pyro_aevb.plots.diagnostics import draw_diagnostics
from tests.commands import train
from tests.diagnosed_pairs import Amortised
from tests.pairs import LinearGaussian, binary, paper_pair

QUICK = ("--ais_steps=5", "--gap_count=10", "--count=60")


def test_it_prints_a_table_and_writes_numbers_and_a_figure(cli, tmp_path):
    train(cli)
    code, printed, errors = cli("diagnose", "run", *QUICK)
    assert (code, errors) == (0, "")
    for words in ("60 test data; nats per datum", "KL(q(z|x) || p(z))", "at most log N = 4.09", "the first 10 of them"):
        assert words in printed
    assert "warning: posterior collapse" in printed  # 400 samples of training are not enough
    assert printed.splitlines()[-2:] == ["run/diagnostics.json", "run/figures/diagnostics.png"]
    assert (tmp_path / "run/figures/diagnostics.png").read_bytes()[:4] == b"\x89PNG"
    told = json.loads((tmp_path / "run/diagnostics.json").read_text())
    assert told["mutual_information"]["mean"] + told["marginal_kl"]["mean"] == pytest.approx(told["kl"]["mean"])
    parts = [told["gaps"][name]["mean"] for name in ("bound", "amortisation", "approximation", "log_px")]
    assert sum(parts[:3]) == pytest.approx(parts[3], abs=1e-3)
    assert [(d["dimension"], d["name"]) for d in told["dimensions"]] == [(0, "z[0]"), (1, "z[1]")]


def test_dimensions_have_one_name_in_table_json_and_figures(cli):
    """``z[0]`` is the first one: in the table, in JSON, in the figure of the diagnosis and in that of the latents."""
    train(cli)
    printed = cli("diagnose", "run", "--gap_count=0", "--count=60")[1]
    names = {line.split()[0] for line in printed.split("dimension ")[1].splitlines()[1:3]}
    run = runs.load_run("run", device="cpu")
    found = diagnostics.diagnose(run.model, run.guide, run.data.test[:60], gap_count=0)
    figure = draw_diagnostics(found)
    ticks = {t.get_text() for t in figure.subfigs[0].axes[0].get_xticklabels()}
    z = plots.latent_space(found.aggregate.draws).axes[0]
    assert names == ticks == {z.get_xlabel(), z.get_ylabel()} == set(found.kl.dimensions) == {"z[0]", "z[1]"}
    of_run = _latent_space(run).axes[0]
    assert [of_run.get_xlabel(), of_run.get_ylabel()] == ["posterior mean of z[0]", "posterior mean of z[1]"]
    assert list(run.encode().columns[1:]) == ["z0", "z0_sd", "z1", "z1_sd"]  # a column is named without brackets


def test_its_numbers_are_those_of_the_library(cli):
    train(cli)
    told = json.loads(cli("diagnose", "run", "--gap_count=0", "--count=60", "--json", "--seed=3")[1])
    loaded = runs.load_run("run", device="cpu")
    model, guide, x = loaded.model, loaded.guide, loaded.data.test[:60]
    found = diagnostics.diagnose(model, guide, x, gap_count=0, seed=3)
    assert told["gaps"] is None
    assert told["decoder_use"]["mean"] == pytest.approx(found.decoder_use.mean().item(), rel=1e-5)
    assert told["kl"]["mean"] == pytest.approx(evidence.bound(model, guide, x).kl.mean().item(), rel=1e-5)
    assert told["kl"]["se"] == pytest.approx(found.kl.total.std().item() / 60**0.5, rel=1e-4)
    assert told["active_units"] == evidence.active_units(guide, x)
    assert told["warnings"] == found.warnings
    for k, of_dimension in enumerate(told["dimensions"]):
        assert of_dimension["kl"]["mean"] == pytest.approx(found.kl.per_dimension[:, k].mean().item(), rel=1e-5)
        assert of_dimension["aggregate_variance"] == pytest.approx(found.aggregate.draws[:, k].var().item(), rel=1e-4)
        assert of_dimension["distance"] == pytest.approx(found.aggregate.distances[k].item())


def test_another_folder_and_a_second_time(cli, tmp_path):
    """The run's own outputs are replaced, those in the user's folder are not."""
    train(cli)
    quick = ("--gap_count=0", "--count=20")
    code, printed, _ = cli("diagnose", "run", *quick, "--out=there")
    assert code == 0
    assert printed.splitlines()[-2:] == ["there/diagnostics.json", "there/diagnostics.png"]
    assert not (tmp_path / "run/diagnostics.json").exists()
    code, printed, errors = cli("diagnose", "run", *quick, "--out=there", "--seed=1")
    assert (code, printed) == (2, "")
    assert errors == (
        "pyro-aevb: --out there: there/diagnostics.json exists already: remove it, or give another folder\n"
    )
    assert json.loads((tmp_path / "there/diagnostics.json").read_text())["seed"] == 0
    for seed in (0, 1):
        assert cli("diagnose", "run", *quick, f"--seed={seed}")[0] == 0
    assert json.loads((tmp_path / "run/diagnostics.json").read_text())["seed"] == 1


def test_parts_that_do_not_factorise_are_told_of(cli):
    train(cli, "--prior=Flow", "--guide=Flow", "--guide.kind=planar")
    code, printed, _ = cli("diagnose", "run", "--gap_count=0", "--count=20")
    assert code == 0
    assert "note: prior or guide has marginals without a known density" in printed
    assert "note: the guide cannot tell the density of a given value" in printed
    assert next(line.split()[-2:] for line in printed.splitlines() if "mutual" in line) == ["not", "known"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diagnose", "nothing"], "no run at nothing"),
        (["diagnose"], "run"),
        (["diagnose", "run", "--count=1"], "--count must be at least 2"),
        (["diagnose", "run", "--gap_count=1"], "--gap_count must be 0, or at least 2"),
        (["diagnose", "run", "--ais_steps=0"], "--ais_steps must be at least 1"),
        (["diagnose", "run", "--split=all"], "--split"),
        (["diagnose", "run", "--bogus=1"], "--bogus"),
    ],
)
def test_wrong_use_is_one_line(cli, words, message):
    code, printed, errors = cli(*words)
    assert code == 2
    assert printed == ""
    assert message in errors
    assert errors.count("\n") == 1


# ---------------------------------------------------------------- the figure


def drawn(pair, **options):
    found = diagnostics.diagnose(pair.model, pair.guide, pair.x, **options)
    figure = draw_diagnostics(found, "title")
    return found, [axes for part in figure.subfigs for axes in part.axes]


def test_the_figure_shows_bars_gaps_and_histograms(tmp_path):
    pair = Amortised(latent_dim=3, data_dim=5, shift=0.4)
    with torch.no_grad():
        pair.guide.guide.network.weight[1].zero_()
    weights = evidence.importance_weights
    found, panels = drawn(pair, log_evidence=lambda *pair_and_x: weights(*pair_and_x, num_samples=50))
    assert len(panels) == 2 + 3
    heights = [bar.get_height() for bar in panels[0].patches]
    kl = found.kl.per_dimension.mean(0)
    assert sorted(heights) == pytest.approx(sorted(kl.tolist()))
    assert [t.get_text() for t in panels[0].get_legend().get_texts()] == ["active: 2 of 3", "not active: 1 of 3"]
    order = kl.argsort(descending=True).tolist()
    assert [t.get_text() for t in panels[0].get_xticklabels()] == [f"z[{k}]" for k in order]
    assert [axes.get_xlabel() for axes in panels[2:]] == [f"z[{k}]" for k in order]
    steps = [(bar.get_y(), bar.get_height()) for bar in panels[1].patches]
    gaps = found.gaps
    expected = [(gaps.bound, gaps.amortisation), (gaps.optimised_bound, gaps.approximation)]
    assert steps == [pytest.approx([v.mean().item() for v in pair_]) for pair_ in expected]


def test_the_figure_without_gaps_of_one_dimension_and_without_parts(tmp_path):
    _, panels = drawn(LinearGaussian(latent_dim=1), gap_count=0)
    assert len(panels) == 2
    from pyro_aevb import GenerativeModel, RecognitionModel, guides, likelihoods, priors

    model = GenerativeModel(priors.Flow(2, hidden=5), likelihoods.Bernoulli(2, 6, hidden=5)).double()
    guide = RecognitionModel(guides.DiagonalNormal(6, 2, hidden=5)).double()
    found = diagnostics.diagnose(model, guide, binary(), gap_count=0)
    figure = draw_diagnostics(found)
    heights = sorted(bar.get_height() for bar in figure.subfigs[0].axes[0].patches)
    assert heights == pytest.approx(sorted(found.kl.activity.tolist()))
    figure.savefig(tmp_path / "a.png")
    many = paper_pair(latent_dim=40)
    draw_diagnostics(diagnostics.diagnose(*many, binary(), gap_count=0)).savefig(tmp_path / "b.png")
