"""Runs compared: what they are measured by, which are one setting, which are not compared, what the tables hold."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_aevb import InputError, evidence
from pyro_aevb.reports import compare_runs
from pyro_aevb.runs import load_run
from pyro_aevb.runs.run import BOUND_DRAWS
from tests.reports.made import train

QUICK = {"num_samples": 20, "count": 60, "device": "cpu"}
EACH = ("StandardNormal", "Laplace")


@pytest.fixture(scope="module")
def found(runs):
    return compare_runs(runs, **QUICK)


def values_of(runs, prior):
    """log p(x), bound and KL of each seed and datum, ``(2, 60)`` each, by the library's own functions."""
    each = []
    for seed in (0, 1):
        run = load_run(runs / f"prior={prior},seed={seed}", device="cpu")
        x = run.data.test[:60]
        bound = evidence.bound(run.model, run.guide, x, BOUND_DRAWS)
        each.append((evidence.importance_sampling(run.model, run.guide, x, 20), bound.bound, bound.kl))
    return [torch.stack(part).double().numpy() for part in zip(*each, strict=True)]


def test_a_line_for_each_setting_has_means_and_both_errors_of_what_the_library_computes(runs, found):
    assert sorted(found.settings.index) == sorted(EACH)
    for prior in EACH:
        line = found.settings.loc[prior]
        for name, values in zip(("evidence", "bound", "kl"), values_of(runs, prior), strict=True):
            assert line[name] == pytest.approx(values.mean(), rel=1e-9)
            assert line[f"{name}_se_data"] == pytest.approx(stats.sem(values.mean(0)), rel=1e-9)
            assert line[f"{name}_se_seeds"] == pytest.approx(stats.sem(values.mean(1)), rel=1e-9)
        assert line["gap"] == pytest.approx(line["evidence"] - line["bound"], rel=1e-9)


def test_numbers_of_a_training_have_an_error_over_seeds_alone(runs, found):
    for prior in EACH:
        each = [load_run(runs / f"prior={prior},seed={seed}", device="cpu") for seed in (0, 1)]
        last = [[record["bound"] for record in run.metrics if "bound" in record][-1] for run in each]
        line = found.settings.loc[prior]
        assert line["training_bound"] == pytest.approx(np.mean(last))
        assert line["training_bound_se_seeds"] == pytest.approx(stats.sem(last))
        active = [evidence.active_units(run.guide, run.data.test[:60]) for run in each]
        assert line["active_units"] == np.mean(active)
        seconds = [[record["seconds"] for record in run.metrics if "seconds" in record][-1] for run in each]
        assert line["minutes"] == pytest.approx(np.mean(seconds) / 60)
    assert "minutes_se_data" not in found.settings


def test_differences_are_paired_datum_by_datum_and_seed_by_seed(runs, found):
    for place, name in enumerate(("evidence", "bound", "kl")):
        line = found.differences[found.differences.quantity == name].iloc[0]
        apart = values_of(runs, line.name)[place] - values_of(runs, line["against"])[place]
        assert line["seeds_paired"]
        assert line["difference"] == pytest.approx(apart.mean(), rel=1e-9)
        assert line["se_data"] == pytest.approx(stats.sem(apart.mean(0)), rel=1e-9)
        assert line["se_seeds"] == pytest.approx(stats.sem(apart.mean(1)), rel=1e-9)
        assert line["low"] < line["difference"] < line["high"]
        assert line["p_holm"] == line["p"]  # of one comparison


def test_the_best_comes_first_and_the_verdict_says_what_two_seeds_can_show(found):
    means = found.settings.evidence
    assert list(means) == sorted(means, reverse=True)
    assert list(found.settings["rank"]) == [1, 2]
    p = found.differences.p_holm.iloc[0]
    best = f"{means.index[0]} is the best of 2 settings by log p(x)."
    highest = f"{means.index[0]} has the highest mean log p(x) of 2 settings"
    none = f"{highest}, but is not shown to be better than any other."
    assert found.verdicts[0] == (none if p > 0.05 else best)
    assert found.verdicts[1].startswith("No difference between" if p > 0.05 else f"{means.index[0]} is better than")
    assert list(found.settings.ranks) == (["1-2", "1-2"] if p > 0.05 else ["1", "2"])


def test_only_options_that_differ_are_told(found):
    assert set(found.options.columns) == {"data", "prior", "prior.scale"}
    assert found.options.loc["Laplace", "prior"] == "Laplace"
    assert found.options.loc["StandardNormal", "prior.scale"] == ""


def test_a_line_for_each_run_has_its_folders_short_name(found):
    assert sorted(found.runs.index) == sorted(f"prior={prior},seed={seed}" for prior in EACH for seed in (0, 1))
    assert list(found.runs.samples_seen) == [600] * 4


def test_text_json_and_notebook_tell_the_same(found):
    text, html, told = str(found), found._repr_html_(), found.to_dict()
    json.dumps(told, allow_nan=False)
    for prior in EACH:
        mean = f"{found.settings.evidence[prior]:.2f}"
        assert mean in text
        assert mean in html
    for verdict in found.verdicts:
        assert verdict in text
        assert verdict in told["verdicts"]
    assert [line["setting"] for line in told["settings"]] == list(found.settings.index)
    assert len(told["runs"]) == 4
    assert repr(found) == "<Comparison of 4 runs in 2 settings>"


def test_runs_that_are_open_or_named_one_by_one_are_the_same(runs, found):
    paths = sorted(runs.iterdir())
    opened = [load_run(paths[0], device="cpu"), *paths[1:], str(paths[1])]  # one of them twice
    again = compare_runs(opened, **QUICK)
    assert again.settings.drop(columns="data").equals(found.settings.drop(columns="data"))


def test_one_seed_each_leaves_seeds_unknown_and_says_so(runs):
    found = compare_runs([runs / f"prior={prior},seed=0" for prior in EACH], **QUICK)
    assert found.settings.evidence_se_seeds.isna().all()
    assert found.settings.evidence_se.isna().all()
    assert "there is one seed of each of the settings: how much seeds matter there is unknown" in found.notes
    assert "on these data, and seeds are unknown" in found.verdicts[1]
    line = found.to_dict()["differences"][0]
    assert line["se"] is None
    assert line["low"] < line["difference"] < line["high"]


def test_seeds_that_are_not_the_same_are_not_paired(runs):
    chosen = [runs / name for name in ("prior=Laplace,seed=0", "prior=Laplace,seed=1", "prior=StandardNormal,seed=0")]
    assert not compare_runs(chosen, **QUICK).differences.seeds_paired.any()


def test_nor_are_as_many_seeds_that_are_others(runs, tmp_path):
    """Welch's errors: those of the two settings' own means over seeds, added up."""
    other = train(tmp_path / "x", "--prior=Laplace", "--seed=2")
    found = compare_runs([*sorted(runs.glob("prior=Standard*")), runs / "prior=Laplace,seed=0", other], **QUICK)
    line = found.differences.iloc[0]
    assert not line["seeds_paired"]
    errors = found.settings.evidence_se_seeds
    assert line["se_seeds"] == pytest.approx(math.hypot(*errors), rel=1e-9)


def test_one_setting_alone_has_nothing_to_be_compared_with(runs):
    found = compare_runs([runs / "prior=Laplace,seed=0", runs / "prior=Laplace,seed=1"], **QUICK)
    assert list(found.settings.index) == ["Laplace, 2 latents"]
    assert found.differences.empty
    assert "nothing to compare it with" in found.verdicts[0]
    assert str(found)


@pytest.mark.parametrize("name", ["Laplace", "lapl", "prior=Laplace,seed=1"])
def test_a_baseline_is_what_all_others_are_compared_with(runs, name):
    wanted = runs / name if "=" in name else name
    found = compare_runs(runs, baseline=str(wanted), **QUICK)
    assert set(found.differences.against) == {"Laplace"}
    assert list(found.settings.ranks) == ["", ""]


def test_an_unknown_baseline_is_refused_with_the_settings_that_there_are(runs):
    with pytest.raises(InputError, match="did you mean Laplace"):
        compare_runs(runs, baseline="Laplaze", **QUICK)


# ---------------------------------------------------------------- which are one setting


def test_options_that_change_no_number_do_not_tell_settings_apart(runs, tmp_path):
    other = train(tmp_path / "x", "--prior=Laplace", "--seed=2", "--evaluate_every=600", "--save_every=300")
    found = compare_runs([runs, other], **QUICK)
    assert found.settings.seeds["Laplace"] == 3


def test_an_option_can_be_ignored(runs, tmp_path):
    other = train(tmp_path / "x", "--prior=Laplace", "--seed=2", "--optimizer.lr=0.05")
    apart = compare_runs([runs, other], **QUICK)
    assert sorted(apart.settings.index) == ["Laplace, lr=0.02", "Laplace, lr=0.05", "StandardNormal, lr=0.02"]
    together = compare_runs([runs, other], ignore=["optimizer.lr"], **QUICK)
    assert dict(together.settings.seeds) == {"Laplace": 3, "StandardNormal": 2}


def test_a_run_is_not_counted_twice(runs, tmp_path):
    shutil.copytree(runs / "prior=Laplace,seed=0", tmp_path / "copy")
    found = compare_runs([runs, tmp_path / "copy"], **QUICK)
    assert found.settings.seeds["Laplace"] == 2
    assert any("is left out" in note and "has its setting and seed" in note for note in found.notes)


def test_equal_options_of_likelihood_and_guide_are_told_once(tmp_path):
    for hidden in (4, 6):
        train(tmp_path / str(hidden), f"--hidden={hidden}")
    assert sorted(compare_runs(tmp_path, **QUICK).settings.index) == ["hidden=4", "hidden=6"]


def test_an_unfinished_run_is_told(runs, tmp_path):
    run = shutil.copytree(runs / "prior=Laplace,seed=0", tmp_path / "begun")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("samples: 600", "samples: 900"))
    found = compare_runs([runs / "prior=Laplace,seed=1", run], **QUICK)
    assert any("is unfinished: it has seen 600 of 900 samples" in note for note in found.notes)


# ---------------------------------------------------------------- which are not compared


def test_other_binarisation_is_other_data_and_density_is_no_probability(runs, tmp_path):
    grey = ["--binarize=none", "--samples=200"]
    train(tmp_path / "relaxed", *grey, "--likelihood.relaxed=true")
    train(tmp_path / "density", *grey, "--likelihood=ContinuousBernoulli")
    train(tmp_path / "mass", *grey, "--likelihood=Categorical", "--likelihood.steps=16")
    train(tmp_path / "static", "--binarize=static", "--split_seed=3")
    found = compare_runs([runs, tmp_path], **QUICK)
    kinds = [group.name.rpartition("data, ")[2] for group in found.groups]
    assert sorted(kinds) == sorted(["probabilities"] * 3 + ["densities", "cross-entropy of grey pixels, no likelihood"])
    assert len({group.name for group in found.groups}) == 5
    assert found.notes[0].startswith("the runs are of 5 kinds of data or of likelihoods")
    assert set(found.differences.data) == {group.name for group in found.groups if len(group.settings) > 1}


def test_a_table_with_columns_of_both_kinds_says_which_are_which(tables):
    (group,) = compare_runs(tables, **QUICK).groups
    assert group.name.endswith('densities, but probabilities of count, the "kind" & <b>')


# ---------------------------------------------------------------- what cannot be used


def test_a_broken_run_is_refused_where_it_was_named_and_left_out_where_it_was_found(runs, tmp_path):
    copied = shutil.copytree(runs, tmp_path / "all")
    broken = copied / "prior=Laplace,seed=0"
    (broken / "last.pt").write_bytes(b"no state")
    with pytest.raises(InputError, match="seed=0"):
        compare_runs([broken, runs], **QUICK)
    found = compare_runs(copied, **QUICK)
    assert found.settings.seeds["Laplace"] == 1
    assert any("seed=0 is left out" in note and "damaged" in note for note in found.notes)


def test_folders_without_runs_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for wrong, words in ((tmp_path / "none", "is no folder"), (tmp_path / "empty", "there is no run"), (3, "not 3")):
        with pytest.raises(InputError, match=words):
            compare_runs(wrong, **QUICK)
    with pytest.raises(InputError, match="no run was given"):
        compare_runs([], **QUICK)


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"count": 1}, {"by": "loss"}, {"show": 1}])
def test_wrong_arguments_are_refused(runs, wrong):
    with pytest.raises(InputError):
        compare_runs(runs, **{**QUICK, **wrong})


# ---------------------------------------------------------------- what is kept


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(
        runs / "prior=Laplace,seed=0", tmp_path / "run", ignore=shutil.ignore_patterns("evaluations")
    )


@pytest.fixture
def counted(monkeypatch):
    """How often evidence was computed."""
    calls = []
    compute = evidence.importance_weights

    def computed(*given, **named):
        calls.append(1)
        return compute(*given, **named)

    monkeypatch.setattr(evidence, "importance_weights", computed)
    return calls


def test_a_run_is_computed_once(copied, counted):
    first = compare_runs(copied, **QUICK)
    again = compare_runs(copied, **QUICK)
    assert len(counted) == 1
    assert again.settings.equals(first.settings)
    assert [path.suffix for path in (copied / "evaluations").iterdir()] == [".pt"]


@pytest.mark.parametrize("other", [{"num_samples": 21}, {"count": 61}, {"seed": 1}])
def test_other_options_are_computed_anew(copied, counted, other):
    compare_runs(copied, **QUICK)
    compare_runs(copied, **{**QUICK, **other})
    assert len(counted) == 2


def test_a_file_of_other_options_under_the_name_of_these_is_not_believed(copied, counted):
    expected = compare_runs(copied, **QUICK).settings
    (own,) = (copied / "evaluations").iterdir()
    compare_runs(copied, **{**QUICK, "seed": 1})
    (other,) = set((copied / "evaluations").iterdir()) - {own}
    other.rename(own)
    assert compare_runs(copied, **QUICK).settings.equals(expected)
    assert len(counted) == 3


def test_other_weights_are_computed_anew(copied, counted):
    before = compare_runs(copied, **QUICK).settings.bound.iloc[0]
    run = load_run(copied, device="cpu")
    with torch.no_grad():
        next(run.model.parameters()).add_(0.5)
    assert compare_runs(run, **QUICK).settings.bound.iloc[0] != before
    assert len(counted) == 2
    assert compare_runs(copied, **QUICK).settings.bound.iloc[0] == before


def test_a_damaged_file_is_computed_anew_and_replaced(copied, counted):
    expected = compare_runs(copied, **QUICK).settings
    (kept,) = (copied / "evaluations").iterdir()
    whole = kept.read_bytes()
    at = whole.index(torch.load(kept)["values"]["evidence"].numpy().tobytes())
    flipped = bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]])
    for damaged in (b"nothing", whole[: len(whole) // 2], flipped):
        kept.write_bytes(damaged)
        assert compare_runs(copied, **QUICK).settings.equals(expected)
        assert kept.read_bytes() == whole
    assert len(counted) == 4


def test_another_source_of_the_package_is_computed_anew(copied, counted, monkeypatch):
    compare_runs(copied, **QUICK)
    monkeypatch.setattr("pyro_aevb.reports.measured._digest_of_package", lambda: "another")
    compare_runs(copied, **QUICK)
    assert len(counted) == 2


def test_a_folder_in_which_nothing_can_be_kept_is_measured_all_the_same(copied, counted, tmp_path):
    (copied / "evaluations").write_text("in the way")
    expected = compare_runs(copied, **QUICK).settings
    assert (copied / "evaluations").read_text() == "in the way"
    (copied / "evaluations").unlink()
    (tmp_path / "elsewhere").mkdir()
    (copied / "evaluations").symlink_to(tmp_path / "elsewhere")
    assert compare_runs(copied, **QUICK).settings.equals(expected)
    assert not list((tmp_path / "elsewhere").iterdir())
    assert len(counted) == 2


def test_parts_of_a_users_own_module_are_computed_anew_since_their_source_is_not_known(
    runs, copied, counted, monkeypatch
):
    monkeypatch.setattr("pyro_aevb.reports.measured.OWN", ("torch.",))
    compare_runs(copied, **QUICK)
    compare_runs(copied, **QUICK)
    assert len(counted) == 2
    assert not (copied / "evaluations").exists()


def test_numbers_do_not_depend_on_how_many_draws_are_taken_at_once(copied, monkeypatch):
    expected = compare_runs(copied, **QUICK).settings.evidence.iloc[0]
    shutil.rmtree(copied / "evaluations")
    monkeypatch.setattr("pyro_aevb.evidence.importance.CPU_ROWS", 7)
    assert compare_runs(copied, **QUICK).settings.evidence.iloc[0] == pytest.approx(expected, rel=1e-6)


def test_all_data_are_measured_where_no_count_is_given(copied):
    found = compare_runs(copied, num_samples=2, count=None, device="cpu")
    assert found.groups[0].count == 297
    assert not math.isnan(found.settings.evidence.iloc[0])
