"""What every experiment keeps its results with: CSV, and where the numbers come from."""

import csv
import platform
import subprocess
from pathlib import Path

import torch


def provenance(**settings: object) -> dict:
    """Commit, versions and device, with an experiment's own settings first."""
    return {
        **settings,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{torch.get_num_threads()} threads of {platform.machine()}",
    }


def commit() -> str:
    """The revision these numbers were measured at."""
    here = Path(__file__).parent
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=here)
    return asked.stdout.strip()


def write_csv(path: Path, rows: list[dict]) -> None:
    """Columns by name, those of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
