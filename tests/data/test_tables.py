"""Tables and arrays from wherever people have them, and new data by the schema of the old."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from pyro_aevb import data
from pyro_aevb.data.schema import plain_schema, schema_from
from pyro_aevb.errors import InputError

N = 40


def frame(gaps=True):
    """A table with an index, labels, each kind of column, and gaps."""
    generator = np.random.default_rng(0)
    made = pd.DataFrame(
        {
            "plant": [f"p{i:02d}" for i in range(N)],
            "length": np.round(generator.normal(50, 5, N), 2),
            "seeds": generator.poisson(9, N),
            "flowering": generator.choice(["yes", "no"], N),
            "colour": generator.choice(["red", "blue", "white"], N),
            "wet": generator.integers(0, 2, N),
            "species": generator.choice(["setosa", "virginica"], N),
            "hours": generator.uniform(1, 9, N),
        }
    )
    if gaps:
        for column in ("length", "seeds", "flowering", "colour"):
            made.loc[generator.random(N) < 0.2, column] = None
    return made


ROLES = {"labels": "species", "index": "plant", "missing": True}


def same(one, other):
    """Equal data sets, NaN where NaN."""
    for name in ("train", "test", "labels_train", "labels_test"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)
    assert one.beside_train.index == other.beside_train.index
    assert asdict(one.schema) == asdict(other.schema)


@pytest.mark.parametrize("kind", ["csv", "semicolons", "tsv", "parquet", "polars", "index column"])
def test_a_table_is_the_same_from_every_source(kind, tmp_path):
    """Pandas is the oracle: the table as it was made."""
    table = frame()
    expected = data.load(table, **ROLES)
    path = tmp_path / "plants.csv"
    roles = dict(ROLES)
    if kind == "csv":
        table.to_csv(path, index=False)
    elif kind == "semicolons":
        table.to_csv(path, index=False, sep=";", encoding="utf-8-sig")
    elif kind == "tsv":
        path = tmp_path / "plants.tsv"
        table.to_csv(path, index=False, sep="\t")
    elif kind == "parquet":
        path = tmp_path / "plants.parquet"
        table.to_parquet(path)
    elif kind == "index column":
        table.set_index("plant").rename_axis(None).to_csv(path)
        roles.pop("index")
    found = data.load(pl.from_pandas(table) if kind == "polars" else path, **roles)
    if kind == "index column":
        assert found.schema.index == "Unnamed: 0"
        assert found.beside_train.index == expected.beside_train.index
        torch.testing.assert_close(found.train, expected.train, rtol=0, atol=0, equal_nan=True)
    else:
        same(found, expected)


def test_columns_are_of_the_kinds_that_their_values_suggest_and_keep_their_names():
    found = data.load(frame(), **ROLES)
    kinds = {column.name: column.kind_of_likelihood for column in found.schema.columns}
    assert kinds == {
        "length": "real",
        "seeds": "count",
        "flowering": "binary",
        "colour": "category:3",
        "wet": "binary",
        "hours": "real",
    }
    named = data.load(frame(), **ROLES, columns="seeds,wet", kinds={"seeds": "real", "wet": "category"})
    assert [column.kind_of_likelihood for column in named.schema.columns] == ["real", "category:2"]


def test_every_row_of_the_table_is_there_once_with_its_own_values_labels_and_name():
    table = frame().set_index("plant")
    found = data.load(frame(), **ROLES)
    seen = []
    for split in ("train", "test"):
        rows = found.rows(split)
        for x, label, name in zip(rows.x, rows.labels, rows.beside.index, strict=True):
            own = table.loc[name]
            assert label == own["species"]
            colour = None if pd.isna(own["colour"]) else ["blue", "red", "white"].index(own["colour"])
            values = [own["length"], own["seeds"], {"no": 0, "yes": 1}.get(own["flowering"]), colour]
            given = torch.tensor([float("nan") if value is None else float(value) for value in values])
            torch.testing.assert_close(x[:4], given, equal_nan=True)
            seen.append(name)
    assert sorted(seen) == sorted(table.index)
    assert len(found.test) == N // 10


def test_new_data_are_read_by_the_old_ones_schema_whatever_the_order_of_their_columns():
    found = data.load(frame(), **ROLES)
    some = frame().iloc[:5]
    rows = data.read_rows(found, some[some.columns[::-1]].assign(more=1.0))
    again = data.read_rows(found, pl.from_pandas(some))
    assert torch.equal(rows.x.nan_to_num(-1), again.x.nan_to_num(-1))
    place = {name: i for i, name in enumerate(found.beside_train.index)}
    for i, name in enumerate(rows.beside.index):
        if name in place:
            torch.testing.assert_close(rows.x[i], found.train[place[name]], equal_nan=True)


BAD_NEW = {
    "no such column": (lambda t: t.drop(columns="seeds"), "lacks the column 'seeds'"),
    "unseen category": (
        lambda t: t.assign(colour="green"),
        r"row 0 \(p00\), column 'colour', is 'green', a category that",
    ),
    "text for numbers": (lambda t: t.assign(length="long"), r"row 0 \(p00\), column 'length', is 'long', no number"),
    "infinite": (lambda t: t.assign(length=np.inf), r"row 0 \(p00\), column 'length', has a NaN or infinite"),
}


@pytest.mark.parametrize("name", BAD_NEW)
def test_new_data_that_do_not_suit_are_refused_by_column_and_row(name):
    change, words = BAD_NEW[name]
    found = data.load(frame(), **ROLES)
    with pytest.raises(InputError, match=words):
        data.read_rows(found, change(frame()))


BAD = {
    "a gap": (
        {"missing": False, "labels": "species", "index": "plant"},
        "is empty: fill it, or train with --missing",
    ),
    "an index among the data": ({"missing": True}, "40 different texts in 40 rows: .* --index plant"),
    "no such column": ({**ROLES, "columns": "lenght"}, "no column 'lenght': it has plant, length"),
    "two roles": ({**ROLES, "columns": "length,species"}, "'species' cannot be of the data and have another role"),
    "no such kind": ({**ROLES, "kinds": {"length": "integer"}}, "unknown kind 'integer' of column 'length'"),
    "a kind that it is not": ({**ROLES, "kinds": {"length": "count"}}, "column 'length' is not count"),
    "text as numbers": ({**ROLES, "kinds": {"colour": "real"}}, "'colour' holds text such as 'blue', which is no real"),
    "labels unnamed": ({"condition": "labels", "missing": True, "index": "plant"}, "needs the labels' column"),
    "a condition with gaps": ({**ROLES, "condition": "colour"}, "row 8, column 'colour', is empty: a condition must"),
    "an exposure with zeros": ({**ROLES, "exposure": "wet"}, "the exposure 'wet', is 0, not positive"),
}


@pytest.mark.parametrize("name", BAD)
def test_tables_and_roles_that_do_not_suit_are_refused_in_one_line(name):
    options, words = BAD[name]
    with pytest.raises(InputError, match=words) as refused:
        data.load(frame(), **options)
    assert "\n" not in str(refused.value)


def test_columns_and_rows_that_say_nothing_are_refused_by_name():
    with pytest.raises(InputError, match=r"column 'wet' has one value, 1, in all rows: .* --columns length,seeds"):
        data.load(frame().assign(wet=1), **ROLES)
    with pytest.raises(InputError, match=r"column 'length' has no value in any row"):
        data.load(frame().assign(length=np.nan), **ROLES)
    table = frame()
    table.loc[3, [name for name in table.columns if name not in ("plant", "species")]] = None
    with pytest.raises(InputError, match=r"nothing is known of 1 rows, p03 for one"):
        data.load(table, **ROLES)
    with pytest.raises(InputError, match="dates or times"):
        data.load(frame().assign(day=pd.Timestamp("2020-01-01")), **ROLES)
    with pytest.raises(InputError, match="0 rows"):
        data.load(frame().iloc[:0], **ROLES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b,c\n1,2,3\n4,5\n6,7,8,9\n", "line 4 has 4 cells, the lines before it 3"),
        (b"a,b\n0.3,1,b\n0.5,2,c\n", "line 2 has 3 cells, and the first line 2: name each column"),
        (b"a,b ,b\n1,2,3\n", "two columns 'b'"),
        (b"", "is empty: there is nothing in it"),
        (b"\xff\xfe\x00\x01", "no text in UTF-8: save it"),
        (b"a,b\n1,2\n", "one value, 1, in all rows: it says nothing, nor 'b'"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as refused:
        data.load(path)
    assert "\n" not in str(refused.value)


def test_names_and_codes_stay_as_they_stand(tmp_path):
    """Ids of many digits, zeros in front, words that look like gaps: each as it is written."""
    ids = [str(12345678901 + i) for i in range(N)]
    plots = [f"{i:05d}" for i in range(N)]
    table = frame(gaps=False).assign(plant=ids, species=[f"{i % 2:03d}" for i in range(N)])
    table["parking"] = ["None", "null", "street", "none"] * (N // 4)
    table["zip"] = [f"0{i % 3}123" for i in range(N)]
    table.to_csv(tmp_path / "a.csv", index=False)
    for source in (tmp_path / "a.csv", table, table.astype({"plant": "int64"})):
        found = data.load(source, labels="species", index="plant")
        rows = found.rows("train")
        assert set(rows.beside.index) | set(found.rows("test").beside.index) == set(ids)
        place = {each: i for i, each in enumerate(ids)}
        assert [f"{place[name] % 2:03d}" for name in rows.beside.index] == list(rows.labels)
        kinds = {column.name: column.categories for column in found.schema.columns if column.kind == "category"}
        assert kinds["parking"] == ("None", "none", "null", "street")
        assert kinds["zip"] == ("00123", "01123", "02123")
    table.assign(plant=plots).to_csv(tmp_path / "b.csv", index=False)
    assert set(data.load(tmp_path / "b.csv", labels="species", index="plant").beside_train.index) <= set(plots)


@pytest.mark.parametrize("gap", ["", "NA", "N/A", "NaN", "nan", "  "])
def test_what_is_a_gap(gap, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1.5,x\n" + f"{gap},y\n2.5,{gap}\n" + "3.5,x\n4.5,y\n" * 5)
    found = data.load(tmp_path / "a.csv", missing=True)
    whole = torch.cat([found.train, found.test])
    assert whole.isnan().sum(0).tolist() == [1, 1]
    assert found.schema.columns[1].categories == ("x", "y")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["?", *map(str, np.arange(30) / 7)], r"has '\?' among numbers: empty the cell"),
        ([f"{i}%" for i in range(30)], "'0%', which looks like a number or a date"),
        ([f"{i},5" for i in range(30)], "looks like a number or a date"),
        ([f"2020-03-{i:02d}" for i in range(1, 31)], "looks like a number or a date"),
        ([f"{i},000" for i in range(1, 5)] * 8, "looks like a number or a date"),
    ],
)
def test_numbers_that_are_written_otherwise_do_not_become_categories(values, words, tmp_path):
    pd.DataFrame({"a": values, "b": np.arange(len(values))}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match=words):
        data.load(tmp_path / "a.csv")
    few = data.load(tmp_path / "a.csv", kinds={"a": "category"}) if len(set(values)) < 20 else None
    assert few is None or few.schema.columns[0].categories == tuple(sorted(set(values)))


def test_rows_keep_the_numbers_of_the_file_and_a_frames_own_index(tmp_path):
    plain = frame(gaps=False).drop(columns="plant")
    found = data.load(plain, labels="species")
    lengths = plain["length"].astype(np.float32).to_numpy()
    for split in ("train", "test"):
        rows = found.rows(split)
        assert [lengths[int(name)] for name in rows.beside.index] == rows.x[:, 0].tolist()
    indexed = frame(gaps=False).set_index("plant")
    by_index = data.load(indexed, labels="species")
    assert by_index.schema.index == "plant"
    assert set(by_index.beside_train.index) < set(indexed.index)
    filtered = plain[plain["wet"] == 1]
    assert data.read_rows(found, filtered).beside.index == tuple(map(str, filtered.index))
    assert data.read_rows(by_index, indexed.iloc[3:5]).beside.index == ("p03", "p04")
    indexed.to_parquet(tmp_path / "a.parquet")
    assert data.load(tmp_path / "a.parquet", labels="species").schema.index == "plant"
    frame(gaps=False).to_csv(tmp_path / "a.csv")  # with an index column that has no name
    both = data.load(tmp_path / "a.csv", index="plant", labels="species")
    assert "Unnamed: 0" not in {column.name for column in both.schema.columns}


def test_values_that_are_none_of_their_kind_are_refused_by_row_name_and_column():
    found = data.load(frame(gaps=False), labels="species", index="plant")
    for column, value, words in (("seeds", 2.5, "a count"), ("seeds", -3, "a count"), ("wet", 2, "0 or 1")):
        new = frame(gaps=False).astype({column: float})
        new.loc[4, column] = value
        with pytest.raises(InputError, match=rf"row 4 \(p04\), column '{column}', is {value:g}, and must be {words}"):
            data.read_rows(found, new)


def test_frames_that_no_column_can_be_told_of_are_refused():
    table = frame(gaps=False)
    with pytest.raises(InputError, match="two columns 'length'"):
        data.load(pd.concat([table, table[["length"]]], axis=1))
    with pytest.raises(InputError, match="an index and a column that are both called 'length'"):
        data.load(table.set_index(pd.Index(range(1, N + 1), name="length")))
    with pytest.raises(InputError, match="'length' is named twice"):
        data.load(table, columns="length,length")
    with pytest.raises(InputError, match=r"near 1\.7e\+09 that differ by less than float32 tells"):
        data.load(table.assign(time=1.7e9 + np.arange(N)), index="plant")
    with pytest.raises(InputError, match=r"column 'hours' has one value, 2\.5, in all rows"):
        data.load(table.assign(hours=2.5), index="plant", condition="hours")
    several = table.copy()
    several.columns = pd.MultiIndex.from_product([["a"], table.columns])
    with pytest.raises(InputError, match="several levels"):
        data.load(several)


def test_masks_of_zeros_and_ones_in_bytes_are_no_grey_images_and_new_ones_are_as_the_old_were():
    masks = (BYTES[:, 0] > 127).astype(np.uint8)
    assert set(data.load(masks).train.unique().tolist()) == {0, 1}
    grey = data.load(BYTES[:, 0])
    dark = np.ones((2, 4, 4), np.uint8)
    assert torch.equal(data.read_rows(grey, dark).x, torch.full((2, 16), 1 / 255))


def test_numbers_without_a_line_of_names(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.savetxt(tmp_path / "a.csv", x, delimiter=",")
    found = data.load(tmp_path / "a.csv")
    assert found.train.shape == (18, 3)
    rows = torch.cat([found.train, found.test])
    assert torch.equal(rows.sort(0)[0], torch.from_numpy(x).float().sort(0)[0])


def test_a_schema_goes_through_a_file_and_others_are_refused():
    schema = data.load(frame(), **ROLES, condition="labels").schema
    assert schema_from(json.loads(json.dumps(plain_schema(schema)))) == schema
    for change in ({"scale": "os.system"}, {"shape": [-1]}, {"labels": 3}, {"columns": [{"name": 1}]}, {"more": 1}):
        with pytest.raises(InputError, match="no schema"):
            schema_from({**plain_schema(schema), **change})


# ---------------------------------------------------------------- conditions


def test_a_condition_of_labels_of_covariates_and_of_both():
    table = frame(gaps=False)
    labels = data.load(table, **ROLES, condition="labels")
    assert labels.schema.condition_dim == 2
    assert labels.beside_train.condition.tolist() == labels.labels_train.tolist()
    assert set(labels.training) == {"x", "condition"}
    both = data.load(table, **ROLES, condition=["colour", "hours"])
    condition = torch.cat([both.beside_train.condition, both.beside_test.condition])
    assert condition.shape == (N, 4)
    torch.testing.assert_close(condition[:, 3].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(condition[:, 3].std(correction=0), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert (condition[:, :3].sum(1) == 1).all()
    assert {column.name for column in both.schema.columns} == {"length", "seeds", "flowering", "wet"}


# ---------------------------------------------------------------- arrays


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


X = np.random.default_rng(0).random((20, 4)).astype(np.float32)
Y = np.array(["cat", "dog"] * 10)

NAMES = {
    "X and y": ({"X": X, "y": Y}, 18),
    "x and labels": ({"x": X, "labels": Y}, 18),
    "x_train": ({"x_train": X[:15], "x_test": X[15:], "y_train": Y[:15], "y_test": Y[15:]}, 15),
    "train_images": (
        {"train_images": X[:15], "test_images": X[15:], "train_labels": Y[:15], "test_labels": Y[15:]},
        15,
    ),
    "train": ({"train": X[:15], "test": X[15:], "labels_train": Y[:15], "labels_test": Y[15:]}, 15),
}


@pytest.mark.parametrize("name", NAMES)
def test_arrays_by_the_names_that_people_give_them(name, tmp_path):
    arrays, size = NAMES[name]
    for source in (npz(tmp_path / "a.npz", **arrays), arrays):
        found = data.load(source)
        assert len(found.train) == size
        assert found.label_names == ("cat", "dog")
        whole = {tuple(x.tolist()): y for x, y in zip(X, Y, strict=True)}
        for split in ("train", "test"):
            rows = found.rows(split)
            assert [whole[tuple(x)] for x in rows.x.tolist()] == list(rows.labels)


@pytest.mark.parametrize("kind", ["column", "bool", "float"])
def test_labels_of_arrays_in_other_forms(kind):
    numbers = np.arange(20) % 2
    given = {"column": numbers[:, None], "bool": numbers.astype(bool), "float": numbers.astype(float)}[kind]
    found = data.load({"X": X, "y": given}, condition="labels")
    expected = data.load({"X": X, "y": numbers}, condition="labels")
    assert torch.equal(found.labels_train, expected.labels_train)
    assert torch.equal(found.beside_test.condition, expected.beside_test.condition)
    assert found.schema.condition == expected.schema.condition
    with pytest.raises(InputError, match=r"labels has shape \(20, 3\): give one value for each row"):
        data.load({"X": X, "y": np.ones((20, 3))})


def test_arrays_tuples_and_datasets_of_torch():
    expected = data.load({"X": X, "y": Y})
    numbers = (Y == "dog").astype(np.int64)
    for source in ((X, numbers), (torch.from_numpy(X), torch.from_numpy(numbers))):
        assert torch.equal(data.load(source).train, expected.train)
        assert torch.equal(data.load(source).labels_train, expected.labels_train)
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(numbers))
    assert torch.equal(data.load(dataset).train, expected.train)
    assert torch.equal(data.load(X).train, expected.train)


def test_torchvisions_sets_are_taken_as_they_are_kept_channels_first():
    from torchvision.datasets import FakeData

    class Kept(FakeData):
        def __init__(self):
            super().__init__(6, (3, 4, 4))
            self.data = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
            self.targets = [0, 1, 2, 0, 1, 2]

    found = data.load(Kept())
    assert found.shape == (3, 4, 4)
    own = torch.from_numpy(Kept().data).permute(0, 3, 1, 2).flatten(1) / 255
    rows = torch.cat([found.train, found.test])
    assert torch.equal(rows.sort(0)[0], own.sort(0)[0])


# ---------------------------------------------------------------- bytes


BYTES = np.random.default_rng(0).integers(0, 256, (20, 2, 4, 4)).astype(np.uint8)


@pytest.mark.parametrize(
    ("array", "options", "divisor"),
    [
        (BYTES, {}, 255),
        (BYTES[:, 0], {}, 255),
        (BYTES[:, 0], {"counts": True}, 1),
        (BYTES.reshape(20, -1), {}, 1),
        (BYTES.reshape(20, -1), {"scale": 255}, 255),
        (BYTES.reshape(20, -1), {"scale": "bytes"}, 255),
        (BYTES, {"scale": 1}, 1),
        (BYTES.astype(np.float64), {}, 1),
        (BYTES.astype(np.float64), {"scale": 16}, 16),
    ],
)
def test_bytes_are_divided_by_255_for_images_alone(array, options, divisor):
    found = data.load(array, **options)
    rows = torch.cat([found.train, found.test]).sort(0)[0]
    assert torch.equal(rows, (torch.from_numpy(array).flatten(1).float() / divisor).sort(0)[0])


def test_a_table_of_zeros_and_ones_in_bytes_stays_one_and_its_score_is_right(caplog):
    binary = (BYTES.reshape(20, -1) > 127).astype(np.uint8)
    assert set(data.load(binary).train.unique().tolist()) == {0, 1}
    with caplog.at_level("INFO"):
        data.load(BYTES.reshape(20, -1))
        data.load(BYTES[:, 0])
    assert "scale=255, --scale 255" in caplog.text
    assert "divided by 255" in caplog.text


def test_new_arrays_are_scaled_by_the_same_rule_and_must_have_the_shape():
    found = data.load(BYTES[:, 0])
    assert torch.equal(data.read_rows(found, BYTES[:3, 0]).x, torch.from_numpy(BYTES[:3, 0]).flatten(1) / 255)
    with pytest.raises(InputError, match=r"rows of shape \(2, 4, 4\) are given, and the model is of \(4, 4\)"):
        data.read_rows(found, BYTES)
    grey = data.load(BYTES[:, 0], binarize="dynamic")
    assert set(data.read_rows(grey, BYTES[:3, 0]).x.unique().tolist()) == {0, 1}


def test_an_exposure_of_each_rows_total_of_counts():
    table = frame(gaps=False).assign(fruits=lambda t: t["seeds"] + 3)
    found = data.load(table, labels="species", index="plant", exposure="total")
    own = table.set_index("plant").loc[list(found.beside_train.index)]
    assert found.beside_train.exposure.tolist() == (own["seeds"] + own["fruits"]).tolist()
    counts = np.random.default_rng(0).poisson(3.0, (20, 4)) + 1
    arrays = data.load(counts, exposure="total")
    assert torch.equal(arrays.beside_train.exposure, arrays.train.sum(1))
    assert torch.equal(data.read_rows(arrays, counts[:2]).beside.exposure, torch.tensor(counts[:2].sum(1)).float())
    named = data.load(table.assign(total=range(1, N + 1)), labels="species", index="plant", exposure="total")
    assert named.beside_train.exposure.tolist() == [1.0 + int(name[1:]) for name in named.beside_train.index]
    counts[3] = 0
    with pytest.raises(InputError, match="row 3 has no total of counts above 0"):
        data.load(counts, exposure="total")


def test_arrays_that_do_not_suit_each_other_are_refused(tmp_path):
    with pytest.raises(InputError, match="labels has 19 rows, the data 20"):
        data.load({"X": X, "y": Y[:-1]})
    with pytest.raises(InputError, match="no array 'dose' for condition"):
        data.load({"X": X}, condition="dose")
    with pytest.raises(InputError, match="has no labels to condition on"):
        data.load({"X": X}, condition="labels")
    with pytest.raises(InputError, match="can be conditioned on its labels alone"):
        data.load("digits", condition="age")
    with pytest.raises(InputError, match="give a name, a file, a table, an array"):
        data.load(3.0)


def test_arrays_with_a_condition_and_an_exposure(tmp_path):
    dose = np.linspace(0, 1, 20).astype(np.float32)
    found = data.load(npz(tmp_path / "a.npz", X=X, dose=dose, depth=dose + 1), condition="dose", exposure="depth")
    assert found.schema.condition_dim == 1
    order = {tuple(x): d for x, d in zip(X.tolist(), dose.tolist(), strict=True)}
    assert [order[tuple(x)] for x in found.train.tolist()] == found.beside_train.condition[:, 0].tolist()
    assert torch.equal(found.beside_train.exposure, found.beside_train.condition[:, 0] + 1)
    rows = data.read_rows(found, npz(tmp_path / "b.npz", X=X[:2], dose=dose[:2], depth=dose[:2] + 1))
    assert torch.equal(rows.beside.condition[:, 0], torch.from_numpy(dose[:2]))
    with pytest.raises(InputError, match="no array 'depth' for exposure"):
        data.read_rows(found, X)
