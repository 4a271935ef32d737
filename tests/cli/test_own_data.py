"""A person's own table, as a new user would: gaps, labels, conditions, exposures; codes, log p(x), imputed rows out."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import evidence, predictions

N = 120

QUICK = ["--latent_dim=2", "--hidden=6", "--samples=600", "--batch_size=20", "--report_every=200", "--device=cpu"]
ROLES = ["--data=plants.csv", "--labels=species", "--index=plant", "--missing"]


@pytest.fixture
def plants(tmp_path):
    """A table with an index, labels, each kind of column and gaps, and new rows without labels."""
    generator = np.random.default_rng(0)
    species = generator.integers(0, 3, N)
    z = generator.normal(size=N)
    table = pd.DataFrame(
        {
            "plant": [f"p{i:03d}" for i in range(N)],
            "length": np.round(50 + 10 * species + 4 * z, 2),
            "seeds": generator.poisson(np.exp(2 + 0.5 * z)),
            "flowering": np.where(generator.random(N) < 1 / (1 + np.exp(-2 * z)), "yes", "no"),
            "colour": generator.choice(["red", "blue", "white"], N),
            "species": np.array(["setosa", "virginica", "versicolor"])[species],
            "hours": np.round(generator.uniform(1, 9, N), 1),
        }
    )
    for column in ("length", "seeds", "flowering", "colour"):
        table.loc[generator.random(N) < 0.2, column] = None
    table.to_csv(tmp_path / "plants.csv", index=False)
    table.iloc[:9].drop(columns="species").to_csv(tmp_path / "new.csv", index=False)
    return table


def ran(cli, *words):
    code, printed, errors = cli(*words)
    assert code == 0, errors
    return printed, errors


def refused(cli, *words):
    code, _, errors = cli(*words)
    assert code == 2
    lines = [line for line in errors.splitlines() if "--kinds COLUMN=KIND" not in line]  # which says what is what
    assert len(lines) == 1, errors
    return errors


def test_a_table_with_gaps_and_labels_one_command_a_step(cli, plants):
    """Codes, log p(x) a row, an imputed table, an anomaly ranking: each one command, with the library's numbers."""
    _, told = ran(cli, "train", *ROLES, *QUICK, "--out=run")
    assert "real: length, hours; count: seeds; binary: flowering; category: colour" in told
    ran(cli, "encode", "run", "--data=new.csv", "--out=codes.csv", "--draws=2")
    ran(cli, "evaluate", "run", "--data=new.csv", "--out=datum.csv", "--num_samples=50", "--device=cpu")
    ran(cli, "impute", "run", "--data=new.csv", "--out=imputed.csv", "--num_samples=50")
    ran(cli, "reconstruct", "run", "--data=new.csv", "--out=made.csv")
    codes, datum, imputed, made = (
        pd.read_csv(f"{name}.csv", index_col="plant") for name in ("codes", "datum", "imputed", "made")
    )
    new = pd.read_csv("new.csv", index_col="plant")
    for table in (codes, datum, imputed, made):
        assert list(table.index) == list(new.index)
    run = aevb.load_run("run", device="cpu")
    rows = run.read("new.csv")
    found = predictions.encode(run.guide, rows.x, 2)
    np.testing.assert_allclose(codes[["z0", "z1"]], found.mean, rtol=1e-5)
    np.testing.assert_allclose(codes[["z0_sd", "z1_sd"]], found.scale, rtol=1e-5)
    np.testing.assert_allclose(codes[["z0_draw1", "z1_draw1"]], found.draws[1], rtol=1e-5)
    weights = evidence.importance_weights(run.model, run.guide, rows.x, 50)
    np.testing.assert_allclose(datum["log_px"], weights.log_likelihood, rtol=1e-5)
    np.testing.assert_allclose(datum["log_px_se"], weights.standard_error, rtol=1e-4)
    np.testing.assert_allclose(datum["bound"], evidence.bound(run.model, run.guide, rows.x, 100).bound, rtol=1e-5)
    assert datum["observed"].tolist() == new[imputed.columns].notna().sum(axis=1).tolist()
    assert datum["anomaly_rank"].tolist() == datum["log_px"].rank().astype(int).tolist()
    assert not imputed.isna().any().any()
    assert list(imputed.columns) == list(made.columns) == ["length", "seeds", "flowering", "colour", "hours"]
    there = new.notna()[imputed.columns]
    for column in imputed.columns:
        pd.testing.assert_series_equal(imputed[column][there[column]], new[column][there[column]], check_dtype=False)
    assert set(imputed["colour"]) <= {"red", "blue", "white"}
    for given, table in ((run.encode("new.csv", 2), codes), (run.impute("new.csv", 50), imputed)):
        pd.testing.assert_frame_equal(given, table, check_dtype=False, rtol=1e-5)
    frame = run.evaluate(new.reset_index(), num_samples=50)
    np.testing.assert_allclose(frame["log_px"], datum["log_px"], rtol=1e-5)


def test_the_runs_own_rows_carry_their_labels_and_draws_are_numbered(cli, plants):
    ran(cli, "train", *ROLES, *QUICK, "--out=run")
    ran(cli, "evaluate", "run", "--out=datum.parquet", "--num_samples=20")
    datum = pd.read_parquet("datum.parquet")
    assert len(datum) == N // 10
    table = plants.set_index("plant")
    assert datum["species"].tolist() == table.loc[datum.index, "species"].tolist()
    ran(cli, "impute", "run", "--split=train", "--count=5", "--draws=3", "--num_samples=20", "--out=drawn.csv")
    drawn = pd.read_csv("drawn.csv")
    assert drawn["draw"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    ran(cli, "sample", "run", "--draw=x", "--count=7", "--out=x.csv")
    x = pd.read_csv("x.csv", index_col="row")
    assert list(x.columns) == ["length", "seeds", "flowering", "colour", "hours"]
    assert set(x["flowering"]) <= {"yes", "no"}
    assert (x["seeds"] == x["seeds"].round()).all()


def test_a_conditional_run_of_counts_with_exposure_goes_through_every_command(cli, plants):
    roles = [*ROLES, "--condition=labels", "--exposure=hours", "--prior=ConditionalNormal", "--prior.hidden=4"]
    ran(cli, "train", *roles, *QUICK, "--out=run")
    ran(cli, "train", "--resume=run", "--samples=900")
    run = aevb.load_run("run", device="cpu")
    assert run.model.condition == 3
    assert run.model.exposure
    assert run.data.label_names == ("setosa", "versicolor", "virginica")
    ran(cli, "evaluate", "run", "--num_samples=20", "--evidence=importance,ais", "--steps=3", "--chains=2", "--json")
    ran(cli, "diagnose", "run", "--count=12", "--gap_count=2", "--ais_steps=3")
    ran(cli, "compare", "run", "--draws=2", "--reference_draws=2", "--batch_size=5", "--estimators=all")
    ran(cli, "plot", "run", "--count=6", "--side=2")
    ran(cli, "sample", "run", "--condition=virginica", "--exposure=3", "--count=5", "--draw=x", "--out=x.csv")
    drawn = predictions.sample(run.model, 5, condition=torch.full((5,), 2), exposure=torch.full((5,), 3.0))
    np.testing.assert_allclose(pd.read_csv("x.csv")["length"], drawn[:, 0], rtol=1e-5)
    ran(cli, "reconstruct", "run", "--condition=setosa", "--out=as_setosa.csv")
    made = predictions.reconstruct(run.model, run.guide, run.data.arguments("test"), condition=torch.tensor([0]))
    as_setosa = pd.read_csv("as_setosa.csv")
    np.testing.assert_allclose(as_setosa["length"], made[:, 0], rtol=1e-5)
    assert set(as_setosa["decoded_as"]) == {"setosa"}
    assert as_setosa["species"].tolist() == list(run.data.rows("test").labels)
    assert "'purple', a category that the training data do not have" in refused(
        cli, "sample", "run", "--condition=purple", "--out=y.csv"
    )
    new = plants.iloc[:4]
    new.to_csv("more.csv", index=False)
    ran(cli, "encode", "run", "--data=more.csv", "--out=codes.csv")
    assert pd.read_csv("codes.csv")["species"].tolist() == new["species"].tolist()
    assert "lacks the column 'species'" in refused(cli, "encode", "run", "--data=new.csv", "--out=c.csv")


def test_labels_of_images_condition_the_model_and_their_samples(cli):
    ran(cli, "train", "--data=digits", "--condition=labels", *QUICK, "--out=run")
    ran(cli, "sample", "run", "--condition=3", "--count=4", "--out=threes.png")
    ran(cli, "sample", "run", "--condition=3", "--count=4", "--out=threes.npy")
    assert np.load("threes.npy").shape == (4, 8, 8)
    ran(cli, "plot", "run", "--count=10", "--side=2", "--condition=7")
    run = aevb.load_run("run", device="cpu")
    each = run.sample(20, mean=True)
    again = predictions.sample(run.model, 20, condition=torch.arange(20) % 10, mean=True)
    assert each["labels"].tolist() == [str(i % 10) for i in range(20)]
    np.testing.assert_allclose(each.drop(columns="labels").to_numpy(), again, rtol=1e-5)
    digits = aevb.data.load("digits")
    np.savez("new.npz", X=digits.test[:5].view(5, 8, 8).numpy(), labels=digits.labels_test[:5].numpy())
    np.testing.assert_allclose(run.encode("new.npz")["z0"], run.encode("test")["z0"][:5], rtol=1e-4, atol=1e-5)


def test_training_data_that_have_changed_in_what_stands_beside_them_are_refused(cli, plants, tmp_path):
    ran(cli, "train", *ROLES, "--condition=labels", *QUICK, "--out=run")
    table = pd.read_csv("plants.csv")
    table["species"] = table["species"].iloc[::-1].to_numpy()
    table.to_csv("plants.csv", index=False)
    assert "is not what run was trained on" in refused(cli, "evaluate", "run")


def test_a_run_opens_without_its_training_data_for_new_ones(cli, plants, tmp_path):
    ran(cli, "train", *ROLES, "--condition=labels", *QUICK, "--out=run")
    plants.iloc[:4].to_csv("more.csv", index=False)
    ran(cli, "encode", "run", "--data=more.csv", "--out=codes.csv")
    (tmp_path / "plants.csv").rename(tmp_path / "gone.csv")
    ran(cli, "encode", "run", "--data=more.csv", "--out=again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "codes.csv").read_bytes()
    for command in (["evaluate"], ["diagnose"], ["compare"], ["plot"], ["impute", "--out=i.csv"]):
        assert "plants.csv is not there: put the data back, or give new ones" in refused(cli, *command, "run")
    ran(cli, "sample", "run", "--condition=setosa", "--out=x.csv")


# fmt: off
BAD = {
    "a gap without --missing": (["--data=plants.csv", "--labels=species", "--index=plant"], "is empty: fill it"),
    "binarize with gaps": ([*ROLES, "--binarize=dynamic"], "NaN"),
    "no such column": ([*ROLES, "--columns=lenght,seeds"], "no column 'lenght'"),
    "a kind of no column": ([*ROLES, "--kinds=length"], "give COLUMN=KIND"),
    "no such kind": ([*ROLES, "--kinds=length=int"], "unknown kind 'int'"),
    "a condition with gaps": ([*ROLES, "--condition=colour"], "is empty: a condition must be known"),
    "exposure without counts": ([*ROLES, "--exposure=hours", "--kinds=seeds=real"], "Columns takes no exposure"),
    "text in a Gaussian": ([*ROLES, "--likelihood=Gaussian"], "'colour' is of categories"),
    "labels of a table unnamed": (["--data=plants.csv", "--condition=labels", "--missing"], "--labels COLUMN"),
    "columns of digits": (["--data=digits", "--columns=a"], "digits has no columns to name"),
    "no scale": (["--data=digits", "--scale=0"], "scale"),
}
# fmt: on


@pytest.mark.parametrize("name", BAD)
def test_roles_that_do_not_suit_are_refused_in_one_line_and_nothing_is_begun(name, cli, plants, tmp_path):
    words, said = BAD[name]
    assert said in refused(cli, "train", *words, *QUICK, "--out=run")
    assert not (tmp_path / "run").exists()


# fmt: off
IGNORED = {
    "a scale of a table": (["train", *ROLES, "--scale=255", "--out=other"], "is for arrays"),
    "text as yes or no": (["train", *ROLES, "--kinds=colour=binary", "--out=other"], "binary is of two"),
    "an exposure of none": (["sample", "run", "--exposure=3", "--out=x.csv"], "trained without an exposure"),
    "split of new data": (["encode", "run", "--data=new.csv", "--split=train", "--out=c.csv"], "leave one out"),
    "a table for an array": (["encode", "run", "--data=new.txt.gz", "--out=c.csv"], "give a .csv, .tsv"),
    "no such file": (["encode", "run", "--data=./nothing.csv", "--out=c.csv"], "no file nothing.csv"),
}
# fmt: on


@pytest.mark.parametrize("name", IGNORED)
def test_what_would_be_ignored_is_refused(name, cli, plants):
    ran(cli, "train", *ROLES, *QUICK, "--out=run")
    words, said = IGNORED[name]
    assert said in refused(cli, *words)


def test_an_imputed_table_changes_nothing_but_gaps_and_ids_stay(cli, plants, tmp_path):
    table = plants.assign(plant=[12345678901 + i for i in range(N)], big=[33777217 + 1000 * i for i in range(N)])
    table.to_csv("plants.csv", index=False)
    ran(cli, "train", *ROLES, *QUICK, "--out=run")
    ran(cli, "impute", "run", "--data=plants.csv", "--num_samples=10", "--out=imputed.csv")
    before = pd.read_csv("plants.csv", dtype=str, keep_default_na=False).set_index("plant")
    after = pd.read_csv("imputed.csv", dtype=str, keep_default_na=False).set_index("plant")
    assert list(after.index) == list(before.index)
    for column in before.columns:
        there = before[column] != ""
        one, other = (table[column][there].map(_number_or_word) for table in (before, after))
        assert (one == other).all(), column
    assert (after != "").all().all()


def _number_or_word(text):
    try:
        return float(text)
    except ValueError:
        return text


def test_a_small_table_is_one_minibatch(cli, plants, tmp_path):
    plants.iloc[:40].to_csv("plants.csv", index=False)
    ran(cli, "train", *ROLES, "--latent_dim=2", "--hidden=6", "--samples=200", "--device=cpu", "--out=run")
    assert aevb.load_run("run").config.batch_size == 36


def test_pictures_of_a_table_are_of_its_columns(cli, plants, tmp_path):
    ran(cli, "train", *ROLES, *QUICK, "--out=run")
    printed, _ = ran(cli, "plot", "run")
    assert [line.split("/")[-1] for line in printed.split()] == [
        "learning_curve.png",
        "columns.png",
        "heat_map.png",
        "predicted_against_observed.png",
        "latent_space.png",
    ]
    printed, _ = ran(cli, "sample", "run", "--count=3", "--draw=x")
    assert len(pd.read_csv(printed.strip())) == 3


def test_what_is_there_is_not_replaced_and_what_cannot_be_is_said(cli, plants, tmp_path):
    ran(cli, "train", *ROLES, *QUICK, "--out=run")
    (tmp_path / "codes.csv").write_text("mine")
    assert "exists" in refused(cli, "encode", "run", "--out=codes.csv")
    assert (tmp_path / "codes.csv").read_text() == "mine"
    assert ".csv or .parquet" in refused(cli, "encode", "run", "--out=codes.xls")
    ran(cli, "train", "--data=digits", *QUICK, "--out=plain")
    assert "trained without --missing" in refused(cli, "impute", "plain")
    assert "trained without a condition" in refused(cli, "sample", "plain", "--condition=3")


def test_five_priors_and_three_seeds_are_five_lines_of_shell(cli, plants, tmp_path):
    """As a loop of a shell would: each run in its own folder, its numbers as JSON."""
    found = {}
    for prior in ("StandardNormal", "Laplace", "StudentT", "GaussianMixture", "LearnedNormal"):
        for seed in range(3):
            out = f"runs/{prior}-{seed}"
            ran(cli, "train", *ROLES, f"--prior={prior}", f"--seed={seed}", *QUICK[:-1], f"--out={out}")
            found[prior, seed] = json.loads(ran(cli, "evaluate", out, "--num_samples=10", "--json")[0])
    means = {key: each["log_px"]["mean"] for key, each in found.items()}
    assert len(set(means.values())) == 15
    assert all(np.isfinite(mean) for mean in means.values())


def test_a_run_of_an_earlier_version_keeps_its_rule_of_bytes(cli, tmp_path):
    """Its configuration says nothing of scale: all bytes were divided by 255."""
    import yaml

    np.save("bytes.npy", np.random.default_rng(0).integers(0, 2, (60, 4)).astype(np.uint8) * 255)
    ran(cli, "train", "--data=bytes.npy", "--scale=bytes", "--binarize=none", *QUICK, "--out=run")
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["scale"] == "bytes"
    from pyro_aevb.runs.options import config_of

    assert config_of({name: value for name, value in config.items() if name != "scale"}).scale == "bytes"
    assert aevb.load_run("run").data.train.max() == 1


OWN_NETWORK = '''
from torch import nn


class Net(nn.Sequential):
    """Batch normalisation and dropout, from numbers to numbers."""

    def __init__(self, in_dim: int, out_dim: int, width: int = 8):
        super().__init__(nn.Linear(in_dim, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, out_dim))


class Convolutional(nn.Sequential):
    """Images of 8 x 8, flat, to numbers."""

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__(
            nn.Unflatten(-1, (1, 8, 8)), nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, out_dim)
        )
'''  # noqa: E501


def test_an_own_network_with_batch_normalisation_dropout_and_convolutions(cli, plants, tmp_path):
    """From training to codes, one command each; codes do not depend on what stands beside a row."""
    (tmp_path / "my_net.py").write_text(OWN_NETWORK)
    own = ["--guide.network=my_net.Net", "--guide.network.width=6", "--likelihood.network=my_net.Net"]
    ran(cli, "train", *ROLES, *own, "--latent_dim=2", "--samples=600", "--batch_size=20", "--device=cpu", "--out=run")
    assert "--trust my_net" in refused(cli, "encode", "run", "--out=codes.csv")
    ran(cli, "encode", "run", "--data=new.csv", "--out=codes.csv", "--trust=my_net")
    ran(cli, "encode", "run", "--data=new.csv", "--count=3", "--out=three.csv", "--trust=my_net")
    codes, three = (pd.read_csv(name, index_col="plant") for name in ("codes.csv", "three.csv"))
    np.testing.assert_allclose(three, codes.iloc[:3], rtol=1e-5)
    ran(cli, "evaluate", "run", "--num_samples=20", "--trust=my_net", "--out=datum.csv")
    ran(cli, "impute", "run", "--num_samples=20", "--trust=my_net", "--out=imputed.csv")
    images = ["--data=digits", "--guide.network=my_net.Convolutional", *QUICK[:1], *QUICK[2:]]
    ran(cli, "train", *images, "--out=images")
    ran(cli, "evaluate", "images", "--num_samples=5", "--trust=my_net")
