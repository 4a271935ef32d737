"""``pyro-aevb export``: from raw rows to onnxruntime as a stranger's program would; files, refusals, hostile names."""

import csv
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

import pyro_aevb as aevb
from pyro_aevb.cli import main
from pyro_aevb.errors import InputError
from pyro_aevb.export import Exported, export_run, load_weights
from pyro_aevb.export import folder as of_folder
from tests.commands import SMALL, train

FILES = ["encoder.onnx", "decoder.onnx", "model.safetensors", "preprocessing.json", "MODEL_CARD.md"]
HOSTILE = "a|b <img src=x> `c`"
QUICK = ["--count=20", "--num_samples=10", "--device=cpu"]
ROWS = 60


def write_table(path):
    """A table with every kind of column, one of a hostile name, a category to condition on, gaps, and names of rows."""
    with open(path, "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["name", HOSTILE, "visits", "yes", "colour", "site"])
        for i in range(ROWS):
            gap = "" if i % 11 == 3 else f"{20 + i % 7 * 3.5}"
            lines.writerow([f"row{i}", gap, i % 9 * 3, i % 2, ("red", "blue", "<b>")[i % 3], ("x", "y")[i % 2]])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run of that table, in a folder whose name is Markdown, and what it was exported to."""
    folder = tmp_path_factory.mktemp("somebody")
    write_table(folder / "secret table.csv")
    run = folder / "*run*"
    words = [f"--data={folder / 'secret table.csv'}", "--index=name", "--condition=site", "--missing"]
    kinds = "--kinds=visits=count,yes=binary"
    assert main(["train", *SMALL, *words, kinds, f"--out={run}", "--engine=eager", "--device=cpu"]) == 0
    assert main(["export", str(run), *QUICK, f"--out={folder / 'out'}"]) == 0
    return folder


def raw_rows(folder):
    with open(folder / "secret table.csv", newline="") as file:
        return list(csv.DictReader(file))


def number(word, column):
    """A cell as ``preprocessing.json`` says: a stranger's program, which knows nothing of this package."""
    if word == "":
        return np.nan
    return column["categories"].index(word) if "categories" in column else float(word)


def inputs_of(rows, told):
    x = np.array([[number(row[c["name"]], c) for c in told["x"]["columns"]] for row in rows], dtype=np.float32)
    (column,) = told["condition"]["columns"]  # of two categories, which is yes or no: a number
    assert told["condition"]["type"] == "float32"
    values = np.array([[number(row[column["name"]], column)] for row in rows])
    condition = ((values - column["loc"]) / column["scale"]).astype(np.float32)
    return {"x": x, "condition": condition}


def outputs_of(path, inputs):
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def test_raw_rows_lead_to_the_codes_of_the_run(exported):
    told = json.loads((exported / "out/preprocessing.json").read_text())
    inputs = inputs_of(raw_rows(exported), told)
    found = outputs_of(exported / "out/encoder.onnx", inputs)
    run = aevb.load_run(exported / "*run*", device="cpu")
    codes = run.encode(str(exported / "secret table.csv"))
    np.testing.assert_allclose(found["mean"], codes[["z0", "z1"]].to_numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["sd"], codes[["z0_sd", "z1_sd"]].to_numpy(), rtol=1e-5, atol=1e-5)


def test_outputs_of_each_column_are_the_reconstructions_of_the_run(exported):
    told = json.loads((exported / "out/preprocessing.json").read_text())
    inputs = inputs_of(raw_rows(exported), told)
    z = outputs_of(exported / "out/encoder.onnx", inputs)["mean"]
    found = outputs_of(exported / "out/decoder.onnx", {"z": z, "condition": inputs["condition"]})
    run = aevb.load_run(exported / "*run*", device="cpu")
    expected = run.reconstruct(str(exported / "secret table.csv"))
    outputs = told["graphs"]["decoder"]["columns"]
    assert list(outputs) == [column["name"] for column in told["x"]["columns"]]
    for column in told["x"]["columns"]:
        own = found[outputs[column["name"]][0]]
        table = expected[column["name"]].to_numpy()
        if "categories" in column:
            own = np.array(column["categories"])[own.argmax(-1)]
            assert (own == table.astype(str)).all()
        else:
            np.testing.assert_allclose(own, table.astype(float), rtol=1e-4, atol=1e-4)


def test_a_condition_of_several_categories_is_a_whole_number(cli, tmp_path):
    write_table(tmp_path / "table.csv")
    train(cli, "--data=table.csv", "--index=name", "--condition=colour", "--missing", "--engine=eager")
    assert cli("export", "run", *QUICK, "--what=encoder")[0] == 0
    told = json.loads((tmp_path / "exported/preprocessing.json").read_text())
    assert told["condition"]["type"] == "int64"
    (column,) = told["condition"]["columns"]
    with open("table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    condition = np.array([column["categories"].index(row["colour"]) for row in rows])
    x = np.array([[number(row[c["name"]], c) for c in told["x"]["columns"]] for row in rows], dtype=np.float32)
    found = outputs_of("exported/encoder.onnx", {"x": x, "condition": condition})
    codes = aevb.load_run("run", device="cpu").encode("table.csv")
    np.testing.assert_allclose(found["mean"], codes[["z0", "z1"]].to_numpy(), rtol=1e-5, atol=1e-5)


def test_images_of_bytes_by_what_the_file_says(cli, tmp_path):
    images = (np.arange(50 * 16).reshape(50, 4, 4) * 7 % 256).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    train(cli, "--data=images.npy", "--likelihood=Gaussian", "--engine=eager")
    assert cli("export", "run", *QUICK, "--what=encoder")[0] == 0
    told = json.loads((tmp_path / "exported/preprocessing.json").read_text())["x"]
    assert (told["shape"], told["divide_bytes_by"], told["divide_by"]) == ([4, 4], 255.0, 1.0)
    x = (images.reshape(50, -1) / told["divide_bytes_by"] / told["divide_by"]).astype(np.float32)
    found = outputs_of(tmp_path / "exported/encoder.onnx", {"x": x})
    codes = aevb.load_run("run", device="cpu").encode(images)
    np.testing.assert_allclose(found["mean"], codes[["z0", "z1"]].to_numpy(), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- the files


def test_the_card_tells_the_numbers_of_the_library(exported):
    text = (exported / "out/MODEL_CARD.md").read_text()
    run = aevb.load_run(exported / "*run*", device="cpu")
    x = run.data.rows("test").first(20).arguments
    bound = aevb.evidence.bound(run.model, run.guide, x)
    weights = aevb.evidence.importance_weights(run.model, run.guide, x, 10)
    for values in (bound.bound, bound.kl, weights.log_likelihood):
        mean = aevb.evaluation.mean_of(values)
        assert f"| {mean.mean:.3f} | {mean.se:.3f} |" in text
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["model-index"][0]["name"] == "*run*"
    assert front["datasets"] == ["secret table.csv"]
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["value"] == pytest.approx(bound.bound.mean().item(), abs=1e-4)
    for words in (
        "missing values | NaN",
        "binarisation | none",
        "StandardNormal",
        "SGVB",
        "torch 2",
        "432, in minibatches of 54",
    ):
        assert words in text, words
    digests = run.folder.load("last")["origin"]["data"]
    assert all(digest in text for digest in digests.values())


def test_what_is_hostile_stays_text(exported):
    from markdown_it import MarkdownIt

    text = (exported / "out/MODEL_CARD.md").read_text()
    body = text.split("---\n", 2)[2]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<img" not in html
    assert "<b>" not in html
    assert "<em>" not in html
    assert "&lt;img src=x&gt;" in html
    assert html.count("<h1>") == 1


def test_no_file_tells_where_it_was_made(exported):
    home = str(exported).encode()
    for name in FILES:
        content = (exported / "out" / name).read_bytes()
        assert home not in content, name
        assert b"/tmp" not in content, name
        assert b"site-packages" not in content, name


def test_equal_runs_lead_to_equal_bytes_in_another_process(exported):
    words = ["-m", "pyro_aevb", "export", str(exported / "*run*"), *QUICK, f"--out={exported / 'again'}"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for name in FILES:
        assert (exported / "out" / name).read_bytes() == (exported / "again" / name).read_bytes(), name


def test_weights_load_into_the_runs_pair(exported):
    run = aevb.load_run(exported / "*run*", device="cpu")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    with torch.no_grad():
        for parameter in (*run.model.parameters(), *run.guide.parameters()):
            parameter.zero_()
    about = load_weights(exported / "out/model.safetensors", run.model, run.guide)
    assert all(torch.equal(before[name], value) for name, value in run.model.state_dict().items())
    assert about["run"] == "*run*"
    assert about["config"]["data"] == "secret table.csv"
    assert "data_root" not in about["config"]
    assert about["samples_seen"] == run.samples_seen == 432


def test_the_example_of_the_card_runs(exported, monkeypatch):
    text = (exported / "out/MODEL_CARD.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(exported / "out")
    names = {}
    exec(code, names)
    assert names["outputs"]["mean"].shape == (1, 2)
    assert len([line for line in code.splitlines() if line.strip()]) == 5


# ---------------------------------------------------------------- what is asked for


def test_what_it_prints_and_what_is_left_out(exported, cli):
    run = str(exported / "*run*")
    code, printed, errors = cli("export", run, "--what=weights,card", "--num_samples=0", *QUICK[::2], "--out=w")
    assert (code, errors) == (0, "")
    assert printed.splitlines() == ["w/model.safetensors", "w/MODEL_CARD.md"]
    code, printed, errors = cli("export", run, "--what=decoder", *QUICK, "--out=w")  # beside what is there
    assert (code, errors) == (0, "")
    assert printed.splitlines()[:2] == ["w/decoder.onnx", "w/preprocessing.json"]
    assert printed.splitlines()[2].startswith(
        "largest difference of onnxruntime from the run, at 1 and 7 data: decoder "
    )
    assert float(printed.split()[-1]) < 1e-5


def test_it_says_that_nothing_was_compared(exported, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    printed = cli("export", str(exported / "*run*"), "--what=decoder", *QUICK)[1]
    assert printed.splitlines()[-1] == "not compared with the run: onnxruntime is not installed"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--what=encoder,dekoder"], "unknown --what 'dekoder': did you mean decoder?"),
        (["--what="], "unknown --what ''"),
        (["--count=1"], "--count must be at least 2, not 1"),
        (["--num_samples=-1"], "--num_samples must be at least 0, not -1"),
        (["--out=there"], "--out there: there/MODEL_CARD.md exists already: remove it, or give another folder"),
        (["--out=there/MODEL_CARD.md/x"], "there/MODEL_CARD.md is a file, where a folder is needed"),
    ],
)
def test_wrong_words(words, said, exported, cli, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/MODEL_CARD.md").write_text("mine")
    code, printed, errors = cli("export", str(exported / "*run*"), *words)
    assert (code, printed) == (2, "")
    assert said in errors
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["there", "MODEL_CARD.md"]
    assert (tmp_path / "there/MODEL_CARD.md").read_text() == "mine"


def test_what_is_missing_is_named_before_the_run_is_opened(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, _, errors = cli("export", "no run at all", "--what=encoder")
    assert code == 2
    assert "ONNX graphs need onnxscript: pip install 'pyro_aevb[export]'" in errors


def test_a_graph_of_other_numbers_is_not_written(exported, tmp_path, monkeypatch):
    run = aevb.load_run(exported / "*run*", device="cpu")
    monkeypatch.setattr(of_folder, "largest_difference", lambda *given: 2e-3)
    with pytest.raises(
        InputError, match=r"the decoder in ONNX gives other numbers than the run, by 0\.002: nothing is written"
    ):
        export_run(run, tmp_path / "out", ["decoder"])
    assert not (tmp_path / "out").exists()


def test_wrong_arguments(exported, tmp_path):
    run = aevb.load_run(exported / "*run*", device="cpu")
    for what in ("encoder", [], 3, ["all"], [3]):
        with pytest.raises(InputError, match="what"):
            export_run(run, tmp_path, what)
    with pytest.raises(InputError, match="run must be a Run"):
        export_run("run", tmp_path)
    with pytest.raises(InputError, match="folder must be a path"):
        export_run(run, 3)
    with pytest.raises(InputError, match="count must be at least 2"):
        export_run(run, tmp_path, count=1)


def test_a_run_whose_data_are_gone_is_exported_all_the_same(cli, tmp_path):
    write_table(tmp_path / "table.csv")
    train(cli, "--data=table.csv", "--index=name", "--condition=site", "--missing", "--engine=eager")
    (tmp_path / "table.csv").unlink()
    found = export_run(aevb.load_run("run", device="cpu"), "out", ["encoder", "card"])
    assert isinstance(found, Exported)
    assert found.numbers == {}
    assert found.differences["encoder"] < 1e-5
    assert "Not measured: the test data were not there" in (tmp_path / "out/MODEL_CARD.md").read_text()
