"""One look for all figures: colours for everyone, text that a README's width leaves readable, nothing global."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from pyro_aevb import plots
from pyro_aevb.diagnostics.gradients import GradientStatistics, TrainingStatistics
from pyro_aevb.plots import style

README = 420  # pixels across

# Machado, Oliveira & Fernandes (2009), severity 1, for linear RGB.
SEEN_WITHOUT = {
    "green cones (deuteranopia)": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "red cones (protanopia)": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def lab(linear):
    """CIELAB of linear sRGB under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 0.008856))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def linear(color):
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def least_distance(colors, matrix):
    seen = [lab(np.clip(np.array(matrix) @ linear(color), 0, 1)) for color in colors]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))


@pytest.mark.parametrize("without", SEEN_WITHOUT)
def test_the_first_five_colours_differ_for_colour_blind_people(without):
    """A distance of 2.3 in CIELAB is just noticed; of matplotlib's own first five colours two are less than 8 apart."""
    default = mpl.rcParamsDefault["axes.prop_cycle"].by_key()["color"][:5]
    assert least_distance(style.COLORS[:5], SEEN_WITHOUT[without]) > 15
    assert least_distance(default, SEEN_WITHOUT[without]) < 8


def test_lines_differ_by_more_than_colour():
    marks = [style.mark(i) for i in range(16)]
    assert len({(m["color"], m["marker"], str(m["linestyle"])) for m in marks}) == 16
    assert len({(m["marker"], str(m["linestyle"])) for m in marks[:8]}) == 8
    assert marks[8]["color"] == marks[0]["color"]
    assert marks[8]["marker"] != marks[0]["marker"]


ROWS = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
GRADIENTS = [
    GradientStatistics(name, k, part, 0.0, 0.1, 1.0 / k, 1.0 + i, 1.0)
    for i, name in enumerate(["SGVB", "DoublyReparameterized", "ScoreFunction (leave_one_out)"])
    for k in (1, 5)
    for part in ("model", "guide")
]
RECORDS = [{"samples_seen": 10**i, "bound": -200.0 / i, "test_bound": -210.0 / i, "test_se": 0.5} for i in range(1, 7)]
FIGURES = {
    "learning_curve": lambda: plots.learning_curve(RECORDS, "run: digits, binarize=dynamic, trained on 60,000 samples"),
    "draw_comparison": lambda: plots.draw_comparison(GRADIENTS, "a title"),
    "draw_training": lambda: plots.draw_training([TrainingStatistics("IWAE", 5, -3.0, -4.0, s) for s in (0, 1)]),
    "image_grid": lambda: plots.image_grid(torch.rand(9, 64), (8, 8), title="a title that is longer than the pictures"),
    "reconstructions": lambda: plots.reconstructions(torch.rand(9, 64), torch.rand(9, 64), (8, 8)),
    "manifold": lambda: plots.manifold(torch.rand(400, 64), (8, 8), latents=plots.latent_grid(20)),
    "latent_space": lambda: plots.latent_space(ROWS, torch.arange(30) % 10),
    "heat_map": lambda: plots.heat_map({"data": ROWS, "reconstructions": ROWS}, ["temperature", "humidity", "x"]),
    "columns": lambda: plots.columns(ROWS, ROWS, ["temperature", "humidity", "x"]),
    "predicted_against_observed": lambda: plots.predicted_against_observed(ROWS, ROWS, ["temperature", "b", "c"]),
}


def texts(figure):
    """Everything written in a figure, as it is when it is drawn."""
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", FIGURES)
def test_all_text_is_readable_at_the_width_of_a_readme(name):
    figure = FIGURES[name]()
    written = texts(figure)
    width = figure.get_tightbbox().width
    assert written
    small = {t.get_text(): t.get_fontsize() for t in written if t.get_fontsize() / 72 * README / width < 7}
    assert not small, f"less than 7 pixels high, of a figure {width:.1f} inches wide"


@pytest.mark.parametrize("name", FIGURES)
def test_figures_leave_matplotlib_as_it_was(name, tmp_path):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    plots.save(figure, tmp_path / "a.png")
    assert dict(mpl.rcParams) == before
    assert isinstance(figure, Figure)
    assert figure.dpi == style.DPI


def test_settings_hold_inside_and_are_put_back_after_an_error():
    def fails():
        assert mpl.rcParams["axes.titlesize"] == style.SETTINGS["axes.titlesize"]
        raise ValueError("drawn badly")

    before = dict(mpl.rcParams)
    with pytest.raises(ValueError, match="drawn badly"):
        style.in_style(fails)()
    assert dict(mpl.rcParams) == before


def test_a_dollar_sign_begins_no_formula_and_long_titles_are_broken():
    figure = plots.learning_curve(RECORDS, "runs/$a$b " + "word " * 30)
    title = figure.axes[0].get_title()
    assert r"\$a\$b" in title
    assert title.count("\n") >= 2


def test_a_logarithmic_axis_has_plain_numbers():
    _, axes = style.blank(4, 3)
    axes.set(xscale="log", xlim=(1e3, 1.2e6))
    style.plain_numbers(axes.xaxis)
    shown = [axes.xaxis.get_major_formatter()(value) for value in axes.get_xticks() if 1e3 <= value <= 1.2e6]
    assert shown == ["1,000", "10,000", "100,000", "1 million"]
    axes.set_xlim(20, 90)
    style.plain_numbers(axes.xaxis)
    assert [axes.xaxis.get_major_formatter()(v) for v in axes.get_xticks() if 20 <= v <= 90] == ["20", "50"]
