"""Models that cannot be stolen by knowledge distillation, in JAX/Flax.

Nothing is imported here, so that `from undistillable import losses` pulls in
neither the data pipelines nor the checkpoint library.
"""

__version__ = '0.1.0'
