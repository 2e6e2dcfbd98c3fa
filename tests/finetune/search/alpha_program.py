"""What each process of a test of several does in a search; `rank_programs` runs it."""

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.data.dataset import ArrayImages, Dataset
from rtool.finetune.data.loading import Batch, TrainingPixels
from rtool.finetune.losses.heads import build_head
from rtool.finetune.network.learner import Learner
from rtool.finetune.network.search_backbone import SearchBackbone
from rtool.finetune.runs.alongside import Place
from rtool.finetune.search.alternating import AlphaSteps
from rtool.finetune.training.stepping import Stepper


def alphas(**search: object) -> dict[str, torch.Tensor]:
    """The gradients of alpha in two steps, each rank with its share of the images; GroupNorm for BatchNorm."""
    world = dist.get_world_size()
    config = FinetuneConfig.model_validate(
        {
            "model": {"reference": "searched", "size": [16, 8]},
            "data": {"train": "-", "batch": 12 // world, "sampler": "pk", "images_per_identity": 2},
            "losses": [{"kind": "softmax"}, {"kind": "triplet"}],
            "optimizer": {"kind": "sgd", "lr": 1e-3},
            "search": {
                "operations": ["none", "skip", "sep3"],
                "nodes": 1,
                "channels": 4,
                "embedding_size": 8,
                **search,
            },
        }
    )
    torch.manual_seed(0)
    backbone = SearchBackbone(config.search)
    for module in list(backbone.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    heads = nn.ModuleList([build_head(loss, 8, 6) for loss in config.losses])
    learner = Learner(backbone, heads, output=0, autocast=None)
    size = Preprocessing(16, 8)
    device = torch.device("cpu")
    stepper = Stepper(config, learner, size, device, skips_parameters=True)
    stepper.begin_epoch(0)
    drawn = np.random.default_rng(2).integers(0, 256, (24, 16, 8, 3), dtype=np.uint8)
    labels = np.tile(np.arange(6), 4)
    people = Dataset("people", ArrayImages(drawn), labels, np.zeros(24, dtype=np.int64), [str(i) for i in range(24)])
    images = TrainingPixels(people, np.asarray, drawn)
    steps = AlphaSteps(config, config.search, learner, stepper, images, size, device)
    found: dict[str, torch.Tensor] = {}
    update = steps.alphas.update

    def noted(gradients: list[torch.Tensor]) -> bool:
        before = len(found)
        found.update({f"{before + kind}": gradient.clone() for kind, gradient in enumerate(gradients)})
        return update(gradients)

    steps.alphas.update = noted
    share = torch.arange(12).chunk(world)[dist.get_rank()]
    for step in range(2):
        pixels, known = torch.from_numpy(drawn[:12])[share], torch.from_numpy(labels[:12])[share]
        batch = Batch(pixels, known, ())
        steps.step(Place(1, step, 2, 2), 1.0, [batch])
        steps.alphas.check_alike(device)
        stepper.step([batch], 1.0)
    return found | {f"alpha{kind}": value.detach() for kind, value in enumerate(steps.alphas.values)}
