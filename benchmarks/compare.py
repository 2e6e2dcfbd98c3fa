"""`rtool bench parity A B`: whether two models give the same outputs, measured against a stated tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..converters.bundles.reference import open_runner
from ..converters.preprocessing.decision import PreprocessingDecision, PreprocessingUnknownError, decide_preprocessing
from ..converters.preprocessing.evidence import PreprocessingEvidence
from ..converters.preprocessing.requests import read_request
from ..converters.records.preprocessing import Preprocessing
from ..converters.records.record import TensorSpec
from ..converters.runtime.double_precision import exact_outputs
from ..converters.runtime.judging import judge
from ..converters.runtime.nonsense import IMAGES, find_nonsense, unreached_outputs
from ..converters.runtime.pairing import in_order_of
from ..converters.runtime.parity import Parity, check_gates, measure_parity
from ..converters.runtime.probability_outputs import probability_outputs
from ..converters.runtime.probes.filled_inputs import ImageRunner, image_runner
from ..converters.runtime.probes.given_probes import Probe
from ..converters.runtime.probes.open_sizes import describe_open_sizes
from ..converters.runtime.reference_runner import ReferenceRunner, open_onnx, run_onnx
from ..converters.runtime.runners import OnnxRunner, Runner, batched_inputs, run_in_batches
from ..errors import InputError
from .references import common_batch, random_inputs

__all__ = ["ParityReport", "compare_runners", "parity"]

_FLOAT32 = 1e-5
"""Largest relative error between float32 models, whose kernels sum in different orders."""

Arrays = Sequence[NDArray[np.generic]]


@dataclass(frozen=True)
class ParityReport:
    """What was compared, the measured differences, the tolerances (None: not applied) and the verdict."""

    reference: str
    candidate: str
    batch: int
    inputs: str
    parity: Parity
    max_rel: float | None
    min_cosine: float | None
    passed: bool
    reason: str = ""
    """Where they differ by more than `max_rel`, what float64 says of it; who computed a file ONNX Runtime refuses."""
    nonsense: tuple[str, ...] = ()
    """Outputs that no comparison may pass: how many values are NaN or infinite, and where; the same for all inputs."""


def parity(
    reference: str | Path,
    candidate: str | Path,
    *,
    batch: int = 2,
    data: str | None = None,
    preprocessing: str | Preprocessing | None = None,
    max_rel: float | Literal["auto"] | None = "auto",
    min_cosine: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    weights: str | Path | None = None,
    probes: Mapping[str, Probe] | None = None,
) -> ParityReport:
    """Run two model references on the same inputs and compare their outputs.

    The inputs are seeded random numbers, or the first `batch` images of the data set `data`, prepared for each model as
    it states or its graph shows, or as `preprocessing` says. A fixed batch replaces `batch`. The reference runs on the
    CPU, the candidate on `device`, with the state_dict in the file `weights` where that is given. The relative error is
    the largest absolute difference divided by the largest absolute value of the reference's outputs; the cosine is the
    smallest one over the output rows [N, ...]. Both are computed in float64. Outputs that differ by more than `max_rel`
    are judged by the models in float64, see `converters.runtime.judging`; `nonsense` beside it never passes. On the
    CPU, a valid ONNX file that ONNX Runtime refuses is computed by onnx.reference.

    By default `max_rel` is 1e-5, or what the rounding of a 16-bit ONNX file allows (`half_bound`), and none where
    `min_cosine` is given. Open sizes are those of `closed_sizes`; `probes` replace random inputs by name.

    Raises:
        InputError: the models have different inputs, outputs or fixed batches; a tolerance is not a number that an
            outcome can meet; or `weights` does not fit.
        PlatformError: `device` is a GPU that cannot be used.

    Examples:
        >>> report = rtool.bench.parity("model.onnx", "fixed.onnx")
        >>> report.batch, report.passed, report.parity.max_rel
        (2, True, 0.0)
    """
    check_gates("bench parity", None if max_rel == "auto" else max_rel, min_cosine)
    if read_request(preprocessing) is not None and not data:
        raise InputError(f"--preprocessing {preprocessing}: is how images are prepared; give images with --data")
    runners = _open(reference, "cpu"), _open(candidate, device, weights)
    if max_rel == "auto":
        max_rel = None if min_cosine is not None else max(_FLOAT32, *(_rounding(runner) for runner in runners))
    batch = common_batch(runners, batch)
    if data:
        first, second, described = _images(runners, (reference, candidate), data, batch, preprocessing, probes or {})
        return compare_runners(
            *runners, first, candidate_inputs=second, described=described, max_rel=max_rel, min_cosine=min_cosine
        )
    specs = runners[0].inputs or runners[1].inputs
    if not specs:
        raise InputError(
            f"{reference} and {candidate}: neither states its inputs; compare one with the .onnx file or bundle "
            "that it came from"
        )
    numbers = "standard normal" if np.dtype(specs[0].dtype).kind == "f" else "uniform integers"
    inputs = random_inputs(specs, batch, seed, probes=probes)
    sizes = describe_open_sizes(specs, probes=probes)
    described = f"{numbers}, seed {seed}" + (f", at {sizes}" if sizes else "")
    return compare_runners(*runners, inputs, described=described, max_rel=max_rel, min_cosine=min_cosine)


def compare_runners(
    reference: Runner,
    candidate: Runner,
    inputs: Arrays,
    *,
    described: str,
    candidate_inputs: Arrays | None = None,
    max_rel: float | None = None,
    min_cosine: float | None = None,
) -> ParityReport:
    """Compare models that are already open on `inputs` [N, ...], cast to the dtype of each model's inputs.

    `inputs` are in the order of the reference's; inputs and outputs of the two are paired by name. `candidate_inputs`
    is for a candidate that accepts the same images in another form. `described` names the inputs in the report.

    Raises:
        InputError: a model does not support the number, shape or kind of the inputs.
    """
    named = reference.inputs or candidate.inputs
    first = _as_inputs_of(reference, inputs, named)
    second = _as_inputs_of(candidate, inputs if candidate_inputs is None else candidate_inputs, named)
    reference, expected = run_onnx(reference, lambda runner: runner.run(*first))
    candidate, raw = run_onnx(candidate, lambda runner: runner.run(*second))
    passed, reason = True, ""

    def paired(outputs: Arrays) -> Arrays:
        if len(outputs) != len(expected):
            return outputs
        return tuple(in_order_of(outputs, candidate.outputs, reference.outputs, reference.name, "output"))

    def exact_candidate() -> Arrays | None:
        outputs = exact_outputs(candidate, second)
        return None if outputs is None else paired(outputs)

    got = paired(raw)
    numbers = measure_parity(expected, got)
    if max_rel is not None:
        verdict = judge(
            expected,
            got,
            max_rel,
            exact_reference=partial(exact_outputs, reference, first),
            exact_candidate=exact_candidate,
            probabilities=_probabilities(reference),
        )
        passed, reason = verdict.agrees and not verdict.departs, verdict.reason
    nonsense = _nonsense(reference, candidate, (first, second), (expected, got), paired)
    passed = passed and not nonsense and (min_cosine is None or numbers.min_cosine >= min_cosine)
    refused = [runner.name for runner in (reference, candidate) if isinstance(runner, ReferenceRunner)]
    said = [f"{name}: ONNX Runtime refuses this valid file, onnx.reference computed it" for name in refused]
    reason = "; ".join(filter(None, (reason, *said)))
    batch = int(inputs[0].shape[0])
    return ParityReport(
        reference.name, candidate.name, batch, described, numbers, max_rel, min_cosine, passed, reason, nonsense
    )


def _nonsense(
    reference: Runner,
    candidate: Runner,
    inputs: tuple[Arrays, Arrays],
    outputs: tuple[Arrays, Arrays],
    paired: Callable[[Arrays], Arrays],
) -> tuple[str, ...]:
    """What no comparison may pass, of both models, in the order of the reference's outputs."""
    names = [spec.name for spec in reference.outputs] or [spec.name for spec in candidate.outputs]
    files = [runner.file for runner in (reference, candidate) if isinstance(runner, OnnxRunner | ReferenceRunner)]
    constant = frozenset[str]().union(*(unreached_outputs(file.outline.graph) for file in files))
    sides = zip((reference, candidate), inputs, outputs, (tuple, paired), strict=True)
    found = []
    for runner, fed, got, ordered in sides:

        def run(*rows: NDArray[Any], runner: Runner = runner, ordered: Callable[[Arrays], Arrays] = ordered) -> Arrays:
            return ordered(run_in_batches(runner, list(rows), IMAGES))

        per_image = batched_inputs(runner, fed)
        said = find_nonsense(run, fed, got, names, constant=constant, per_image=per_image)
        found += [f"{runner.name}: {sentence}" for sentence in said]
    return tuple(found)


def _open(reference: str | Path, device: str, weights: str | Path | None = None) -> Runner:
    path = Path(reference)
    is_file = path.suffix == ".onnx" and not str(reference).startswith("triton://")
    if is_file and weights is None:
        return open_onnx(path, device)
    return open_runner(reference, device=device, weights=weights)


def _probabilities(runner: Runner) -> tuple[int, ...]:
    """Positions of outputs that a Sigmoid or Softmax gives, where the graph is at hand."""
    if isinstance(runner, OnnxRunner | ReferenceRunner):
        return probability_outputs(runner.file.outline.graph)
    return ()


def _rounding(runner: Runner) -> float:
    """How far two correct runs of a 16-bit file may differ; 0 for models in float32 and those without a file here."""
    return (runner.rounding or 0.0) if isinstance(runner, OnnxRunner) else 0.0


def _as_inputs_of(runner: Runner, inputs: Arrays, named: Sequence[TensorSpec]) -> list[NDArray[np.generic]]:
    if not runner.inputs:  # TorchScript does not state them
        return list(inputs)
    if len(runner.inputs) != len(inputs):
        raise InputError(f"{runner.name}: has {len(runner.inputs)} inputs, the reference has {len(inputs)}")
    arrays = []
    ordered = in_order_of(inputs, named, runner.inputs, runner.name, "input")
    for spec, array in zip(runner.inputs, ordered, strict=True):
        expected = [dim if isinstance(dim, int) else None for dim in spec.shape]
        if len(expected) != array.ndim or any(
            want not in (None, got) for want, got in zip(expected[1:], array.shape[1:], strict=True)
        ):
            raise InputError(
                f"{runner.name}: input '{spec.name}' has shape {list(spec.shape)}, the other model's has "
                f"{list(array.shape)}; compare models with the same input, or on images with --data"
            )
        if np.dtype(spec.dtype).kind != array.dtype.kind:
            raise InputError(
                f"{runner.name}: input '{spec.name}' is {spec.dtype}, the other model's is {array.dtype}; "
                "one of them has its preprocessing embedded: compare on images, with --data"
            )
        arrays.append(array.astype(spec.dtype, copy=False))
    return arrays


def _images(
    runners: Sequence[Runner],
    references: Sequence[str | Path],
    data: str,
    batch: int,
    request: str | Preprocessing | None,
    probes: Mapping[str, Probe],
) -> tuple[Arrays, Arrays, str]:
    """The same images in the form that each of the two models accepts, and how they were prepared, in words."""
    from ..finetune.data import first_images, open_dataset

    first, second = _decisions(runners, references, request, probes)
    images = first_images(open_dataset(data), batch)
    if not images or (len(images) < batch and any(runner.batch is not None for runner in runners)):
        raise InputError(
            f"{data}: {len(images)} readable images, and the models have a fixed batch of {batch}; give more"
        )
    arrays = tuple(
        _accepted(image_runner(runner, decision.preprocessing, probes), decision.preprocessing(images))
        for runner, decision in zip(runners, (first, second), strict=True)
    )
    same = first.preprocessing == second.preprocessing
    described = str(first) if same else f"{first}; the candidate's: {second}"
    return arrays[0], arrays[1], f"{data}, {described}"


def _accepted(runner: Runner, images: NDArray[np.float32]) -> Arrays:
    takes_bytes = bool(runner.inputs) and runner.inputs[0].dtype == "uint8"
    given: NDArray[np.generic] = images.astype(np.uint8) if takes_bytes else images
    return runner.all_inputs(given) if isinstance(runner, ImageRunner) else (given,)


def _decisions(
    runners: Sequence[Runner],
    references: Sequence[str | Path],
    request: str | Preprocessing | None,
    probes: Mapping[str, Probe],
) -> tuple[PreprocessingDecision, PreprocessingDecision]:
    """How images are prepared for each model: as it states or its graph shows, else as for the other one.

    Raises:
        InputError: neither model tells it, and nothing was given.
    """
    from ..finetune.embedding.embedders import evidence_of

    shown = [evidence_of(reference, runner, probes) for reference, runner in zip(references, runners, strict=True)]
    found: list[PreprocessingDecision | None] = []
    refusals: list[PreprocessingUnknownError] = []
    for evidence in shown:
        in_graph = evidence.takes_bytes or evidence.scaling is not None
        try:
            found.append(decide_preprocessing(evidence, None if in_graph else request))
        except PreprocessingUnknownError as error:
            found.append(None)
            refusals.append(error)
    chosen = [_beside(found[own], found[1 - own], shown[own], shown[1 - own]) for own in (0, 1)]
    if chosen[0] is None or chosen[1] is None:
        raise refusals[0]
    return chosen[0], chosen[1]


def _beside(
    own: PreprocessingDecision | None,
    other: PreprocessingDecision | None,
    evidence: PreprocessingEvidence,
    others: PreprocessingEvidence,
) -> PreprocessingDecision | None:
    """The preprocessing of one of two models; what is unknown, or only a guess, follows what the other one tells."""
    if own is not None and own.kind == "graph" and other is not None:
        # A graph that takes pixels does not say how they were resized.
        made = replace(own.preprocessing, interpolation=other.preprocessing.interpolation)
        return replace(own, preprocessing=made)
    guessed = own is None or own.kind in ("architecture", "size")
    if not guessed or other is None or (own is not None and other.kind in ("architecture", "size")):
        return own
    made = replace(other.preprocessing, layout=evidence.layout or "nchw")
    if other.kind == "graph":
        if others.scaling is None or min(others.scaling.std) < 0:  # inverted pixels: no preprocessing makes them
            return own
        unit = 255 / others.scaling.range
        mean, std = (tuple(unit * value for value in values) for values in (others.scaling.mean, others.scaling.std))
        made = replace(made, mean=mean, std=std)
    return replace(other, preprocessing=made, reason=f"as for the other model: {other.reason}")
