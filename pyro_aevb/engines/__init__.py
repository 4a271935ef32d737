"""How a step is taken: by Pyro's own ``SVI``, eagerly, or from a recording; only :mod:`pyro_aevb.training` asks."""
