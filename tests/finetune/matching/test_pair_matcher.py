"""A matching model as evaluation calls it gives the scores of the model itself."""

import numpy as np
import pytest
import torch
from torch import nn

from rtool.converters.records.preprocessing import Preprocessing
from rtool.finetune.matching.described import MatchingModel
from rtool.finetune.matching.matcher import Matcher
from rtool.finetune.matching.pair_matcher import ModelMatcher
from rtool.finetune.matching.visibility import VisibilityHead
from rtool.finetune.network.feature_maps import find_map


@pytest.mark.parametrize("seen", [False, True])
def test_descriptions_taken_apart_and_joined_score_alike(seen):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    tap = find_map(backbone, torch.zeros(2, 3, 12, 12), 0)
    head = VisibilityHead(tap.channels, hidden=4).eval() if seen else None
    model = MatchingModel(tap, 0, Matcher(tap.size).eval(), head)
    matcher = ModelMatcher(model, Preprocessing(12, 12), torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    described = matcher.join([matcher.describe(pixels[:4]), matcher.describe(pixels[4:])])
    first, second = np.array([0, 2, 5]), np.array([1, 4, 3])
    scores = matcher.scores(matcher.take(described, first), matcher.take(described, second))
    images = torch.from_numpy(Preprocessing(12, 12).normalise(pixels))
    expected = model.all_scores(model.describe(images), model.describe(images)).numpy()[first, second]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert scores.dtype == np.float32
