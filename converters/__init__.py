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
    "fold_batchnorm": ".fold",
    "ParameterSource": ".records.record",
    "Preprocessing": ".records.preprocessing",
    "assert_parity": ".runtime.parity",
    "measure_parity": ".runtime.parity",
    "insert_batchnorms": ".restore",
    "restore_batchnorm": ".restore",
    "load_onnx": ".files.loading",
    "Bundle": ".bundle",
    "Model": ".reference",
    "OnnxRunner": ".runtime.runners",
    "OnnxToTorchResult": ".bundling",
    "Runner": ".runtime.runners",
    "TorchRunner": ".runtime.runners",
    "bundle_to_onnx": ".bundle",
    "inspect": ".inspection",
    "load_bundle": ".bundle",
    "load_model": ".reference",
    "onnx2torch": ".bundling",
    "onnx_to_torch": ".lowering.conversion",
    "open_runner": ".reference",
    "operators": ".lowering.operator_table",
    "run_in_batches": ".runtime.runners",
    "save_bundle": ".bundle",
    "write_back": ".writing_back",
    "HalfModel": ".precision.half",
    "to_half": ".precision.half",
    "ExportResult": ".export_manifest",
    "ExportStep": ".export_steps",
    "embed_preprocessing": ".passes.preprocessing_embedding",
    "export": ".exporting",
    "set_batch": ".passes.batch",
    "simplify": ".passes.simplification",
    "torch_to_onnx": ".reexport",
    "HalfSearch": ".precision.half_search",
    "pin_to_target": ".passes.targets",
    "search_half": ".precision.half_search",
    "strip_metadata": ".passes.metadata_stripping",
    "record_of": ".records.record",
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
