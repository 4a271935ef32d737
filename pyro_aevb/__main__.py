"""``python -m pyro_aevb``."""

from pyro_aevb.cli import main

raise SystemExit(main())
