"""Put the terms of a run together: sizes are found by running student and teachers on black images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ..config.config import AdaFaceLoss, ArcFaceLoss, CosFaceLoss, FinetuneConfig, LossConfig, SoftmaxLoss
from ..config.distillation import EMA, FeaturesTerm, LogitsTerm
from ..losses.heads import AdaFaceHead, CosineHead, LinearHead
from ..losses.margin_losses import cosine_logits
from ..network.networks import Network, images_to_tensor
from .teacher_outputs import FeatureTap, TeacherOutputs
from .teachers import black_images
from .terms import Distiller

__all__ = ["build_distiller"]

_SCORED = "softmax, arcface, cosface or adaface"
"""Losses with one score per class."""


def build_distiller(
    config: FinetuneConfig,
    network: Network,
    identities: int,
    examples: Sequence[TeacherOutputs],
    heads: nn.ModuleList,
) -> Distiller:
    """The terms of `config.distil`, with fresh weights from torch's global generator.

    Args:
        config: The run.
        network: The student, on the CPU.
        identities: Training identities.
        examples: What `Teachers.examples` gave.
        heads: The heads of `config.losses`, whose class scores a term may compare.

    Raises:
        ConfigError: a module does not exist, no loss has class scores, or a teacher scores other classes.
    """
    if (distil := config.distil) is None:
        raise ValueError("the run has no section distil")
    names = [own for term in distil.terms if isinstance(term, FeaturesTerm) for own in term.layers]
    for term in distil.terms:
        if isinstance(term, FeaturesTerm) and distil.teachers[term.teacher].reference == EMA:
            raise ConfigError("distil.terms: features of ema are the student's own; name another teacher")
    if names and (config.model.compile or config.model.gradient_checkpointing):
        raise ConfigError("distil.terms: features needs model.compile and model.gradient_checkpointing to be false")
    tap = FeatureTap(network.module, names, "distil.terms: features of the student") if names else None
    maps = {} if tap is None else _student_maps(network, tap)
    scores = None
    if any(isinstance(term, LogitsTerm) for term in distil.terms):
        scores = _scores(config, identities, examples, heads)
    return Distiller(distil, network.dimension, identities, examples, tap, maps, scores)


@torch.no_grad()
def _student_maps(network: Network, tap: FeatureTap) -> dict[str, Tensor]:
    """The student's feature maps of two black images."""
    network.module.eval()
    pixels = black_images(network.preprocessing)
    with tap.watching():
        network.module(images_to_tensor(pixels, network.preprocessing, torch.device("cpu"), False))
    return tap.taken()


def _scores(
    config: FinetuneConfig, identities: int, examples: Sequence[TeacherOutputs], heads: nn.ModuleList
) -> Callable[[Tensor], Tensor] | None:
    """The student's class scores for teachers that have logits; None where none has.

    Raises:
        ConfigError: no loss has scores, or a teacher has another number of classes.
    """
    counts = [example.logits.shape[1] for example in examples if example.logits is not None]
    if not counts:
        return None
    for count in counts:
        if count != identities:
            raise ConfigError(
                f"distil.terms: logits of {count} classes, and the training data have {identities} identities; a "
                "teacher's classes must be those of data.train, in its order"
            )
    for loss, head in zip(config.losses, heads, strict=True):
        found = _class_scores(loss, head)
        if found is not None:
            return found
    raise ConfigError(f"distil.terms: logits compares class scores, and losses has none of {_SCORED}; add one")


def _class_scores(loss: LossConfig, head: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Scores [N, C] of embeddings [N, D] without margin; None for a loss without class weights."""
    if isinstance(loss, SoftmaxLoss) and isinstance(head, LinearHead):
        return head.logits
    if isinstance(loss, ArcFaceLoss | CosFaceLoss | AdaFaceLoss) and isinstance(head, CosineHead | AdaFaceHead):
        weight, scale = head.weight, loss.scale
        return lambda embeddings: scale * cosine_logits(embeddings, weight)
    return None
