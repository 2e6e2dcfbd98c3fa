"""Functions for operators that torch has no exact equivalent of; converted models call them.

Each file imports only torch and the standard library, because a generated `model.py` contains the source of the
functions it uses. Exact means: equal to ONNX's definition for every input, or an error.
"""

from __future__ import annotations
