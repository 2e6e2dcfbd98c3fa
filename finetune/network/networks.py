"""The network of a run: any model reference as a trainable module, with its preprocessing and a way to save it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ...converters.batchnorm.restore import RestoreReport, restore_batchnorm, restored_link
from ...converters.bundles.bundle import save_bundle
from ...converters.bundles.open_batch import settle_batch
from ...converters.bundles.reference import Model, load_model
from ...converters.preprocessing.decision import decide_preprocessing
from ...converters.records.preprocessing import Preprocessing
from ...converters.records.provenance import ChainLink, chain_of_bundle, to_json
from ...converters.records.record import TensorSpec, require_record
from ...converters.runtime.probes.open_sizes import image_index
from ...converters.runtime.runners import TORCH_REFUSALS
from ...converters.weights.unfit_weights import refuse_double_weights
from ...converters.weights.weight_match import WeightMatch
from ...converters.zoo.registry import ZOO, architecture_preprocessing, build_architecture, stated_options
from ...errors import ConfigError, InputError
from ..config.config import ModelConfig
from ..data.loading import TrainingPixels
from .learner import embedding_of
from .weights import load_weights

_CALIBRATION_BATCH = 32

__all__ = ["Network", "check_restorable", "images_to_tensor", "load_network", "restore_batchnorms"]


@dataclass(frozen=True)
class Network:
    """A module from normalised images to embeddings, the preprocessing it expects, and how it becomes a bundle."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing
    dimension: int
    """Length of the embedding."""
    save: Callable[[Path, nn.Module, ChainLink | None], Any]
    """Writes a bundle; the link records in its provenance how it was trained."""
    weights: WeightMatch | None = None
    """What `model.weights` loaded into it; None where there was no such file, or a checkpoint took its place."""
    preprocessing_origin: str = ""
    """Where the preprocessing comes from."""


def images_to_tensor(pixels: Tensor, preprocessing: Preprocessing, device: torch.device, channels_last: bool) -> Tensor:
    """Network input of pixels, with the result of `Preprocessing.normalise`.

    Args:
        pixels: uint8 [N, H, W, C], RGB or grey.
        preprocessing: Mean, standard deviation, channel order and layout.
        device: Where the result is computed.
        channels_last: Keep the memory order NHWC of an NCHW result.

    Returns:
        float32 [N, C, H, W], or [N, H, W, C] where the layout is NHWC.
    """
    values = pixels.to(device, non_blocking=True).float()
    if preprocessing.channel_order == "bgr":
        values = values.flip(3)
    values = (values - _on_device(preprocessing.mean, device)) / _on_device(preprocessing.std, device)
    if preprocessing.layout == "nhwc":
        return values
    values = values.permute(0, 3, 1, 2)  # in memory still NHWC, which is what channels_last means
    return values if channels_last else values.contiguous()


@cache
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Cached, because copying to a GPU from pageable memory blocks."""
    return torch.tensor(values, device=device)


def load_network(config: ModelConfig, checkpoint: Path | None = None) -> Network:
    """The network that `config` names, or the one in a checkpoint from which a run continues, on the CPU.

    Weights of zoo architectures are drawn from torch's global generator.

    Raises:
        InputError: there is no such model, it cannot be trained, it mixes the images of a batch, does not accept the
            size, has no output of that number, or `model.weights` does not fit.
    """
    if checkpoint is None and config.reference in ZOO:
        model, identity = _from_zoo(config)
    else:
        if config.options and config.reference not in ZOO:
            raise InputError(f"model.options: only zoo architectures have options, got {config.reference}")
        model = load_model(checkpoint or config.reference)
        identity = _identity(model)
        if model.batch is not None:
            raise InputError(
                f"{model.name}: has a fixed batch of {model.batch}, so it cannot be trained; make it dynamic with "
                "`rtool onnx2torch model.onnx --batch dynamic` and give that bundle"
            )
        settled = settle_batch(model) if checkpoint is None else None
        if settled is not None and settled.batch is not None:
            raise InputError(
                f"{settled.note}, so training would mix images; make it dynamic with `rtool onnx2torch model.onnx "
                "--batch dynamic` where its file states a fixed batch, or export the network again"
            )
    refuse_double_weights(model.module, model.name)
    inputs = model.record.inputs if model.record is not None else ()
    _check_arguments(model.module, model.name, inputs)
    decision = decide_preprocessing(replace(model.evidence(), label=model.name), config.preprocessing, config.size)
    loaded = None
    if config.weights is not None and checkpoint is None:
        loaded = load_weights(model.module, config.weights, config.weights_may_lack, model)
    chain = _earlier(model.chain, resumed=checkpoint is not None)
    record = model.record
    if record is not None:
        record.chain = chain

    def save(path: Path, module: nn.Module, trained: ChainLink | None = None) -> Path:
        known = record.chain if record is not None else chain
        links = known if trained is None else (*known, trained)
        provenance = {"trained_from": Path(config.reference).name, "chain": to_json(links)}
        return save_bundle(module, path, preprocessing=decision.preprocessing, provenance=provenance, **identity)

    dimension = _dimension(model, decision.preprocessing, config.output)
    made, reason = decision.preprocessing, decision.reason
    return Network(model.name, model.module, made, dimension, save, loaded, reason)


def _check_arguments(module: nn.Module, name: str, inputs: Sequence[TensorSpec]) -> None:
    """Refuse a converted module that needs more than images: training calls it with them alone.

    Raises:
        InputError: naming the other inputs.
    """
    if len(inputs) < 2 or not isinstance(module, fx.GraphModule):
        return
    arguments = [node for node in module.graph.nodes if node.op == "placeholder"]
    read = [spec.name for spec, node in zip(inputs, arguments, strict=True) if node.users]
    takes = f"{name}: takes {', '.join(spec.name for spec in inputs)}"
    if len(read) > 1:
        raise InputError(
            f"{takes} and reads {', '.join(read)}; training gives a network its images alone: export it "
            "again with the others fixed, or make each an initializer of the graph"
        )
    if image_index(inputs) != 0:
        raise InputError(
            f"{takes}; training gives a network its first input: put the images first, or leave others out"
        )


def check_restorable(network: Network, images: int) -> str:
    """Try on random images, in a copy, whether BatchNorm can be restored from `images` training images.

    Returns:
        A note where nothing has to be restored, because it was before; else "".

    Raises:
        ConfigError, InputError: as `restore_batchnorms`.
    """
    size = network.preprocessing
    generator = torch.Generator().manual_seed(0)
    shape = (min(images, _CALIBRATION_BATCH), size.height, size.width, size.channels)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    module = copy.deepcopy(_converted(network))
    report = restore_batchnorm(module, [images_to_tensor(pixels, size, torch.device("cpu"), False)])
    return _nothing_to_restore(network, report)


def restore_batchnorms(network: Network, pixels: TrainingPixels, count: int) -> str:
    """Put BatchNorm back into the network, in place, calibrated on `count` evenly spaced training images.

    Returns:
        A line for the log; a network whose BatchNorms were restored before is left as it is.

    Raises:
        ConfigError: the network did not come from an ONNX file, or no layer of it lost a BatchNorm.
    """
    module = _converted(network)
    chosen = np.linspace(0, len(pixels.dataset) - 1, min(count, len(pixels.dataset))).astype(int)
    images = torch.from_numpy(np.stack([pixels.read_own(int(index)) for index in chosen]))
    batches = [
        images_to_tensor(images[start : start + _CALIBRATION_BATCH], network.preprocessing, torch.device("cpu"), False)
        for start in range(0, len(images), _CALIBRATION_BATCH)
    ]
    report = restore_batchnorm(module, batches)
    done_before = _nothing_to_restore(network, report)
    if done_before:
        return done_before
    record = require_record(module)
    record.chain = (*record.chain, restored_link(report))
    note = f"BatchNorm restored behind {len(report.restored)} layers, calibrated on {report.images} images"
    return f"{note}; {report.warning}" if report.warning else note


def _converted(network: Network) -> fx.GraphModule:
    """The network's module, if it came from an ONNX file and so may have lost its BatchNorms.

    Raises:
        ConfigError: it did not come from one.
    """
    if not isinstance(network.module, fx.GraphModule):
        raise ConfigError(f"model.restore_bn: {network.name} has its BatchNorms; set it to false")
    return network.module


def _nothing_to_restore(network: Network, report: RestoreReport) -> str:
    """A note where BatchNorms were restored before and `report` adds none; "" where it does.

    Raises:
        ConfigError: there is none, and there was nothing to restore.
    """
    if report.restored:
        return ""
    before = require_record(_converted(network)).restored
    if before:
        return f"model.restore_bn: {network.name} has {len(before)} BatchNorms restored before, and needs no more"
    reasons = "; ".join(sorted({entry.reason for entry in report.skipped})) or "no Conv"
    raise ConfigError(f"model.restore_bn: {network.name} has no layer that lost one ({reasons}); set it to false")


def _earlier(chain: tuple[ChainLink, ...], *, resumed: bool) -> tuple[ChainLink, ...]:
    """The provenance before this run; the link of a checkpoint from which it continues belongs to the run itself."""
    return chain[:-1] if resumed and chain and chain[-1].step == "trained" else chain


def _from_zoo(config: ModelConfig) -> tuple[Model, dict[str, Any]]:
    """A zoo model with fresh weights, and the architecture that its bundle will state."""
    name = config.reference
    options: dict[str, Any] = dict(config.options)
    if config.size is not None:
        options["input_size"] = config.size
    module = build_architecture(name, **options)
    identity = {"architecture": {"name": name, "options": stated_options(options)}}
    preprocessing = architecture_preprocessing(name, input_size=config.size)
    return Model(name, module, preprocessing, "zoo", chain=chain_of_bundle(identity)), identity


def _identity(model: Model) -> dict[str, Any]:
    """The arguments of `save_bundle` that say where a model comes from; its graph is the one that was read."""
    if model.path is None or model.kind in ("torchscript", "exported"):
        raise InputError(
            f"{model.name}: a {model.kind} file has no graph to write back; train its .onnx, a bundle or a zoo name"
        )
    if model.bundle is not None and model.bundle.stripped is None:
        return {"architecture": model.bundle.metadata["architecture"]}
    return {"source": model.stripped_source()}


@torch.no_grad()
def _dimension(model: Model, preprocessing: Preprocessing, output: int) -> int:
    """Length of the embedding, from one pass of two black images."""
    pixels = torch.zeros(2, preprocessing.height, preprocessing.width, preprocessing.channels, dtype=torch.uint8)
    model.module.eval()
    try:
        outputs = model.module(images_to_tensor(pixels, preprocessing, torch.device("cpu"), False))
    except TORCH_REFUSALS as error:
        raise InputError(
            f"{model.name}: does not accept images of {preprocessing.height}x{preprocessing.width} "
            f"({str(error).splitlines()[0]}); set model.size"
        ) from error
    return embedding_of(outputs, output).shape[1]
