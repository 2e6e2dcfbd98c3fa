"""Every field of the configuration: always effective, or the condition under which nothing depends on it.

A new field goes into `ALWAYS`, or into `IDLE` with its condition from `conditions`; a test walks all fields.
"""

from __future__ import annotations

from collections.abc import Mapping

from .conditions import (
    Check,
    blind,
    cache,
    curve,
    elsewhere,
    ema,
    ema_warmup,
    evaluation_steps,
    every_steps,
    first,
    freeze,
    head_lr,
    logits_output,
    lr,
    means_scale,
    milestone_steps,
    milestones,
    multipliers,
    not_measured,
    not_multistep,
    patience,
    runtime,
    steps_per_epoch,
    teacher_weight,
    unless,
    unless_matched,
    unless_seen,
    unseen,
    warmup_epochs,
    warmup_steps,
    where,
)
from .search import ALWAYS_OF_SEARCH, IDLE_OF_SEARCH

__all__ = ["ALWAYS", "IDLE"]

_JITTERED = unless(lambda augment: augment.photometric > 0, "augment.photometric is 0, the probability of using it")
_COLOURED = where(lambda _, facts: facts.channels == 1, "the images are grey")
_MASKED = unless(lambda augment: augment.mask > 0, "augment.mask is 0, so nothing is drawn")
_RANDOM_POLICY = unless(lambda augment: augment.rand_augment > 0, "augment.rand_augment is 0")
_ANGULAR = unless(
    lambda loss: loss.margins[:2] != (1.0, 0.0), "margins without an angle (m1 = 1, m2 = 0) have one gradient"
)
_WITH_CLASSES = unless(lambda loss: loss.classes != "none", "classes is none; set it to embedding or memory")
_RERANKED = unless(lambda evaluation: evaluation.rerank, "evaluation.rerank is false")
_EXPANDED = unless(lambda evaluation: evaluation.expand > 0, "evaluation.expand is 0")
_WITH_MARGIN = unless(lambda loss: loss.margin > 0, "margin is 0, so image quality changes nothing")
_BY_QUALITY = unless(lambda loss: loss.h > 0, "h is 0, so all images have one margin")

IDLE: Mapping[str, Check] = {
    "steps_per_epoch": steps_per_epoch,
    "model.calibration_images": unless(lambda model: model.restore_bn, "model.restore_bn is false"),
    "model.weights_may_lack": unless(lambda model: model.weights is not None, "model.weights is null"),
    "model.freeze": freeze,
    "model.gradient_checkpointing": where(
        lambda config, facts: config.model.gradient_checkpointing and not facts.backbone_learns,
        "the whole backbone stays frozen, so no activations are kept",
    ),
    "model.sync_batchnorm": where(
        lambda config, facts: config.model.sync_batchnorm and (facts.processes == 1 or not facts.batchnorm_learns),
        "there is one process, or no BatchNorm learns",
    ),
    "augment.mask_kinds": _MASKED,
    "augment.mask_points": first(
        _MASKED, unless(lambda augment: set(augment.mask_kinds) != {"block"}, "a block lies anywhere, not on a face")
    ),
    "data.visible": unseen,
    "data.min_images": where(
        lambda config, _: config.distil is not None and not config.distil.labels, "distil.labels is false"
    ),
    "data.evaluate": not_measured,
    "data.holdout": first(
        not_measured, unless(lambda data: data.evaluate is None, "data.evaluate gives the held-out data")
    ),
    "data.sampler": where(
        lambda config, facts: config.data.sampler == "pk_cameras" and not facts.several_cameras,
        "no identity has images of two cameras, so it is pk",
    ),
    "data.images_per_identity": unless(
        lambda data: data.sampler != "random", "data.sampler is random; set it to pk, pk_cameras or graph"
    ),
    "augment.photometric": unless(
        lambda augment: (
            augment.photometric == 0 or augment.brightness or augment.contrast or augment.saturation or augment.hue
        ),
        "all its strengths are 0",
    ),
    "augment.brightness": _JITTERED,
    "augment.contrast": _JITTERED,
    "augment.saturation": first(_JITTERED, _COLOURED),
    "augment.hue": first(_JITTERED, _COLOURED),
    "augment.grey": _COLOURED,
    "augment.rand_augment_operations": _RANDOM_POLICY,
    "augment.rand_augment_magnitude": _RANDOM_POLICY,
    "augment.aug_mix_severity": unless(lambda augment: augment.aug_mix > 0, "augment.aug_mix is 0"),
    "losses.arcface.gradient": _ANGULAR,
    "losses.arcface.filter_above": unless(
        lambda loss: loss.filter_above is None or loss.filter_above < 1, "no cosine is above 1"
    ),
    "losses.adaface.h": first(_WITH_MARGIN, _BY_QUALITY),
    "losses.adaface.momentum": first(_WITH_MARGIN, _BY_QUALITY),
    "losses.partial_fc.gradient": _ANGULAR,
    "model.map": unless_seen,
    "losses.qaconv.margin": unless(lambda loss: loss.triplet > 0, "triplet is 0, the factor of the loss with it"),
    "losses.qaconv.class_weight": _WITH_CLASSES,
    "losses.qaconv.neighbours": _WITH_CLASSES,
    "losses.qaconv.memory_gb": _WITH_CLASSES,
    "losses.qaconv.visibility": blind,
    "losses.qaconv.visibility_learns": first(
        unless(lambda loss: loss.visibility != "none", "visibility is none"), blind
    ),
    "losses.occlusion.warmup_epochs": unless_matched,
    "distil.unlabelled_batch": first(
        unless(lambda distil: distil.unlabelled is not None, "distil.unlabelled is null"),
        unless(lambda distil: distil.labels, "distil.labels is false, so images of both sources are drawn alike"),
    ),
    "distil.cache": cache,
    "distil.teachers.runtime": runtime,
    "distil.teachers.preprocessing": elsewhere("ema sees what the student sees"),
    "distil.teachers.size": elsewhere("ema sees what the student sees"),
    "distil.teachers.output": elsewhere("ema has the student's embedding"),
    "distil.teachers.logits": first(elsewhere("ema has no scores"), logits_output),
    "distil.teachers.weights": elsewhere("ema has the student's average"),
    "distil.teachers.weight": teacher_weight,
    "distil.terms.logits.scale": means_scale,
    "optimizer.lr": lr,
    "optimizer.head_lr": head_lr,
    "optimizer.momentum": unless(
        lambda optimizer: optimizer.kind in ("sgd", "rmsprop"), "only sgd and rmsprop have a momentum"
    ),
    "optimizer.nesterov": unless(lambda optimizer: optimizer.kind == "sgd", "only sgd has Nesterov's momentum"),
    "optimizer.lr_multipliers": multipliers,
    "optimizer.decay_norms": unless(lambda optimizer: optimizer.weight_decay > 0, "optimizer.weight_decay is 0"),
    "optimizer.ema": ema,
    "optimizer.ema_warmup": ema_warmup,
    "schedule.kind": curve,
    "schedule.moves": unless(lambda schedule: schedule.kind != "constant", "schedule.kind is constant"),
    "schedule.warmup_epochs": warmup_epochs,
    "schedule.warmup_steps": warmup_steps,
    "schedule.milestones": milestones,
    "schedule.milestone_steps": milestone_steps,
    "schedule.gamma": lambda schedule, _config, _facts: not_multistep(schedule),
    "schedule.power": unless(lambda schedule: schedule.kind == "polynomial", "only polynomial has a power"),
    "schedule.final": unless(
        lambda schedule: schedule.kind in ("cosine", "polynomial"), "only cosine and polynomial end at a share"
    ),
    "evaluation.combine": unless(
        lambda evaluation: "combined" in evaluation.scores, "evaluation.scores has no combined"
    ),
    "evaluation.every": unless(
        lambda evaluation: evaluation.every_steps is None, "evaluation.every_steps gives the distance"
    ),
    "evaluation.every_steps": evaluation_steps,
    "evaluation.cache": unless(lambda evaluation: evaluation.first, "evaluation.first is false"),
    "evaluation.rerank_k1": _RERANKED,
    "evaluation.rerank_k2": _RERANKED,
    "evaluation.rerank_lambda": _RERANKED,
    "evaluation.expand_alpha": _EXPANDED,
    "evaluation.patience": patience,
    "checkpoints.every_steps": every_steps,
    **IDLE_OF_SEARCH,
}
"""By path of a field, with the kind of a loss in place of its number: when nothing depends on the field."""

ALWAYS = frozenset(
    [
        "name",
        "output",
        "seed",
        "epochs",
        "log_every",
        "device",
        "precision",
        "threads",
        "model.reference",
        "model.restore_bn",
        "model.preprocessing",
        "model.size",
        "model.output",
        "model.weights",
        "model.options",
        "model.channels_last",
        "model.compile",
        "data.train",
        "data.batch",
        "data.global_batch",
        "data.workers",
        "data.decode",
        "data.subset",
        "data.cache",
        "data.memory_gb",
        "augment.mask",
        "augment.flip",
        "augment.pad_crop",
        "augment.rotation",
        "augment.noise",
        "augment.random_patch",
        "augment.random_crop",
        "augment.low_resolution",
        "augment.colour",
        "augment.blur",
        "augment.rand_augment",
        "augment.aug_mix",
        "augment.erasing",
        "distil",
        "distil.labels",
        "distil.unlabelled",
        "distil.teachers.reference",
        "distil.terms.class_centres.scale",
        "distil.terms.class_centres.margin",
        "distil.terms.logits.temperature",
        "distil.terms.features.layers",
        "distil.terms.features.teacher",
        "losses.softmax.smoothing",
        "losses.softmax.neck",
        "losses.arcface.scale",
        "losses.arcface.margins",
        "losses.cosface.scale",
        "losses.cosface.margin",
        "losses.adaface.scale",
        "losses.adaface.margin",
        "losses.circle.scale",
        "losses.circle.margin",
        "losses.circle_pair.scale",
        "losses.circle_pair.margin",
        "losses.center.alpha",
        "losses.triplet.margin",
        "losses.triplet.mining",
        "losses.triplet.normalise",
        "losses.multi_similarity.alpha",
        "losses.multi_similarity.beta",
        "losses.multi_similarity.base",
        "losses.multi_similarity.epsilon",
        "losses.contrastive.margin",
        "losses.contrastive.normalise",
        "losses.pcb.parts",
        "losses.pcb.global_dim",
        "losses.pcb.smoothing",
        "losses.partial_fc.scale",
        "losses.partial_fc.margins",
        "losses.partial_fc.rate",
        "losses.qaconv.pairwise",
        "losses.qaconv.triplet",
        "losses.qaconv.classes",
        "losses.qaconv.train_map",
        "losses.occlusion.hidden",
        "losses.occlusion.train_map",
        "losses.occlusion.loss",
        "optimizer.kind",
        "optimizer.weight_decay",
        "optimizer.clip",
        "optimizer.accumulate",
        "evaluation",
        "evaluation.protocol",
        "evaluation.first",
        "evaluation.flip",
        "evaluation.batch",
        "evaluation.metric",
        "evaluation.rerank",
        "evaluation.function",
        "evaluation.expand",
        "evaluation.multi_query",
        "evaluation.distance",
        "evaluation.scores",
        "checkpoints.keep",
        "tracking.tensorboard",
        "tracking.wandb",
        *ALWAYS_OF_SEARCH,
    ]
)
"""Fields that change every run, or whose uselessness is an error elsewhere; beside the kind and weight of each loss."""
