"""The page of a report: self-contained, whole without its script, deaf to hostile names, readable on any screen."""

import base64
import hashlib
import itertools
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas
import pytest

from pyro_aevb import InputError
from pyro_aevb.reports import compare_runs, write_report
from pyro_aevb.reports.page import files_of, page_of
from pyro_aevb.reports.svg import Curve, Frame, Strip, look, picture_strip, strip_frame, ticks
from tests.browser import launched

QUICK = {"num_samples": 20, "count": 60, "device": "cpu"}


class Parsed(HTMLParser):
    """A page's elements, and text by the element that it is in."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.texts = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def found(runs):
    return compare_runs(runs, **QUICK)


@pytest.fixture(scope="module")
def page(found):
    return page_of(found)


@pytest.fixture(scope="module")
def of_tables(tables):
    return compare_runs(tables, **QUICK)


def hash_of(text):
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_it_asks_for_nothing_and_its_policy_forbids_all_but_its_own_style_and_script(page):
    parsed = Parsed(page)
    policy = parsed.of("meta")[1]["content"]
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    assert policy == f"default-src 'none'; img-src data:; style-src '{hash_of(style)}'; script-src '{hash_of(script)}'"
    assert not re.search(r"https?:|url\(|@import|\bsrc=\"(?!data:)", page)
    assert not any({"style", "onclick", "onload"} & attributes.keys() for _, attributes in parsed.elements)
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"link", "iframe", "object", "base", "form"})


def test_verdicts_come_first_and_every_mean_is_there(found, page):
    parsed = Parsed(page)
    text = "".join(parsed.texts)
    assert text.index(found.verdicts[0]) < text.index("Settings")
    for mean in found.settings.evidence:
        assert f"{mean:.2f}".replace("-", "\N{MINUS SIGN}") in text
    for error in found.settings.evidence_se_seeds:
        assert f"± {error:.2f} seeds" in text or f"± {error:.2g} seeds" in text
    for verdict in found.verdicts:
        assert verdict in text


def test_there_are_no_two_ids_alike_and_every_picture_has_a_name(page):
    parsed = Parsed(page)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(each.get("aria-label") or each.get("aria-hidden") for each in parsed.of("svg"))
    assert all(each["alt"] for each in parsed.of("img"))
    assert all(each["aria-label"] for each in parsed.of("div") if each.get("class") == "scroll")
    assert {each["aria-labelledby"] for each in parsed.of("section")} <= set(ids)


def test_hostile_names_are_text(of_tables):
    page = page_of(of_tables)
    parsed = Parsed(page)
    assert len(parsed.of("script")) == 1
    assert not parsed.of("img")
    assert not parsed.of("i")
    assert not parsed.of("b")
    text = "".join(parsed.texts)
    assert "<i>real" in text
    assert 'the "kind" & <b>' in text
    assert "<script>alert('StandardNormal')<" in text


def test_runs_that_are_not_compared_have_parts_of_their_own(runs, tables):
    both = compare_runs([runs, tables], **QUICK)
    parsed = Parsed(page_of(both))
    ids = {attributes["id"] for attributes in parsed.of("section")}
    assert {"settings-1", "settings-2", "differences-1", "differences-2", "verdicts", "runs"} <= ids


def test_it_comes_with_tables_and_replaces_nothing(found, tmp_path):
    path = tmp_path / "new" / "report.html"
    written = write_report(found, path)
    assert [each.name for each in written] == [
        "report.html",
        "report.csv",
        "report_runs.csv",
        "report_differences.csv",
    ]
    assert written == files_of(path)
    back = pandas.read_csv(written[1], index_col="setting")
    assert np.allclose(back.evidence, found.settings.evidence, rtol=1e-12)
    assert len(pandas.read_csv(written[2])) == 4
    assert list(pandas.read_csv(written[3]).verdict) == list(found.differences.verdict)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write_report(found, path)
    assert path.read_bytes() == before


def test_a_table_in_the_way_is_refused_before_anything_is_written(found, tmp_path):
    (tmp_path / "report_runs.csv").write_text("mine")
    with pytest.raises(InputError, match=r"report_runs\.csv exists already"):
        write_report(found, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report_runs.csv"]
    with pytest.raises(InputError, match=r"ends in \.html"):
        write_report(found, tmp_path / "report.pdf")


def test_the_same_runs_make_the_same_page(runs, page):
    assert page_of(compare_runs(runs, **QUICK)) == page


# ---------------------------------------------------------------- charts

CURVES = [
    Curve("a", 0, (((100, -3.0), (1000, -2.0)),), ((100, -3.0, 0.1), (1000, -2.0, 0.1)), ((1000, -2.5, 0.2),)),
    Curve("b", 9, (((1, -99.0), (1000, -1.0)),), ((1, -99.0, math.nan), (1000, -1.0, math.nan)), ()),
]


def test_curves_are_where_their_numbers_are_on_a_logarithmic_axis():
    frame = Frame(CURVES, 860, 440)
    assert (frame.first, frame.last) == (10.0, 1000)  # two decades: the steep beginning is left out
    assert -4 < frame.low < -3.1
    middle = (frame.x(10) + frame.x(1000)) / 2
    assert frame.x(100) == pytest.approx(middle)
    assert frame.y(-2) < frame.y(-3)
    picture = frame.picture("wide", single=True)
    assert f"M{frame.x(100):.1f} {frame.y(-3):.1f}L{frame.x(1000):.1f} {frame.y(-2):.1f}" in picture
    assert f"translate({frame.x(1000):.1f} {frame.y(-2.5):.1f})" in picture
    assert picture.count('class="band"') == 1  # of one seed there is none


def test_a_colour_that_comes_again_has_another_dash_and_marker():
    assert len({look(i) for i in range(40)}) == 40
    assert look(0)[0] == look(8)[0]
    assert len({look(i)[1:] for i in range(8)}) == 8


@pytest.mark.parametrize(("low", "high"), [(-27.3, -23.9), (0.0, 1e-3), (1.0, 1e6), (-0.5, 0.5)])
def test_ticks_are_few_and_round(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= tick <= high for tick in found)
    assert len({round(b - a, 9) for a, b in itertools.pairwise(found)}) == 1


def test_a_strip_is_where_its_numbers_are():
    strip = Strip(1.0, 0.0, 4.0, (0.5, 2.0), (1.0,), "c0", 'a "b" <c>')
    frame = strip_frame([strip])
    assert frame == (0.0, 4.0)
    picture = picture_strip(strip, frame)
    places = {"0.0": "3.00%", "1.0": "26.50%", "4.0": "97.00%"}
    assert f'x1="{places["0.0"]}" x2="{places["4.0"]}"' in picture
    assert picture.count(f'cx="{places["1.0"]}"') == 2
    assert "a &quot;b&quot; &lt;c&gt;" in picture


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(request):
    with launched(request) as browser:
        yield browser


@pytest.fixture(scope="module", params=["pictures", "table"])
def path(request, found, of_tables, tmp_path_factory):
    place = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(found if request.param == "pictures" else of_tables, place)[0]


CONTRASTS = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const color = rgb(getComputedStyle(each).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
};
const found = [];
for (const element of document.querySelectorAll("main *")) {
  if (![...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
  if (!element.getClientRects().length) continue;
  const style = getComputedStyle(element);
  const ink = light(rgb(element instanceof SVGElement ? style.fill : style.color));
  const paper = light(behind(element));
  found.push([(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), element.outerHTML.slice(0, 99)]);
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_it_fits_its_screen_and_its_text_is_readable(browser, path, width, scheme):
    browser.resize(width, 900)
    browser.prefer(scheme)
    browser.open(path)
    wide = browser.run("return document.documentElement.scrollWidth")
    assert wide <= width
    contrasts = browser.run(CONTRASTS)
    assert len(contrasts) > 30
    assert min(contrasts)[0] >= 4.5, min(contrasts)
    shown = browser.run("return [...document.querySelectorAll('.curves')].map((s) => s.getClientRects().length > 0)")
    assert shown == ([False, True] if width == 360 else [True, False])
    assert browser.errors() == []
    assert browser.requests() == []


FIRST = "return [...document.querySelectorAll('#settings tbody th')].map((cell) => cell.textContent)"


def test_a_column_sorts_its_table_and_sorts_it_the_other_way_round(browser, path, found):
    browser.resize(1200, 900)
    browser.open(path)
    rows = browser.run(FIRST)[: len(found.settings)]
    column = "document.querySelectorAll('#settings table')[0].tHead.rows[0].cells[3]"
    browser.run(f"{column}.querySelector('button').click()")
    assert browser.run(FIRST)[: len(rows)] == rows[::-1]  # from the lowest log p(x) on
    assert browser.run(f"return {column}.getAttribute('aria-sort')") == "ascending"
    browser.run(f"{column}.querySelector('button').click()")
    assert browser.run(FIRST)[: len(rows)] == rows


def test_a_name_hides_its_curve_and_shows_it_again(browser, path):
    browser.resize(1200, 900)
    browser.open(path)
    hidden = "return [...document.querySelectorAll('.wide .curve')].map((g) => getComputedStyle(g).display)"
    assert browser.run(hidden) == ["inline", "inline"]
    button = browser.driver.find_element("css selector", ".legend button")
    button.send_keys("\ue007")  # Enter, as by a keyboard
    assert browser.run(hidden) == ["none", "inline"]
    assert button.get_attribute("aria-pressed") == "false"
    button.send_keys("\ue007")
    assert browser.run(hidden) == ["inline", "inline"]


def test_the_switch_changes_between_light_and_dark(browser, path):
    browser.prefer("light")
    browser.open(path)
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.run(paper)
    browser.driver.find_element("id", "theme").click()
    dark = browser.run(paper)
    browser.prefer("dark")
    browser.open(path)
    assert (light, browser.run(paper)) == ("rgb(255, 255, 255)", dark)
