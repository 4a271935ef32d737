"""What a page is told: the evaluation's numbers, what rounding costs, tiles where no pair runs; and the file itself."""

import base64
import copy
import csv
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal

import pyro_aevb as aevb
from pyro_aevb import evidence, explorer, predictions
from pyro_aevb.cli import main
from pyro_aevb.data import Rows
from pyro_aevb.errors import InputError
from pyro_aevb.explorer import build, numbers, told
from pyro_aevb.explorer.arrays import compact, data_array, exact
from pyro_aevb.seeds import derive, seeded
from tests.browser import launched
from tests.commands import SMALL

EVIL = "</script><script>hacked = 1</script>"
IMAGE = "<img src=x onerror=hacked()>"


def array(spec):
    """A page's array in NumPy, as numerics.js reads it."""
    values = np.frombuffer(base64.b64decode(spec["data"]), np.dtype(spec["dtype"]).newbyteorder("<"))
    values = values.reshape(spec["shape"])
    return (values / spec["divided_by"]).astype(np.float32) if "divided_by" in spec else values


def trained(folder, *arguments):
    """A small run's folder."""
    assert main(["train", *SMALL, f"--out={folder}", *map(str, arguments)]) in (0, None)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def digits(folder):
    return trained(folder / "digits", "--data=digits")


@pytest.fixture(scope="module")
def table(folder):
    """A file of columns of all kinds, whose names and categories would be code in a careless page."""
    random = np.random.default_rng(0)
    z = random.normal(size=200)
    path = folder / "table.csv"
    with open(path, "w", newline="") as file:
        write = csv.writer(file)
        write.writerow([f"size {EVIL}", "count", "yes", "colour", "group", "weight"])
        for one in z:
            colour = "red" if one > 0.5 else IMAGE if one < -0.5 else "green"
            count, weight = random.poisson(np.exp(1 + one / 2)), np.exp(random.normal())
            group = EVIL if one > 0 else IMAGE
            write.writerow([round(3 + one, 3), count, int(one + random.normal() > 0), colour, group, round(weight, 3)])
    return path


KINDS = f"--columns=size {EVIL},count,yes,colour"


def payload_of(*runs, **options):
    return explorer.make_payload(runs, **{"count": 120, "num_samples": 30, **options})


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[0.0, 1.0, 255.0]], "uint8"),
        ([[-3.0, 70000.0]], "int32"),
        ([[0.5, float("nan")]], "float16"),
        ([[0.1, float("inf")]], "float32"),
    ],
)
def test_data_are_kept_to_the_last_bit_in_the_smallest_type(values, dtype):
    x = torch.tensor(values)
    spec = data_array(x)
    assert spec["dtype"] == dtype
    np.testing.assert_array_equal(array(spec).astype(np.float32), x.numpy())


def test_grey_pixels_are_bytes():
    x = torch.arange(256, dtype=torch.uint8).float().view(2, 128) / 255
    spec = data_array(x)
    assert (spec["dtype"], spec["divided_by"]) == ("uint8", 255)
    np.testing.assert_array_equal(array(spec), x.numpy())
    assert "divided_by" not in data_array(x * 0.999)


def test_numbers_beyond_float16_are_kept_in_float32():
    x = torch.tensor([1e-3, 70000.0])
    assert (compact(x)["dtype"], compact(x[:1])["dtype"]) == ("float32", "float16")
    np.testing.assert_allclose(array(compact(x)), x.numpy(), rtol=1e-3)
    assert exact(torch.tensor([0.1], dtype=torch.float64))["dtype"] == "float64"


# ---------------------------------------------------------------- numbers


def test_each_datum_has_the_evaluations_numbers(digits):
    run = aevb.load_run(digits)
    data = payload_of(run, seed=3)["runs"][0]["data"]
    x = run.data.test[:120]
    bound = evidence.bound(run.model, run.guide, x, 100, seed=3)
    weights = evidence.importance_weights(run.model, run.guide, x, 30, seed=3)
    expected = {
        "x": x,
        "bound": bound.bound,
        "reconstruction": bound.log_likelihood,
        "kl": bound.kl,
        "log_likelihood": weights.log_likelihood,
        "log_likelihood_se": weights.standard_error,
        "k_hat": weights.khat,
        "mean": run.guide.guide(x).mean,
        "sd": run.guide.guide(x).stddev,
    }
    for name, values in expected.items():
        np.testing.assert_allclose(array(data[name]), values.detach().numpy(), rtol=1e-6, err_msg=name)


def test_the_first_data_have_the_same_numbers_whatever_follows(digits):
    """A block of data has its own noise, so that a page of 100 data and one of 120 agree on the first 100."""
    run = aevb.load_run(digits)
    fewer, more = (payload_of(run, count=count)["runs"][0]["data"] for count in (100, 120))
    for name in ("bound", "log_likelihood", "k_hat", "mean"):
        np.testing.assert_array_equal(array(fewer[name]), array(more[name])[:100], err_msg=name)


def test_latents_are_told_by_kl_and_activity(digits):
    run = aevb.load_run(digits)
    found = payload_of(run)["runs"][0]
    q = run.guide.guide(run.data.test[:120])
    mean, sd = q.mean.detach(), q.stddev.detach()
    kl = 0.5 * (mean**2 + sd**2 - 1) - sd.log()  # the paper's appendix B
    np.testing.assert_allclose(array(found["kl"]), kl.mean(0), rtol=1e-4)
    np.testing.assert_allclose(array(found["activity"]), mean.var(0), rtol=1e-4)
    assert found["active"] == (mean.var(0) > 0.01).tolist()
    assert found["dimensions"] == ["z[0]", "z[1]"]


def test_principal_axes_are_those_of_a_singular_value_decomposition():
    points = torch.randn(50, 4, dtype=torch.float64) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]).double()) + 5
    axes = numbers.principal_axes(points)
    _, singular, directions = np.linalg.svd((points - points.mean(0)).numpy(), full_matrices=False)
    np.testing.assert_allclose(axes.explained, singular**2 / (singular**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(np.abs((axes.directions.numpy() * directions).sum(1)), 1, rtol=1e-9)
    largest = axes.directions.abs().argmax(1)
    assert bool((axes.directions[torch.arange(4), largest] > 0).all())


def test_means_that_do_not_vary_explain_nothing():
    axes = numbers.principal_axes(torch.ones(5, 3))
    assert axes.explained.tolist() == [0, 0, 0]
    assert axes.mean.tolist() == [1, 1, 1]


def test_draws_are_those_of_prior_and_aggregate_posterior(digits):
    run = aevb.load_run(digits)
    found = payload_of(run)["runs"][0]
    prior, aggregate = (array(found[name]).astype(float) for name in ("prior_draws", "aggregate_draws"))
    assert prior.shape == aggregate.shape == (1000, 2)
    q = run.guide.guide(run.data.test[:120])
    assert all(stats.kstest(prior[:, k], "norm").pvalue > 1e-3 for k in (0, 1))
    for k in (0, 1):  # q(z_k) is the mixture of all data's Gaussians
        one = Normal(q.mean[:, k].detach(), q.stddev[:, k].detach())
        cdf = lambda z, one=one: one.cdf(torch.tensor(z).float().unsqueeze(-1)).mean(-1).numpy()  # noqa: E731
        assert stats.kstest(aggregate[:, k], cdf).pvalue > 1e-3


# ---------------------------------------------------------------- rounding


def by_hand(weights, x, eps):
    """The bound of the paper's pair at given noise, from its weights alone: equation (10) in plain torch."""

    def mlp(part, value):
        hidden = torch.tanh(value @ weights[f"{part}.0.weight"].T + weights[f"{part}.0.bias"])
        return hidden @ weights[f"{part}.2.weight"].T + weights[f"{part}.2.bias"]

    mean, log_variance = mlp("guide.network", x).chunk(2, -1)
    logits = mlp("likelihood.network", mean + (log_variance / 2).exp() * eps)
    log_likelihood = (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    return log_likelihood + 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1)


def test_the_cost_of_rounding_is_that_of_the_paper_by_hand(digits):
    """Equation (10) in plain torch at the same noise, with the run's weights and with these in float16."""
    run = aevb.load_run(digits)
    x = run.data.test[:120].double()
    eps = []
    for i, block in enumerate(x.split(100)):
        with seeded(derive(3, "evaluation", i)):
            eps.append(torch.randn(len(block), 2, dtype=torch.float64))
    weights = {name: p.detach() for part in (run.model, run.guide) for name, p in part.named_parameters()}
    own = by_hand({name: p.double() for name, p in weights.items()}, x, torch.cat(eps))
    half = by_hand({name: p.half().double() for name, p in weights.items()}, x, torch.cat(eps))
    said = payload_of(run, seed=3)["runs"][0]["rounding"]
    difference = half - own
    assert (said["dtype"], said["count"]) == ("float16", 120)
    assert said["difference"] == pytest.approx(difference.mean().item(), rel=1e-9, abs=1e-13)
    assert said["se"] == pytest.approx(difference.std().item() / 120**0.5, rel=1e-9)
    assert said["largest"] == pytest.approx(difference.abs().max().item(), rel=1e-9)
    assert difference.abs().max() > 1e-7  # it costs something


def test_float32_rounds_nothing(digits):
    run = aevb.load_run(digits)
    found = payload_of(run, dtype="float32")["runs"][0]
    assert (found["rounding"], found["weights_dtype"]) == (None, "float32")
    weights = {tuple(p.shape): p for p in run.model.parameters()}
    kept = [array(spec) for spec in found["pair"]["tensors"].values() if spec["dtype"] == "float32"]
    for shape, weight in weights.items():
        assert any(each.shape == shape and np.array_equal(each, weight.detach().numpy()) for each in kept)


def test_a_page_leaves_the_run_alone(digits):
    run = aevb.load_run(digits)
    before = copy.deepcopy((run.model.state_dict(), run.guide.state_dict()))
    state = torch.random.get_rng_state()
    payload_of(run)
    for old, new in zip(before, (run.model.state_dict(), run.guide.state_dict()), strict=True):
        assert all(torch.equal(old[name], value) and old[name].dtype == value.dtype for name, value in new.items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not run.model.training


# ---------------------------------------------------------------- data, labels, words


def test_a_table_has_its_columns_and_labels(folder, table):
    run = aevb.load_run(trained(folder / "labelled", f"--data={table}", KINDS, "--labels=group"))
    found = payload_of(run, count=10)["runs"][0]
    data = found["data"]
    assert [(c["name"], c["kind"], c["places"]) for c in data["columns"]] == [
        (f"size {EVIL}", "real", [0, 1]),
        ("count", "count", [1, 2]),
        ("yes", "binary", [2, 3]),
        ("colour", "category", [3, 4]),
    ]
    assert set(data["columns"][3]["categories"]) == {"red", "green", IMAGE}
    assert data["columns"][0]["categories"] is None
    x = run.data.test[:10]
    assert data["columns"][0]["low"] == x[:, 0].min().item()
    assert (data["low"], data["high"]) == (x.min().item(), x.max().item())
    rows = run.data.rows("test").first(10)
    assert data["rows"] == rows.names()
    labels = found["labels"]
    assert labels["name"] == "group"
    assert [labels["names"][i] for i in array(labels["values"])] == list(rows.labels)
    assert found["pair"] is not None
    assert found["title"].startswith("labelled: table.csv, binarize=none")  # not the sender's folders


def test_labels_are_numbers_in_their_order_and_none_is_minus_one(digits):
    run = aevb.load_run(digits)
    x = run.data.test[:4]
    said = told.labels_of(run, Rows(x, ("10", "", "9", "9")))
    assert said["names"] == ["9", "10"]
    assert array(said["values"]).tolist() == [1, -1, 0, 0]
    assert told.labels_of(run, Rows(x)) is None


@pytest.mark.parametrize(
    ("shape", "shown", "order"),
    [
        ((8, 8), [8, 8], "last"),
        ((1, 8, 8), [8, 8], "last"),
        ((3, 4, 5), [4, 5, 3], "first"),
        ((4, 5, 3), [4, 5, 3], "last"),
        ((2, 4, 5), [8, 5], "last"),
    ],
)
def test_images_have_height_width_and_colours(shape, shown, order):
    assert told._as_image(shape) == {"kind": "image", "shape": shown, "order": order}


def test_an_array_without_columns_is_a_table(folder):
    np.save(folder / "counts.npy", np.random.default_rng(0).poisson(3, (80, 4)))
    run = aevb.load_run(trained(folder / "counts", f"--data={folder / 'counts.npy'}", "--likelihood=Poisson"))
    data = payload_of(run, count=5)["runs"][0]["data"]
    assert (data["kind"], "shape" in data) == ("table", False)
    assert [(c["name"], c["kind"]) for c in data["columns"]] == [(f"x[{i}]", "count") for i in range(4)]


def test_the_learning_curve_is_the_runs_metrics(digits):
    run = aevb.load_run(digits)
    found = payload_of(run)["runs"][0]
    reports = [(r["samples_seen"], r["bound"]) for r in run.metrics if "bound" in r]
    tests = [(r["samples_seen"], r["test_bound"], r["test_se"]) for r in run.metrics if "test_bound" in r]
    assert [(r["samples_seen"], r["bound"]) for r in found["curve"] if "bound" in r] == reports
    assert [tuple(r.values()) for r in found["curve"] if "test_bound" in r] == tests
    assert ["estimator", "SGVB, 1 particle"] in found["facts"]
    assert ["samples seen", "400"] in found["facts"]


@pytest.mark.slow
def test_what_diagnose_and_compare_measured_is_read(tmp_path, digits, cli):
    run = shutil.copytree(digits, tmp_path / "measured")
    assert cli("diagnose", run, "--ais_steps=5", "--gap_count=5", "--count=20")[0] == 0
    assert cli("compare", run, "--draws=3", "--reference_draws=3", "--estimators=SGVB", "--particles=1")[0] == 0
    found = payload_of(aevb.load_run(run))["runs"][0]
    gaps = json.loads((run / "diagnostics.json").read_text())["gaps"]
    assert found["gaps"]["count"] == 5
    assert found["gaps"]["log_likelihood"] == gaps["log_px"]["mean"]
    assert found["gaps"]["amortisation_se"] == gaps["amortisation"]["se"]
    sums = [found["gaps"][name] for name in ("bound", "amortisation", "approximation")]
    assert sum(sums) == pytest.approx(found["gaps"]["log_likelihood"], abs=1e-3)
    with open(run / "comparison/gradients.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["part"], r["snr"]) for r in found["gradients"]] == [(r["part"], float(r["snr"])) for r in rows]
    assert found["notes"] == []
    before = payload_of(aevb.load_run(digits))["runs"][0]
    assert (before["gaps"], before["gradients"]) == (None, None)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"gaps": 3}', '{"gaps": {"bound": 1}, "samples_seen": 400, "checkpoint": "last"}', "[" * 10**5],
)
def test_a_damaged_file_of_another_command_is_left_out_and_told(tmp_path, digits, text):
    run = shutil.copytree(digits, tmp_path / "damaged")
    (run / "diagnostics.json").write_text(text)
    (run / "comparison").mkdir()
    (run / "comparison/gradients.csv").write_text("estimator\nSGVB\n")
    found = payload_of(aevb.load_run(run), count=5)["runs"][0]
    assert (found["gaps"], found["gradients"]) == (None, None)
    assert [note.partition(" ")[0] for note in found["notes"]] == ["diagnostics.json", "gradients.csv"]


def test_gaps_of_another_state_are_left_out_and_told(tmp_path, digits):
    run = shutil.copytree(digits, tmp_path / "older")
    (run / "diagnostics.json").write_text('{"gaps": {"count": 1}, "samples_seen": 100, "checkpoint": "last"}')
    found = payload_of(aevb.load_run(run), count=5)["runs"][0]
    assert found["gaps"] is None
    assert "after 100 samples, not of this one" in found["notes"][0]


# ---------------------------------------------------------------- pairs that no page runs


@pytest.mark.parametrize(
    ("options", "word"),
    [(["--condition=group"], "condition"), (["--exposure=weight"], "exposure")],
)
def test_a_pair_that_takes_more_than_its_datum_has_tiles(folder, table, options, word):
    run = aevb.load_run(trained(folder / word, f"--data={table}", KINDS, *options))
    found = payload_of(run, count=10)["runs"][0]
    assert (found["pair"], found["rounding"]) == (None, None)
    assert f"takes each datum's {word}" in found["not_live"]
    assert found["data"]["conditioned"]
    rows = run.data.rows("test").first(10)
    expected = predictions.reconstruct(run.model, run.guide, rows.arguments)
    np.testing.assert_allclose(array(found["reconstructions"]), expected, rtol=1e-3, atol=1e-3)
    _check_plane(run, rows, found["tiles"])


def _check_plane(run, rows, plane):
    """Each tile is the mean of p(x|z) at its place, that of the first dimension running along a row."""
    side, (i, j) = plane["side"], plane["dimensions"]
    means = array(plane["means"])
    for row, column in ((0, 0), (0, side - 1), (side - 1, 0), (2, 1)):
        z = torch.tensor([plane["rest"]])
        z[0, i] = np.linspace(plane["low"][0], plane["high"][0], side)[column]
        z[0, j] = np.linspace(plane["low"][1], plane["high"][1], side)[row]
        first = rows.first(1).beside
        expected = run.model.likelihood_at(z, first.condition, first.exposure).mean[0].detach()
        np.testing.assert_allclose(means[row * side + column], expected, rtol=2e-3, atol=2e-3)


def test_an_operation_that_the_page_does_not_know_is_named_here(digits, monkeypatch):
    """In Python, when the page is made, not in the browser: and images become tiles."""
    known = explorer.payload.live.__globals__["known_operations"]()
    monkeypatch.setattr("pyro_aevb.explorer.graphs.known_operations", lambda: known - {"tanh.default"})
    run = aevb.load_run(digits)
    found = payload_of(run)["runs"][0]
    assert found["pair"] is None
    assert "operation tanh.default, which this page does not know" in found["not_live"]
    _check_plane(run, run.data.rows("test"), found["tiles"])
    assert (found["tiles"]["means"]["dtype"], found["tiles"]["means"]["divided_by"]) == ("uint8", 255)


def test_missing_values_are_nan_and_the_pair_runs(folder):
    random = np.random.default_rng(0)
    values = random.normal(size=(100, 3))
    values[::3, 1] = np.nan
    np.save(folder / "missing.npy", values)
    options = (f"--data={folder / 'missing.npy'}", "--missing", "--likelihood=Gaussian")
    run = aevb.load_run(trained(folder / "missing", *options))
    found = payload_of(run, count=10)["runs"][0]
    np.testing.assert_array_equal(array(found["data"]["x"]).astype(np.float32), run.data.test[:10].numpy())
    assert np.isnan(array(found["data"]["x"])).any()
    assert found["pair"] is not None
    assert found["data"]["columns"][1]["low"] == float(run.data.test[:10, 1].nan_to_num(9).min())


# ---------------------------------------------------------------- several runs


def test_runs_on_the_same_data_are_compared(folder, digits):
    other = trained(folder / "other", "--data=digits", "--seed=5")
    found = payload_of(aevb.load_run(digits), aevb.load_run(other))
    assert (found["same_data"], found["same_data_reason"]) == (True, None)
    assert [run["name"] for run in found["runs"]] == ["digits", "other"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data=digits", "--binarize=static", "--split_seed=1"], "on data of other values"),
        (["--data=counts.npy", "--likelihood=Poisson"], "120 data of 64 numbers and"),
    ],
)
def test_runs_on_other_data_are_each_shown_by_itself(folder, digits, monkeypatch, options, words):
    np.save(folder / "counts.npy", np.random.default_rng(0).poisson(3, (80, 4)))
    monkeypatch.chdir(folder)
    other = trained(folder / f"apart{len(options)}", *options)
    found = payload_of(aevb.load_run(digits), aevb.load_run(other))
    assert found["same_data"] is False
    assert words in found["same_data_reason"]
    assert len(found["runs"]) == 2


def test_runs_of_one_name_are_told_apart(tmp_path, digits):
    again = shutil.copytree(digits, tmp_path / "digits")
    names = [run["name"] for run in payload_of(aevb.load_run(digits), aevb.load_run(again), count=5)["runs"]]
    assert names == [str(digits), str(again)]


@pytest.mark.parametrize("options", [{"count": 1}, {"num_samples": 0}, {"dtype": "bfloat16"}, {"split": "all"}])
def test_what_does_not_fit_is_refused_by_name(digits, options):
    with pytest.raises(InputError, match=next(iter(options))):
        payload_of(aevb.load_run(digits), **options)


def test_a_page_needs_a_run():
    with pytest.raises(InputError, match="at least one run"):
        explorer.make_payload([])


def test_large_data_are_fewer(digits, monkeypatch):
    monkeypatch.setattr("pyro_aevb.explorer.payload.ROOM", 64 * 30)
    assert payload_of(aevb.load_run(digits), count=None)["runs"][0]["count"] == 30


# ---------------------------------------------------------------- the page


MODULES = {
    "app.js": 'import { draw } from "./draw.js";\nimport {\n  sum,\n} from "./sums.js";\ndraw(sum(1));\n',
    "draw.js": 'import { sum } from "./sums.js";\nexport function draw(x) {\n  return sum(x);\n}\n',
    "sums.js": "const ONE = 1;\nexport const sum = (x) => x + ONE;\nexport { ONE };\n",
}


def test_modules_become_one_script_in_the_order_of_their_imports():
    text = build.script(MODULES)
    assert re.findall(r"^// (.*)", text, re.MULTILINE) == ["sums.js", "draw.js", "app.js"]
    assert not re.search(r"\b(import|export)\b", text)
    assert "draw(sum(1));" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sums.js": 'import { draw } from "./draw.js";\n'}, "in a circle: "),
        ({"draw.js": 'import { sum } from "./gone.js";\n'}, "gone.js, which is not there"),
        ({"draw.js": "const ONE = 2;\n"}, "both declare ONE"),
        ({"draw.js": "const { a, ONE } = x;\n"}, "both declare ONE"),
        ({"draw.js": 'import sums from "./sums.js";\n'}, "draw.js has 'import sums"),
        ({"draw.js": "export default 3;\n"}, "draw.js has 'export default"),
        ({"draw.js": 'const text = "</script>";\n'}, "ends a script"),
    ],
)
def test_modules_that_do_not_go_together_are_refused(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        build.script({**MODULES, **change})


class Elements(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.scripts = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def test_hostile_names_are_text_in_the_page(folder, table):
    """Names of columns, categories, labels and of the run's folder stay inside the payload."""
    run = aevb.load_run(trained(folder / "<img onerror=hacked()>", f"--data={table}", KINDS, "--labels=group"))
    payload = payload_of(run, count=10)
    page = explorer.make_page(payload)
    plain = explorer.make_page({**payload, "runs": []})
    assert [tag for tag, _ in Elements(page).found] == [tag for tag, _ in Elements(plain).found]
    (data,) = [text for text in Elements(page).scripts if text.startswith('{"format"')]
    assert json.loads(data) == json.loads(json.dumps(payload))
    assert "<" not in data


def test_a_page_refers_to_nothing_outside(digits):
    page = explorer.make_page(payload_of(aevb.load_run(digits), count=5))
    assert page.startswith(f"<!doctype html>\n{explorer.MARK}\n")
    elements = Elements(page).found
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in elements}
    assert not [attributes for _, attributes in elements if {"src", "srcset", "action", "onload"} & attributes.keys()]
    (policy,) = [a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


@pytest.mark.slow
def test_the_papers_pair_on_mnist_fits_into_six_megabytes(tmp_path, mnist_root):
    """784-500-20 with as many data as a page has by default, and their numbers."""
    options = (
        "--data=mnist",
        "--latent_dim=20",
        "--hidden=500",
        "--evaluate_every=1000000",
        f"--data_root={mnist_root}",
    )
    run = aevb.load_run(trained(tmp_path / "mnist", *options))
    payload = payload_of(run, count=None, num_samples=2)
    (shown,) = payload["runs"]
    assert (shown["count"], shown["pair"] is None, len(shown["dimensions"])) == (1000, False, 20)
    assert len(explorer.make_page(payload)) < 6_000_000


@pytest.fixture(scope="module")
def browser(request):
    with launched(request) as browser:
        yield browser


def test_it_opens_offline_without_an_error_or_a_request(browser, folder, digits, table):
    """In Chromium, with hostile names: none of them is run, nothing is asked of the network, nothing is refused."""
    evil = trained(folder / "<img src=y onerror=hacked()>", f"--data={table}", KINDS, "--labels=group")
    payload = payload_of(aevb.load_run(evil), aevb.load_run(digits), count=20)
    page = explorer.write_page(payload, folder / "page.html")
    browser.open(page)
    browser.wait("return document.readyState === 'complete' && document.body.innerText.length > 200")
    assert browser.run("return typeof hacked") == "undefined"
    assert browser.run("return document.querySelectorAll('img[onerror], [onclick]').length") == 0
    assert browser.errors() == []
    assert browser.requests() == []


def test_the_policy_stops_a_script_that_is_not_the_pages_and_every_connection(browser, folder, digits):
    page = folder / "changed.html"
    text = explorer.make_page(payload_of(aevb.load_run(digits), count=5))
    page.write_text(text.replace("</body>", "<script>hacked = 1</script><img src='https://example.org/a.png'></body>"))
    browser.open(page)
    browser.wait("return document.readyState === 'complete'")
    assert browser.run("return typeof hacked") == "undefined"
    refused = [error for error in browser.errors() if "Content Security Policy" in error]
    assert [
        words for words in ("inline script", "https://example.org/a.png") if not any(words in e for e in refused)
    ] == []
