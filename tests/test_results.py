"""The pages of results say what the committed files of ``experiments/`` have, and no number that they do not have."""

import ast
import csv
import json
import os
import re
import shutil
import sys
import types
from pathlib import Path

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "results"
EXPERIMENTS = ROOT / "experiments"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
MINUS = "\u2212"  # as pages have it
DASH = "\u2013"
TAGGED = r"```\{code-cell\} ipython3\n(?::tags: [^\n]*\n)?(.*?)```"


def text_of(page):
    return (FOLDER / f"{page}.md").read_text()


# ---------------------------------------------------------------- the numbers of the prose

COUNT = r"\d[\d,]*"
COUNTED = "samples|images|faces|latents|units|steps|draws|particles|components|epochs|evaluations|processes|updates"
SETTINGS = [  # numbers that are no result: what was set, and names with numbers in them
    r"\d+(?:\u2013\d+)+",  # layer sizes, 784–500–20
    r"(?:Figures?|equations?) \(?\d+\)?(?: and \d+)?",
    r"[A-Z]\w*\(\d+\)|x86-64|float32",  # names, as IWAE(5)
    r"N\([\d., ²]+\)|\[0, 1\]|\b[NM] = [\d,]+",  # a distribution, an interval, a size
    r"(?:[\d.]+ \u00d7 )?10[⁰¹²³⁴⁵⁶⁷⁸⁹]+",  # how many samples
    rf"(?:{COUNT}(?:, {COUNT})*(?:,? and| or) )?{COUNT} (?:(?:training|test|tanh|hidden|leapfrog) )*(?:{COUNTED})\b",
    r"step size (?:of )?0\.\d+|minibatches of \d+",
]

# Numbers without a file: each stands once, in the table of what was tried by hand.
BY_HAND = [
    "815", "569", "16", "568", "20", "64", "-118.4", "-112.4", "-141.9", "-128.2", "-132.9", "-135.5",
    "-138.8", "-120.7", "-142.0", "-166.4", "-151.8", "-165.7", "-158.8", "-162.8", "-151.8", "-153.4",
    "-122.6", "-162.7", "-136.2", "748", "-200.1", "1.1", "0.5", "0.3", "-5.6", "-0.9", "50,000", "23,500",
    "4,800",
]  # fmt: skip

# Other settings that are typed, in the words around them.
STEP_SIZES = "that of 0.01, 0.02 and 0.1 with"
TYPED = {
    "appendix_f": ["below it with 50,000", "told from it with 50,000", "With 50,000 all", "train from 100"],
    "benchmarks": ["less than 1:", "AVX-512"],
    "figure2": [
        "500 for MNIST", "200 for Frey Face", "With 200 latents MNIST has , with 20 it has", "below it with 200",
        "multiplied by 0.1", "below 570", "and after with 20", "at 0.02, which", "the chosen 0.01,", "20 still leave",
        STEP_SIZES, "of the first 100,000", "It is 0.01 in", "0.02 in , and never 0.1",
    ],
    "figure3": [
        "which from 50,000?", "and 50,000 (right)", "lead with 50,000", "with 50,000 it is", "curve with 1000.",
        "first 100 training", STEP_SIZES,
    ],
    "figures4_5": ["with 5 and with"],
    "index": [
        "MNIST with 200 is nats from MNIST with 20", "not with 10 and 20", "And from 1000?", "in place of 3280",
        "and (50,000)", "aimed at 0.25", "learns with 10 and 20", "keeps 20 where",
    ],
    "literature": ["above 0.7 for"],
    "many_runs": ["at a level of 5 %"],
    "programs": ["difference of 0.0001"],
}  # fmt: skip


def prose(text):
    """What a reader sees as words: without code, mathematics, roles, and the targets of links."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^```\{figure\} \S+\n(?::[^\n]*\n)*(.*?)^```", r"\1", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\{(?:glue:text|cite|class|doc)\}`[^`]*`", "", text)
    text = re.sub(r"\{term\}`([^`<]*?) ?(?:<[^`]*>)?`", r"\1", text)
    text = re.sub(r"`[^`]*`|\$[^$]*\$", "", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def typed_numbers(text, phrases=()):
    """The numbers of a page's prose that are neither glued nor settings, in their order."""
    text = " ".join(prose(text).split())
    for phrase in phrases:
        assert phrase in text
        text = text.replace(phrase, " ")
    for pattern in SETTINGS:
        text = re.sub(pattern, " ", text)
    return re.findall(rf"[{MINUS}+]?\d[\d,.]*\d|[{MINUS}+]?\d", text)


@pytest.mark.parametrize("page", PAGES)
def test_every_number_is_glued_or_listed(page):
    before, heading, by_hand = text_of(page).partition("## What was tried by hand")
    table, _, after = by_hand.partition("\n## ")
    assert typed_numbers(before + after, TYPED.get(page, ())) == []
    assert bool(heading) == (page == "index")
    if page == "index":
        assert sorted(number.replace(MINUS, "-") for number in typed_numbers(table)) == sorted(BY_HAND)


def test_settings_that_are_typed_are_those_of_the_files():
    source = (EXPERIMENTS / "clients.py").read_text()
    assert float(re.search(r"^EQUAL = (\S+)", source, re.MULTILINE)[1]) == float("0.0001")
    assert "784-100-3: captured / Pyro's SVI\", 0.25" in text_of("benchmarks")


@pytest.mark.parametrize(
    "sentence",
    [
        "It is 12.3 nats above.",
        f"Ours has {MINUS}104.0 nats.",
        "| MNIST | 873 | [Figure 2](figure2.md) |",
        "With 20 latents it is 0.1 nats\nahead of the paper's.",
        "A captured step takes 0.29 of the time.",
        "*Caption: 17 of the panels.*",
    ],
)
def test_a_number_that_is_typed_is_found(sentence):
    assert len(typed_numbers(sentence)) == 1


# ---------------------------------------------------------------- the pages' own code


class Run:
    """A page's cells run in order, as a build runs them: what it glues, and the tables that it shows."""

    def __init__(self, page, experiments, monkeypatch):
        self.glued = {}
        self.tables = []
        module = types.ModuleType("myst_nb")  # which only a build of the site needs
        module.glue = lambda name, text, display: self.glued.__setitem__(name, text)
        monkeypatch.setitem(sys.modules, "myst_nb", module)
        monkeypatch.setattr(committed(), "EXPERIMENTS", experiments)
        names = {}
        with mpl.rc_context():
            mpl.pyplot.switch_backend("agg")
            for code in re.findall(TAGGED, text_of(page), re.DOTALL):
                self.run(code, names)
            mpl.pyplot.close("all")

    def run(self, code, names):
        tree = ast.parse(code)
        last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<cell>", "exec"), names)
        shown = last and eval(compile(last, "<cell>", "eval"), names)
        if hasattr(shown, "rows"):
            self.tables.append([shown.heads, *shown.rows])
            assert "<table" in shown._repr_html_()


def committed():
    os.environ.setdefault("PYRO_AEVB_CHECKOUT", str(ROOT))  # as docs/conf.py sets it
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    import committed as module

    return module


@pytest.mark.parametrize("page", PAGES)
def test_pages_hold_for_the_committed_files(page, monkeypatch):
    run = Run(page, EXPERIMENTS, monkeypatch)
    used = set(re.findall(r"\{glue:text\}`(\w+)`", text_of(page)))
    assert used == run.glued.keys()
    assert not any(text.strip() in {"", "nan"} for text in run.glued.values())
    for head, *rows in run.tables:
        assert rows
        assert len(head) <= 8
        assert {len(row) for row in rows} == {len(head)}
        assert not any("nan" in cell for row in rows for cell in row if len(cell) < 12)


@pytest.fixture
def copied(tmp_path):
    """A copy of the experiments' files, to be changed."""
    return shutil.copytree(EXPERIMENTS, tmp_path / "experiments", ignore=shutil.ignore_patterns("*.png", "cases"))


def set_csv(path, wanted, column, value):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    changed = [row for row in rows if all(row[name] == text for name, text in wanted.items())]
    assert changed
    for row in changed:
        row[column] = value
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


FACE = {"data": "frey_face", "latent_dim": "10", "method": "WS", "samples": "10000000"}
DIGITS = {"data": "mnist", "latent_dim": "20", "method": "AEVB", "samples": "10000000"}
MANY = {"size": "50000", "method": "MCEM", "split": "train"}
FEW = {"size": "1000", "method": "MCEM", "samples": "30000000"}
SMALL_WEIGHTS = {"choice": "initial weights N(0, 0.01²)"}
NO_WAIT = {"pause": "0", "data": "frey_face"}
FALSE = {  # pages, a CSV file, its rows, a column, and a value that makes a sentence of these pages false
    "a second panel falls short": ("figure2 index", "figure2/table.csv", DIGITS, "difference", -0.2),
    "wake-sleep wins": ("figure2 index", "figure2/table.csv", DIGITS, "ours", -120),
    "faces are not learnt": ("figure2 index", "figure2/table.csv", FACE, "difference", 0.5),
    "without the wait faces are learnt": ("figure2", "wake_sleep/bounds.csv", NO_WAIT, "test_bound", 650),
    "the paper's weights do as well": ("figure2", "choices/bounds.csv", SMALL_WEIGHTS, "test_bound", -110),
    "Monte Carlo EM is first": ("figure3 index", "figure3/table.csv", MANY, "ours", -120),
    "Monte Carlo EM passes AEVB": ("figure3 index", "figure3/table.csv", FEW, "ours", -105),
    "nothing falls short": ("figure3 index", "figure3/table.csv", {"method": "WS"}, "difference", 0.5),
    "Adam falls short": ("beyond index", "beyond/table.csv", {"part": "Adam"}, "difference", -1),
    "flows do not help": ("beyond", "beyond/table.csv", {"part": "flow guide"}, "ours", -103),
    "published values are reached": ("literature index", "literature/evidence.csv", {"seed": "0"}, "all_images", -80),
    "draws suffice": ("literature", "literature/evidence.csv", {"name": "VAE"}, "khat_above_0.7", 10),
    "full VB is best": ("appendix_f index", "appendix_f/differences.csv", {"seed": "0"}, "test_predictive", 2),
    "nothing is pruned": ("appendix_f", "appendix_f/points.csv", {"method": "VB"}, "units", 90),
    "an ensemble is slow": ("benchmarks", "members/members.csv", {"batched": "True"}, "ms", 9),
}


@pytest.mark.parametrize("why", FALSE)
def test_a_page_fails_where_its_sentence_becomes_false(why, copied, monkeypatch):
    pages, path, wanted, column, value = FALSE[why]
    set_csv(copied / path, wanted, column, value)
    for page in pages.split():
        with pytest.raises(AssertionError):
            Run(page, copied, monkeypatch)


def changed_json(path, change):
    kept = json.loads(path.read_text())
    change(kept)
    path.write_text(json.dumps(kept))


def slow(found):
    found["steps"]["784-500-20, M=100"]["captured engine"]["ms"] = 6


def crash(cells):
    cells["vae"]["IWAE"] = "CRASH ValueError"


def apart(cells):
    cells["dmm"]["SGVB"] = "apart by 0.1"


def untrusted(record):
    record["1000-AEVB-0"]["train_annealed"] = -100


@pytest.mark.parametrize(
    ("page", "path", "change"),
    [
        ("benchmarks", "benchmark/results.json", slow),
        ("programs", "clients/cells.json", crash),
        ("programs", "clients/cells.json", apart),
        ("figure3", "figure3/settings.json", untrusted),
    ],
)
def test_a_page_fails_where_a_json_file_says_otherwise(page, path, change, copied, monkeypatch):
    changed_json(copied / path, change)
    with pytest.raises(AssertionError):
        Run(page, copied, monkeypatch)


# ---------------------------------------------------------------- the tables, read a second time


def rows_of(path):
    with (EXPERIMENTS / path).open() as file:
        return list(csv.DictReader(file))


def number(text, decimals=1):
    return f"{float(text):,.{decimals}f}".replace("-", MINUS)


def decimals_of(panel):
    return 1 if panel.startswith("MNIST") else 0


def key_of(panel):
    data, latent_dim = re.fullmatch(r"(.*), (\d+) latents", panel).groups()
    return {"MNIST": "mnist", "Frey Face": "frey_face"}[data], latent_dim


def test_figure_2(monkeypatch):
    tables = Run("figure2", EXPERIMENTS, monkeypatch).tables
    rows = {(r["data"], r["latent_dim"], r["method"], float(r["samples"])): r for r in rows_of("figure2/table.csv")}
    for method, (_, *found) in zip(("AEVB", "WS"), tables[:2], strict=True):
        assert len(found) == 9
        for panel, *cells in found:
            both = [rows[(*key_of(panel), method, samples)] for samples in (1e6, 1e7)]
            expected = [number(row[column], decimals_of(panel)) for row in both for column in ("ours", "paper")]
            expected[2] += f" ± {number(both[1]['se'], decimals_of(panel))}"
            assert cells == expected


@pytest.mark.parametrize(("name", "tables"), [("choices", [2, 3]), ("wake_sleep", [4, 5])])
def test_what_the_paper_leaves_open(name, tables, monkeypatch):
    """The numbers of the tables that the script wrote, whatever their first columns say."""
    shown = [Run("figure2", EXPERIMENTS, monkeypatch).tables[i] for i in tables]
    kept = committed().markdown(f"{name}/table.md")
    words = 1 if name == "choices" else 3
    for ours, theirs in zip(shown, kept, strict=True):
        found = sorted([cell.replace(",", "") for cell in row[words:]] for row in ours[1:])
        wanted = sorted([cell.replace("-", MINUS) or "not run" for cell in row[words:]] for row in theirs.rows)
        assert found == wanted


def test_figure_3(monkeypatch):
    table, checks = Run("figure3", EXPERIMENTS, monkeypatch).tables
    methods = {"AEVB": "AEVB", "wake-sleep": "WS", "Monte Carlo EM": "MCEM"}
    methods["Monte Carlo EM, by minibatch"] = "minibatch MCEM"
    expected = []
    for train, test in zip(*[iter(rows_of("figure3/table.csv"))] * 2, strict=True):
        assert (train["split"], test["split"]) == ("train", "test")
        values = [number(row[name]) if row[name] else DASH for row in (train, test) for name in ("ours", "paper")]
        expected.append([train["size"], train["method"], *values])
    assert [[n.replace(",", ""), methods[name], *cells] for n, name, _, *cells in table[1:]] == expected
    runs = json.loads((EXPERIMENTS / "figure3" / "settings.json").read_text())
    assert len(checks) - 1 == 2 * len(runs)
    for n, name, split, density, annealed, _ in checks[1:]:
        run = runs[f"{n.replace(',', '')}-{methods[name]}-0"]
        assert [density, annealed] == [number(run[f"{split}_{of}"], 2) for of in ("appendix_d", "annealed")]


def test_beyond_the_paper(monkeypatch):
    panels, parts = Run("beyond", EXPERIMENTS, monkeypatch).tables
    rows = {(r["data"], r["latent_dim"], r["part"]): r for r in rows_of("beyond/table.csv")}
    assert len(panels) == 10
    for panel, paper, ours, *_ in panels[1:]:
        row = rows[(*key_of(panel), "Adam")]
        digits = decimals_of(panel)
        assert paper == number(row["paper_1e8"], digits)
        assert ours == f"{number(row['ours'], digits)} ± {number(row['se'], digits)}"
    names = ["Adam alone", "DReG(5)", "VampPrior(500)", "flow guide", "convolutions"]
    for name, (_, mnist, _, faces, _) in zip(names, parts[1:], strict=True):
        assert mnist == number(rows["mnist", "20", name]["ours"])
        assert faces == number(rows["frey_face", "10", name]["ours"], 0)


def test_the_literature(monkeypatch):
    tables = Run("literature", EXPERIMENTS, monkeypatch).tables
    found = {(row[0], float(row[1])): row[2:] for _, *rows in tables for row in rows}
    rows = rows_of("literature/evidence.csv")
    assert len(found) == len(rows)
    for row in rows:
        pairs = [("log_likelihood", "se"), ("all_images", "all_se")]
        values = [f"{number(row[v])} ± {number(row[se])}" if row[v] else DASH for v, se in pairs]
        published = [number(row["published"], 2) if row["published"] else DASH] if float(row["epochs"]) > 100 else []
        assert found[row["name"], float(row["epochs"])] == [number(row["bound"]), *values, *published]


def test_appendix_f(monkeypatch):
    values, differences = Run("appendix_f", EXPERIMENTS, monkeypatch).tables
    last = {(r["method"], r["size"]): r for r in rows_of("appendix_f/points.csv")}  # the last point stays
    runs = json.loads((EXPERIMENTS / "appendix_f" / "settings.json").read_text())["runs"]
    ends = {(run["method"], str(run["size"])): run["test_end"] for run in runs}
    sizes = ("1000", "50000")
    for method, row in zip(("ML", "MAP", "VB"), values[1:4], strict=True):
        keys = [(method, size) for size in sizes]
        assert row[1:] == [number(n) for key in keys for n in (last[key]["train_predictive"], ends[key])]
    assert values[4][1::2] == [number(last["VB", size]["log_px_bound"]) for size in sizes]
    pairs = {(r["difference"], r["size"]): r for r in rows_of("appendix_f/differences.csv")}
    for name, row in zip(("VB - MAP", "VB - ML", "MAP - ML"), differences[1:], strict=True):
        found = [float(cell.split(" ± ")[0].replace(MINUS, "-")) for cell in row[1:]]
        assert found == pytest.approx([float(pairs[name, size]["test_predictive"]) for size in sizes], abs=0.051)


def test_the_programs(monkeypatch):
    gradients, others, trained, notes = Run("programs", EXPERIMENTS, monkeypatch).tables
    cells = json.loads((EXPERIMENTS / "clients" / "cells.json").read_text())
    said = dict(notes[1:])
    for table, columns in ((others, {2: "VIMCO", 3: "ScoreFunction", 4: "WakeSleep"}), (trained, {6: "diagnose"})):
        assert [row[0] for row in table[1:]] == list(cells)
        for name, *row in table[1:]:
            for i, column in columns.items():
                words, _, note = row[i - 1].partition(" ")
                assert cells[name][column] == (f"{words}: {said[note]}" if note else words)
    assert [row[2] == "equal" or row[0] in {"cevae", "gmm", "air"} for row in gradients[1:]] == [True] * len(cells)
