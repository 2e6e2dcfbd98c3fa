"""The paths of the package, its examples and the dated results, for the benchmarks in every folder."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEMO_MODEL", "EXAMPLES", "PACKAGE", "RESULTS"]

PACKAGE = Path(__file__).resolve().parent.parent
EXAMPLES = PACKAGE / "examples"
DEMO_MODEL = EXAMPLES / "models" / "osnet_x0_25_synthetic.onnx"
"""The small OSNet that the project's own commands trained."""
RESULTS = Path(__file__).resolve().parent / "results"
"""Dated figures: committed, but not part of the wheel."""
