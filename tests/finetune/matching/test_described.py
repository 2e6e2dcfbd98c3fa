"""Embedding, map and visibility out of one pass."""

import torch

from rtool.converters.zoo.registry import build_architecture
from rtool.finetune.matching.described import MatchingModel
from rtool.finetune.matching.matcher import Matcher
from rtool.finetune.matching.visibility import VisibilityHead
from rtool.finetune.network.feature_maps import find_map


def test_pairs_of_described_images_score_as_their_maps_do():
    torch.manual_seed(0)
    backbone = build_architecture("osnet_x0_25", input_size=(64, 32)).eval()
    images = torch.randn(3, 3, 64, 32)
    tap = find_map(backbone, images[:2], 0)
    assert (tap.name, tap.channels, tap.size) == ("conv5", 128, (4, 2))
    model = MatchingModel(tap, 0, Matcher(tap.size).eval(), VisibilityHead(tap.channels).eval())
    seen = model.describe(images)
    torch.testing.assert_close(seen.embeddings, backbone(images))
    torch.testing.assert_close(seen.visible, model.visibility(seen.maps))
    scores = model.all_scores(seen, seen)
    torch.testing.assert_close(scores, model.matcher(seen.maps, seen.maps, seen.visible, seen.visible))
    order = torch.tensor([2, 0])
    torch.testing.assert_close(model.scores(seen[order], seen[:2]), torch.stack([scores[2, 0], scores[0, 1]]))
    blind = MatchingModel(tap, 0, model.matcher, model.visibility, uses_visibility=False)
    torch.testing.assert_close(blind.all_scores(seen, seen), model.matcher(seen.maps, seen.maps))
