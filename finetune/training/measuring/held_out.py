"""Held-out sets of a run: opened, kept in memory where there is room, and measured together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ....errors import ConfigError, nearest
from ...config.config import CombineConfig, EvaluationConfig, ModelConfig
from ...data.dataset import Dataset
from ...data.decoding import Pixels, Resize, read_pixels, unreadable_note
from ...data.distinct_images import Contents, content_numbers, count_shared
from ...embedding.cache import EmbeddingCache
from ...evaluation.cores import Progress, no_progress
from ...evaluation.evaluation import EvaluationResult, evaluate_embeddings, evaluate_pixels
from ...evaluation.matched_images import match_images
from ...evaluation.model_sets import EvaluationSettings
from ...evaluation.own_function import load_function
from ...evaluation.plan import EvaluationPlan, Protocol, plan_evaluation
from ...evaluation.ranks.ranking import Ranking
from ...evaluation.scores.combining import Combination
from ...evaluation.scores.pair_matching import PairMatcher
from ...evaluation.scores.scoring import ScoreSettings, plan_scores
from ...evaluation.several_sets import joined_metrics
from ...matching.map_losses import matching_model
from ...matching.pair_matcher import ModelMatcher
from ...network.learner import Learner, embedding_of
from ...network.networks import Network, images_to_tensor

__all__ = [
    "HeldOutImages",
    "MeasuredSets",
    "embedder_of",
    "hold_out",
    "matcher_of",
    "plan_sets",
    "protocol_of",
    "ranking_of",
]

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class HeldOutImages:
    """Images to evaluate on: in memory (`pixels`), or decoded at each evaluation where `pixels` is None."""

    dataset: Dataset
    resize: Resize
    pixels: Pixels | None


def ranking_of(evaluation: EvaluationConfig) -> Ranking:
    """How a configuration wants galleries ranked."""
    rerank, k1, k2 = evaluation.rerank, evaluation.rerank_k1, evaluation.rerank_k2
    expand, power = evaluation.expand, evaluation.expand_alpha
    return Ranking(evaluation.distance, rerank, k1, k2, evaluation.rerank_lambda, expand, power, evaluation.multi_query)


def protocol_of(evaluation: EvaluationConfig) -> Protocol | None:
    """How a configuration wants sets measured.

    Raises:
        ConfigError: by a protocol and by a function.
    """
    return EvaluationSettings(evaluation.protocol, function=evaluation.function).chosen


def plan_sets(evaluation: EvaluationConfig, datasets: Mapping[str, Dataset]) -> dict[str, EvaluationPlan]:
    """How each set is measured, by name.

    Raises:
        ConfigError, DataError: as `plan_evaluation`.
    """
    ranking, protocol = ranking_of(evaluation), protocol_of(evaluation)
    if evaluation.function is not None:
        load_function(evaluation.function)  # a mistake in its name is found before the first step
    plans = {name: plan_evaluation(dataset, protocol, ranking) for name, dataset in datasets.items()}
    return {name: plan_scores(plan, datasets[name], evaluation.scores) for name, plan in plans.items()}


def hold_out(
    evaluation: EvaluationConfig, dataset: Dataset, resize: Resize, *, room: int, trained: Contents | None
) -> tuple[HeldOutImages, tuple[str, ...]]:
    """A set ready to be measured, and what its images show.

    Args:
        evaluation: How it will be measured.
        dataset: Its images.
        resize: From an image to its pixels.
        room: Images that memory has room for; a larger set is decoded at each evaluation.
        trained: The contents of the training images, where they are known.
    """
    if len(dataset) > room:
        return HeldOutImages(dataset, resize, None), ()
    pixels = read_pixels(dataset, resize)
    notes = [unreadable_note(dataset.name, pixels.unreadable)] if pixels.unreadable else []
    dataset = pixels.dataset
    contents = content_numbers(pixels.values)
    matched = match_images(dataset, contents, protocol_of(evaluation), ranking_of(evaluation))
    notes += [f"{dataset.name}: {note}" for note in matched.notes]
    if trained is not None and (shared := count_shared(contents, trained)):
        notes.append(f"{shared} images of {dataset.name} are also trained on: these metrics flatter the model")
    return HeldOutImages(dataset, resize, pixels), tuple(notes)


def embedder_of(backbone: nn.Module, network: Network, model: ModelConfig, device: torch.device) -> Embed:
    """The function from pixels uint8 [N, H, W, C] to embeddings float32 [N, D] that `backbone` computes.

    Args:
        backbone: In eval mode, on `device`.
        network: The network it belongs to, for its preprocessing.
        model: Which output is the embedding, and the order of memory.
        device: Where it computes.
    """

    @torch.no_grad()
    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = images_to_tensor(torch.from_numpy(pixels), network.preprocessing, device, model.channels_last)
        array: NDArray[np.float32] = embedding_of(backbone(images), model.output).float().cpu().numpy()
        return array

    return embed


def matcher_of(learner: Learner, network: Network, model: ModelConfig, device: torch.device) -> ModelMatcher | None:
    """What the losses of `learner`, in eval mode, taught about pairs of images; None where none trains a matcher.

    The arguments are otherwise those of `embedder_of`.
    """
    matching = matching_model(learner, model.output)
    if matching is None:
        return None
    return ModelMatcher(matching, network.preprocessing, device, model.channels_last)


@dataclass(frozen=True)
class MeasuredSets:
    """The sets of a run by name, "" for a single one, and how each is measured."""

    evaluation: EvaluationConfig
    images: Mapping[str, HeldOutImages]
    plans: Mapping[str, EvaluationPlan]
    progress: Progress | None = None
    """Called with what is done, how much of it, and how much there is."""

    def measure(
        self,
        embed: Embed,
        report: Callable[[str], object],
        cache: EmbeddingCache | None = None,
        matcher: PairMatcher | None = None,
    ) -> dict[str, Any]:
        """The values of all sets, see `joined_metrics`.

        Args:
            embed: From pixels uint8 [N, H, W, C] to embeddings float32 [N, D].
            report: Called with a line about images that could not be read.
            cache: Embeddings that are known, of this `embed`.
            matcher: Of the model that is trained.

        Raises:
            ConfigError: an own function fails, or does not return `evaluation.metric`.
            DataError: over 1 % of the images of a set cannot be read.
            GateError: embeddings are not finite.
        """
        results = {name: self._measure(embed, held, report, cache, matcher) for name, held in self.images.items()}
        values = joined_metrics(self.plans, results)
        metric = self.evaluation.metric
        if metric is not None and metric not in values:  # what an own function returns is known only now
            raise ConfigError(
                f"evaluation.metric: '{metric}' was not measured; {nearest(metric, values)}; name what "
                f"{self.evaluation.function} returns"
            )
        return values

    def _measure(
        self,
        embed: Embed,
        held: HeldOutImages,
        report: Callable[[str], object],
        cache: EmbeddingCache | None,
        matcher: PairMatcher | None,
    ) -> EvaluationResult:
        evaluation, ranking = self.evaluation, ranking_of(self.evaluation)
        flip, batch, protocol = evaluation.flip, evaluation.batch, evaluation.protocol
        function = None if evaluation.function is None else load_function(evaluation.function)
        scores = ScoreSettings(evaluation.scores, _combination(evaluation.combine), matcher)
        if held.pixels is not None:
            return evaluate_pixels(
                embed,
                held.pixels,
                protocol,
                flip=flip,
                batch=batch,
                ranking=ranking,
                function=function,
                cache=cache,
                progress=self.progress or no_progress,
                scores=scores,
            )
        return evaluate_embeddings(
            embed,
            held.dataset,
            protocol,
            resize=held.resize,
            flip=flip,
            batch=batch,
            ranking=ranking,
            function=function,
            cache=cache,
            report=report,
            progress=self.progress or no_progress,
            scores=scores,
        )


def _combination(combine: CombineConfig) -> Combination:
    return Combination(combine.embedding, combine.matcher, combine.fallback, combine.fitted)
