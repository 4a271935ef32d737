"""``python -m pyro_aevb``."""

import os
import sys

from pyro_aevb.cli import main

if __name__ == "__main__":
    if sys.path[0] == os.getcwd():  # Python put it there: a file beside the user must not stand for an installed module
        del sys.path[0]
    raise SystemExit(main())
