"""Files: what is read is looked at first, what is written is whole or not there, and one process writes a folder.

Nothing here unpickles: tensors are loaded with ``weights_only=True``, from archives whose checksums are right.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import struct
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from pyro_aevb.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has none: there two processes are not kept apart
    fcntl = None  # type: ignore[assignment]  # mypy knows the module of the platform that it runs on

__all__ = [
    "DamagedArchiveError",
    "check_archive",
    "check_place",
    "load_tensors",
    "locked",
    "refuse_existing",
    "regular_file",
    "replaced",
    "save_tensors",
]

logger = logging.getLogger(__name__)

LOCK = ".lock"
HEADER = 30  # bytes of a zip member's header, before its name
LENGTHS_AT = 26  # where in it the lengths of the name and of the extra field stand
DESCRIPTOR = 24  # bytes, at most, between a member's end and what follows it
MOST_COMPRESSED = 200  # times; an archive of a gigabyte and more that holds more for its size is a bomb


def regular_file(path: Path, advice: str = "check the path") -> Path:
    """The path, if a file is there: a pipe would be waited for, a device never ends.

    Arguments:
        path: The path.
        advice: What to do where no file is there, for the message.

    Raises:
        InputError: If nothing is there, or something else than a file.
    """
    if path.is_file():
        return path
    if not os.path.lexists(path):
        raise InputError(f"{path} does not exist: {advice}")
    raise InputError(f"{path} is {_what_is_at(path)}: {advice}")


def _what_is_at(path: Path, if_file: str = "no regular file") -> str:
    if path.is_dir():
        return "a folder, not a file"
    if path.is_file():
        return if_file
    return "no regular file" if path.exists() else "a link to nothing"


def refuse_existing(path: Path, advice: str = "remove it, or give another --out") -> None:
    """Refuse a path where something is: nothing of the user's is written over.

    Arguments:
        path: The path.
        advice: What to do, for the message.

    Raises:
        InputError: If something is there.
    """
    if os.path.lexists(path):
        raise InputError(f"{path} exists already: {advice}")


def check_place(option: str, path: Path) -> None:
    """See that something can be made at a path, its folders too where they are missing; nothing is made.

    Arguments:
        option: Name of the option that the path was given by, for the message.
        path: The path.

    Raises:
        InputError: If a part of it is a file, or nothing may be written there.
    """
    above = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise InputError(f"--{option}: {_shortest(above)} is {_what_is_at(above, 'a file')}, where a folder is needed")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--{option}: nothing may be written in {_shortest(above)}")


def _shortest(path: Path) -> Path:
    """A path as it is told: from the current folder, where it lies there."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) and path != here else path


# ---------------------------------------------------------------- archives of tensors and arrays


class DamagedArchiveError(ValueError):
    """An archive is not whole, or holds what it should not; the message says which."""


def check_archive(path: Path, *, compressed: bool = False) -> None:
    """See that a zip archive is whole: torch and NumPy read a member without comparing it with its checksum.

    Arguments:
        path: The archive, a ``.pt`` or ``.npz`` file.
        compressed: Whether its members may be compressed, as NumPy's are. What torch saves is not, so that its members
            together are no longer than the file.

    Raises:
        DamagedArchiveError: Says what is wrong.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            raise DamagedArchiveError("two of its members have one name")
        size = path.stat().st_size
        most = sum(member.file_size for member in members)
        if most > max(1e9, MOST_COMPRESSED * size) or any(m.compress_type > zipfile.ZIP_DEFLATED for m in members):
            raise DamagedArchiveError(f"it would become {most / 1e9:.1f} GB of {size / 1e6:.1f} MB")
        if not compressed and any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise DamagedArchiveError("a member of it is compressed, which torch does not do")
        if not compressed and most > size:
            raise DamagedArchiveError("its members are said to be longer than the file")
        if (broken := archive.testzip()) is not None:
            raise DamagedArchiveError(f"the checksum of its member {broken!r} is wrong")
        _check_index(archive)


def _check_index(archive: zipfile.ZipFile) -> None:
    """See that an archive's index leaves out no member: a flipped bit there ended it, with all checksums right."""
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    file: Any = archive.fp  # open, inside with
    begins = [*(member.header_offset for member in members[1:]), archive.start_dir]
    for member, following in zip(members, begins, strict=True):
        file.seek(member.header_offset + LENGTHS_AT)
        name, extra = struct.unpack("<HH", file.read(4))
        end = member.header_offset + HEADER + name + extra + member.compress_size
        if not end <= following <= end + DESCRIPTOR:
            raise DamagedArchiveError(f"its index is damaged after the member {member.filename!r}")


def load_tensors(path: Path, device: torch.device | str = "cpu") -> Any:
    """What :func:`save_tensors` saved: tensors, numbers, text, and containers of them, the tensors on ``device``.

    Raises:
        InputError: If the file is missing, damaged, or holds anything else; nothing in it has been run.
    """
    regular_file(path)
    try:
        check_archive(path)
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # zipfile and torch raise whatever the damage leads to
        reason = f" ({error})" if isinstance(error, DamagedArchiveError) else ""
        raise InputError(f"{path} is damaged or no file of this package{reason}, so it was not loaded") from error


def save_tensors(value: Any, path: Path) -> None:
    """Write tensors, numbers and text, whole or not at all."""
    try:
        with replaced(path) as file:
            torch.save(value, file)
    except RuntimeError as error:  # torch, closing its archive, misses what a full disk did not take
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all: under another name beside it, synced, then renamed over it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of an earlier process of the same number
    try:
        with open(temporary, "xb") as file:  # x: a link that somebody put there is not followed
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems take files alone
            raise
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- one writer


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one process that writes a folder, for the time of a block; a process that is killed lets go.

    The lock is on a file ``.lock`` in the folder, which tells who holds it and stays: to remove it would let a third
    process lock another file of the same name. Readers need no lock.

    Raises:
        InputError: If another process holds it: says which.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:  # a link of whatever kind leads elsewhere
            raise InputError(f"{folder / LOCK} is no file of its own: remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder} is being written by {_holder(descriptor)}: wait for it, or stop it") from error
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            logger.warning("%s lies where no file can be locked: let no other process write it", folder)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_about_us()).encode())
        yield
    finally:
        os.close(descriptor)


def _about_us() -> dict[str, Any]:
    return {"process": os.getpid(), "machine": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _holder(descriptor: int) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {int(about['process'])} on {about['machine']!s:.50} since {about['since']!s:.30}"
    return "another process"
