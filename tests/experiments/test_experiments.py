"""Every experiment runs, in seconds; a new one without an entry here fails."""

import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.fork_server import python

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
SMOKE = {
    "benchmark.py": "captured engine",
    "estimators.py": "estimators trained",
    "priors_likelihoods.py": "cases measured",
    "figure2.py": "curves drawn",
    "figure3.py": "points measured",
    "figure4.py": "manifold drawn",
    "figure5.py": "samples drawn",
    "beyond.py": "parts trained",
    "choices.py": "choices measured",
    "literature.py": "rows measured",
    "wake_sleep.py": "settings measured",
    "appendix_f.py": "full VB measured",
    "members.py": "ways measured",
    "larger_than_memory.py": "files measured",
    "many_runs.py": "runs compared",
    "reliability.py": "ends tried",
    "summary.py": "# Experiments",
    "same_bytes.py": "digests taken",
    "clients.py": "programs tried",
    "pyro_tests.py": "of Pyro's tests run",
}  # and what each must print


def test_every_experiment_has_a_smoke_run():
    assert {path.name for path in EXPERIMENTS.glob("*.py")} == set(SMOKE)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKE)
def test_smoke(name, tmp_path, mnist_root, frey_root):
    before = sorted(EXPERIMENTS.rglob("*"))
    environment = {**os.environ, "FEW_IMAGES": "2000"}
    done = subprocess.run(
        [python(), EXPERIMENTS / name, "--smoke"], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert SMOKE[name] in done.stdout
    assert sorted(p for p in EXPERIMENTS.rglob("*") if "__pycache__" not in p.parts) == [
        p for p in before if "__pycache__" not in p.parts
    ]


def test_results_are_kept_beside_those_of_other_curves(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    results, path = importlib.import_module("shared.results"), tmp_path / "points.csv"
    old = [{"method": m, "seed": s, "bound": b, "se": None} for m, s, b in (("WS", 0, -3.5), ("WS", 1, 2), ("A", 0, 1))]
    results.write_csv(path, old)
    assert results.read_csv(path) == old
    new = [{"method": "WS", "seed": 0, "bound": bound, "se": 0.5} for bound in (7.25, 8.0)]
    assert results.beside(old, new, "method", "seed") == old[1:] + new
    assert results.beside(results.read_csv(tmp_path / "none.csv"), new, "method", "seed") == new


def test_results_that_reach_farther_stay(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    results = importlib.import_module("shared.results")
    known = [{"data": "mnist", "seed": 0, "samples": samples} for samples in (10, 2000)]
    other = {"data": "frey_face", "seed": 0, "samples": 1}
    for samples, stays in ((1999, True), (2000, False), (2001, False)):
        rows = [known[0], known[0] | {"samples": samples}, other]
        assert results.taken(rows, known, "data", "seed") == (rows[2:] if stays else rows)
        assert results.shorter(rows, known, "data", "seed") is stays
    said = "results stay: ('mnist', 0) is there with 2,000 samples, more than 1,999\n"
    assert capsys.readouterr().out == said * 2
    assert results.shorter([other], known, "data", "seed")  # another seed, say, that would be lost
    assert results.taken([other], known, "data", "seed") == [other]


@pytest.mark.parametrize("first", [10, 30])
def test_a_shorter_curve_of_figure2_leaves_all_results(first, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    figure2 = importlib.import_module("figure2")
    if first == 30:
        monkeypatch.setattr(figure2, "plot", lambda rows: Figure())  # drawn in the other case
    curve = {"data": "mnist", "latent_dim": 3, "method": "AEVB", "seed": 0, "name": "one", "minutes": 1.0}
    curve["device"] = "cpu"
    for samples in (first, 20):
        seen = {"samples_seen": samples, "bound": -1.0, "test_bound": -2.0, "test_se": 0.1}
        figure2.keep(curve | {"rate": 1 / samples, "tried": {0.01: 1.0}, "metrics": [seen]}, tmp_path)
    farther = max(first, 20)
    assert [row["samples"] for row in figure2.read_csv(tmp_path / "curves.csv")] == [farther] * 2
    assert json.loads((tmp_path / "settings.json").read_text())["one"]["step_size"] == 1 / farther
    assert ("results stay" in capsys.readouterr().out) is (first == 30)
    assert figure2.chosen_before(tmp_path, "one") == {0.01: 1.0}
    assert figure2.chosen_before(tmp_path, "another") == figure2.chosen_before(None, "one") == {}


def test_rows_of_the_literature_stand_beside_longer_ones(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    literature = importlib.import_module("literature")
    numbers = {"epochs": 1.0, "bound": -1.0, "log_likelihood": -1.0, "se": 0.1, "all_images": None, "published": None}
    for samples in (20, 30, 10, 30, 20):
        literature.keep({"name": "VAE", "seed": 0, "samples": samples, **numbers}, tmp_path, "cpu")
    assert [row["samples"] for row in literature.read_csv(tmp_path / "evidence.csv")] == [20, 30]
    assert [*json.loads((tmp_path / "settings.json").read_text())] == ["VAE-0-20", "VAE-0-30"]


def test_wake_sleep_is_trained_as_its_settings_say(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    figure2 = importlib.import_module("figure2")
    pause, scale, sd = "--optimizer.warm_up", "--guide.log_variance_scale", "--guide.network.initial_sd=0.01"
    aevb, wake_sleep = (figure2.options_of("mnist", 3, method, 0.01, 0) for method in ("AEVB", "WS"))
    assert {f"{pause}=100", f"{scale}=1.0"} <= set(aevb)
    assert {f"{pause}=0", f"{scale}=0.1", sd} <= set(wake_sleep)
    assert sd not in aevb
    other = figure2.options_of("mnist", 3, "WS", 0.01, 0, pause=100, log_variance_scale=1.0)
    assert {f"{pause}=100", f"{scale}=1.0"} <= set(other)


def test_a_choice_keeps_its_longest_run_in_the_table(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    choices = importlib.import_module("choices")
    for case, samples in zip(choices.cases(2)[::-1], (20, *[30] * 65), strict=True):
        found = {"step_size": 0.1, "samples": samples, "test_bound": -1.0 * samples, "se": 0.1, "minutes": 1.0}
        choices.keep(dict(zip(choices.CASE, case, strict=True)) | found, tmp_path, "cpu")
    rows = choices.read_csv(tmp_path / "bounds.csv")
    assert [tuple(row[key] for key in choices.CASE) for row in rows] == choices.cases(2)
    longer = rows[0] | {"samples": 40, "test_bound": -40.0}
    for row in (longer, rows[0]):
        choices.keep(row, tmp_path, "cpu")
    assert [row["samples"] for row in choices.read_csv(tmp_path / "bounds.csv")][:3] == [30, 40, 30]
    assert "| as in Figure 2 | -40.0 | -30.0 | -30.0 |" in (tmp_path / "table.md").read_text()
    assert len(json.loads((tmp_path / "settings.json").read_text())) == 67


def test_the_table_of_wake_sleep_is_whole(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    wake_sleep = importlib.import_module("wake_sleep")
    made = wake_sleep.table(wake_sleep.read_csv(EXPERIMENTS / "wake_sleep" / "bounds.csv"))
    assert made == (EXPERIMENTS / "wake_sleep" / "table.md").read_text()
    lines = made.split("\n\n")[1].splitlines()[2:]  # the first table's, without its head
    assert len(lines) == 9
    assert all(cell.strip() for line in lines[:-1] for cell in line.strip("|").split("|"))


def test_what_is_said_of_a_curve_keeps_the_commit_that_measured_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    results, path = importlib.import_module("shared.results"), tmp_path / "settings.json"
    results.note(path, a={"minutes": 1, "commit": "old"})
    results.note(path, b={"minutes": 2, "commit": "new"}, a={"minutes": 1, "commit": "new"})
    assert json.loads(path.read_text()) == {
        a: {"minutes": m, "commit": c} for a, m, c in (("a", 1, "old"), ("b", 2, "new"))
    }
    results.note(path, a={"minutes": 3, "commit": "new"})
    assert json.loads(path.read_text())["a"] == {"minutes": 3, "commit": "new"}


def test_beyond_the_paper_each_curve_keeps_its_longest_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    beyond = importlib.import_module("beyond")
    monkeypatch.setattr(beyond, "plot", lambda rows: Figure())  # its smoke run draws it

    def keep(method, latent_dim, samples):
        seen = {"samples_seen": samples, "bound": -140.0, "test_bound": -140.0, "test_se": 0.5}
        curve = {"data": "mnist", "latent_dim": latent_dim, "method": method, "seed": 0, "rate": 0.003}
        beyond.keep({**curve, "metrics": [seen], "minutes": 1.0, "device": "cpu"}, tmp_path)

    keep("Adam", 3, 4_000_000)
    keep("Adam", 20, 4_000_000)
    keep("Adam alone", 20, 1_000_000)
    keep("Adam", 20, 8_000_000)  # a longer run of one curve alone
    keep("Adam", 3, 2_000_000)
    found = [(r["latent_dim"], r["part"], r["samples"]) for r in beyond.read_csv(tmp_path / "table.csv")]
    assert found == [(3, "Adam", 4_000_000), (20, "Adam", 8_000_000), (20, "Adam alone", 1_000_000)]
    assert {r["samples"] for r in beyond.read_csv(tmp_path / "curves.csv") if r["latent_dim"] == 3} == {4_000_000}
    about = json.loads((tmp_path / "settings.json").read_text())
    assert {name: told["samples"] for name, told in about.items()} == {
        "mnist-3-Adam-0": 4_000_000,
        "mnist-20-Adam-0": 8_000_000,
        "mnist-20-Adam alone-0": 1_000_000,
    }


def test_the_papers_curves_have_its_values(monkeypatch):
    """At 1e6, 1e7 and 1e8 samples, written down apart from the curves."""
    monkeypatch.syspath_prepend(EXPERIMENTS)
    paper = importlib.import_module("shared.paper")
    for method, latent_dim, *values in (
        ("AEVB", 3, -152.95, -137.98, -133.38),
        ("AEVB", 200, -119.87, -103.90, -100.25),
        ("WS", 5, -142.54, -127.25, -121.90),
    ):
        curve = paper.figure2("mnist", latent_dim, method, "test")
        assert [paper.at(curve, samples) for samples in (1e6, 1e7, 1e8)] == pytest.approx(values, abs=0.2)
    assert paper.at(paper.figure2("frey_face", 10, "AEVB", "test"), 1e8) == pytest.approx(1307, abs=1)
    assert paper.at(paper.figure3(50_000, "MCEM", "test"), 6.75e7) == pytest.approx(-148.4, abs=0.1)
    assert paper.at([(1.0, 10.0), (3.0, 20.0)], 2.5) == 17.5
    assert paper.at([(1.0, 10.0), (3.0, 20.0)], 3.5) is None
    assert paper.figure3(1000, "minibatch MCEM", "test") == []


def test_tables_and_figures_are_drawn_again_from_results_alone(tmp_path):
    shutil.copytree(EXPERIMENTS / "figure3", tmp_path / "figure3")
    before = {name: (tmp_path / "figure3" / name).read_bytes() for name in ("table.csv", "figure3.png")}
    for name in before:
        (tmp_path / "figure3" / name).unlink()
    subprocess.run([python(), EXPERIMENTS / "figure3.py", f"--results={tmp_path}", "--redraw"], check=True)
    assert (tmp_path / "figure3" / "table.csv").read_bytes() == before["table.csv"]
    assert (tmp_path / "figure3" / "figure3.png").stat().st_size > 10_000
    subprocess.run([python(), EXPERIMENTS / "summary.py", f"--results={tmp_path}"], check=True)
    assert "## Figure 3" in (tmp_path / "README.md").read_text()
    assert "## Figure 2" not in (tmp_path / "README.md").read_text()


def test_figure_3s_table_has_means_over_seeds_at_1e7_and_at_the_end(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    table = importlib.import_module("figure3").table
    curve = {"size": 1000, "method": "AEVB", "train": -110.0, "train_se": 1.0, "test": -140.0, "test_se": 2.0}
    points = [(0, 1_000_000), (0, 10_000_000), (0, 30_000_000), (1, 1_000_000), (1, 10_000_000)]
    rows = [{**curve, "seed": seed, "point": point, "samples": point} for seed, point in points]
    rows[-1] |= {"train": -112.0, "train_se": 2.0}
    found = {(row["samples"], row["split"]): row for row in table(rows)}
    assert set(found) == {(samples, split) for samples in (10_000_000, 30_000_000) for split in ("train", "test")}
    first = [found[10_000_000, "train"][name] for name in ("paper", "ours", "se", "seeds")]
    assert first == pytest.approx([-114.38, -111.0, 1.5, 2], abs=0.005)
    assert found[30_000_000, "test"]["difference"] == pytest.approx(3.02, abs=0.005)
    assert found[30_000_000, "test"]["seeds"] == 1


def test_the_summary_reads_a_curves_name_with_blanks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    said = {"appendix_d": -112.2, "annealed": -111.1, "difference_se": 0.9}
    about = {f"{split}_{name}": value for split in ("train", "test") for name, value in said.items()}
    (tmp_path / "settings.json").write_text(json.dumps({"1000-minibatch MCEM-0": about, "1000-WS-0": {"minutes": 1}}))
    _, _, first, second = importlib.import_module("summary").annealed(tmp_path / "settings.json")
    assert first == "| N = 1000, minibatch MCEM, seed 0 | train | -112.20 | -111.10 | -1.10 ± 0.90 |"
    assert second.startswith("| N = 1000, minibatch MCEM, seed 0 | test |")
