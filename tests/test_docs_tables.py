"""The tables of the documentation name what there is: every estimator, tests that exist, words of the glossary.

Tables of parts are made from the docstrings when the site is built. These are the ones that are written by hand.
"""

import re
from pathlib import Path

import pytest

from pyro_aevb import estimators

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
WRITTEN = [page for page in sorted(DOCS.rglob("*.md")) if not any(part.startswith((".", "_")) for part in page.parts)]


def claims():
    """What the page of oracles says: (what, oracle, tolerance, file::test)."""
    page = (DOCS / "explanations" / "oracles.md").read_text()
    lines = re.search(r'CLAIMS = """\n(.*?)"""', page, re.DOTALL)[1].splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def terms_of_the_glossary():
    """The terms that the glossary defines, in lower case: Sphinx takes a term in any case."""
    page = (DOCS / "glossary.md").read_text()
    return {term.strip().lower() for term in re.findall(r"^(\S.*)\n  \S", page, re.MULTILINE)}


def terms_used(text):
    """The terms that a page refers to, those behind other words too."""
    found = re.findall(r"\{term\}`([^`]*)`", text)
    return {" ".join(re.sub(r".*<(.*)>", r"\1", term, flags=re.DOTALL).split()).lower() for term in found}


@pytest.mark.parametrize("name", estimators.__all__)
def test_the_page_of_estimators_has_every_one_in_its_table(name):
    page = (DOCS / "explanations" / "estimators.md").read_text()
    table = page.partition("## Ours")[2].partition("## Pyro's")[0]
    rows = re.findall(r"^\| \{class\}`~pyro_aevb\.estimators\.(\w+)`", table, re.MULTILINE)
    assert rows.count(name) == 1
    assert set(rows) <= set(estimators.__all__)


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim[3])
def test_every_test_that_the_page_of_oracles_names_is_there(claim):
    file, _, name = claim[3].partition("::")
    assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


def test_oracles_are_told_of_more_than_a_few_claims():
    assert len(claims()) > 20
    assert all(len(claim) == 4 and all(claim) for claim in claims())


def test_pages_use_the_words_of_the_glossary():
    known = terms_of_the_glossary()
    assert {"bound", "evidence", "pareto k-hat", "monte carlo em"} <= known
    unknown = {(page.name, term) for page in WRITTEN for term in terms_used(page.read_text()) - known}
    assert not unknown


def test_the_glossary_is_in_order_and_tells_each_term_once():
    page = (DOCS / "glossary.md").read_text()
    listed = [term.strip().lower() for term in re.findall(r"^(\S.*)\n  \S", page, re.MULTILINE)]
    assert listed == sorted(set(listed))
