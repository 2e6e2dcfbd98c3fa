"""Losses over a feature map inside a learner: what they sum to, what they train, and what they refuse."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rtool.errors import ConfigError
from rtool.finetune.config.config import FinetuneConfig, OcclusionLoss, QAConvLoss
from rtool.finetune.config.files import load_config
from rtool.finetune.losses.heads import build_head
from rtool.finetune.matching.class_maps import ClassMaps, ClassMemory, build_classes
from rtool.finetune.matching.map_heads import OcclusionHead, QAConvHead
from rtool.finetune.matching.map_losses import MapLosses
from rtool.finetune.matching.matcher import Matcher
from rtool.finetune.matching.score_losses import pairwise_loss, score_triplet_loss
from rtool.finetune.network.feature_maps import find_map
from rtool.finetune.network.learner import Learner
from rtool.finetune.training.optimizers import build_optimizer
from rtool.finetune.training.planning import plan_run

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def configured(losses, **changes):
    base = {"model": {"reference": "-"}, "data": {"train": "-", "batch": 6}, "augment": {"mask": 0.5}}
    return FinetuneConfig.model_validate({**base, "losses": losses, **changes})


def learner_of(config):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Flatten(), nn.Linear(6 * 16, 8))
    tap = find_map(backbone, torch.randn(2, 3, 6, 6), 0)
    heads = nn.ModuleList()
    for loss in config.losses:
        if isinstance(loss, QAConvLoss):
            heads.append(QAConvHead(loss, 3, tap.channels, tap.size))
        elif isinstance(loss, OcclusionLoss):
            heads.append(OcclusionHead(loss, tap.channels))
        else:
            heads.append(build_head(loss, 8, 3))
    return Learner(backbone, heads, output=0, autocast=None, maps=MapLosses.of(config, tap, list(heads))).train()


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 6, 6, generator=generator)
    visible = torch.ones(6, 1, 6, 6)
    visible[::2, :, 3:] = 0
    return images, visible


def test_the_published_weights_sum_to_the_number_of_the_recipe():
    config = configured(
        [
            {"kind": "adaface", "weight": 0.1},
            {"kind": "qaconv", "weight": 0.7},
            {"kind": "occlusion", "weight": 0.3},
        ]
    )
    matched = config.losses[1]
    losses = 2.0, matched.pairwise * 1.5 + matched.triplet * 0.8, 0.05
    total = sum(weight * loss for (_, weight), loss in zip(config.terms(), losses, strict=True))
    assert total == pytest.approx(1.545)


def test_each_loss_sees_what_it_is_for():
    config = configured([{"kind": "adaface"}, {"kind": "occlusion", "warmup_epochs": 1}, {"kind": "qaconv"}])
    learner = learner_of(config)
    images, visible = batch()
    maps = learner.backbone[:2](images)
    told = torch.sigmoid(learner.heads[1].visibility.logits(maps))
    matcher = learner.heads[2].matcher

    def expected(shown):
        scores = matcher.within(maps, shown)
        return pairwise_loss(scores, LABELS) + 0.5 * score_triplet_loss(scores, LABELS, 1.0)

    learner.maps.begin_epoch(0)
    losses = learner(images, LABELS, visible=visible)
    target = F.adaptive_avg_pool2d(visible, 4)
    assert losses[1].item() == pytest.approx((told - target).square().mean().item(), abs=1e-6)
    assert losses[2].item() == pytest.approx(expected(None).item(), abs=1e-5)
    learner.maps.begin_epoch(1)
    assert learner(images, LABELS, visible=visible)[2].item() == pytest.approx(expected(told).item(), abs=1e-5)
    baseline = learner.heads[1].taken_baseline()
    assert baseline.item() == pytest.approx((1 - target).square().mean().item(), abs=1e-6)
    assert learner.heads[1].taken_baseline() is None


@pytest.mark.parametrize(
    ("matched", "seen", "backbone", "visibility"),
    [({}, {}, True, False), ({"train_map": False}, {}, False, False), ({"visibility_learns": True}, {}, True, True)],
)
def test_gradients_go_where_the_configuration_lets_them(matched, seen, backbone, visibility):
    losses = [{"kind": "qaconv", **matched}, {"kind": "occlusion", "warmup_epochs": 0, **seen}]
    learner = learner_of(configured(losses))
    first, head = learner.backbone[0].weight, learner.heads[1].visibility.score.weight
    images, visible = batch()

    def reached(number):
        gradients = torch.autograd.grad(
            learner(images, LABELS, visible=visible)[number], [first, head], allow_unused=True
        )
        return [gradient is not None and bool(gradient.any()) for gradient in gradients]

    assert reached(0) == [backbone, visibility]
    assert reached(1) == [False, True]


def test_every_parameter_is_in_one_group_and_class_maps_decay_as_norms_do_not():
    losses = [{"kind": "adaface"}, {"kind": "qaconv", "classes": "embedding", "neighbours": 1}, {"kind": "occlusion"}]
    learner = learner_of(configured(losses))
    config = configured(losses, optimizer={"kind": "sgd", "weight_decay": 0.1}).optimizer
    optimizer, _ = build_optimizer(config, learner.backbone, learner.heads)
    placed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(placed) == sorted(id(p) for p in learner.parameters())
    decays = {id(p): group["weight_decay"] > 0 for group in optimizer.param_groups for p in group["params"]}
    decayed = {name for name, p in learner.named_parameters() if decays[id(p)]}
    assert decayed == {
        "backbone.0.weight", "backbone.3.weight", "heads.0.weight", "heads.1.matcher.fc.weight",
        "heads.1.classes.weight", "heads.2.visibility.conv.weight", "heads.2.visibility.score.weight",
    }  # fmt: skip


def test_class_maps_tell_an_image_from_the_neighbours_of_its_class():
    torch.manual_seed(0)
    classes, matcher = ClassMaps(5, 4, (2, 2), 2), Matcher((2, 2)).eval()
    flat = F.normalize(classes.weight.detach())
    maps, labels = torch.randn(3, 4, 2, 2), torch.tensor([3, 0, 3])
    losses = []
    for image, label in zip(maps, labels.tolist(), strict=True):
        order = (flat @ flat[label]).argsort(descending=True)
        others = [c for c in order.tolist() if c != label][:2]
        chosen = classes.weight[[label, *others]].view(-1, 4, 2, 2)
        scores = matcher(chosen, image[None])[:, 0]
        losses.append(-scores.log_softmax(0)[0])
    found = classes(matcher, maps, labels, None)
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-6)
    found.backward()
    assert classes.weight.grad[3].any()


def test_the_memory_scores_classes_that_were_met_and_keeps_the_last_map_of_each():
    torch.manual_seed(0)
    memory, matcher = ClassMemory(3, 4, (2, 2)).train(), Matcher((2, 2)).eval()
    maps, labels = torch.randn(3, 4, 2, 2), torch.tensor([2, 0, 2])
    assert memory(matcher, maps, labels, None).item() == 0
    torch.testing.assert_close(memory.kernels[2], F.normalize(maps[2], dim=0))
    torch.testing.assert_close(memory.kernels[0], F.normalize(maps[1], dim=0))
    assert memory.met.tolist() == [1, 0, 1]
    p = torch.sigmoid(matcher(memory.kernels[[0, 2]], maps[:1])[:, 0])
    expected = -((p[0] ** 2) * (1 - p[0]).log() + ((1 - p[1]) ** 2) * p[1].log())
    assert memory.eval()(matcher, maps[:1], labels[:1], None).item() == pytest.approx(expected.item(), abs=1e-6)


def test_maps_of_more_classes_than_memory_holds_are_refused_with_the_way_out():
    loss = QAConvLoss(kind="qaconv", classes="embedding")
    with pytest.raises(ConfigError, match=r"85742 classes \(512x7x7\) take 25\.8 GB.*data\.sampler=graph"):
        build_classes(loss, 85742, 512, (7, 7))
    assert build_classes(QAConvLoss(kind="qaconv"), 85742, 512, (7, 7)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": [{"kind": "qaconv"}, {"kind": "qaconv"}]}, "qaconv is given twice"),
        ({"losses": [{"kind": "adaface"}], "data": {"train": "-", "sampler": "graph"}}, "sampler graph"),
        ({"model": {"reference": "-", "compile": True}}, "model.compile: qaconv sees a feature map"),
        ({"model": {"reference": "-", "gradient_checkpointing": True}}, "gradient_checkpointing: qaconv sees"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        configured(**{"losses": [{"kind": "qaconv"}], **changes})


def test_a_batch_of_one_image_matches_nothing():
    config = configured([{"kind": "qaconv"}], data={"train": "-", "batch": 1})
    with pytest.raises(ConfigError, match=r"data\.batch 1: qaconv compares"):
        learner_of(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.sampler=random", "data.batch=2"], "qaconv compares images of one identity with others"),
        (["model.map=conv9"], r"model\.map: no node or module 'conv9'"),
        (["model={reference: vit_tiny, size: [32, 32]}"], r"model\.map: the backbone has no feature map"),
        (["losses=[{kind: qaconv, classes: memory, memory_gb: 0.000001}]"], r"data\.sampler=graph"),
    ],
)
def test_a_run_that_cannot_match_is_refused_before_its_first_step(config, overrides, message):
    base = ["losses=[{kind: arcface}, {kind: qaconv}]", "data.train=synthetic-people:identities=40,images=2,size=32x16"]
    with pytest.raises(ConfigError, match=message):
        plan_run(load_config(config, [*base, *overrides]))
