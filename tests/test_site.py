"""The documentation as it was built: each public name is in it, links lead somewhere, nothing is loaded from outside.

``make docs`` executes the code of the pages; these tests read what it wrote.
"""

import importlib
import pkgutil
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import pyro_aevb

DOCS = Path(__file__).parent.parent / "docs"
SITE = DOCS / "_build" / "html"


@pytest.fixture
def site(request):
    """The folder of the built pages."""
    if not (SITE / "objects.inv").exists() and not request.config.getoption("--require-docs"):
        pytest.skip("the documentation is not built: make docs builds it")
    return SITE


class Page(HTMLParser):
    """What a page links to, what it loads, and which places in it can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links = []
        self.loaded = []
        self.places = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "index", "search", "next", "prev", "author"):
            self.loaded.append(given.get("href", ""))
        elif tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.loaded += [given[key] for key in ("src", "srcset", "data") if given.get(key)]


@cache
def page_at(path):
    return Page(path)


def public_names():
    """Every name of every ``__all__``, and the module that offers it."""
    for info in pkgutil.walk_packages(pyro_aevb.__path__, "pyro_aevb."):
        if not info.name.endswith("__main__"):
            yield from ((info.name, name) for name in getattr(importlib.import_module(info.name), "__all__", ()))
    yield from (("pyro_aevb", name) for name in pyro_aevb.__all__)


def test_every_public_name_can_be_looked_up(site):
    from sphinx.util.inventory import InventoryFile

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    entered = {name for kind, entries in inventory.data.items() if kind.startswith("py:") for name in entries}
    missing = {f"{module}.{name}" for module, name in public_names()} - entered
    assert not missing
    options = set(inventory.data["std:cmdoption"])
    assert {"pyro-aevb-train.--prior", "pyro-aevb-evaluate.--num_samples"} <= options


def test_no_page_loads_anything_from_outside(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for path in pages:
        outside = [each for each in page_at(path).loaded if urlsplit(each).netloc]
        assert not outside, path.name
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import ['\"]?http", path.read_text()), path.name


def has_place(path, place):
    """Whether a link to that place in a file goes there; what is no page has no places."""
    return not place or path.suffix != ".html" or place in page_at(path).places


def test_every_link_leads_somewhere(site):
    dead = []
    for path in sorted(site.rglob("*.html")):
        for link in page_at(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not (target.exists() and has_place(target, unquote(parts.fragment))):
                dead.append((path.name, link))
    assert not dead


def sources():
    return sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)


def takes_too_long(line):
    """Whether a command trains for minutes or hours, installs, or is none; the scripts that it calls are there."""
    if script := re.match(r"python (experiments/\w+\.py)", line):
        return (DOCS.parent / script[1]).exists()
    return not line or line.startswith(("make ", "export ", "pip install ", "python3 -m venv ", ". .venv/bin/activate"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(DOCS)))
def test_all_code_of_a_page_is_run(path):
    """Code stands in cells, which the build executes; what cannot run in it is said not to be run."""
    text = path.read_text()
    fences = re.findall(r"^ *(`{3,}|:{3,})(\{?[\w-]*\}?) ?(\S*)", text, re.MULTILINE)
    kinds = {(kind, argument) for _, kind, argument in fences if kind}
    assert not {kind for kind, _ in kinds} & {"python", "py", "sh", "bash", "shell", "console"}
    for language, block in re.findall(r"^```\{code-block\} (\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        assert all(map(takes_too_long, block.splitlines())) or "not executed" in text, f"{language}: {block}"
    if "{code-cell}" in text:
        assert "file_format: mystnb" in text


TYPED = {
    "0.7": "above it Pareto k-hat is not to be trusted",
    "1.01": "above it R-hat says that chains have not mixed",
    "0.01": "the least variance of the mean of an active unit",
    "0.02": "a step size of the paper",
    "0.1": "a step size of the paper",
    "0.3": "an example of a grey value",
    "2.0": "the licence's version",
    "3.11": "a version of Python",
    **dict.fromkeys(["2.1", "2.2", "2.3", "2.4"], "a section of the paper"),
}
"""Numbers with a decimal point that may be typed, since no run decides them; all others are computed by their page."""


def prose_of(text):
    """What a page says in words: without code, mathematics, roles and the targets of links."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^(`{3,}|:{3,})\{(?:code-|math|image|toctree)[\w-]*\}.*?^\1 *$", "", text, flags=re.DOTALL | re.M)
    text = re.sub(r"^```.*?^```|\$\$.*?\$\$|\\begin\{(\w+\*?)\}.*?\\end\{\1\}", "", text, flags=re.DOTALL | re.M)
    return re.sub(r"\$[^$]*\$|\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)", "", text)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(DOCS)))
def test_a_number_that_was_measured_is_computed_by_its_page(path):
    """By ``{glue:text}``; the pages of results are looked at more closely in ``test_results.py``."""
    if path.parent.name != "results":
        found = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d*\.)", prose_of(path.read_text())))
        assert found <= set(TYPED), f"compute {found - set(TYPED)} in a cell, and show it by glue"


def test_a_typed_number_is_found():
    text = (
        "---\nx: 1.5\n---\nIt is 8.25, {glue:text}`a` and $3.5$.\n\n```{code-cell} ipython3\n2.5\n```\n`0.5` [a](b0.1)"
    )
    assert re.findall(r"\d+\.\d+", prose_of(text)) == ["8.25"]
