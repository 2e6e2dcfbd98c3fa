"""What a model shows of the preprocessing it expects: its image input, what it states, what its graph does first.

Read from the protobuf alone, so that `inspect` answers without torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...errors import InputError, RtoolError
from ..files.model_file import ModelFile
from ..graphs.graph_view import GraphView, tensor_specs_of
from ..records.input_scaling import InputScaling
from ..records.json_text import parse_json
from ..records.preprocessing import METADATA_KEY, Preprocessing
from ..records.record import TensorSpec
from ..runtime.probes.open_sizes import image_index
from ..zoo.architecture_guess import guess_architecture
from .pixel_steps import input_scaling

__all__ = ["PreprocessingEvidence", "evidence_of_file", "evidence_of_inputs", "evidence_of_view", "stated_in_metadata"]

_CHANNELS = (1, 3)


@dataclass(frozen=True)
class PreprocessingEvidence:
    """What is known of one model before anything is decided."""

    label: str
    """The model's name, for messages."""
    channels: int | None = None
    """Of its images: 1, 3, or None where the input does not say it."""
    size: tuple[int | None, int | None] = (None, None)
    """Height and width of its input in pixels, as far as they are fixed."""
    layout: Literal["nchw", "nhwc"] | None = None
    takes_bytes: bool = False
    """Whether the input is uint8, so that the graph holds the normalisation."""
    no_image: str = ""
    """Why no input is an image; "" where one is, or where the inputs are unknown."""
    stated: Preprocessing | None = None
    stated_in: str = ""
    """Where it is stated, in words."""
    scaling: InputScaling | None = None
    """The normalisation at the start of the graph."""
    architecture: str | None = None
    served: bool = False
    """Whether a server runs it, so that the graph cannot be looked at and nothing may be taken for usual."""

    def stating(self, stated: Preprocessing | None, where: str) -> PreprocessingEvidence:
        """The evidence with what is stated elsewhere, such as in a bundle, if anything is."""
        return self if stated is None else replace(self, stated=stated, stated_in=where)


def evidence_of_inputs(label: str, inputs: Sequence[TensorSpec], given: Collection[str] = ()) -> PreprocessingEvidence:
    """What the inputs of a model show; `()` where they are unknown. Those in `given` have a value of their own."""
    if not inputs:
        return PreprocessingEvidence(label)
    index = image_index(inputs, given)
    if index is None:
        axes = ", ".join(str(len(spec.shape)) for spec in inputs)
        found = f"has {len(inputs)} input{'s' * (len(inputs) > 1)} of {axes} axes, so none is known to be the image"
        others = " (--probe NAME=zeros|ones|FILE says which are not)" if len(inputs) > 1 else ""
        return PreprocessingEvidence(label, no_image=found + others)
    shape = inputs[index].shape
    last = shape[3] in _CHANNELS and shape[1] not in _CHANNELS
    channels, height, width = (shape[3], *shape[1:3]) if last else shape[1:]
    if isinstance(channels, int) and channels not in _CHANNELS:
        return PreprocessingEvidence(label, no_image=f"has an input of {channels} channels, which no image has")
    return PreprocessingEvidence(
        label,
        channels if isinstance(channels, int) else None,
        (height if isinstance(height, int) else None, width if isinstance(width, int) else None),
        "nhwc" if last else "nchw",
        inputs[index].dtype == "uint8",
    )


def evidence_of_file(file: ModelFile, given: Collection[str] = ()) -> PreprocessingEvidence:
    """What an ONNX model shows; its inputs in `given` have a value of their own.

    Raises:
        InputError: the metadata entry is not a preprocessing as JSON.
    """
    proto = file.proto(leave_large_external=True) if file.has_external_data else file.outline
    try:
        view = GraphView.of(proto, file.name)
    except RtoolError:  # functions that cannot be inlined: what its own nodes show is left
        view = GraphView(proto, file.name)
    return evidence_of_view(view, file.label, file.metadata, given)


def evidence_of_view(
    view: GraphView, label: str, metadata: Mapping[str, str], given: Collection[str] = ()
) -> PreprocessingEvidence:
    """As `evidence_of_file`, of a graph that is open."""
    inputs = tensor_specs_of(view.inputs)
    found = evidence_of_inputs(label, inputs, given).stating(stated_in_metadata(label, metadata), "stated in the file")
    if found.channels is None:
        return found
    image = inputs[image_index(inputs, given) or 0].name
    axis = 3 if found.layout == "nhwc" else 1
    operators = Counter(node.op_type for node in view.proto.graph.node)
    return replace(
        found,
        scaling=input_scaling(view, image, found.channels, channel_axis=axis),
        architecture=guess_architecture(view.nodes, view.stored, operators),
    )


def stated_in_metadata(label: str, metadata: Mapping[str, str]) -> Preprocessing | None:
    """The preprocessing that metadata state under `rtool.preprocessing`; None where they state none.

    Raises:
        InputError: the entry is not a preprocessing as JSON.
    """
    text = metadata.get(METADATA_KEY)
    if text is None:
        return None
    try:
        return Preprocessing.from_dict(parse_json(text))
    except InputError as error:
        raise InputError(f"{label}: metadata {METADATA_KEY}: {error}; re-export the model") from error
    except ValueError as error:
        raise InputError(f"{label}: metadata {METADATA_KEY}: not JSON ({error}); re-export the model") from error
