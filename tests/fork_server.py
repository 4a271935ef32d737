"""Processes that begin with torch and Pyro loaded, which alone takes four seconds: forks of one that has loaded them.

``python()`` is the path of a program that stands for ``sys.executable``; what is neither a script nor ``-m`` it leaves
to Python. The package and the script are imported anew in each process. Two forks have the same hash seed: what must
not depend on it is tested in processes of their own. ``FEW_IMAGES`` in the environment has them load so many images
of MNIST alone: to prepare 60,000 takes seconds in each process.
"""

import atexit
import contextlib
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1].startswith("-") and sys.argv[1] != "-m":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    about = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(about).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(about)
    sys.exit(int(server.recv(8) or 1))
"""


@functools.cache
def python():
    """Start the server, which ends with this process, and return the program's path."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    address, program = str(folder / "server"), folder / "python"
    program.write_text(CLIENT.format(python=sys.executable, address=address))
    program.chmod(0o700)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch reads it when it is loaded
    command = [sys.executable, __file__, address]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout.readline() == b"ready\n"
    atexit.register(server.communicate)  # closes its standard input, which ends it
    return str(program)


# ---------------------------------------------------------------- in the server


def serve(address):
    """Until standard input is closed: a process for each connection."""
    import jsonargparse  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import pyro  # noqa: F401
    import scipy.io  # noqa: F401
    import torch._dynamo  # noqa: F401  # which a first training step loads

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                answer(connection)
            connection.close()


def answer(connection):
    """Fork once more for the program; tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, *_ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        about = json.loads(stream.read(int.from_bytes(length, "big")))
    if (child := os.fork()) == 0:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os._exit(run(*about))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # whoever asked may be gone
        connection.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def run(words, folder, environment):
    """As Python does with such words; returns the exit code."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode) for n, mode in enumerate("rww"))
    sys.executable, module = words[0], words[1] == "-m"
    sys.argv = words[2:] if module else words[1:]
    sys.path[0] = folder if module else str(Path(words[1]).resolve().parent)
    code = 0
    if count := environment.get("FEW_IMAGES"):
        load_few_images(int(count))
    try:
        runpy.run_module(words[2], None, "__main__", True) if module else runpy.run_path(words[1], None, "__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def load_few_images(count):
    """From here on MNIST's training set is so many images, its test set a tenth."""
    from pyro_aevb.data import loaders

    def load(root, split_seed):
        train, test, of_train, of_test = loaders.load_mnist(root, split_seed)
        return loaders.Raw(train[:count], test[: count // 10], of_train[:count], of_test[: count // 10])

    loaders.LOADERS["mnist"] = load


if __name__ == "__main__":
    serve(sys.argv[1])
