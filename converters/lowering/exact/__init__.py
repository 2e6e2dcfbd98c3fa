"""Functions and modules for what torch has no exact equivalent of; converted models call them.

Each file imports only torch and the standard library, because generated `model.py` files carry the source of what
they use. Exact means: equal to ONNX's definition for every input, or an error.
"""

from __future__ import annotations
