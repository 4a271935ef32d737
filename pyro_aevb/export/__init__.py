"""A trained pair as files that other programs read: ONNX graphs, safetensors, and a model card.

:func:`export_run` writes them; :func:`load_weights` reads the weights back into a pair. ONNX and safetensors are
imported where they are used: ``pip install 'pyro_aevb[export]'``.
"""

from pyro_aevb.export.folder import WHAT, Exported, export_run
from pyro_aevb.export.networks import Decoder, Encoder
from pyro_aevb.export.weights import load_weights

__all__ = ["WHAT", "Decoder", "Encoder", "Exported", "export_run", "load_weights"]
