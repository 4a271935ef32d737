"""The explorer's page by real events: mouse, touch and keys; each number against the run's own pair in torch."""

import base64
import csv
import re
from contextlib import contextmanager
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import explorer
from pyro_aevb.cli import main
from pyro_aevb.explorer.graphs import live
from tests.browser import launched
from tests.commands import SMALL

VIEWS = ("map", "datum", "training", "runs")
EVIL = "</script><script>hacked = 1</script>"
IMAGE = "<img src=x onerror=hacked=1>"
CONTROLS = {
    "button", "checkbox", "combobox", "link", "radio", "searchbox", "slider", "spinbutton", "switch", "tab", "textbox",
    "application", "img", "DisclosureTriangle",
}  # fmt: skip
WRITTEN = """
  const said = new URLSearchParams(location.hash.slice(1)), { state } = window.explorer;
  const numbers = (text) => (text === null ? null : text.split(",").map((word) => (word === "" ? NaN : Number(word))));
  const near = (a, b) => Object.is(a, b) || Math.abs(a - b) <= 1e-5 * Math.abs(b) || (a !== a && b !== b);
  const alike = (a, b) => a.length === b.length && a.every((value, i) => near(value, b[i]));
  const same = (a, b) => (a === null || b === null ? a === b : alike(a, b));
  return ["view", "run", "axes", "datum", "to", "seed"].every((key) => said.get(key) === String(state[key])) &&
    ["z", "x"].every((key) => same(numbers(said.get(key)), state[key]));
"""
SETTLED = """
  const done = arguments[arguments.length - 1];
  requestAnimationFrame(() => requestAnimationFrame(() => done(true)));
"""


# ---------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def trained(folder, *arguments):
    assert main(["train", *SMALL, "--engine=eager", f"--out={folder}", *map(str, arguments)]) in (0, None)
    return folder


def page_of(path, *folders, **options):
    """A page of runs, the payload in it, and the runs."""
    runs = [aevb.load_run(each) for each in folders]
    payload = explorer.make_payload(runs, **{"count": 60, "num_samples": 30, **options})
    explorer.write_page(payload, path)
    return Page(path, payload, runs)


class Page:
    """A page and what it was made from.

    Arguments:
        path: The page.
        payload: What is in it.
        runs: The opened runs.
    """

    def __init__(self, path, payload, runs):
        self.path, self.payload, self.runs = path, payload, runs
        self._live = {}

    def array(self, *keys, run=0):
        """An array of a run's part of the payload."""
        spec = self.payload["runs"][run]
        for key in keys:
            spec = spec[key]
        values = np.frombuffer(base64.b64decode(spec["data"]), np.dtype(spec["dtype"]).newbyteorder("<"))
        return values.reshape(spec["shape"]).astype(float)

    def pair(self, run=0):
        """Model and guide with the weights that the page has, in float64."""
        if run not in self._live:
            opened = self.runs[run]
            self._live[run] = live(opened.model, opened.guide, opened.data.test[:1], "float16")
        return self._live[run]

    def decoded(self, z, run=0):
        """The mean of p(x|z) by torch."""
        with torch.no_grad():
            return self.pair(run).model.likelihood(torch.tensor(z, dtype=torch.float64)[None]).mean[0].numpy()

    def encoded(self, x, run=0):
        """The mean of q(z|x) by torch."""
        with torch.no_grad():
            return self.posterior(x, run).mean[0].numpy()

    def posterior(self, x, run=0):
        """q(z|x) by torch."""
        guide = self.pair(run).guide
        return guide.guide(guide.seen(torch.tensor(x, dtype=torch.float64)[None]))


@pytest.fixture(scope="module")
def digits(folder):
    """Two runs of the same data, of three latents, with other priors."""
    one = trained(folder / "one", "--data=digits", "--latent_dim=3")
    other = trained(folder / "other", "--data=digits", "--latent_dim=3", "--prior=Laplace", "--samples=4000")
    return page_of(folder / "digits.html", one, other)


@pytest.fixture(scope="module")
def table(folder):
    """A table of all kinds of columns, with gaps, whose names and categories would be code in a careless page."""
    random = np.random.default_rng(0)
    path = folder / "table.csv"
    with open(path, "w", newline="") as file:
        write = csv.writer(file)
        write.writerow([f"size {EVIL}", "eggs", "female", "colour", "kind", "weight"])
        for place, z in enumerate(random.normal(size=200)):
            colour = "red" if z > 0.5 else IMAGE if z < -0.5 else "green"
            size = "" if place % 9 == 4 else round(3 + z, 3)
            female, weight = int(z + random.normal() > 0), round(np.exp(random.normal()), 3)
            write.writerow([size, random.poisson(np.exp(1 + z / 2)), female, colour, EVIL if z > 0 else IMAGE, weight])
    run = trained(folder / "table", f"--data={path}", "--missing", "--labels=kind", "--samples=4000")
    return page_of(folder / "table.html", run, count=20)


@pytest.fixture(scope="module")
def conditioned(folder, table):
    """A run that the page cannot compute with: tiles and reconstructions take its place."""
    run = trained(folder / "conditioned", "--data=digits", "--condition=labels", "--prior=ConditionalNormal")
    return page_of(folder / "conditioned.html", run)


@pytest.fixture(scope="module")
def line(folder):
    """A run of one latent, whose map is a line."""
    return page_of(folder / "line.html", trained(folder / "line", "--data=digits", "--latent_dim=1"))


@pytest.fixture(scope="module")
def browser(request):
    with launched(request) as browser:
        yield browser


@contextmanager
def opened(browser, page, size=(1200, 900), scheme="light", **fragment):
    """A page in the browser, which must log nothing and ask the network for nothing."""
    browser.resize(*size)
    browser.prefer(scheme)
    browser.open(page.path, urlencode(fragment, safe=","))
    browser.wait("return window.explorer && document.querySelector('main').children.length")
    settled(browser)
    yield Shown(browser, page)
    settled(browser)
    assert browser.errors() == []
    assert browser.requests() == []


def settled(browser):
    """Wait until what was changed has been drawn, which happens once a frame."""
    browser.driver.execute_async_script(SETTLED)


class Shown:
    """An opened page: what is asked of it, and what is done to it by mouse and keys.

    Arguments:
        browser: Where it is open.
        page: What it was made from.
    """

    def __init__(self, browser, page):
        self.browser, self.driver, self.page = browser, browser.driver, page

    def ask(self, script, *arguments):
        return self.browser.run(f"return {script}", *arguments)

    def find(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def button(self, words, within="main"):
        return next(each for each in self.all(f"{within} button") if each.text == words)

    def click(self, element):
        self.ask("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()
        settled(self.browser)

    @property
    def actions(self):
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver, duration=20)

    def press(self, *keys):
        """Type keys to whatever has the focus."""
        for key in keys:
            self.actions.send_keys(key).perform()
        settled(self.browser)

    def drag(self, element, start, *stops):
        """Drag from one place to others, all in pixels from the middle of an element."""
        self.ask("arguments[0].scrollIntoView({block: 'center'})", element)
        chain = self.actions.move_to_element_with_offset(element, *start).click_and_hold()
        for before, after in zip((start, *stops), stops, strict=False):
            chain = chain.move_by_offset(after[0] - before[0], after[1] - before[1])
        chain.release().perform()
        settled(self.browser)

    @property
    def z(self):
        """Where the map's cross is."""
        return np.array(self.ask("[...window.explorer.state.z]"))

    def fragment(self):
        """What the address says, once it says what is shown: it follows a little later."""
        self.browser.wait(WRITTEN)
        found = parse_qs(self.ask("location.hash.slice(1)"), keep_blank_values=True)
        return {key: values[0] for key, values in found.items()}

    def picture(self, label):
        """Grey levels of a picture, 0 to 255, a row after another."""
        script = """(() => {
          const labelled = (canvas) => canvas.getAttribute('aria-label') === given;
          const canvas = [...document.querySelectorAll('canvas')].find(labelled);
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
          copy.drawImage(canvas, 0, 0);
          const data = copy.getImageData(0, 0, canvas.width, canvas.height).data;
          return [...data].filter((_, i) => i % 4 === 0);
        })()"""
        return np.array(self.browser.run(f"const given = arguments[0]; return {script}", label), dtype=float)


DECODED = "what the model makes of z"
AXES = {"across": 0, "up": 1}


def assert_is_decoded(shown, z, label=DECODED):
    """The picture has the levels of torch's mean of p(x|z), to the half level that rounding to a byte leaves."""
    expected = 255 * shown.page.decoded(z)
    np.testing.assert_allclose(shown.picture(label), expected, atol=0.51)


# ---------------------------------------------------------------- the latent map


def test_dragging_on_the_map_moves_z_and_decodes_it(browser, digits):
    with opened(browser, digits, **AXES) as shown:
        canvas = shown.find("#map")
        before = shown.picture(DECODED)
        shown.drag(canvas, (-60, 40), (-20, 40))
        first = shown.z
        shown.drag(canvas, (-60, 40), (0, 40), (60, -30))
        second = shown.z
        moved = second - first
        assert moved[0] > 0, "right is more of the latent that lies across"
        assert moved[1] > 0, "up is more of the latent that lies upward"
        assert moved[2] == 0, "no other latent follows"
        assert_is_decoded(shown, second)
        assert np.abs(shown.picture(DECODED) - before).max() > 1
        said = re.findall(r"[−\d.]+", shown.find("#readout").text)
        np.testing.assert_allclose([float(word.replace("−", "-")) for word in said], second, atol=0.0051)


def test_the_map_is_the_same_wherever_one_drags(browser, digits):
    """z follows the pointer by so much a pixel, whatever the way: what is under the pointer is what is decoded."""
    with opened(browser, digits, **AXES) as shown:
        canvas = shown.find("#map")
        found = []
        for way in (((0, 0), (100, 0)), ((50, 50), (-30, -20), (100, 0)), ((0, 0), (50, 0)), ((0, 0), (100, 40))):
            shown.drag(canvas, *way)
            found.append(shown.z)
        straight, round_about, half, below = found
        np.testing.assert_allclose(straight, round_about, atol=1e-5)
        np.testing.assert_array_equal(straight[1:], half[1:])
        assert straight[0] == below[0]
        assert below[1] < straight[1]


def test_a_finger_drags_as_a_mouse_does(browser, digits):
    from selenium.webdriver.common.actions import interaction
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    with opened(browser, digits) as shown:
        canvas = shown.find("#map")
        shown.drag(canvas, (-40, 0), (30, 20))
        by_mouse = shown.z
        shown.drag(canvas, (-40, 0), (-80, 60))
        assert not np.allclose(shown.z, by_mouse)
        finger = ActionBuilder(shown.driver, mouse=PointerInput(interaction.POINTER_TOUCH, "finger"))
        finger.pointer_action.move_to(canvas, -40, 0).pointer_down().move_to(canvas, 30, 20).pointer_up()
        finger.perform()
        settled(browser)
        np.testing.assert_allclose(shown.z, by_mouse, atol=1e-5)


def test_arrow_keys_move_z_and_enter_goes_to_the_nearest_datum(browser, digits):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, digits, **AXES, z="0.1,-0.1,0.2") as shown:
        shown.ask("document.getElementById('map').focus()")
        shown.press(Keys.ARROW_RIGHT)
        right = shown.z
        shown.press(Keys.ARROW_UP)
        up = shown.z
        across, upward = right[0] - 0.1, up[1] + 0.1
        assert across > 0 < upward
        np.testing.assert_allclose([right[1], up[0], up[2]], [-0.1, right[0], 0.2], atol=1e-5)
        shown.actions.key_down(Keys.SHIFT).send_keys(Keys.ARROW_LEFT).key_up(Keys.SHIFT).perform()
        settled(browser)
        assert shown.z[0] == pytest.approx(right[0] - 10 * across, abs=1e-5)
        here = shown.z
        shown.press(Keys.ENTER)
        away = (digits.array("data", "mean")[:, :2] - here[:2]) / [across, upward]
        nearest = int(np.argmin((away**2).sum(1)))
        assert int(shown.fragment()["datum"]) == nearest
        np.testing.assert_allclose(shown.z, digits.array("data", "mean")[nearest], atol=1e-4)


def test_a_click_on_a_point_chooses_its_datum(browser, digits):
    from selenium.webdriver.common.keys import Keys

    mean = digits.array("data", "mean")
    away = np.hypot(*(mean[:, None, :2] - mean[None, :, :2]).transpose(2, 0, 1)) + 9 * np.eye(len(mean))
    lonely = int(np.argmax(away.min(1)))
    with opened(browser, digits, **AXES, z=",".join(map(str, mean[lonely]))) as shown:
        shown.ask("document.getElementById('map').focus()")
        canvas = shown.find("#map")
        shown.drag(canvas, (0, 0), (5, 0))
        start = shown.z
        shown.press(Keys.ARROW_RIGHT, Keys.ARROW_UP)
        pixels = 3 * (mean[lonely, :2] - start[:2]) / (shown.z[:2] - start[:2])
        place = (round(5 + pixels[0]), round(-pixels[1]))
        shown.actions.move_to_element_with_offset(canvas, *place).click().perform()
        settled(browser)
        assert int(shown.fragment()["datum"]) == lonely


@pytest.mark.parametrize("latent", [0, 1, 2])
def test_a_slider_moves_one_latent(browser, digits, latent):
    from selenium.webdriver.common.keys import Keys

    start = [0.1, -0.1, 0.2]
    with opened(browser, digits, z=",".join(map(str, start))) as shown:
        slider = shown.find(f"input[type=range][aria-label^='z[{latent}]']")
        slider.send_keys(Keys.ARROW_RIGHT)
        settled(browser)
        moved = shown.z - start
        assert moved[latent] > 0
        assert not np.delete(moved, latent).any()
        assert_is_decoded(shown, shown.z)
        shown.drag(slider, (0, 0), (40, 0))
        assert shown.z[latent] > start[latent]
        assert_is_decoded(shown, shown.z)


def test_sliders_stand_by_kl_with_active_latents_marked(browser, digits):
    kl, active = digits.array("kl"), digits.payload["runs"][0]["active"]
    with opened(browser, digits) as shown:
        names = [each.text for each in shown.all(".slider .name")]
        expected = [
            f"{'●' if active[k] else '○'} z[{k}] KL {kl[k]:.2f}" for k in sorted(range(3), key=lambda k: -kl[k])
        ]
        assert names == expected


def test_principal_axes_are_moved_along(browser, digits):
    """On the principal axes a step to the right moves z along the first direction, and along no other."""
    from selenium.webdriver.common.keys import Keys

    directions = digits.array("axes", "directions")
    with opened(browser, digits, axes="pc", z="0.1,-0.1,0.2") as shown:
        shown.ask("document.getElementById('map').focus()")
        shown.press(Keys.ARROW_RIGHT)
        along = directions @ (shown.z - [0.1, -0.1, 0.2])
        assert along[0] > 0
        np.testing.assert_allclose(along[1:], 0, atol=2e-5)


def test_draws_from_the_prior_are_the_models_and_repeatable(browser, digits):
    """The Laplace prior of the second run: the page's draws have its kurtosis, which a normal has not."""
    with opened(browser, digits, run=1) as shown:
        draw = shown.button("Draw from the prior")
        draws = []
        for _ in range(3):
            shown.click(draw)
            draws.append(shown.z)
        assert_is_decoded_by(shown, draws[-1], run=1)
        assert len({tuple(z) for z in draws}) == 3
        last = shown.fragment()
    with opened(browser, digits, run=1, seed=int(last["seed"]) - 1) as shown:
        shown.click(shown.button("Draw from the prior"))
        np.testing.assert_array_equal(shown.z, draws[-1])


def assert_is_decoded_by(shown, z, run):
    np.testing.assert_allclose(shown.picture(DECODED), 255 * shown.page.decoded(z, run), atol=0.51)


def test_between_two_data_z_goes_straight(browser, digits):
    from selenium.webdriver.common.keys import Keys

    one, two = digits.array("data", "mean")[[4, 7]]
    with opened(browser, digits, datum=4) as shown:
        other = shown.find("#to")
        other.send_keys(Keys.CONTROL, "a")
        other.send_keys("7", Keys.ENTER)
        settled(browser)
        assert shown.fragment()["to"] == "7"
        shown.click(shown.button("Mean of q(z|x)"))
        for share, label in ((0, "0 % of the way"), (0.5, "50 % of the way"), (1, "100 % of the way")):
            z = one + share * (two - one)
            assert_is_decoded(shown, z, label)
            shown.click(shown.find(f"button[aria-label='go {label}']"))
            np.testing.assert_allclose(shown.z, z, atol=1e-5)
            assert_is_decoded(shown, z)


def test_one_latent_has_a_line_to_drag_on(browser, line):
    with opened(browser, line) as shown:
        shown.drag(shown.find("#map"), (-50, 10), (20, -10))
        first = shown.z
        shown.drag(shown.find("#map"), (-50, 10), (80, 60))
        assert shown.z > first
        assert_is_decoded(shown, shown.z)


def test_many_moves_are_no_flood_of_addresses(browser, digits):
    """A browser refuses more than 200 changes of the address in ten seconds, and says so in the console."""
    with opened(browser, digits) as shown:
        canvas = shown.find("#map")
        shown.browser.run(
            """const [canvas] = arguments, box = canvas.getBoundingClientRect();
            const send = (kind, i) => canvas.dispatchEvent(new PointerEvent(kind, {
              clientX: box.left + 100 + (i % 200), clientY: box.top + 150, pointerId: 1, bubbles: true }));
            HTMLElement.prototype.setPointerCapture = () => {};
            send("pointerdown", 0);
            for (let i = 0; i < 600; i++) send("pointermove", i);
            send("pointerup", 599);""",
            canvas,
        )
        settled(browser)
        said = [float(value) for value in shown.fragment()["z"].split(",")]
        np.testing.assert_allclose(said, shown.z, rtol=1e-5)
        assert_is_decoded(shown, shown.z)


# ---------------------------------------------------------------- a datum


def column(shown, place):
    return [line.text for line in shown.all(f"#data tbody tr td:nth-child({place})")]


@pytest.mark.parametrize(
    ("head", "key"), [("bound", "bound"), ("log p(x)", "log_likelihood"), ("k-hat", "k_hat"), ("labels", "labels")]
)
def test_the_table_is_sorted_both_ways(browser, digits, head, key):
    values = digits.array("labels", "values") if key == "labels" else digits.array("data", key)
    rows = digits.payload["runs"][0]["data"]["rows"]
    with opened(browser, digits, view="datum") as shown:
        button = next(each for each in shown.all("#data thead button") if each.text.startswith(head))
        for sign, said in ((-1, "descending"), (1, "ascending")):
            shown.click(button)
            expected = sorted(range(len(values)), key=lambda i: (sign * values[i], i))[:25]
            assert column(shown, 1) == [rows[i] for i in expected]
            assert shown.ask("arguments[0].closest('th').getAttribute('aria-sort')", button) == said


def test_the_table_says_the_payloads_numbers_and_marks_k_hat(browser, digits):
    data = {key: digits.array("data", key) for key in ("bound", "log_likelihood", "log_likelihood_se", "k_hat")}
    with opened(browser, digits, view="datum") as shown:
        button = next(each for each in shown.all("#data thead button") if each.text.startswith("k-hat"))
        shown.click(button)
        first = [cell.text.replace("−", "-") for cell in shown.all("#data tbody tr:first-child td")]
        i = int(np.argmax(data["k_hat"]))
        assert first[2] == f"{data['bound'][i]:.2f}"
        assert first[3] == f"{data['log_likelihood'][i]:.2f} ± {data['log_likelihood_se'][i]:.2f}"
        assert first[4].startswith(f"{data['k_hat'][i]:.2f}")
        marked = sum("⚠" in words for words in column(shown, 5))
        assert marked == min(25, (data["k_hat"] > 0.7).sum()) > 0


def test_a_datum_is_chosen_by_the_keyboard_alone(browser, digits):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, digits, view="datum") as shown:
        for _ in range(60):
            shown.press(Keys.TAB)
            if shown.ask("document.activeElement.closest('#data tbody tr')?.rowIndex") == 4:
                break
        shown.press(Keys.ENTER)
        assert shown.fragment()["datum"] == "3"
        chosen = shown.find("#data tbody tr[aria-selected=true] td").text
        assert chosen == digits.payload["runs"][0]["data"]["rows"][3]
        assert shown.ask("document.activeElement.textContent") == chosen, "the focus stays where it was"
        x = digits.array("data", "x")[3]
        np.testing.assert_array_equal(shown.picture("the datum"), 255 * x)
        z = digits.encoded(x)
        assert_is_decoded(shown, z, "its reconstruction, the mean of p(x|z) at the mean of q(z|x)")


def live_numbers(shown, count=500):
    """Names and numbers of what the page computes itself, once it has made all its draws."""
    shown.browser.wait(f"return document.getElementById('live')?.dataset.count === '{count}'")
    names = [re.sub(r"\s*\?.*", "", each.text, flags=re.DOTALL) for each in shown.all("#live dt")]
    words = [each.text.replace("−", "-") for each in shown.all("#live dd")]
    return dict(zip(names, words, strict=True))


def value_and_error(words):
    value, _, error = words.partition(" ± ")
    return float(value), float(error or 0)


def exact_kl(page, x):
    """KL(q(z|x) || N(0, I)) by the paper's appendix B."""
    with torch.no_grad():
        q = page.posterior(x)
    return float(0.5 * (q.mean**2 + q.stddev**2 - 1).sum() - q.stddev.log().sum())


def assert_live_numbers_fit(shown, x, run):
    """Numbers from the page's draws lie within five errors of torch's, which are from many more draws."""
    words = live_numbers(shown)
    pair = shown.page.pair()
    rows = torch.tensor(x, dtype=torch.float64)[None]
    bound = aevb.evidence.bound(pair.model, pair.guide, rows, 4000, seed=1)
    log_px = aevb.evidence.importance_sampling(pair.model, pair.guide, rows, num_samples=4000, seed=1)
    for name, expected in (("bound", bound.bound[0]), ("log p(x)", log_px[0])):
        value, error = value_and_error(words[name])
        assert 0 < error < 1
        assert value == pytest.approx(float(expected), abs=5 * error + 0.02), name
    assert float(words["KL, exact"]) == pytest.approx(exact_kl(shown.page, x), abs=0.0051)
    assert f"of {500}" in words["effective samples"]


def test_a_datums_numbers_are_those_of_torch(browser, digits):
    with opened(browser, digits, view="datum", datum=5) as shown:
        assert_live_numbers_fit(shown, digits.array("data", "x")[5], run=0)
        assert "500 draws of seed 1" in shown.find("#live h3").text


def test_other_draws_are_other_draws_and_a_link_repeats_them(browser, digits):
    with opened(browser, digits, view="datum", datum=5) as shown:
        first = live_numbers(shown)
        shown.click(shown.button("Other draws"))
        browser.wait("return document.querySelector('#live h3').textContent.includes('seed 2')")
        second = live_numbers(shown)
        assert first["bound"] != second["bound"]
        assert first["KL, exact"] == second["KL, exact"]
    with opened(browser, digits, view="datum", datum=5, seed=2) as shown:
        assert live_numbers(shown) == second


def drawn(shown):
    """What was drawn, from the page's state."""
    return np.array(shown.ask("window.explorer.state.x && [...window.explorer.state.x]"), dtype=float)


def test_a_stroke_of_the_mouse_is_a_datum(browser, digits):
    with opened(browser, digits, view="datum") as shown:
        before = live_numbers(shown)
        canvas = shown.find("#editor")
        side = canvas.size["width"] / 8
        shown.drag(canvas, (0, -2.5 * side), (0, 2.5 * side))
        x = drawn(shown)
        assert set(np.unique(x)) == {0, 1}, "the model's data are binary, so what is drawn is"
        image = x.reshape(8, 8)
        assert image[2:6, 3:5].all()
        assert not image[:, [0, 1, 6, 7]].any()
        np.testing.assert_array_equal(shown.picture("the datum"), 255 * x)
        assert_is_decoded(shown, digits.encoded(x), "its reconstruction, the mean of p(x|z) at the mean of q(z|x)")
        browser.wait("return document.getElementById('live').dataset.count === '500'")
        assert live_numbers(shown) != before
        assert_live_numbers_fit(shown, x, run=0)


def test_undo_and_clear(browser, digits):
    with opened(browser, digits, view="datum") as shown:
        canvas = shown.find("#editor")
        side = canvas.size["width"] / 8
        shown.drag(canvas, (-2.5 * side, 0), (2.5 * side, 0))
        first = drawn(shown)
        shown.drag(canvas, (0, -2.5 * side), (0, 2.5 * side))
        assert drawn(shown).sum() > first.sum() > 0
        shown.click(shown.button("Undo"))
        np.testing.assert_array_equal(drawn(shown), first)
        shown.click(shown.button("Clear"))
        assert not drawn(shown).any()
        shown.click(shown.button("Undo"))
        np.testing.assert_array_equal(drawn(shown), first)


def test_pixels_are_painted_by_keys(browser, digits):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, digits, view="datum") as shown:
        shown.ask("document.getElementById('editor').focus()")
        pen = shown.all("select")
        next(each for each in pen if "one pixel" in each.text).send_keys("one")
        shown.ask("document.getElementById('editor').focus()")
        shown.press(Keys.ARROW_LEFT, Keys.SPACE, Keys.ARROW_UP, Keys.SPACE)
        expected = np.zeros((8, 8))
        expected[4, 3] = expected[3, 3] = 1
        np.testing.assert_array_equal(drawn(shown).reshape(8, 8), expected)
        shown.press(Keys.DELETE)
        expected[3, 3] = 0
        np.testing.assert_array_equal(drawn(shown).reshape(8, 8), expected)


def test_a_link_restores_what_was_drawn(browser, digits):
    x = np.zeros(64)
    x[[18, 27, 36, 45]] = 1
    link = {"view": "datum", "x": ",".join(str(int(value)) for value in x)}
    with opened(browser, digits, **link) as shown:
        np.testing.assert_array_equal(shown.picture("the datum"), 255 * x)
        assert float(live_numbers(shown)["KL, exact"]) == pytest.approx(exact_kl(digits, x), abs=0.0051)
        shown.click(shown.button("Begin from the chosen datum"))
    with opened(browser, digits, view="datum", datum=3) as shown:
        shown.click(shown.button("Begin from the chosen datum"))
        np.testing.assert_array_equal(drawn(shown), digits.array("data", "x")[3])


# ---------------------------------------------------------------- a table


def field(shown, name):
    """The field of the form for a column."""
    labels = shown.all("#row label")
    label = next(each for each in labels if shown.ask("arguments[0].firstChild.textContent", each).startswith(name))
    return shown.ask("arguments[0].querySelector('input, select')", label)


def said_means(shown):
    """The mean of each numeric column that the page says, by the column's name."""
    lines = [line for line in shown.all(".column") if not shown.ask("arguments[0].closest('form')", line)]
    found = {}
    for line in lines:
        name = shown.ask("arguments[0].firstChild.textContent", line)
        words = shown.ask("arguments[0].querySelector('.value')?.textContent", line)
        if words:
            found[name] = float(re.match(r"(?:probability )?([−\d.e]+)", words)[1].replace("−", "-"))
    return found


def assert_columns_are_decoded(shown, z):
    mean = shown.page.decoded(z)
    columns = shown.page.payload["runs"][0]["data"]["columns"]
    said = said_means(shown)
    numeric = [each for each in columns if each["kind"] != "category"]
    assert set(said) == {each["name"] for each in numeric}
    for each in numeric:
        assert said[each["name"]] == pytest.approx(mean[each["places"][0]], rel=1e-3), each["name"]


def test_sliders_move_the_predicted_columns(browser, table):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, table, z="0.3,-0.2") as shown:
        assert_columns_are_decoded(shown, [0.3, -0.2])
        shown.find("input[type=range][aria-label^='z[0]']").send_keys(Keys.ARROW_RIGHT * 30)
        settled(browser)
        assert shown.z[0] > 0.5
        assert_columns_are_decoded(shown, shown.z)


def test_columns_have_intervals_and_categories_probabilities(browser, table):
    """The interval of 90 % holds nine of ten draws of torch's own p(x|z); a category's bars add up to 1."""
    with opened(browser, table, z="0.3,-0.2") as shown:
        text = next(each.text for each in shown.all(".column .value") if " to " in each.text)
        low, high = (float(word.replace("−", "-")) for word in re.search(r", (\S+) to (\S+);", text).groups())
        torch.manual_seed(0)
        z = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
        draws = table.pair().model.likelihood(z).sample((4000,))[:, 0, 0].numpy()
        inside = ((draws >= low) & (draws <= high)).mean()
        assert inside == pytest.approx(0.9, abs=0.06)  # 200 draws' quantiles: two standard deviations are 0.04
        shares = [int(each.text.split()[0]) for each in shown.all(".chance span:last-child")]
        assert sum(shares) == pytest.approx(100, abs=2)
        chances = table.pair().model.likelihood(z).sample((4000,))[:, 0, 3].numpy()
        for category, share in enumerate(shares):
            assert share / 100 == pytest.approx((chances == category).mean(), abs=0.12)


def test_a_typed_row_is_a_datum(browser, table):
    from selenium.webdriver.common.keys import Keys

    x = table.array("data", "x")[2].copy()
    with opened(browser, table, view="datum", datum=2) as shown:
        before = live_numbers(shown)
        eggs = field(shown, "eggs")
        eggs.send_keys(Keys.CONTROL, "a")
        eggs.send_keys("9")
        settled(browser)
        x[1] = 9
        np.testing.assert_array_equal(drawn(shown), np.float64(x))
        assert_columns_are_decoded(shown, table.encoded(x))
        browser.wait("return document.getElementById('live').dataset.count === '500'")
        assert_live_numbers_fit(shown, x, run=0)
        assert live_numbers(shown) != before
        shown.click(shown.button("The chosen row again"))
        assert live_numbers(shown) == before
        assert shown.ask("arguments[0].value", field(shown, "eggs")) == f"{table.array('data', 'x')[2, 1]:g}"


def test_a_category_is_chosen_from_its_names(browser, table):
    categories = table.payload["runs"][0]["data"]["columns"][3]["categories"]
    with opened(browser, table, view="datum", datum=2) as shown:
        menu = field(shown, "colour")
        assert [each.strip() for each in shown.ask("[...arguments[0].options].map((o) => o.textContent)", menu)][
            -3:
        ] == categories
        menu.send_keys("red")
        settled(browser)
        assert drawn(shown)[3] == categories.index("red")


def test_an_emptied_field_is_a_gap(browser, table):
    """The run was trained with gaps: a column that is left empty is not observed, and the bound is of the others."""
    from selenium.webdriver.common.keys import Keys

    x = table.array("data", "x")[2].copy()
    with opened(browser, table, view="datum", datum=2) as shown:
        eggs = field(shown, "eggs")
        eggs.send_keys(Keys.CONTROL, "a")
        eggs.send_keys(Keys.DELETE)
        settled(browser)
        x[1] = np.nan
        np.testing.assert_array_equal(drawn(shown), np.float64(x))
        assert_live_numbers_fit(shown, x, run=0)
        shown.fragment()
        fragment = shown.ask("location.hash.slice(1)")
    browser.open(table.path, fragment)
    browser.wait("return window.explorer")
    np.testing.assert_allclose(drawn(Shown(browser, table)), x, rtol=1e-6)


def test_a_gap_of_the_data_is_said_and_not_shown_as_a_number(browser, table):
    gaps = np.flatnonzero(np.isnan(table.array("data", "x")[:, 0]))
    with opened(browser, table, view="datum", datum=int(gaps[0])) as shown:
        assert shown.ask("arguments[0].value", field(shown, "size")) == ""
        text = next(each.text for each in shown.all(".column .value"))
        assert "missing" in text
        assert "NaN" not in shown.find("main").text


def test_what_a_file_names_is_text(browser, table):
    for view in VIEWS:
        with opened(browser, table, view=view) as shown:
            assert shown.ask("window.hacked ?? null") is None
            assert shown.ask("document.querySelectorAll('main script, main img').length") == 0
            if view == "datum":
                assert EVIL in shown.find("main").text


# ---------------------------------------------------------------- what is not live


def test_a_run_that_is_not_live_is_shown_by_tiles(browser, conditioned):
    spec = conditioned.payload["runs"][0]
    assert spec["pair"] is None
    tiles = conditioned.array("tiles", "means") / spec["tiles"]["means"].get("divided_by", 1)
    for view in VIEWS:
        with opened(browser, conditioned, view=view) as shown:
            words = shown.find("body").text
            assert spec["not_live"] in words
    with opened(browser, conditioned) as shown:
        shown.drag(shown.find("#map"), (-60, 40), (60, -30))
        tile = spec["tiles"]
        share = (shown.z - np.array(tile["low"])) / (np.array(tile["high"]) - tile["low"])
        across, up = np.rint(np.clip(share, 0, 1) * (tile["side"] - 1)).astype(int)
        np.testing.assert_allclose(shown.picture(DECODED), 255 * tiles[up * tile["side"] + across], atol=1.01)


# ---------------------------------------------------------------- runs


def test_runs_are_switched_and_back_goes_back(browser, digits):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, digits, view="training") as shown:
        titles = [run["title"] for run in digits.payload["runs"]]
        assert shown.find("h1").text == titles[0]
        shown.find("select#run").send_keys(Keys.ARROW_DOWN)
        settled(browser)
        assert shown.find("h1").text == titles[1]
        assert shown.fragment()["run"] == "1"
        shown.driver.back()
        browser.wait("return document.querySelector('h1').textContent === arguments[0]", titles[0])
        assert shown.ask("document.querySelector('select#run').value") == "0"
        shown.driver.forward()
        browser.wait("return document.querySelector('h1').textContent === arguments[0]", titles[1])


def test_differences_are_paired(browser, digits):
    expected = []
    for key in ("bound", "log_likelihood", "reconstruction", "kl"):
        differences = digits.array("data", key, run=1) - digits.array("data", key)
        expected.append((differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))))
    with opened(browser, digits, view="runs") as shown:
        tables = [each for each in shown.all("table") if len(shown.ask("[...arguments[0].tBodies[0].rows]", each)) == 1]
        cells = [shown.ask("[...arguments[0].tBodies[0].rows[0].cells].map((c) => c.textContent)", tables[0])][0][1:]
        found = [value_and_error(words.replace("−", "-").replace("+", "")) for words in cells]
        np.testing.assert_allclose(found, expected, atol=0.0051)
        assert "prior" in shown.find("main").text
        assert "Laplace" in shown.find("main").text


def test_each_run_has_numbers_of_its_own(browser, digits):
    """Switching shows the other run's pair: its decoded picture is its own model's."""
    with opened(browser, digits, run=1, z="0.5,0.2,-0.4") as shown:
        assert_is_decoded_by(shown, [0.5, 0.2, -0.4], run=1)
        shown.driver.execute_script("document.querySelector('select#run').focus()")
    difference = digits.decoded([0.5, 0.2, -0.4]) - digits.decoded([0.5, 0.2, -0.4], run=1)
    assert 255 * np.abs(difference).max() > 2


def test_rounding_is_told_with_its_cost(browser, digits):
    rounding = digits.payload["runs"][0]["rounding"]
    with opened(browser, digits) as shown:
        words = shown.find("#rounding").text.replace("−", "-")
        assert "float16" in words
        assert f"{rounding['difference']:.5f} ± {rounding['se']:.5f} nats per datum" in words


def test_what_is_missing_says_which_command_makes_it(browser, digits):
    with opened(browser, digits, view="training") as shown:
        words = shown.find("main").text
        assert "pyro-aevb diagnose" in words
        assert "pyro-aevb compare" in words


def test_diagnosis_is_shown_where_there_is_one(browser, digits):
    """Gaps and gradients in the payload are said in the page."""
    gaps = {
        "bound": -30.5, "optimised_bound": -29.25, "log_likelihood": -28.125, "amortisation": 1.25,
        "amortisation_se": 0.11, "approximation": 1.12, "approximation_se": 0.07, "count": 17,
    }  # fmt: skip
    gradients = [
        {"estimator": name, "num_particles": particles, "part": part, "snr": 0.1 * particles, "variance": 2.0}
        for name in ("SGVB", "IWAE")
        for particles in (1, 5)
        for part in ("model", "guide")
    ]
    first, other = digits.payload["runs"]
    payload = {**digits.payload, "runs": [{**first, "gaps": gaps, "gradients": gradients}, other]}
    path = digits.path.with_name("diagnosed.html")
    explorer.write_page(payload, path)
    with opened(browser, Page(path, payload, digits.runs), view="training") as shown:
        words = shown.find("main").text.replace("−", "-")
        for said in ("1.25 ± 0.11", "1.12 ± 0.07", "-28.1", "17 data", "IWAE"):
            assert said in words
        assert "pyro-aevb diagnose" not in words
        assert "pyro-aevb compare" not in words


# ---------------------------------------------------------------- the address


def test_a_link_restores_everything(browser, digits):
    link = {"view": "map", "run": 1, "axes": "z", "across": 2, "up": 0, "datum": 9, "to": 4, "seed": 7}
    with opened(browser, digits, **link, z="0.25,-0.5,0.75") as shown:
        state = shown.ask("window.explorer.state")
        assert {key: state[key] for key in link} == link
        assert_is_decoded_by(shown, [0.25, -0.5, 0.75], run=1)
        shown.drag(shown.find("#map"), (0, 0), (20, 20))
        shown.fragment()
        z = shown.z
        pixels = shown.picture(DECODED)
        fragment = shown.ask("location.hash.slice(1)")
    browser.open(digits.path, fragment)
    browser.wait("return window.explorer")
    settled(browser)
    again = Shown(browser, digits)
    state = again.ask("window.explorer.state")
    assert {key: state[key] for key in link} == link
    np.testing.assert_allclose(again.z, z, rtol=1e-5)
    np.testing.assert_allclose(again.picture(DECODED), pixels, atol=1)


def test_views_are_turned_by_keys_and_back(browser, digits):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, digits) as shown:
        shown.ask("document.querySelector('[role=tab]').focus()")
        for view in VIEWS[1:]:
            shown.press(Keys.ARROW_RIGHT)
            assert shown.fragment()["view"] == view
            assert shown.ask("document.activeElement.getAttribute('aria-selected')") == "true"
        shown.driver.back()
        browser.wait("return document.querySelector('[aria-selected=true][role=tab]').dataset.view === 'training'")


@pytest.mark.parametrize(
    "fragment",
    [
        "view=nonsense&run=99&datum=99999&to=12345&across=77&up=55",
        "z=a,b,c&x=&seed=-1",
        "z=1e999,0,0&axes=__proto__&view=constructor",
        "z=1,2&x=1,2,3",
        "run=1.5&datum=%00&=&&&",
        "view=datum&x=" + ",".join(["9" * 40] * 64),
        "%E0%A4%A",
    ],
)
def test_a_spoilt_link_opens_the_page(browser, digits, fragment):
    browser.resize(1200, 900)
    browser.open(digits.path, fragment)
    browser.wait("return window.explorer && document.querySelector('main').children.length")
    shown = Shown(browser, digits)
    settled(browser)
    assert len(shown.find("main").text) > 100
    assert "NaN" not in shown.find("main").text
    assert browser.errors() == []


# ---------------------------------------------------------------- for everybody


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["digits", "table", "conditioned"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_nothing_is_wider_than_the_screen(browser, request, name, view, width):
    with opened(browser, request.getfixturevalue(name), size=(width, 800), view=view) as shown:
        assert shown.ask("document.documentElement.scrollWidth") <= width
        cut = """[...document.querySelectorAll('main *')].filter((e) => {
          const box = e.getBoundingClientRect();
          return box.width && box.right > innerWidth + 0.5 && !e.closest('.scroll') && !e.closest('.unseen');
        }).map((e) => e.tagName + e.className)"""
        assert shown.ask(cut) == []


CONTRAST = """(() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const channel = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const seen = e.getClientRects().length && !e.closest('.unseen, noscript, script, style') && !e.disabled;
    if (!seen || !(own || e.matches('input, select'))) continue;
    const style = getComputedStyle(e);
    const front = light(rgb(e.namespaceURI.endsWith('svg') ? style.fill : style.color));
    const back = light(ground(e));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    found.push([ratio, e.tagName + ' ' + e.textContent.slice(0, 40)]);
  }
  return found;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_text_stands_out_from_its_ground(browser, digits, view, scheme):
    with opened(browser, digits, scheme=scheme, view=view) as shown:
        found = shown.ask(CONTRAST)
        assert len(found) > 20
        assert [each for each in found if each[0] < 4.5] == []
        dark = np.mean(
            [int(part) for part in re.findall(r"\d+", shown.ask("getComputedStyle(document.body).backgroundColor"))[:3]]
        )
        assert (dark < 60) == (scheme == "dark")


def test_light_and_dark_are_switched_by_hand(browser, digits):
    with opened(browser, digits) as shown:
        colour = "getComputedStyle(document.body).backgroundColor"
        before = shown.ask(colour)
        shown.click(shown.find("#theme"))
        assert shown.ask(colour) != before
        shown.click(shown.find("#theme"))
        assert shown.ask(colour) == before


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["digits", "table", "conditioned"])
def test_every_control_has_a_name(browser, request, name, view):
    """Names as a screen reader is told them, from the browser's own tree of accessibility."""
    with opened(browser, request.getfixturevalue(name), view=view) as shown:
        nodes = shown.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        nodes = [node for node in nodes if not node.get("ignored") and node.get("role", {}).get("value") in CONTROLS]
        assert len(nodes) > 5
        unnamed = [node["role"]["value"] for node in nodes if not node.get("name", {}).get("value", "").strip()]
        assert unnamed == []
        ids = shown.ask("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("view", VIEWS)
def test_the_tab_key_passes_through_and_is_seen(browser, digits, view):
    """Every control is reached, none holds the focus, and where it is shows."""
    from selenium.webdriver.common.keys import Keys

    focusable = """[...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')].filter(
      (e) => e.tabIndex >= 0 && !e.disabled && e.getClientRects().length).length"""
    with opened(browser, digits, view=view) as shown:
        count = shown.ask(focusable)
        reached = 0
        for _ in range(count + 2):
            shown.actions.send_keys(Keys.TAB).perform()
            element = shown.ask(
                """(() => { const e = document.activeElement; if (e === document.body) return null;
                if (e.dataset.seen) return 'again'; e.dataset.seen = '1';
                const style = getComputedStyle(e);
                const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
                return outlined ? 'seen' : e.outerHTML; })()"""
            )
            if element is None or element == "again":
                break
            assert element == "seen"
            reached += 1
        assert reached == count


def test_explanations_open_by_keys(browser, digits):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, digits, view="datum") as shown:
        live_numbers(shown)
        hint = shown.find("#live details.hint summary")
        shown.ask("arguments[0].focus()", hint)
        shown.press(Keys.ENTER)
        assert shown.ask("arguments[0].parentElement.open", hint)
        assert len(shown.ask("arguments[0].parentElement.querySelector('p').textContent", hint)) > 40
        shown.click(shown.button("Other draws"))
        browser.wait("return document.querySelector('#live h3').textContent.includes('500 draws of seed 2')")
        assert shown.ask("arguments[0].isConnected && arguments[0].parentElement.open", hint), (
            "new numbers leave it open"
        )


def test_what_moves_is_told_to_a_screen_reader(browser, digits):
    from selenium.webdriver.common.keys import Keys

    with opened(browser, digits) as shown:
        shown.ask("document.getElementById('map').focus()")
        shown.press(Keys.ARROW_RIGHT)
        browser.wait("return document.querySelector('[aria-live=polite]').textContent")
        assert re.search(r"z is −?\d", shown.find("[aria-live=polite]").get_attribute("textContent"))


def test_one_name_alone_is_global(browser, digits):
    with opened(browser, digits) as shown:
        own = shown.ask("""(() => { const frame = document.createElement('iframe'); document.body.append(frame);
          const usual = new Set(Object.getOwnPropertyNames(frame.contentWindow)); frame.remove();
          return Object.getOwnPropertyNames(window).filter(
            (name) => !usual.has(name) && !/^(cdc_|\\$cdc|ret_|\\d+$)/.test(name)); })()""")
        assert own == ["explorer"]
        assert set(shown.ask("Object.keys(window.explorer)")) >= {"payload", "state"}
