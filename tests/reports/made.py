"""A few trainings for the tests of reports, made once: two priors with two seeds, and some that are like none."""

from pathlib import Path

from pyro_aevb.cli import main

SMALL = [
    "--data=digits",
    "--hidden=8",
    "--latent_dim=2",
    "--samples=600",
    "--report_every=100",
    "--save_every=600",
    "--evaluate_every=200",
    "--engine=eager",
]
SETTINGS = {"StandardNormal": ["--prior=StandardNormal"], "Laplace": ["--prior=Laplace"]}
"""Options of each setting, by the name that a comparison gives it."""

TABLE = """<i>real,count,"the ""kind"" & <b>",group
1.5,3,red,a
-0.5,0,"<img src=x onerror=alert(1)>",b
0.25,1,red,a
2.0,7,blue,b
"""


def train(out: Path, *options: str, small: list[str] = SMALL) -> Path:
    """Train a run with a few more options than the small ones."""
    assert main(["train", *small, *options, f"--out={out}"]) == 0
    return out


def make_runs(root: Path) -> Path:
    """Runs as a sweep lays them out, ``prior=Laplace,seed=1``."""
    for name, options in SETTINGS.items():
        for seed in (0, 1):
            train(root / f"prior={name},seed={seed}", *options, f"--seed={seed}")
    return root


def make_tables(root: Path) -> Path:
    """Runs of a table whose names are hostile to HTML."""
    source = root / "a table.csv"
    header, *rows = TABLE.splitlines()
    source.write_text("\n".join([header, *rows * 15]) + "\n")
    small = [each for each in SMALL if not each.startswith("--data")]
    for seed in (0, 1):
        for prior in ("StandardNormal", "StudentT"):
            place = root / "runs" / f"<script>alert('{prior}')<" / f"seed={seed} & more"
            train(place, f"--data={source}", "--labels=group", f"--prior={prior}", f"--seed={seed}", small=small)
    return root / "runs"
