"""The configuration of a fine-tuning run: frozen models, every field documented once; this is the reference page.

Unknown keys are refused. `files` reads YAML and overrides and words the messages; `losses` has the kinds of loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...errors import ConfigError, InputError
from .augmentation import AugmentConfig
from .distillation import EMA, DistilConfig
from .evaluation import CombineConfig, EvaluationConfig
from .losses import (
    AdaFaceLoss,
    ArcFaceLoss,
    CenterLoss,
    CircleLoss,
    CirclePairLoss,
    ContrastiveLoss,
    CosFaceLoss,
    LossConfig,
    MultiSimilarityLoss,
    OcclusionLoss,
    PartialFCLoss,
    PartsLoss,
    QAConvLoss,
    SoftmaxLoss,
    TripletLoss,
)
from .optimization import OptimizerConfig, ScheduleConfig
from .search import SearchConfig, refuse_beside_search
from .section import Count, FilePath, NotNegative, Place, Section
from .sources import EvaluationSources, TrainingSources

__all__ = [
    "AdaFaceLoss",
    "ArcFaceLoss",
    "AugmentConfig",
    "CenterLoss",
    "CheckpointConfig",
    "CircleLoss",
    "CirclePairLoss",
    "CombineConfig",
    "ContrastiveLoss",
    "CosFaceLoss",
    "DataConfig",
    "DistilConfig",
    "EvaluationConfig",
    "FinetuneConfig",
    "LossConfig",
    "ModelConfig",
    "MultiSimilarityLoss",
    "OcclusionLoss",
    "OptimizerConfig",
    "PartialFCLoss",
    "PartsLoss",
    "QAConvLoss",
    "ScheduleConfig",
    "SearchConfig",
    "Section",
    "SoftmaxLoss",
    "TrackingConfig",
    "TripletLoss",
]


class ModelConfig(Section):
    """Which network is trained."""

    reference: Place
    """Any model reference: an .onnx file, a bundle, a run folder or a zoo name."""
    restore_bn: bool = False
    """Put BatchNorm back behind fused Conv and Linear layers, calibrated on training images. Images that the model was
    trained on serve better: `rtool onnx2torch --restore-bn --calibrate` takes them."""
    calibration_images: Count = 256
    """Training images that calibrate restored BatchNorms."""
    preprocessing: str = "auto"
    """How images are prepared. auto: as the model states, else as its graph shows, else as usual for it, else the run
    asks. Or imagenet, arcface, arcface-bgr, raw, clip, a JSON file, or parts such as
    `mean=127.5,std=128,order=bgr,interpolation=bicubic`, in units of pixels 0 to 255."""
    size: tuple[Count, Count] | None = None
    """Height and width of the network input in pixels; by default the model's own."""
    output: Annotated[int, Field(ge=0)] = 0
    """Which output is the embedding, for networks with several."""
    map: str | None = None
    """The feature map that qaconv and occlusion see: a module of the network, or a node of a converted graph. By
    default what the last pooling, Flatten or Gemm before the embedding reads."""
    weights: FilePath | None = None
    """A state_dict file (.safetensors, .pth, .pt or .ckpt) loaded over the reference's weights by the names of the
    network or of its ONNX file; a checkpoint's container and one prefix, such as `module.`, are removed and reported.
    `FILE:KEY` is one of several state_dicts in a file."""
    weights_may_lack: tuple[str, ...] = ()
    """Patterns of tensor names that `weights` need not have, such as [fc*] for an ImageNet file."""
    options: dict[str, int | float | bool | str] = Field(default_factory=dict)
    """Arguments of a zoo architecture, such as {dropout: 0.4}."""
    freeze: dict[str, NotNegative | None] = Field(default_factory=dict)
    """Parameter or module name pattern (`conv1*`) -> epoch from which it trains; null keeps it frozen throughout."""
    channels_last: bool = True
    """Keep images and weights in NHWC memory order, in which convolutions are faster on most devices."""
    compile: bool = False
    """Run the backbone through torch.compile."""
    gradient_checkpointing: bool = False
    """Keep the activations at a few places of the backbone only, and compute the others again in the backward pass:
    less memory for a second forward pass, and the same numbers."""
    sync_batchnorm: bool = False
    """BatchNorms that learn use the statistics of the batches of all processes."""

    @field_validator("preprocessing")
    @classmethod
    def _is_a_preprocessing(cls, said: str) -> str:
        """Refuse what no preprocessing can be; whether a JSON file is there, the run finds."""
        from ...converters.preprocessing.requests import PREPROCESSINGS, read_request

        if "=" in said or said in PREPROCESSINGS or not said.endswith(".json"):
            try:
                read_request(said)
            except InputError as error:
                raise ValueError(str(error)) from error
        return said


class DataConfig(Section):
    """Which images are trained and evaluated on, and how batches are made of them."""

    train: TrainingSources
    """A folder (one sub-folder per identity, Market-1501, DukeMTMC or MSMT17 layout, train.rec or .tar shards), a .csv
    or .jsonl manifest, a .rec or .tar file, or a generator such as `synthetic-people:identities=150,seed=1`. Several
    are a list, or a mapping NAME: SOURCE; no identity of one is an identity of another."""
    evaluate: EvaluationSources | None = None
    """Held-out data in the same notation, or pairs of a .bin file; by default some training identities are held out.
    Of a mapping NAME: SOURCE each is measured; metrics are then NAME.METRIC and mean.METRIC."""
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of identities held out when `evaluate` is not given."""
    visible: FilePath | None = None
    """A folder of NAME_mask.png for training images of that NAME (with its sub-folders, or without): 255 where the
    image shows the face, 0 where something hides it. Images without one count as wholly visible."""
    subset: FilePath | None = None
    """A text of positions in data.train, from 0, separated by commas or lines; only these images are trained on."""
    min_images: Count = 1
    """Identities with fewer images, of those in `subset`, are left out of the training data, and counted."""
    batch: Count = 64
    """Images per batch on each process."""
    global_batch: Count | None = None
    """Images per batch of all processes together, instead of `batch`: each process has its equal share of them."""
    sampler: Literal["random", "pk", "pk_cameras", "graph"] = "random"
    """pk: several images of each identity in a batch, as pair losses need; pk_cameras: those from different cameras;
    graph: one batch per identity, with those most like it by the matcher of qaconv (arXiv:2104.01546)."""
    images_per_identity: Annotated[int, Field(ge=2)] = 4
    """K of the samplers pk, pk_cameras and graph; `batch` is a multiple of it."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Worker processes that decode and augment; 0 does it in the training process."""
    decode: Literal["exact", "reduced"] = "exact"
    """reduced: training images in JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where the network needs no
    more. Faster for large images, and it changes pixels, so it is part of the record that a resumed run is compared
    with; images that are measured are always decoded whole. Refused where no image is twice the network's size."""
    cache: FilePath | None = None
    """A folder that keeps decoded images at the network's size, so that further runs decode none. They are mapped into
    memory, so they may be more than it holds; what has changed is decoded again."""
    memory_gb: NotNegative = 2.0
    """Gigabytes (1e9 bytes) of decoded images kept in memory, training images first; others are decoded at each use."""


class CheckpointConfig(Section):
    """What is kept on disk."""

    every_steps: Count | None = None
    """Steps between checkpoints within an epoch; each epoch ends with one in any case."""
    keep: Count = 2
    """Number of newest checkpoints kept, beside the best one and the newest one after which a step succeeded; so 1 may
    keep 3."""


class TrackingConfig(Section):
    """Where metrics are written beside metrics.jsonl."""

    tensorboard: bool = True
    """Write TensorBoard events into tb/."""
    wandb: str | None = None
    """Project on Weights & Biases; needs the wandb package."""


class FinetuneConfig(Section):
    """One fine-tuning run."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "finetune"
    """Name of the run's folder below `output`."""
    output: FilePath = Path("runs")
    """Where run folders go: output/name/time."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds weights, order and augmentation."""
    epochs: Count = 10
    """Passes over the training data."""
    steps_per_epoch: Count | None = None
    """Largest number of optimizer steps per epoch; by default as many as the data make."""
    log_every: Count = 20
    """Steps between lines of the log and records of the losses."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; a device that is absent is refused."""
    precision: Literal["fp32", "bf16", "fp16", "half"] = "fp32"
    """Precision in which the backbone computes; heads and losses stay in fp32. half: fp16 on a GPU, bf16 on a CPU."""
    threads: Count | None = None
    """CPU threads of each process; by default the machine's cores divided by the processes."""
    model: ModelConfig
    """Which network is trained."""
    data: DataConfig
    """Images and batches."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of training images."""
    losses: tuple[LossConfig, ...] = ()
    """Terms of the weighted sum that training minimises; may be empty where distil gives some."""
    distil: DistilConfig | None = None
    """Teachers that the model learns from; null: none."""
    search: SearchConfig | None = None
    """Cells to choose among, for model.reference searched; null: the model is trained."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How parameters are updated."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How the learning rate changes."""
    evaluation: EvaluationConfig | None = EvaluationConfig()
    """How held-out data are measured; null holds nothing out and measures nothing, so no checkpoint is the best."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """What is kept on disk."""
    tracking: TrackingConfig = TrackingConfig()
    """Where metrics are written."""

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_are_defaults(cls, data: object) -> object:
        """`optimizer:` with all its lines commented out is None in YAML; `evaluation: null` is a choice."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in _SECTIONS}

    @model_validator(mode="after")
    def _partial_fc_steps_at_every_batch(self) -> FinetuneConfig:
        if self.optimizer.accumulate > 1 and any(isinstance(loss, PartialFCLoss) for loss in self.losses):
            raise ValueError("optimizer.accumulate: partial_fc updates its rows at every batch; set it to 1")
        return self

    @model_validator(mode="after")
    def _maps_are_seen(self) -> FinetuneConfig:
        """What losses over feature maps ask of others."""
        seeing = [loss.kind for loss in self.losses if isinstance(loss, QAConvLoss | OcclusionLoss)]
        if len(set(seeing)) < len(seeing):
            raise ValueError(f"losses: {seeing[0]} is given twice; one of a kind sees the map")
        if self.data.sampler == "graph" and "qaconv" not in seeing:
            raise ValueError("data.sampler graph: finds people that the matcher of qaconv confuses; add that loss")
        for name in ("compile", "gradient_checkpointing"):
            if seeing and getattr(self.model, name):
                raise ValueError(f"model.{name}: {seeing[0]} sees a feature map on the way; set it to false")
        return self

    @model_validator(mode="after")
    def _what_is_hidden_is_known(self) -> FinetuneConfig:
        kinds = [str(loss.kind) for loss in self.losses]
        if "occlusion" in kinds and not self.augment.mask and not self.data.visible:
            raise ValueError(
                "losses: occlusion learns which pixels show the face, and nothing says it; draw masks with "
                "augment.mask=0.5, or give files of masks as data.visible"
            )
        return self

    @model_validator(mode="after")
    def _scores_can_be_computed(self) -> FinetuneConfig:
        scores = () if self.evaluation is None else self.evaluation.scores
        twice = next((score for score in scores if scores.count(score) > 1), None)
        if twice is not None:
            raise ValueError(f"evaluation.scores: '{twice}' is named twice")
        needing = [score for score in scores if score != "embedding"]
        if needing and "qaconv" not in [str(loss.kind) for loss in self.losses]:
            raise ValueError(
                f"evaluation.scores: {needing[0]} needs a matcher, and no loss trains one; add a loss qaconv, or leave "
                "embedding alone"
            )
        return self

    @model_validator(mode="after")
    def _images_are_kept_whole(self) -> FinetuneConfig:
        if self.data.cache is not None and self.data.decode != "exact":
            raise ValueError(
                f"data.cache: keeps images that are decoded whole; leave data.decode {self.data.decode} out"
            )
        return self

    @model_validator(mode="after")
    def _one_batch_is_given(self) -> FinetuneConfig:
        if self.data.global_batch is not None and self.data.batch != DataConfig.model_fields["batch"].default:
            raise ValueError("data.global_batch: data.batch is given as well; leave one of them out")
        return self

    def on_processes(self, count: int) -> FinetuneConfig:
        """The configuration with `data.batch` for each of `count` processes, in the place of `data.global_batch`.

        Raises:
            ConfigError: the images cannot be shared evenly.
        """
        images = self.data.global_batch
        if images is None:
            return self
        if images % count:
            raise ConfigError(f"data.global_batch {images}: {count} processes cannot share it evenly; use a multiple")
        data = self.data.model_copy(update={"batch": images // count, "global_batch": None})
        return self.model_copy(update={"data": data})

    @model_validator(mode="after")
    def _something_is_minimised(self) -> FinetuneConfig:
        if not self.losses and self.distil is None:
            raise ValueError("'losses' is missing: give at least one, such as [{kind: arcface}], or a section distil")
        return self

    @model_validator(mode="after")
    def _distillation_has_what_it_needs(self) -> FinetuneConfig:
        """What the section distil asks of others."""
        if (distil := self.distil) is None:
            return self
        if any(teacher.reference == EMA for teacher in distil.teachers) and not self.optimizer.ema:
            raise ValueError("distil.teachers: ema is the student's moving average; set optimizer.ema, such as 0.99")
        images = self.data.batch + (distil.unlabelled_batch if distil.unlabelled is not None and distil.labels else 0)
        for kind, fewest in (("rkd_distance", 2), ("rkd_angle", 3)):
            if images < fewest and any(term.kind == kind for term in distil.terms):
                raise ValueError(f"data.batch {images}: {kind} compares {fewest} images with each other; raise it")
        if not distil.labels:
            if self.losses:
                raise ValueError(f"losses: {self.losses[0].kind} needs labels, and distil.labels is false; remove it")
            if self.data.sampler != "random":
                raise ValueError(f"data.sampler {self.data.sampler}: needs labels, and distil.labels is false")
            if self.evaluation is not None and self.data.evaluate is None:
                raise ValueError(
                    "evaluation: without labels (distil.labels is false) no people can be held out; give labelled "
                    "images as data.evaluate, or set evaluation=null"
                )
        return self

    @model_validator(mode="after")
    def _search_has_what_it_needs(self) -> FinetuneConfig:
        if self.search is not None:
            refuse_beside_search(self.search, self)
        return self

    def terms(self) -> tuple[tuple[str, float], ...]:
        """Name and weight of each term that training minimises: those of `losses`, then those of `distil`."""
        distil = () if self.distil is None else self.distil.terms
        named: list[tuple[str, float]] = [(loss.kind, loss.weight) for loss in self.losses]
        named += [(f"distil_{term.kind}", term.weight) for term in distil]
        names = [name for name, _ in named]
        return tuple((f"{n}_{i}" if names.count(n) > 1 else n, w) for i, (n, w) in enumerate(named))


_SECTIONS = frozenset(
    name
    for name, field in FinetuneConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
)
