"""A page of saved runs that opens from disk: one HTML file to look, drag and draw in, without a server or a network.

What the page shows is computed here, with the rest of the package; what it computes itself, while somebody drags a
latent, are the pair's own functions, recorded. See :func:`make_payload` for the numbers and :func:`make_page` for the
file.
"""

from pyro_aevb.explorer.build import MARK, make_page, write_page
from pyro_aevb.explorer.payload import make_payload

__all__ = ["MARK", "make_page", "make_payload", "write_page"]
