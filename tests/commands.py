"""Small runs of the command line."""

SMALL = [
    "--hidden=8",
    "--latent_dim=2",
    "--samples=400",
    "--report_every=100",
    "--save_every=200",
    "--evaluate_every=200",
]


def train(cli, *arguments, out="run"):
    code, printed, errors = cli("train", *SMALL, f"--out={out}", *arguments)
    assert code == 0, errors
    return printed
