"""``pyro-aevb export``: a saved run as files that other programs read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyro_aevb.cli.options import RunOptions, check_count, opened, place_of
from pyro_aevb.errors import InputError, did_you_mean
from pyro_aevb.export.folder import FILES, WHAT, Exported, export_run
from pyro_aevb.export.graphs import check_installed
from pyro_aevb.runs.parser import read_options

__all__ = ["ExportOptions", "export"]


@dataclass(frozen=True)
class ExportOptions(RunOptions):
    """Export a saved run: encoder and decoder as ONNX, weights as safetensors, a model card.

    Arguments:
        out: Folder for encoder.onnx, decoder.onnx, preprocessing.json, model.safetensors and MODEL_CARD.md, none of
            which it may have yet.
        what: What to write: some of encoder, decoder, weights and card, separated by commas. With the first two comes
            preprocessing.json, which says how raw data become what they take.
        count: Number of test data, the first ones, on which the bound and log p(x) of the card are measured.
        num_samples: Importance samples per datum for the card's log p(x); 0 leaves it out.
    """

    out: str = "exported"
    what: str = ",".join(WHAT)
    count: int = 1000
    num_samples: int = 200


def export(arguments: Sequence[str]) -> None:
    """Run ``pyro-aevb export``.

    Raises:
        InputError: If an option does not fit, or a part cannot be exported.
    """
    config = read_options(ExportOptions, "export", arguments)
    check_count("count", config.count, least=2)
    check_count("num_samples", config.num_samples, least=0)
    wanted = _wanted(config.what)
    place_of(config.out, [FILES[each] for each in wanted])
    graphs = [each for each in wanted if each in ("encoder", "decoder")]
    if graphs:
        check_installed()  # before a run is opened, which takes seconds
    found = export_run(
        opened(config),
        Path(config.out),
        wanted,
        count=config.count,
        num_samples=config.num_samples,
        seed=config.seed,
    )
    print("\n".join(map(str, found.files)))
    if graphs:
        print(_said(found))


def _wanted(what: str) -> list[str]:
    wanted = [each.strip() for each in what.split(",")]
    if unknown := [each for each in wanted if each not in WHAT]:
        near = did_you_mean(unknown[0], WHAT)
        raise InputError(
            f"unknown --what {unknown[0]!r}{near or ':'} give some of {', '.join(WHAT)}, separated by commas"
        )
    return wanted


def _said(found: Exported) -> str:
    """How the graphs compare with the run."""
    if not found.differences:
        return "not compared with the run: onnxruntime is not installed"
    each = ", ".join(f"{name} {difference:.1e}" for name, difference in found.differences.items())
    return f"largest difference of onnxruntime from the run, at 1 and 7 data: {each}"
