"""``pyro-aevb report``: several saved runs side by side, as a table, a page and CSV files."""

import json as json_format
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pyro_aevb.cli.options import check_count, runs_and_options
from pyro_aevb.errors import InputError
from pyro_aevb.reports.comparison import compare_runs
from pyro_aevb.reports.page import check_files, write_report
from pyro_aevb.runs.parser import FLAG, SEVERAL, read_options

__all__ = ["ReportOptions", "report"]


@dataclass(frozen=True)
class ReportOptions:
    """Compare saved runs: a page, tables, and what their differences show, with errors over data and over seeds.

    Arguments:
        run: Folders of runs, which train made, or folders with runs somewhere below them, as sweep makes them; several
            are separated by blanks.
        out: A new .html file. Beside it come a .csv file of its name with a row for each setting, and two more, which
            end in _runs.csv and _differences.csv.
        num_samples: Importance samples per datum.
        count: Number of test data, the first ones; 0 for all.
        seed: Seed of the noise that is drawn, the same for all runs.
        baseline: Setting that all others are compared with, by its name, a part of it, or the folder of one of its
            runs; by default each is compared with each.
        by: What settings are ranked by, and verdicts are about: evidence is log p(x).
        ignore: Options, separated by commas, in which runs of one setting may differ, such as optimizer.lr.
        checkpoint: Which of each run's two saved states: the last one, or the one with the best bound on training data.
        device: Device to compute on: auto, cpu, cuda, cuda:1, mps, ...
        data_root: Folder of data sets, where it is not the one that the runs were trained from.
        trust: Modules of your own, separated by commas, whose classes the runs' configurations may name.
        json: Print JSON instead of a table.
    """

    run: str = field(metadata=SEVERAL)
    out: str = "report.html"
    num_samples: int = 200
    count: int = 1000
    seed: int = 0
    baseline: str | None = None
    by: Literal["evidence", "bound"] = "evidence"
    ignore: str = ""
    checkpoint: Literal["last", "best"] = "last"
    device: str = "auto"
    data_root: str | None = None
    trust: str | None = None
    json: bool = field(default=False, metadata=FLAG)


def report(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb report``.

    Raises:
        InputError: If an option does not fit, or runs cannot be compared.
    """
    runs, others = runs_and_options(arguments, ReportOptions)
    config = read_options(ReportOptions, "report", [*runs[:1], *others])
    check_count("num_samples", config.num_samples)
    check_count("count", config.count, least=0)
    if config.count == 1:
        raise InputError("--count must be 0 for all, or at least 2 for a standard error")
    out = Path(config.out)
    check_files(out)
    found = compare_runs(
        runs,
        num_samples=config.num_samples,
        count=config.count or None,
        seed=config.seed,
        baseline=config.baseline,
        by=config.by,
        ignore=[name.strip() for name in config.ignore.split(",") if name.strip()],
        checkpoint=config.checkpoint,
        device=config.device,
        data_root=config.data_root,
        trust=config.trust,
    )
    print(json_format.dumps(found.to_dict(), indent=2, allow_nan=False) if config.json else found)
    written = "\n".join(map(str, write_report(found, out)))
    print(written if config.json else f"\n{written}", file=sys.stderr if config.json else sys.stdout)
