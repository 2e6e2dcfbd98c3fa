"""Why some operators have no lowering, and what to do instead."""

from __future__ import annotations

from ...errors import InputError

__all__ = ["inlining_refused", "shapes_contradict", "why_not"]

_RANDOM = "draws random numbers, which differ between runtimes; make them an input of the graph"
_TEXT = "works on text; run it before the model"
_SEQUENCE = "reads or writes sequences, which are not tensors; re-export with tensors only"
_REASONS = {
    **dict.fromkeys(
        (
            "Bernoulli",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        _RANDOM,
    ),
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"), _TEXT),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "Optional",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
        ),
        _SEQUENCE,
    ),
    "ImageDecoder": "decodes image files; decode before the model",
}


def why_not(operator: str, domain: str) -> str:
    """Why an operator has no row in the registry, and what to do instead."""
    if domain == "ai.onnx.ml":
        return "no lowering for the operators of classical machine learning; run it before or after the model"
    if domain:
        return f"no lowering for this operator of domain '{domain}'; replace it before exporting"
    return _REASONS.get(operator, "no lowering for this operator; replace it before exporting")


def inlining_refused(label: str, cause: BaseException) -> InputError:
    """The error for functions of a model that cannot be replaced by their bodies."""
    return InputError(
        f"{label}: its functions cannot be inlined ({cause}); re-export the model without "
        "functions, or inline them with onnx.inliner and onnx.version_converter"
    )


def shapes_contradict(label: str, cause: BaseException) -> InputError:
    """The error for a graph whose shapes onnx cannot bring together."""
    return InputError(f"{label}: the shapes contradict each other ({cause}); re-export the model")
