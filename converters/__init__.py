"""Room: ONNX files to torch modules and back. Loads, normalises, lowers, restores, folds, writes, exports."""

from __future__ import annotations

from ..lazy import lazy_exports

_PUBLIC = {
    "ARCFACE": ".records.preprocessing",
    "IMAGENET": ".records.preprocessing",
    "ConversionRecord": ".records.record",
    "Parity": ".runtime.parity",
    "ZOO": ".zoo.registry",
    "architecture_preprocessing": ".zoo.registry",
    "build_architecture": ".zoo.registry",
    "fold_batchnorm": ".batchnorm.fold",
    "ParameterSource": ".records.record",
    "Preprocessing": ".records.preprocessing",
    "assert_parity": ".runtime.parity",
    "measure_parity": ".runtime.parity",
    "insert_batchnorms": ".batchnorm.restore",
    "restore_batchnorm": ".batchnorm.restore",
    "load_onnx": ".files.loading",
    "Bundle": ".bundles.bundle",
    "Model": ".bundles.reference",
    "OnnxRunner": ".runtime.runners",
    "OnnxToTorchResult": ".bundles.onnx_to_bundle",
    "Runner": ".runtime.runners",
    "TorchRunner": ".runtime.runners",
    "bundle_to_onnx": ".bundles.bundle",
    "inspect": ".inspection.inspecting",
    "load_bundle": ".bundles.bundle",
    "load_model": ".bundles.reference",
    "onnx2torch": ".bundles.onnx_to_bundle",
    "onnx_to_torch": ".lowering.conversion",
    "open_runner": ".bundles.reference",
    "ops": ".operators.operator_table",
    "run_in_batches": ".runtime.runners",
    "save_bundle": ".bundles.bundle",
    "write_back": ".weights.writing_back",
    "HalfModel": ".precision.half",
    "to_half": ".precision.half",
    "ExportResult": ".exporting.manifest",
    "ExportStep": ".exporting.step_log",
    "embed_preprocessing": ".passes.preprocessing_embedding",
    "export": ".exporting.pipeline",
    "set_batch": ".passes.batch",
    "simplify": ".passes.simplification",
    "torch_to_onnx": ".exporting.reexport",
    "HalfSearch": ".precision.half_search",
    "pin_to_target": ".passes.targets",
    "search_half": ".precision.half_search",
    "strip_metadata": ".passes.metadata_stripping",
    "record_of": ".records.record",
    "require_record": ".records.record",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
