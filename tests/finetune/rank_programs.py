"""What each process of a several-process test does: `python rank_programs.py FOLDER`, WORLD_SIZE set.

Every program of that world runs in turn, and rank 0 saves its dictionary of tensors to FOLDER/NAME.pt. Run by
`conftest.run_ranks`.
"""

import gc
import multiprocessing
import os
import sys
from pathlib import Path

import torch
import torch._dynamo  # which DDP imports: once here, instead of once per rank
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.config.config import (
    AdaFaceLoss,
    ArcFaceLoss,
    CenterLoss,
    FinetuneConfig,
    OptimizerConfig,
    TripletLoss,
)
from rtool.finetune.config.distillation import DistilConfig
from rtool.finetune.data.loading import Batch
from rtool.finetune.distillation.teacher_outputs import FeatureTap, TeacherOutputs
from rtool.finetune.distillation.terms import Distiller
from rtool.finetune.losses.heads import build_head
from rtool.finetune.losses.partial_fc import PartialFC, shard_bounds
from rtool.finetune.matching.map_heads import OcclusionHead, QAConvHead
from rtool.finetune.matching.map_losses import MapLosses, find_network_map
from rtool.finetune.network.feature_maps import find_map
from rtool.finetune.network.learner import Learner
from rtool.finetune.network.networks import Network
from rtool.finetune.network.reach import hold_unreached
from rtool.finetune.training.assembly import build_heads, build_learner
from rtool.finetune.training.stepping import Stepper
from rtool.tests.finetune.search.alpha_program import alphas

LOSSES = (
    ArcFaceLoss(kind="arcface", scale=16.0),
    TripletLoss(kind="triplet", margin="soft"),
    AdaFaceLoss(kind="adaface", scale=16.0, momentum=0.5),
    CenterLoss(kind="center", weight=1.0),
)

RULE = OptimizerConfig(kind="sgd", momentum=0.9, weight_decay=0.01)
"""Of the rows of PartialFC."""


def small_learner() -> Learner:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
    heads = nn.ModuleList(build_head(loss, 8, 5) for loss in LOSSES)
    return Learner(backbone, heads, output=0, autocast=None)


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 3, 6, 6, generator=generator), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 1])


def gradients() -> dict[str, torch.Tensor]:
    """Gradients of one batch of 12, each rank holding its share of it."""
    learner = small_learner()
    world, rank = dist.get_world_size(), dist.get_rank()
    model = DistributedDataParallel(learner) if world > 1 else learner
    images, labels = images_and_labels()
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    model(images[share], labels[share]).sum().backward()
    return {name: parameter.grad for name, parameter in learner.named_parameters()} | dict(learner.named_buffers())


def matched() -> dict[str, torch.Tensor]:
    """Losses, gradients and statistics of losses over a map, of 12 images of which some are masked and two unknown."""
    world, rank = dist.get_world_size(), dist.get_rank()
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "data": {"train": "-", "batch": 6},
            "augment": {"mask": 0.5},
            "losses": [
                {"kind": "adaface", "scale": 16},
                {"kind": "qaconv", "classes": "embedding", "neighbours": 2, "visibility_learns": True},
                {"kind": "occlusion", "warmup_epochs": 0},
            ],
        }
    )
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
    images, labels = images_and_labels()
    tap = find_map(backbone, images[:2], 0)
    adaface, qaconv, occlusion = config.losses
    heads = nn.ModuleList([build_head(adaface, 8, 5), QAConvHead(qaconv, 5, 6, tap.size), OcclusionHead(occlusion, 6)])
    learner = Learner(backbone, heads, output=0, autocast=None, maps=MapLosses.of(config, tap, list(heads))).train()
    model = DistributedDataParallel(learner) if world > 1 else learner
    visible = torch.ones(12, 1, 6, 6)
    visible[::3, :, 3:] = 0
    visible[4:6] = torch.nan
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    losses = model(images[share], labels[share], (), visible[share])
    losses.sum().backward()
    found = {name: parameter.grad for name, parameter in learner.named_parameters()}
    return found | dict(learner.named_buffers()) | {"losses of the map": losses[1:].detach()}


def detached() -> dict[str, torch.Tensor]:
    """Gradients of losses over a map that train no backbone: DDP must not wait for one."""
    world, rank = dist.get_world_size(), dist.get_rank()
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "data": {"train": "-", "batch": 6},
            "augment": {"mask": 0.5},
            "losses": [{"kind": "qaconv", "train_map": False}, {"kind": "occlusion"}],
        }
    )
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
    network = Network("-", backbone, Preprocessing(6, 6), 8, lambda *_: None)
    tap = find_network_map(config, network)
    learner, _ = build_learner(config, network, build_heads(config, 8, 5, tap), None, None, tap)
    learner.train()
    model = DistributedDataParallel(learner) if world > 1 else learner
    images, labels = images_and_labels()
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    for _ in range(2):  # a second pass fails where the first left something unreduced
        model(images[share], labels[share], (), torch.ones(len(images[share]), 1, 6, 6)).sum().backward()
    return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


def distilled() -> dict[str, torch.Tensor]:
    """Gradients and class centres of all terms of two teachers, after two batches of 8 labelled images and 4 others."""
    world, rank = dist.get_world_size(), dist.get_rank()
    layers = {"0": "map"}
    terms = [
        {"kind": kind} for kind in ("cosine", "rkd_distance", "rkd_angle", "similarity", "class_centres", "logits")
    ]
    distil = DistilConfig.model_validate(
        {"teachers": ["a", {"reference": "b", "weight": 3}], "terms": [*terms, {"kind": "features", "layers": layers}]}
    )
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
    tap = FeatureTap(backbone, layers, "student")
    said = [
        [TeacherOutputs(torch.randn(12, size), None, {"map": torch.randn(12, 4, 2, 2)}) for size in (8, 5)]
        for _ in "ab"
    ]
    distiller = Distiller(distil, 8, 4, said[0], tap, {"0": torch.zeros(2, 6, 4, 4)}, None)
    heads = nn.ModuleList([build_head(ArcFaceLoss(kind="arcface", scale=16.0), 8, 4)])
    learner = Learner(
        backbone, heads, output=0, autocast=None, distiller=distiller, watching=distiller.watching, labelled=8 // world
    )
    model = DistributedDataParallel(learner) if world > 1 else learner
    images, labels = images_and_labels()
    known, others = torch.arange(8).chunk(world)[rank], torch.arange(8, 12).chunk(world)[rank]
    share = torch.cat([known, others])
    for outputs in said:
        own = [TeacherOutputs(o.embeddings[share], None, {"map": o.maps["map"][share]}) for o in outputs]
        model(images[share], labels[share], own).sum().backward()
    return {name: p.grad for name, p in learner.named_parameters()} | dict(learner.named_buffers())


def accumulated() -> dict[str, torch.Tensor]:
    """Two optimizer steps of three batches each, each rank holding its share; and how often gradients were reduced."""
    world, rank = dist.get_world_size(), dist.get_rank()
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-", "channels_last": False},
            "data": {"train": "-"},
            "losses": [{"kind": "arcface", "scale": 16}],
            "optimizer": {"kind": "sgd", "lr": 0.1, "accumulate": 3},
        }
    )
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
    learner = Learner(backbone, nn.ModuleList([build_head(config.losses[0], 8, 5)]), output=0, autocast=None)
    stepper = Stepper(config, learner, Preprocessing(6, 6), torch.device("cpu"))
    stepper.begin_epoch(0)
    reductions = torch.zeros(())

    def reduce(_: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        reductions.add_(1)
        return default_hooks.allreduce_hook(dist.group.WORLD, bucket)

    if world > 1:
        stepper._model.register_comm_hook(None, reduce)
    generator = torch.Generator().manual_seed(1)
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    for _ in range(2):
        pixels = torch.randint(0, 256, (3, 4, 6, 6, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 5, (3, 4), generator=generator)
        stepper.step([Batch(p[share], y[share], ()) for p, y in zip(pixels, labels, strict=True)], 1.0)
    return {name: value.detach() for name, value in learner.named_parameters()} | {"reductions": reductions}


def batchnorm(**model: bool) -> dict[str, torch.Tensor]:
    """Three optimizer steps of a network with BatchNorms, each rank holding its share of the batch."""
    world, rank = dist.get_world_size(), dist.get_rank()
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-", **model},
            "data": {"train": "-"},
            "losses": [{"kind": "arcface", "scale": 4}],
            "optimizer": {"kind": "sgd", "lr": 0.1},
        }
    )
    torch.manual_seed(0)
    blocks = nn.Sequential(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(6)))
    tail = (nn.Flatten(), nn.Linear(6 * 16, 8), nn.BatchNorm1d(8))
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), blocks, *tail)
    learner = Learner(backbone, nn.ModuleList([build_head(config.losses[0], 8, 5)]), output=0, autocast=None)
    stepper = Stepper(config, learner, Preprocessing(6, 6), torch.device("cpu"))
    stepper.begin_epoch(0)
    generator = torch.Generator().manual_seed(1)
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    for _ in range(3):
        pixels = torch.randint(0, 256, (12, 6, 6, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 5, (12,), generator=generator)
        stepper.step([Batch(pixels[share], labels[share], ())], 1.0)
    return {name: value.detach().float() for name, value in learner.state_dict().items()}


class TwoOutputs(nn.Module):
    """An embedding, and class scores that no loss here looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
        self.classes = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.embedding(images)
        return embedding, self.classes(embedding)


def two_outputs() -> dict[str, torch.Tensor]:
    """Two steps of a network with an output that is not used."""
    world, rank = dist.get_world_size(), dist.get_rank()
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "-"},
            "data": {"train": "-"},
            "losses": [{"kind": "arcface", "scale": 16}],
            "optimizer": {"kind": "sgd", "lr": 0.1},
        }
    )
    torch.manual_seed(0)
    network = Network("two", TwoOutputs(), Preprocessing(6, 6), 8, lambda *_: None)
    hold_unreached(network, 0)
    learner = Learner(network.module, nn.ModuleList([build_head(config.losses[0], 8, 5)]), output=0, autocast=None)
    stepper = Stepper(config, learner, Preprocessing(6, 6), torch.device("cpu"))
    stepper.begin_epoch(0)
    generator = torch.Generator().manual_seed(1)
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    for _ in range(2):
        pixels = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8, generator=generator)
        stepper.step([Batch(pixels[share], torch.arange(4)[share], ())], 1.0)
    return {name: value.detach() for name, value in learner.named_parameters()}


def partial_fc(rate: float, classes: int = 11, labels: tuple[int, ...] = (*range(11), 0)) -> dict[str, torch.Tensor]:
    """One step over some classes; everything about shards, put together again over the ranks."""
    world, rank = dist.get_world_size(), dist.get_rank()
    head = PartialFC(4, classes, rate=rate, scale=16.0, optimizer=RULE)
    head.weight = full_weight()[:classes][slice(*shard_bounds(classes, rank, world))].clone()
    before = head.weight.clone()
    embeddings = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    mine = embeddings[share].clone().requires_grad_()
    loss = head(mine, torch.tensor(labels)[share])
    loss.backward()
    # what DDP's mean over ranks makes of it
    gradient = torch.zeros(12, 4)
    gradient[share] = mine.grad / world
    dist.all_reduce(gradient)
    used = torch.arange(len(head.weight)) if head.rows_used is None else head.rows_used
    touched = torch.zeros(len(head.weight), dtype=torch.int64)
    touched[used] = 1
    row_gradient = torch.zeros_like(head.weight)
    row_gradient[used] = head.gradient()
    head.step(0.1)
    shards = [None] * world
    dist.all_gather_object(shards, (touched, row_gradient, before, head.weight, head.state["momentum"]))
    names = ("touched", "row_gradient", "before", "after", "momentum")
    joined = {name: torch.cat([shard[i] for shard in shards]) for i, name in enumerate(names)}
    return {"loss": loss.detach(), "gradient": gradient, **joined}


def partial_fc_at_a_tenth() -> dict[str, torch.Tensor]:
    """Six steps over 200 classes at rate 0.1: what each step used, weights and momentum before and after it."""
    world, rank = dist.get_world_size(), dist.get_rank()
    head = PartialFC(4, 200, rate=0.1, scale=16.0, optimizer=RULE, seed=1)
    generator = torch.Generator().manual_seed(2)
    steps: list[torch.Tensor] = []
    for _ in range(6):
        embeddings = torch.randn(4, 4, generator=generator)
        labels = torch.randint(0, 200, (4,), generator=generator)
        share = slice(rank * 4 // world, (rank + 1) * 4 // world)
        state = [head.weight.clone(), head.state["momentum"].clone()]
        head(embeddings[share].clone().requires_grad_(), labels[share]).backward()
        gradient, touched = torch.zeros_like(head.weight), torch.zeros_like(head.weight)
        gradient[head.rows_used], touched[head.rows_used] = head.gradient(), 1
        head.step(0.1)
        steps.append(torch.stack([*state, gradient, touched, head.weight, head.state["momentum"]]))
    mine = torch.stack(steps)
    shards = [None] * world
    dist.all_gather_object(shards, mine)
    return {"steps": torch.cat(shards, dim=2)}


def full_weight() -> torch.Tensor:
    return torch.randn(11, 4, generator=torch.Generator().manual_seed(5)) * 0.1


PROGRAMS = {
    "matched": matched,
    "detached": detached,
    "alphas_first_order": lambda: alphas(guard="none"),
    "alphas_second_order": lambda: alphas(order=2, guard="noise"),
    "alphas_sampled": lambda: alphas(method="sampled", guard="none", nodes=3, temperature=[1.0, 1.0]),
    "separate_batchnorm": batchnorm,
    "synchronised_batchnorm": lambda: batchnorm(sync_batchnorm=True),
    "synchronised_and_checkpointed": lambda: batchnorm(sync_batchnorm=True, gradient_checkpointing=True),
    "gradients": gradients,
    "accumulated": accumulated,
    "distilled": distilled,
    "two_outputs": two_outputs,
    "partial_fc": lambda: partial_fc(1.0),
    "partial_fc_sampled": lambda: partial_fc(0.4, labels=(0, 5, 10) * 4),
    "partial_fc_two_classes": lambda: partial_fc(1.0, 2, (0, 1) * 6),
    "partial_fc_two_classes_sampled": lambda: partial_fc(0.1, 2, (0, 1) * 6),
    "partial_fc_four_classes_sampled": lambda: partial_fc(0.1, 4, (0,) * 12),
    "partial_fc_at_a_tenth": partial_fc_at_a_tenth,
}

IN_A_WORLD_OF = {
    2: (
        "alphas_first_order",
        "alphas_second_order",
        "alphas_sampled",
        "separate_batchnorm",
        "synchronised_batchnorm",
        "synchronised_and_checkpointed",
        "gradients",
        "accumulated",
        "distilled",
        "matched",
        "detached",
        "two_outputs",
        "partial_fc",
        "partial_fc_sampled",
        "partial_fc_four_classes_sampled",
        "partial_fc_at_a_tenth",
    ),
    3: ("partial_fc", "partial_fc_two_classes", "partial_fc_two_classes_sampled"),
}


def run_rank(rank: int, folder: Path) -> None:
    os.environ["RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in IN_A_WORLD_OF[dist.get_world_size()]:
        result = PROGRAMS[name]()
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")
    gc.collect()  # as `joined_group` does
    dist.destroy_process_group()


if __name__ == "__main__":
    # Forked while this process has one thread and has computed nothing.
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=run_rank, args=(rank, Path(sys.argv[1])))
        for rank in range(1, int(os.environ["WORLD_SIZE"]))
    ]
    for process in others:
        process.start()
    run_rank(0, Path(sys.argv[1]))
    for process in others:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in others))
