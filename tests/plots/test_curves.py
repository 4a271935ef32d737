"""Learning curves, gradients of estimators, and what trainings with them come to."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pyro_aevb import InputError, plots
from pyro_aevb.diagnostics.gradients import GradientStatistics, TrainingStatistics
from pyro_aevb.plots.curves import coinciding
from pyro_aevb.plots.style import COLORS


def records(power=6, shift=0.0, test=True):
    made = [{"samples_seen": 10**i, "bound": shift - 200.0 / i} for i in range(1, power + 1)]
    if test:
        made += [{"samples_seen": 10**i, "test_bound": shift - 210.0 / i, "test_se": 0.5} for i in range(2, power + 1)]
    return made


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_a_learning_curve_shows_training_and_test_data():
    axes = plots.learning_curve(records()).axes[0]
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [-200.0 / i for i in range(1, 7)])
    drawn, _, (bars,) = axes.containers[0].lines
    np.testing.assert_allclose(np.asarray(drawn.get_xdata(), float), [10.0**i for i in range(2, 7)])
    np.testing.assert_allclose(bars.get_segments()[0][:, 1].astype(float), [-105.5, -104.5])
    assert texts(axes.get_legend()) == ["training data, mean since the last report", "test data, ± standard error"]
    plots.learning_curve([])  # a run killed before its first report
    plots.learning_curve([{"samples_seen": 10, "test_bound": -1.0, "test_se": None}])  # one test datum


@pytest.mark.parametrize("first", [1, 5, 50])
def test_there_is_no_empty_decade_and_nothing_is_cut_off(first):
    made = [{"samples_seen": first * 10_000 * i, "bound": -100.0 / i} for i in range(1, 40)]
    axes = plots.learning_curve(made).axes[0]
    low, high = axes.get_xlim()
    shown = [m["samples_seen"] for m in made if m["samples_seen"] >= made[-1]["samples_seen"] / 100]
    assert shown[0] / 1.2 < low < shown[0]
    assert shown[-1] < high < shown[-1] * 1.2
    assert axes.get_ylim()[0] < -100
    assert axes.get_ylim()[1] > -100 / 39


def test_the_steep_beginning_is_left_out():
    axes = plots.learning_curve(records()).axes[0]
    assert axes.get_xlim()[0] == pytest.approx(10**4 / 1.12)
    assert -53 > axes.get_ylim()[0] > -56  # the error bar at 10^4 reaches to -53


def test_several_runs_are_drawn_over_one_another():
    axes = plots.learning_curve({"StandardNormal": records(), "Laplace": records(5, 3.0, test=False)}).axes[0]
    assert texts(axes.get_legend()) == ["Laplace, training data", "StandardNormal, test data"]
    assert axes.get_legend().get_title().get_text() == "thin: training data"
    of_run = {line.get_color(): line for line in axes.lines if len(line.get_xdata()) in (5, 6)}
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [-200.0 / i for i in range(1, 7)])
    assert set(of_run) == set(COLORS[:2])
    assert axes.get_xlim()[0] == pytest.approx(10**3 / 1.12)  # from where the shorter one's last two decades begin
    with pytest.raises(InputError, match="metrics must be a list of records"):
        plots.learning_curve({"a": [3]})


def statistics(name, k, variance, snr=1.0, part="model"):
    return GradientStatistics(name, k, part, 0.0, 0.1, variance, snr, 1.0)


def both(*rows):
    return [*rows, *(row._replace(part="guide", variance=row.variance * (1 + i)) for i, row in enumerate(rows))]


def test_particles_are_plain_numbers_and_points_where_they_belong():
    rows = both(*(statistics(name, k, 8.0 / k) for name in ("SGVB", "IWAE") for k in (1, 2, 5, 10)))
    panels = plots.draw_comparison(rows).axes
    for axes in panels:
        assert [axes.xaxis.get_major_formatter()(x, i) for i, x in enumerate(axes.get_xticks())] == [
            "1",
            "2",
            "5",
            "10",
        ]
        np.testing.assert_allclose(axes.get_xticks(), [1, 2, 5, 10])
        assert len(axes.get_xticks(minor=True)) == 0
    np.testing.assert_allclose(panels[0].lines[0].get_ydata(), [8, 4, 1.6, 0.8])
    assert panels[0].lines[0].get_label() == "SGVB"
    assert panels[0].lines[0].get_linewidth() > panels[0].lines[1].get_linewidth()
    shown = plots.draw_comparison([statistics("SGVB", k, 1.0) for k in (4, 5, 50)]).axes[0].get_xticks()
    np.testing.assert_allclose(shown, [4, 5, 50])


def test_panels_say_which_curves_coincide():
    rows = [statistics(name, k, variance / k) for name, variance in (("IWAE", 2), ("Renyi(0)", 2)) for k in (2, 5)]
    rows += [statistics("ScoreFunction", k, 200.0 / k, snr=0.1) for k in (2, 5)]
    rows += [row._replace(part="guide", variance=row.variance + i) for i, row in enumerate(rows)]
    titles = [axes.get_title().replace("\n", " ") for axes in plots.draw_comparison(rows).axes]
    assert titles[0] == "variance of the gradient by the model's parameters θ IWAE and Renyi(0) coincide"
    assert "coincide" not in titles[1]
    assert titles[2].endswith("IWAE and Renyi(0) coincide")


def test_what_coincides():
    line = [(1, 10.0), (5, 2.0)]
    curves = {
        "a": line,
        "close": [(x, y * 1.005) for x, y in line],
        "part of it": line[1:],
        "other": [(1, 10.0), (5, 4.0)],
        "far": [(1, 100.0), (5, 1.0)],
        "other places": [(2, 5.0)],
        "none": [],
    }
    assert coinciding(curves) == [["a", "close", "part of it"]]
    assert coinciding({"a": [(1, math.inf)], "b": [(1, math.inf)], "zero": [(1, 0.0)]}) == [["a", "b"]]
    assert coinciding({}) == []


BOUNDS = {"SGVB": ((-10.0, -9.0, -11.0), (-12.0, -11.0, -13.0)), "IWAE": ((-9.5, -8.4, -10.6), (-12.0, -12.0, -12.0))}


def trained(seeds=3):
    return [
        TrainingStatistics(name, 5, *(bounds[i][seed] for i in (0, 1)), seed)
        for name, bounds in BOUNDS.items()
        for seed in range(seeds)
    ]


def test_bounds_after_training_have_each_seed_their_mean_and_its_error():
    above, below = plots.draw_training(trained()).axes
    drawn, _, (bars,) = above.containers[0].lines
    np.testing.assert_allclose(np.asarray(drawn.get_xdata(), float), [-10, -9.5])
    error = np.std([-10, -9, -11], ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(bars.get_segments()[0][:, 0].astype(float), [-10 - error, -10 + error])
    dots = [line for line in above.lines if line.get_marker() == "."]
    np.testing.assert_allclose(dots[0].get_xdata(), [-10, -9, -11])
    assert [text.get_text() for text in above.get_yticklabels()] == ["SGVB, 5 particles", "IWAE, 5 particles"]
    difference, _, (bars,) = below.containers[0].lines
    np.testing.assert_allclose(np.asarray(difference.get_xdata(), float), [0.5])
    paired = np.std([0.5, 0.6, 0.4], ddof=1) / math.sqrt(3)
    np.testing.assert_allclose(bars.get_segments()[0][:, 0].astype(float), [0.5 - paired, 0.5 + paired])
    assert "paired by seed" in below.get_xlabel()
    assert to_rgb(above.containers[1].lines[0].get_color()) == to_rgb(COLORS[1])


def test_one_seed_has_no_error_and_says_so():
    above, _ = plots.draw_training(trained(1)).axes
    assert "one seed, no error known" in above.get_xlabel()
    assert not above.containers[0].has_xerr
