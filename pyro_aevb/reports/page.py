"""A comparison as one HTML page that opens from disk, and as CSV files beside it.

The page is whole without its script, which sorts tables and hides curves. All text of the user's, names of folders and
columns, is escaped; a Content-Security-Policy forbids every connection, and every script and style but the page's own.
"""

import base64
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from pyro_aevb.errors import InputError, instance
from pyro_aevb.errors import path as path_of
from pyro_aevb.files import check_place, refuse_existing, replaced
from pyro_aevb.plots.style import COLORS
from pyro_aevb.reports.comparison import PER_DATUM, PER_RUN, Comparison, Group, Pair
from pyro_aevb.reports.measured import RunMeasured, Shown
from pyro_aevb.reports.settings import Setting
from pyro_aevb.reports.statistics import LEAST_TOLD, Estimate, number
from pyro_aevb.reports.svg import (
    Curve,
    Frame,
    Strip,
    attributes,
    axis_strip,
    look,
    picture_strip,
    strip_frame,
)

__all__ = ["files_of", "page_of", "write_report"]

TABLES = ("settings", "runs", "differences")
MOST_SINGLE = 5  # settings whose single seeds are drawn too: more lines hide one another
MOST_IN_MATRIX = 20
MOST_VERDICTS = 6
SHOWN_LINES = 2  # of learning curves: with fewer points there is nothing to see


def files_of(path: Path) -> list[Path]:
    """The files that a report writes: the page, and tables of settings, runs and differences beside it.

    Arguments:
        path: The page.
    """
    return [path, path.with_suffix(".csv"), *(path.with_name(f"{path.stem}_{name}.csv") for name in TABLES[1:])]


def write_report(comparison: Comparison, path: str | os.PathLike[str]) -> list[Path]:
    """Write a page, and its tables as CSV files beside it; returns their paths.

    ``report.html`` comes with ``report.csv``, a line for each setting, ``report_runs.csv`` and
    ``report_differences.csv``.

    Arguments:
        comparison: What :func:`compare_runs` returned.
        path: The new page; ends in ``.html``.

    Raises:
        InputError: If a file is there already, none can be made there, or the page has another ending.
    """
    instance("comparison", comparison, Comparison)
    page = path_of("path", path)
    check_files(page)
    page.parent.mkdir(parents=True, exist_ok=True)
    _write(page, page_of(comparison))
    for name, file in zip(TABLES, files_of(page)[1:], strict=True):
        _write(file, getattr(comparison, name).to_csv(lineterminator="\n"))
    return files_of(page)


def check_files(page: Path) -> None:
    """See that a report can be written: before runs are measured, which takes minutes.

    Raises:
        InputError: As :func:`write_report`.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {page}: give a file that ends in .html")
    check_place("out", page)
    for file in files_of(page):
        refuse_existing(file)


def _write(path: Path, text: str) -> None:
    with replaced(path) as file:
        file.write(text.encode())


# ---------------------------------------------------------------- the page


def page_of(comparison: Comparison) -> str:
    """The page, HTML.

    Arguments:
        comparison: What it shows.
    """
    style = _palette() + _source("report.css")
    script = _source("report.js")
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    title = f"Comparison of {len(comparison.names)} {'run' if len(comparison.names) == 1 else 'runs'}"
    several = len(comparison.groups) > 1
    groups = "".join(
        _group(group, comparison, place if several else None) for place, group in enumerate(comparison.groups)
    )
    body = [_top(title), _verdicts(comparison), groups, _runs(comparison), _about(comparison)]
    head = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        f"<meta{attributes(http_equiv='Content-Security-Policy', content=policy)}>",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body>",
    ]
    return "".join([*head, f"<main>{''.join(body)}</main><script>{script}</script></body></html>\n"])


def _source(name: str) -> str:
    return (resources.files(__package__) / "page" / name).read_text(encoding="utf-8")


def _palette() -> str:
    """The colours of all figures, as names that the style sheet uses."""
    return f":root{{{''.join(f'--c{i}:{color};' for i, color in enumerate(COLORS))}}}"


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _top(title: str) -> str:
    button = '<button type="button" id="theme" hidden>light or dark</button>'
    return f"<header><h1>{escape(title)}</h1>{button}</header>"


def _section(name: str, title: str, body: str, place: int | None = None) -> str:
    """A part of the page with its heading; nothing where there is nothing in it."""
    if not body:
        return ""
    own = name if place is None else f"{name}-{place + 1}"
    heading = f"<h2{attributes(id=f'{own}-title')}>{escape(title)}</h2>"
    return f"<section{attributes(id=own, aria_labelledby=f'{own}-title')}>{heading}{body}</section>"


def _list(lines: Iterable[str], kind: str) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _verdicts(comparison: Comparison) -> str:
    several = len(comparison.groups) > 1
    parts = []
    for group in comparison.groups:
        said = f"<p class=data>{escape(group.name)}</p>" if several else f"<p class=data>On {escape(group.name)}.</p>"
        parts.append(said + _said(group.verdicts))
    return _section("verdicts", "What the runs show", "".join(parts) + _list(comparison.notes, "notes"))


def _said(verdicts: Sequence[str]) -> str:
    """Verdicts, those after the first few folded up; the last one says how they came about."""
    rest = verdicts[MOST_VERDICTS:-1]
    if len(rest) < 2:
        return _list(verdicts, "verdicts")
    folded = f"<details><summary>{len(rest)} more</summary>{_list(rest, 'rest')}</details>"
    return _list(verdicts[:MOST_VERDICTS], "verdicts") + folded + _list(verdicts[-1:], "rest")


def _group(group: Group, comparison: Comparison, place: int | None) -> str:
    """All that is shown of runs on the same data."""
    of = "" if place is None else f": {group.name}"
    parts = [
        _section("settings", f"Settings{of}", _settings(group), place),
        _section("differences", f"Paired differences{of}", _differences(group), place),
        _section("curves", f"Learning curves{of}", _curves(group), place),
        _section("options", f"What differs between the settings{of}", _options(group), place),
        _section("samples", f"Samples and reconstructions{of}", _pictures(group), place),
    ]
    return "".join(parts)


def _table(name: str, head: Sequence[str], rows: Iterable[str], foot: str = "", kind: str = "") -> str:
    """A table that scrolls within the page where it is too wide, and can be sorted by its columns."""
    columns = "".join(f'<th scope="col">{each}</th>' for each in head)
    below = f"<tfoot>{foot}</tfoot>" if foot else ""
    body = f"<thead><tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody>{below}"
    place = attributes(class_="scroll", role="region", tabindex=0, aria_label=name)
    return f"<div{place}><table{attributes(class_=kind or None)}>{body}</table></div>"


def _cell(text: str, value: float | None = None, kind: str | None = None) -> str:
    """A cell; the number that it is sorted by where its text is not one."""
    told = None if value is None or not math.isfinite(value) else f"{value:.10g}"
    return f"<td{attributes(data_value=told, class_=kind)}>{text}</td>"


def _swatch(place: int) -> str:
    """The mark of a setting, as its curve has it."""
    color, dash, marker = look(place)
    line = f"<line{attributes(class_='line', x1=0, x2=26, y1=7, y2=7, stroke_dasharray=dash)}/>"
    mark = f"<path{attributes(class_='test', d=marker, transform='translate(13 7)')}/>"
    return (
        f"<svg{attributes(class_=f'swatch curve {color}', width=26, height=14, aria_hidden='true')}>{line}{mark}</svg>"
    )


def _named(setting: Setting, place: int) -> str:
    return f'<th scope="row">{_label(setting, place)}</th>'


def _label(setting: Setting, place: int) -> str:
    """A setting's mark and name."""
    return f'<span class="name">{_swatch(place)}<span>{escape(setting.name)}</span></span>'


# ---------------------------------------------------------------- settings


def _settings(group: Group) -> str:
    head = ["setting", "rank", "seeds", *(escape(each.words) for each in (*PER_DATUM, *PER_RUN))]
    rows = (_setting_row(group, place) for place in range(len(group.settings)))
    said = (
        "Means, in nats per datum but for active units and minutes. Below each is its standard error over the test "
        "data, and over seeds. A rank is the range that the differences leave open."
    )
    return f"<p>{said}</p>{_table('Settings', head, rows)}{_seed_by_seed(group)}"


def _setting_row(group: Group, place: int) -> str:
    setting = group.settings[place]
    cells = [_cell(escape(group.rank_range(setting) or str(place + 1)), place + 1), _cell(str(len(setting.runs)))]
    for quantity in (*PER_DATUM, *PER_RUN):
        found = group.estimate(setting, quantity)
        cells.append(_cell(_mean(found), found.mean))
    return f"<tr>{_named(setting, place)}{''.join(cells)}</tr>"


def _mean(found: Estimate) -> str:
    """A mean, and below it the errors that are known."""
    if math.isnan(found.mean):
        return "not known"
    small = abs(found.mean) < 0.1
    errors = [("data", found.se_data), ("seeds", found.se_seeds)]
    known = "".join(f"<small>± {_error(error)} {name}</small>" for name, error in errors if not math.isnan(error))
    mean = f"{found.mean:.0f}" if float(found.mean).is_integer() else number(found.mean, abs(found.mean) / 10 * small)
    return f"{_minus(mean)}{known}"


def _error(error: float) -> str:
    return "0" if error == 0 else number(error, error if error < 0.1 else math.nan)


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _seed_by_seed(group: Group) -> str:
    """Each seed's mean, and the mean of all with its interval."""
    strips = [_strip_of(group, place) for place in range(len(group.settings))]
    frame = strip_frame(strips)
    lines = (
        f"<tr>{_named(setting, place)}<td>{picture_strip(strip, frame)}</td></tr>"
        for place, (setting, strip) in enumerate(zip(group.settings, strips, strict=True))
    )
    foot = f"<tr><td></td><td>{axis_strip(frame, f'{group.by.words}, nats per datum')}</td></tr>"
    said = (
        f"<h3>{escape(group.by.words)}, seed by seed</h3><p>The small dots below are seeds, the large one is their "
        "mean. The thick line is one standard error over seeds to either side, the thin one the 95 % interval over "
        "data and seeds. What data add to it is mostly common to all settings, and cancels in the paired differences "
        "that follow.</p>"
    )
    return said + _table(f"{group.by.words}, seed by seed", ["setting", escape(group.by.words)], lines, foot, "strips")


def _strip_of(group: Group, place: int) -> Strip:
    setting = group.settings[place]
    found = group.estimate(setting, group.by)
    dots = tuple(float(group.by.of(run.values).double().mean()) for run in setting.runs)
    label = f"{setting.name}: {number(found.mean)}, 95 % interval {_interval(found)}"
    return Strip(found.mean, *found.interval(), _over_seeds_alone(found), dots, look(place)[0], label)


def _over_seeds_alone(found: Estimate) -> tuple[float, float] | None:
    """One standard error over seeds to either side, which is within every interval; nothing with one seed."""
    error = found.se_seeds
    return None if math.isnan(error) else (found.mean - error, found.mean + error)


def _interval(found: Estimate) -> str:
    low, high = found.interval()
    return f"{number(low, found.error)} to {number(high, found.error)}"


# ---------------------------------------------------------------- differences


def _differences(group: Group) -> str:
    if len(group.settings) < 2:
        return ""
    own = [pair for pair in group.pairs if pair.quantity is group.by]
    against = group.baseline or group.settings[0]
    chosen = [pair for pair in own if against in (pair.first, pair.second)]
    matrix = _matrix(group, own) if group.baseline is None and len(group.settings) > 2 else ""
    return _forest(group, against, chosen) + matrix


def _forest(group: Group, against: Setting, pairs: Sequence[Pair]) -> str:
    """Differences of all settings to one, with their intervals."""
    turned = [_less(pair, against) for pair in pairs]
    others = [pair.second if pair.first is against else pair.first for pair in pairs]
    strips = [_difference_strip(group, *each) for each in zip(others, turned, strict=True)]
    frame = strip_frame(strips, zero=True)
    pictures = [picture_strip(strip, frame, zero=True) for strip in strips]
    lines = [_forest_row(group, *each) for each in zip(others, turned, pairs, pictures, strict=True)]
    unit = "nats per datum"
    foot = f"<tr><td></td><td>{axis_strip(frame, unit)}</td><td></td><td></td></tr>"
    head = ["setting", "difference and interval", "difference", "verdict"]
    said = (
        f"<p>{escape(group.by.words)} of each setting less that of {escape(against.name)}, datum by datum with the "
        "same noise. The thick line is one standard error over seeds to either side, the thin one the 95 % interval "
        "over data and seeds, each by itself; the p-value is corrected for the number of comparisons. With one seed "
        "it is over data alone, and there is no thick line.</p>"
    )
    return said + _table("Paired differences", head, lines, foot, "strips forest")


def _less(pair: Pair, against: Setting) -> Estimate:
    """A pair's difference as the other setting less ``against``."""
    found = pair.found.estimate
    return found if pair.second is against else found._replace(mean=-found.mean)


def _difference_strip(group: Group, other: Setting, found: Estimate) -> Strip:
    label = f"{other.name}: difference {number(found.mean, found.error)}, 95 % interval {_interval(found)}"
    return Strip(
        found.mean, *found.interval(), _over_seeds_alone(found), (), look(group.settings.index(other))[0], label
    )


def _forest_row(group: Group, other: Setting, found: Estimate, pair: Pair, picture: str) -> str:
    errors = [("data", found.se_data), ("seeds", found.se_seeds), ("both", found.se)]
    known = "".join(f"<small>± {number(e, e)} {name}</small>" for name, e in errors if not math.isnan(e))
    size = f"{_signed(found.mean, found.error)}{known}"
    p = f"p = {pair.corrected:.2g}" if pair.corrected >= LEAST_TOLD else f"p &lt; {LEAST_TOLD}"
    said = f"{_outcome(pair, found)}<small>{'' if math.isnan(pair.corrected) else p}</small>"
    cells = [_cell(picture), _cell(size, found.mean), _cell(said, pair.corrected, "words")]
    return f"<tr>{_named(other, group.settings.index(other))}{''.join(cells)}</tr>"


def _outcome(pair: Pair, found: Estimate) -> str:
    if not pair.is_one:
        return "no difference shown"
    word = "better" if found.mean > 0 else "worse"
    return word if not math.isnan(found.se) else f"{word} on these data; seeds unknown"


def _signed(value: float, error: float) -> str:
    return _minus(f"{'+' if value > 0 else ''}{number(value, error)}")


def _matrix(group: Group, pairs: Sequence[Pair]) -> str:
    """All differences, the setting of a line less that of a column."""
    shown = group.settings[:MOST_IN_MATRIX]
    by = {(pair.first, pair.second): pair for pair in pairs}
    head = ["less that of", *(_label(each, i) for i, each in enumerate(shown))]
    lines = []
    for place, line in enumerate(shown):
        cells = "".join(_matrix_cell(by, line, column) for column in shown)
        lines.append(f"<tr>{_named(line, place)}{cells}</tr>")
    left = len(group.settings) - len(shown)
    more = f" The best {len(shown)} settings are shown; all are in the CSV file." if left else ""
    said = (
        f"<h3>Each with each</h3><p>{escape(group.by.words)} of the setting of a line less that of a column, and its "
        f"standard error. ▲ is better, ▼ worse, after the correction for {len(pairs)} comparisons; "
        f"· is no difference that the runs can show.{more}</p>"
    )
    return said + _table("Differences of each setting to each", head, lines, kind="matrix")


def _matrix_cell(by: dict[tuple[Setting, Setting], Pair], line: Setting, column: Setting) -> str:
    if line is column:
        return '<td class="self"></td>'
    pair = by.get((line, column)) or by[column, line]
    found = _less(pair, column)
    kind, mark = ("none", "·") if not pair.is_one else ("more", "▲") if found.mean > 0 else ("less", "▼")
    text = f"{mark} {_signed(found.mean, found.error)}<small>± {number(found.error, found.error)}</small>"
    return _cell(text, found.mean, kind)


# ---------------------------------------------------------------- learning curves


def _curves(group: Group) -> str:
    curves = [_curve(setting, place) for place, setting in enumerate(group.settings)]
    curves = [curve for curve in curves if len(curve.mean) >= SHOWN_LINES or curve.tests]
    if not curves:
        return ""
    single = len(curves) <= MOST_SINGLE
    wide = Frame(curves, 860, 440).picture("wide", single)
    narrow = Frame(curves, 340, 340).picture("narrow", single)
    buttons = (
        f"<button{attributes(type='button', data_curve=each.place, aria_pressed='true')}>{_swatch(each.place)} "
        f"<span>{escape(each.name)}</span></button>"
        for each in curves
    )
    seeds = " Thin lines are single seeds." if single else ""
    said = (
        f"Lines are bounds on training data, means over seeds, with a band of one standard error over seeds.{seeds} "
        "Marks are bounds on test data, with their standard error over seeds, or of one seed over data. The last two "
        "decades of samples are shown. A name hides its curve."
    )
    return f'<p>{said}</p><div class="legend">{"".join(buttons)}</div>{wide}{narrow}'


def _curve(setting: Setting, place: int) -> Curve:
    seeds = tuple(tuple((r["samples_seen"], r["bound"]) for r in run.metrics if "bound" in r) for run in setting.runs)
    return Curve(setting.name, place, seeds, _over_seeds(seeds), _tests(setting.runs))


def _over_seeds(seeds: Sequence[Sequence[tuple[float, float]]]) -> tuple[tuple[float, float, float], ...]:
    """Where all seeds have a report: samples, mean, and standard error over seeds."""
    each = [dict(points) for points in seeds]
    common = sorted(set.intersection(*(set(points) for points in each))) if each else []
    return tuple((x, *_mean_and_error([points[x] for points in each])) for x in common)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


def _tests(runs: Sequence[RunMeasured]) -> tuple[tuple[float, float, float], ...]:
    each = [{r["samples_seen"]: r for r in run.metrics if "test_bound" in r} for run in runs]
    common = sorted(set.intersection(*(set(records) for records in each)))
    if len(each) == 1:
        return tuple((x, each[0][x]["test_bound"], each[0][x]["test_se"] or 0.0) for x in common)
    return tuple((x, *_mean_and_error([records[x]["test_bound"] for records in each])) for x in common)


# ---------------------------------------------------------------- options, pictures, runs


def _options(group: Group) -> str:
    options = group.options
    if not options or len(group.settings) < 2:
        return ""
    rows = (
        f"<tr>{_named(setting, i)}{''.join(_cell(escape(values[i])) for values in options.values())}</tr>"
        for i, setting in enumerate(group.settings)
    )
    said = "All other options are equal, but for seeds and what changes no number."
    head = ["setting", *map(escape, options)]
    return f"<p>{said}</p>{_table('Options that differ', head, rows, kind='options')}"


def _pictures(group: Group) -> str:
    first = [setting.runs[0] for setting in group.settings]
    if first[0].originals is None:
        return ""
    cards = "".join(map(_card, range(len(first)), group.settings))
    data = f"<figure><figcaption>the test data</figcaption>{_picture(first[0].originals, 'the test data')}</figure>"
    are = "means of p(x|z)" if first[0].originals.png else "rows x"
    said = (
        f"Samples are {are} at z from the prior, reconstructions are those of the same test data; of one run each. "
        "They say less than the numbers: a model with better samples may have a lower log p(x)."
    )
    return f'<p>{said}</p><div class="pictures">{data}{cards}</div>'


def _card(place: int, setting: Setting) -> str:
    """What one run of a setting draws and reconstructs."""
    run = setting.runs[0]
    shown = {"samples": run.samples, "reconstructions": run.reconstructions}
    pictures = "".join(f"<p>{what}</p>{_picture(each, f'{what}, {setting.name}')}" for what, each in shown.items())
    return f"<figure><figcaption>{_label(setting, place)}, seed {run.seed}</figcaption>{pictures}</figure>"


def _picture(shown: Shown | None, name: str) -> str:
    if shown is None:
        return f"<p>no {escape(name)}</p>"
    if shown.png:
        source = f"data:image/png;base64,{base64.b64encode(shown.png).decode()}"
        return f"<img{attributes(src=source, alt=name)}>"
    head = [*map(escape, shown.columns), *([f"and {shown.more} more"] if shown.more else [])]
    empty = ["…"] if shown.more else []
    rows = (f"<tr>{''.join(_cell(escape(cell)) for cell in [*line, *empty])}</tr>" for line in shown.rows)
    return _table(name, head, rows, kind="values")


def _runs(comparison: Comparison) -> str:
    """Each run, with its folder."""
    quantities = (*PER_DATUM, *PER_RUN)
    head = ["run", "setting", "seed", "samples seen", *(escape(each.words) for each in quantities), "k-hat above 0.7"]
    frame = comparison.runs.reset_index()
    rows = []
    for line in frame.to_dict("records"):
        numbers = [(line[each.name], line.get(f"{each.name}_se_data", math.nan)) for each in quantities]
        cells = [
            _cell(escape(str(line["setting"]))),
            _cell(str(line["seed"])),
            _cell(f"{line['samples_seen']:,}", line["samples_seen"]),
        ]
        cells += [_cell(_mean(Estimate(mean, se, math.nan, math.nan, 1, math.nan)), mean) for mean, se in numbers]
        name = f'<th scope="row">{escape(str(line["run"]))}</th>'
        rows.append(f"<tr>{name}{''.join(cells)}{_cell(str(line['khat_above_0.7']))}</tr>")
    table = _table("Runs", head, rows)
    return _section(
        "runs", "Runs", f"<details><summary>Each run by itself, ± standard error over data</summary>{table}</details>"
    )


def _about(comparison: Comparison) -> str:
    said = (
        "The bound of a run is an average over 100 draws of z for each datum, its log p(x) an importance-sampling "
        f"estimate with {comparison.num_samples:,} draws, which in expectation is too low; all with seed "
        f"{comparison.seed}. Runs that differ by their seed alone are one setting. The standard error over data tells "
        "how much other test data of the same kind would change a mean, with these trainings; that over seeds how much "
        "other seeds would, on these data. Over both, the variance is the sum of the two, less what the remainder adds "
        "to either (two-way random effects). Intervals and p-values are those of Cochran and Cox, by "
        "Student's t, so that few seeds make them wide."
    )
    return _section("about", "How this was computed", f"<p>{escape(said)}</p>")
