"""``python -m pyro_aevb``."""

from pyro_aevb.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
