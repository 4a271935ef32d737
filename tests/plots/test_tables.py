"""Pictures of tables: heat maps, and predictions against what was observed, by the kind of each column."""

import math

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, r2_score

from pyro_aevb import InputError, plots

NAN = math.nan
NOISE = torch.Generator().manual_seed(0)


def picture(axes):
    return np.ma.filled(axes.images[0].get_array().astype(float), NAN)


def test_a_heat_map_shows_standard_deviations_from_the_first_tables_means():
    data = torch.rand(50, 3, generator=NOISE, dtype=torch.float64) * torch.tensor([1.0, 10.0, 100.0])
    made = data + 1
    figure = plots.heat_map({"data": data, "reconstructions": made}, ["a", "b", "c"], "a title")
    panels = figure.axes[:2]
    for axes, rows, called in zip(panels, (data, made), ("data", "reconstructions"), strict=True):
        expected = (rows.numpy() - data.numpy().mean(0)) / data.numpy().std(0)
        np.testing.assert_allclose(picture(axes), expected[:40])
        assert axes.get_title() == called
        assert axes.images[0].get_clim() == (-3, 3)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["a", "b", "c"]
    assert "standard deviations" in figure.axes[2].get_ylabel()


def test_missing_values_have_no_colour_and_constant_columns_are_white():
    data = torch.tensor([[1.0, NAN], [1.0, 2.0], [1.0, 4.0]], dtype=torch.float64)
    shown = picture(plots.heat_map({"data": data}, ["constant", "gaps"]).axes[0])
    np.testing.assert_allclose(shown, [[0, NAN], [0, -1], [0, 1]])


def test_many_columns_stand_one_below_another_without_names():
    figure = plots.heat_map({"a": torch.rand(5, 40), "b": torch.rand(5, 40)}, [f"column {i}" for i in range(40)])
    first, second = figure.axes[:2]
    assert first.get_position().y0 > second.get_position().y1 - 0.2
    assert "column 3" not in [text.get_text() for text in second.get_xticklabels()]
    assert second.get_xlabel() == "column, counted from 0"


def test_rows_that_are_no_pictures_are_heat_maps():
    x = torch.rand(5, 7, generator=NOISE, dtype=torch.float64)
    expected = (x.numpy() - x.numpy().mean(0)) / x.numpy().std(0)
    np.testing.assert_allclose(picture(plots.image_grid(x, (7,)).axes[0]), expected)
    both = plots.reconstructions(x, x + 1, (1, 7))
    assert [axes.get_title() for axes in both.axes[:2]] == ["data", "reconstructions"]


def panel(observed, predicted, kind, categories=(), **options):
    """The one panel of one column."""
    columns = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (observed, predicted))
    figure = plots.predicted_against_observed(
        *columns, ["column"], kinds=[kind], categories=[categories] if categories else (), **options
    )
    return figure.axes[0]


@pytest.mark.parametrize("kind", ["real", "count"])
def test_numbers_are_dots_with_intervals_and_say_what_these_cover(kind):
    observed, predicted = [1.0, 2.0, NAN, 4.0], [1.5, 2.0, 3.0, 3.0]
    low = torch.tensor([[0.5], [1.0], [2.0], [2.5]], dtype=torch.float64)
    axes = panel(observed, predicted, kind, interval=(low, low + 1), level=0.8)
    intervals, dots = axes.collections
    np.testing.assert_allclose(dots.get_offsets(), [[1.0, 1.5], [2.0, 2.0], [4.0, 3.0]])
    ends = [segment[:, 1].tolist() for segment in intervals.get_segments()]
    assert ends == [[0.5, 1.5], [1.0, 2.0], [2.5, 3.5]]
    r2 = r2_score([1, 2, 4], [1.5, 2, 3])
    assert f"R² {r2:.2f}" in axes.get_title()
    assert "80% interval\nholds 67%" in axes.get_title()  # 1 and 2 are inside, 4 is not
    np.testing.assert_allclose(axes.lines[0].get_xdata(), axes.lines[0].get_ydata())  # the diagonal


def test_categories_are_a_confusion_matrix():
    observed, predicted = [0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2]
    axes = panel(observed, predicted, "category", ["ash", "beech", "cedar"])
    expected = confusion_matrix(observed, predicted, normalize="true")
    np.testing.assert_allclose(picture(axes), expected)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ash", "beech", "cedar"]
    assert [text.get_text() for text in axes.texts] == [f"{share:.2f}" for share in expected.flatten()]
    assert "67% right" in axes.get_title()


def test_a_binary_column_is_calibrated():
    predicted = torch.rand(500, generator=NOISE, dtype=torch.float64)
    observed = (torch.rand(500, generator=NOISE, dtype=torch.float64) < predicted).double()
    axes = panel(observed.tolist(), predicted.tolist(), "binary", ["no", "yes"])
    share, mean = calibration_curve(observed.numpy(), predicted.numpy(), n_bins=10)
    drawn = axes.containers[0].lines[0]
    np.testing.assert_allclose(np.asarray(drawn.get_xdata(), float), mean)
    np.testing.assert_allclose(np.asarray(drawn.get_ydata(), float), share)
    bars = axes.containers[0].lines[2][0].get_segments()
    count = int(((predicted >= 0.3) & (predicted < 0.4)).sum())
    half = math.sqrt(share[3] * (1 - share[3]) / count)
    np.testing.assert_allclose(np.asarray(bars[3][:, 1], float), [share[3] - half, share[3] + half])
    assert axes.get_ylabel() == "share of 'yes'"


def test_at_most_24_columns_are_shown_and_the_title_says_so():
    x = torch.rand(4, 30)
    names = [f"c{i}" for i in range(30)]
    for figure in (plots.predicted_against_observed(x, x, names, title="t"), plots.columns(x, x, names, title="t")):
        assert len([axes for axes in figure.axes if axes.get_title()]) == 24
        assert "the first 24 of 30 columns" in figure.get_suptitle()


def test_what_does_not_fit_is_refused():
    x = torch.rand(4, 2)
    with pytest.raises(InputError, match="observed has 4 rows, predicted 3"):
        plots.predicted_against_observed(x, x[:3], ["a", "b"])
    with pytest.raises(InputError, match=r"kinds must be one of real, count, binary, category for each of the 2"):
        plots.predicted_against_observed(x, x, ["a", "b"], kinds=["real", "whole"])
    with pytest.raises(InputError, match=r"tables\['data'\] has 2 columns, and names has 1"):
        plots.heat_map({"data": x}, ["a"])
