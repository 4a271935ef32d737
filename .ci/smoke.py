"""A smoke set of the tests on every other Python that is here, and once with the lowest version of each dependency.

``.venv/bin/python .ci/smoke.py`` after ``make test``. Each leg has an environment of its own in a temporary folder,
which is removed after it, and prints one line that says what was done. uv makes them; it comes from the package index.
Together they need some 16 GB of disk for a while, since the index's torch for Linux brings the CUDA libraries along.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [line for line in (ROOT / ".ci" / "smoke.txt").read_text().splitlines() if line and line[0] != "#"]
OLDEST = (3, 11)
EXPECTED = ((3, 13), (3, 14))
"""Versions of Python whose dependencies are at least resolved where they are not here."""
TOLD = ("torch", "pyro-ppl", "numpy", "arviz-stats", "jsonargparse")
"""Dependencies whose versions a leg's line tells."""


def main() -> None:
    """Run all legs, in the order of what they cost."""
    with tempfile.TemporaryDirectory(prefix="pyro_aevb-smoke-") as name:
        folder = Path(name)
        uv = installed_uv(folder)
        here = pythons()
        own = sys.version_info[:2]
        newer = sorted(version for version in here if version != own)
        if not newer:
            say(f"no other Python than {dotted(own)} is here")
        for version in EXPECTED:
            if version not in {own, *newer}:
                say(f"Python {dotted(version)} is not here; its dependencies resolve: {resolved(uv, version)}")
        for version in newer:
            say(f"smoke set on Python {dotted(version)}: {leg(uv, folder, here[version])}")
        lowest = leg(uv, folder, sys.executable, "--resolution=lowest-direct")
        say(f"smoke set with the lowest versions on Python {dotted(own)}: {lowest}")


def say(words: str) -> None:
    """Print a leg's line at once, though the output goes to a file."""
    print(f"== {words}", flush=True)


def dotted(version: tuple[int, ...]) -> str:
    """``"3.13"`` for ``(3, 13)``."""
    return ".".join(map(str, version))


def pythons() -> dict[tuple[int, int], str]:
    """The interpreters that run, by version: those on the path, and pyenv's, whose shims there need not run."""
    folders = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep) if name]
    folders += sorted(pyenv_root().glob("versions/3.*/bin"))
    found: dict[tuple[int, int], str] = {}
    for folder in folders:
        for path in sorted(folder.glob("python3.*")):
            version, executable = identity(path)
            if OLDEST <= version <= EXPECTED[-1]:  # later ones torch may have no wheel for
                found.setdefault(version, executable)
    return found


def pyenv_root() -> Path:
    """Where pyenv keeps its versions, if it is here."""
    return Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))


def identity(path: Path) -> tuple[tuple[int, int], str]:
    """The version that an interpreter says it is, and its own path; version 0.0 if it does not run or lacks venv."""
    nothing = (0, 0), ""
    if not re.fullmatch(r"python3\.\d+", path.name):
        return nothing
    program = "import ssl, sys, venv; print(*sys.version_info[:2], sys.executable)"
    try:
        done = subprocess.run([path, "-c", program], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return nothing
    if done.returncode != 0:
        return nothing
    major, minor, executable = done.stdout.split(maxsplit=2)
    return (int(major), int(minor)), executable.strip()


def installed_uv(folder: Path) -> str:
    """Install uv into an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", folder / "uv"], check=True)
    subprocess.run([folder / "uv" / "bin" / "python", "-m", "pip", "install", "-q", "uv>=0.13"], check=True)
    os.environ["UV_CACHE_DIR"] = str(folder / "cache")
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")  # those that pip trusts; uv's own list does not know every proxy
    return str(folder / "uv" / "bin" / "uv")


def resolved(uv: str, version: tuple[int, int]) -> str:
    """Resolve the dependencies for a Python that is not here."""
    command = [uv, "pip", "compile", "-q", "--no-header", f"--python-version={dotted(version)}", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return told(done.stdout)


def told(requirements: str) -> str:
    """The versions worth telling, among lines such as ``torch==2.15.0``."""
    versions = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", requirements, re.MULTILINE))
    return ", ".join(f"{name} {versions.get(name, '?')}" for name in TOLD)


def leg(uv: str, folder: Path, python: str, *options: str) -> str:
    """Install the package into a new environment, run the smoke set there, and tell what was installed and how long."""
    environment = folder / "environment"
    inside = str(environment / "bin" / "python")
    started = time.monotonic()
    subprocess.run([uv, "venv", "-q", f"--python={python}", environment], check=True)
    subprocess.run([uv, "pip", "install", "-q", f"--python={inside}", *options, ".[test]"], cwd=ROOT, check=True)
    frozen = subprocess.run([uv, "pip", "freeze", f"--python={inside}"], check=True, stdout=subprocess.PIPE, text=True)
    ready = time.monotonic()
    smoke(inside, folder)
    done = time.monotonic()
    shutil.rmtree(environment)
    return f"installed in {ready - started:.0f} s, passed in {done - ready:.0f} s; {told(frozen.stdout)}"


def smoke(python: str, folder: Path) -> None:
    """Run the smoke set, with nothing that another torch has compiled."""
    cache = folder / "compiled"
    settings = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist=worksteal",
        "--sample=2",
        "-p",
        "no:cacheprovider",
        *TESTS,
    ]
    subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=True)
    shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main()
