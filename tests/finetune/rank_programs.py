"""What each process of a several-process test does: `python rank_programs.py NAME OUTPUT`, RANK and WORLD_SIZE set.

Rank 0 saves a dictionary of tensors to OUTPUT. Run by `conftest.run_ranks`.
"""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rtool.finetune.config import AdaFaceLoss, ArcFaceLoss, TripletLoss
from rtool.finetune.heads import build_head
from rtool.finetune.learner import Learner
from rtool.finetune.partial_fc import PartialFC, shard_bounds

LOSSES = (
    ArcFaceLoss(kind="arcface", scale=16.0),
    TripletLoss(kind="triplet", margin="soft"),
    AdaFaceLoss(kind="adaface", scale=16.0, momentum=0.5),
)


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


def partial_fc(rate: float) -> dict[str, torch.Tensor]:
    """Two steps over 11 classes; everything about shards, put together again over the ranks."""
    world, rank = dist.get_world_size(), dist.get_rank()
    head = PartialFC(4, 11, rate=rate, scale=16.0)
    head.weight = full_weight()[slice(*shard_bounds(11, rank, world))].clone()
    before = head.weight.clone()
    generator = torch.Generator().manual_seed(2)
    embeddings, labels = torch.randn(12, 4, generator=generator), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0])
    if rate < 1:
        labels = torch.tensor([0, 5, 10] * 4)
    share = slice(rank * 12 // world, (rank + 1) * 12 // world)
    mine = embeddings[share].clone().requires_grad_()
    loss = head(mine, labels[share])
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
    head.step(0.1, momentum=0.9, weight_decay=0.01)
    shards = [None] * world
    dist.all_gather_object(shards, (touched, row_gradient, before, head.weight, head.momentum))
    names = ("touched", "row_gradient", "before", "after", "momentum")
    joined = {name: torch.cat([shard[i] for shard in shards]) for i, name in enumerate(names)}
    return {"loss": loss.detach(), "gradient": gradient, **joined}


def full_weight() -> torch.Tensor:
    return torch.randn(11, 4, generator=torch.Generator().manual_seed(5)) * 0.1


PROGRAMS = {
    "gradients": gradients,
    "partial_fc": lambda: partial_fc(1.0),
    "partial_fc_sampled": lambda: partial_fc(0.4),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = PROGRAMS[sys.argv[1]]()
    if dist.get_rank() == 0:
        torch.save(result, sys.argv[2])
    dist.destroy_process_group()
