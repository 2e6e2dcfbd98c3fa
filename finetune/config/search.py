"""The `search` section: which cells a run chooses among, and how.

Formulas and papers are in the files of `finetune/search/`; operations and supernet are in `converters/zoo/cells/`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ...converters.zoo.cells.space import OPERATIONS, SearchSpace
from ...errors import InputError
from .section import Count, FilePath, NotNegative, Positive, Section

__all__ = ["AlphaConfig", "CostConfig", "Guard", "Method", "SearchConfig", "refuse_beside_search"]

Method = Literal["mixed", "sampled", "partial", "random"]
Guard = Literal["none", "beta", "auxiliary_skip", "sigmoid", "noise"]

_Fraction = Annotated[float, Field(gt=0, lt=1)]


class AlphaConfig(Section):
    """How alpha, the weights of the operations on each edge, is updated: by Adam, after a step of its own gradient."""

    lr: Positive = 0.02
    """Learning rate, the same in all steps."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    """Decays of Adam's two moments."""
    weight_decay: NotNegative = 1e-3
    """Weight decay, as part of the gradient; guard beta takes its place."""


class CostConfig(Section):
    """What found cells may cost, by a table of measured times."""

    table: FilePath | None = None
    """A file of `rtool bench operations`: milliseconds of each operation at each place; null: costs are not looked at.
    With weight 0 the expected latency is shown only."""
    target_ms: Positive | None = None
    """Expected milliseconds from which on cells are penalised."""
    weight: NotNegative = 0.0
    """w of w max(0, log(expected / target_ms)) in the loss of alpha."""


class SearchConfig(Section):
    """Search cells instead of training a network: `model.reference: searched`, and `losses` as for any run."""

    operations: Annotated[tuple[str, ...], Field(min_length=1)] = OPERATIONS
    """What an edge may carry; the order is part of the file of a found cell."""
    cells: Annotated[int, Field(ge=3)] = 3
    """Cells of the network; numbers cells/3 and 2 cells/3, from 0, halve the features."""
    nodes: Count = 4
    """Nodes of a cell."""
    inputs_per_node: Count = 2
    """Edges that each node of a found cell keeps."""
    edge_weights: bool = False
    """Learn, beside the operations, one number per edge, a softmax over the edges of a node; an edge is kept by its
    weight times that of its best operation (edge normalisation, PC-DARTS, arXiv:1907.05737)."""
    channels: Annotated[int, Field(ge=2)] = 16
    """Channels of the first cell's nodes; each reduction doubles them."""
    stem: Literal["stride4", "stride1"] = "stride4"
    """What comes before the cells: stride1, as first published, takes 16 times the memory of stride4."""
    embedding_size: Count = 512
    """Length of the embedding."""
    method: Method = "mixed"
    """mixed: all operations, weighted (DARTS, arXiv:1806.09055); sampled: one drawn path per step (GDAS,
    arXiv:1910.04465); partial: mixed on a quarter of the channels (PC-DARTS, arXiv:1907.05737); random: cells drawn at
    random and halved in rounds by their metric (arXiv:1902.07638, arXiv:1502.07943), which any search must beat."""
    order: Literal[1, 2] = 1
    """2: the gradient of alpha follows the next step of the weights, for about twice the time; needs optimizer.kind
    sgd."""
    split: _Fraction = 0.5
    """Share of each identity's images that train the weights; the others train alpha."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the steps before alpha moves."""
    alpha: AlphaConfig = AlphaConfig()
    """How alpha is updated."""
    guard: Guard = "beta"
    """Against cells of skips alone. beta: penalises large alphas (arXiv:2203.01665); auxiliary_skip: one more skip per
    edge, faded out (arXiv:2009.01027); sigmoid: operations do not compete (arXiv:1911.12126); noise: draws added to the
    weights of operations (arXiv:2002.05283)."""
    guard_weight: NotNegative | None = None
    """Strength of the guard: of beta at the end of the run, to which it grows (50); of auxiliary_skip at the start (1);
    of the term that pulls sigmoids apart (10); the largest draw of noise (0.03). null: the number in brackets."""
    most_skips: Annotated[int, Field(ge=0)] | None = 2
    """Skips that a normal cell may keep (P-DARTS, arXiv:1904.12760); null: any number."""
    stop: Literal["none", "skips", "eigenvalue"] = "none"
    """End early. skips: when a normal cell has more than 2 (DARTS+, arXiv:1909.06035); eigenvalue: when the largest
    eigenvalue of the Hessian of alpha's loss, averaged over 5 epochs, has grown by 4/3 (R-DARTS, arXiv:1909.09656)."""
    temperature: tuple[Positive, Positive] = (10.0, 0.1)
    """Temperature of sampled paths in the first and in the last step."""
    cost: CostConfig = CostConfig()
    """What found cells may cost."""
    choose: Literal["argmax", "perturbation"] = "argmax"
    """How the cell is read from the supernet. argmax: the operations and edges of the largest weights; perturbation:
    those whose removal costs most, for alpha is not strength (DARTS-PT, arXiv:2108.04392)."""
    perturbation_steps: Count = 5
    """Of choose perturbation: steps that the supernet is trained for after each decision."""
    shortlist: Count = 8
    """Cells that are trained briefly before one is called found: the chosen one and others drawn from alpha; 1: none
    but the chosen one, untrained. Of method random, the cells of the first round."""
    shortlist_steps: Count = 100
    """Steps that each of them is trained for, from fresh weights."""
    shortlist_holdout: _Fraction = 0.2
    """Share of the training identities that the shortlist is ranked on, and not trained on; those of the evaluation are
    never looked at."""
    budget: Count | None = None
    """Of method random: optimizer steps of single networks, over all rounds; null: as many as cost what a mixed search
    of the same epochs costs, counted in multiplications and additions."""

    @model_validator(mode="after")
    def _space_exists(self) -> SearchConfig:
        try:
            self.space()
        except InputError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _parts_go_together(self) -> SearchConfig:
        """Refuse combinations without a meaning."""
        if self.method == "sampled" and self.order == 2:
            raise ValueError(
                "order 2 with method sampled: the two passes of its difference would follow paths, not weights; set "
                "order=1, or method=mixed"
            )
        if self.method == "sampled" and self.guard in ("sigmoid", "noise"):
            raise ValueError(f"guard {self.guard}: changes mixed weights; sampled paths have none; use beta or none")
        if self.method == "partial" and (self.channels % 4 or self.channels < 8):
            raise ValueError(f"channels {self.channels}: method partial needs a multiple of 4, from 8 on")
        if self.guard == "auxiliary_skip" and "skip" not in self.operations:
            raise ValueError("guard auxiliary_skip: guards against skips, and operations has none; use none")
        if self.stop == "skips" and "skip" not in self.operations:
            raise ValueError("stop skips: operations has no skip; use none")
        if self.choose == "perturbation" and self.method in ("sampled", "random"):
            raise ValueError(
                f"choose perturbation with method {self.method}: removes operations from a mixture, and its weights "
                "never learned in one; use method mixed or partial, or choose=argmax"
            )
        if self.edge_weights and self.method == "random":
            raise ValueError("edge_weights: method random learns no weights; set it to false")
        if len(self.operations) < 2:
            raise ValueError(f"operations {list(self.operations)}: there is nothing to choose; give two or more")
        cost = self.cost
        if cost.weight > 0 and (cost.table is None or cost.target_ms is None):
            raise ValueError("cost.weight: needs cost.table and cost.target_ms")
        return self

    def space(self) -> SearchSpace:
        """The cells to choose among.

        Raises:
            InputError: they cannot be built.
        """
        return SearchSpace(
            self.operations,
            self.cells,
            self.nodes,
            self.channels,
            self.stem,
            self.embedding_size,
            self.inputs_per_node,
        )

    def space_fields(self) -> dict[str, object]:
        """The fields that say what a supernet is made of: a checkpoint holds its weights."""
        return self.model_dump(mode="json", include=set(_OF_SUPERNET))


_OF_SUPERNET = ("operations", "cells", "nodes", "channels", "stem", "embedding_size", "method", "guard")


def refuse_beside_search(search: SearchConfig, config: Any) -> None:
    """Refuse settings of a run that do not go with its search.

    Args:
        search: The section.
        config: The `FinetuneConfig` that it is of, whose module imports this one.

    Raises:
        ValueError: naming the setting and the way out.
    """
    model, optimizer = config.model, config.optimizer
    if model.reference != "searched":
        raise ValueError(f"model.reference {model.reference}: a search builds its own network; set it to searched")
    unusable = {
        "model.options": (bool(model.options), "the section search says what the network is; leave it out"),
        "model.weights": (model.weights is not None, "a search begins with fresh weights; leave it out"),
        "model.freeze": (bool(model.freeze), "all of a supernet learns; leave it out"),
        "model.output": (model.output != 0, "a supernet has one output; set it to 0"),
        "model.restore_bn": (model.restore_bn, "a supernet has its BatchNorms; set it to false"),
        "model.compile": (model.compile, "the weights of a supernet's edges change at each step; set it to false"),
        "data.visible": (config.data.visible is not None, "a search splits the images; leave it out"),
        "distil": (config.distil is not None, "a search learns from labels; retrain the found cell with teachers"),
        "optimizer.ema": (bool(optimizer.ema), "alpha follows the weights themselves; set it to 0"),
    }
    for name, (given, way_out) in unusable.items():
        if given:
            raise ValueError(f"{name}: {way_out}")
    if config.precision in ("fp16", "half"):
        raise ValueError(f"precision {config.precision}: gradients of alpha are not scaled; use bf16 or fp32")
    if any(loss.kind == "partial_fc" for loss in config.losses):
        raise ValueError("losses: partial_fc updates its rows itself, behind alpha's back; use arcface or softmax")
    if search.order == 2 and search.method != "random":
        if optimizer.kind != "sgd" or optimizer.nesterov:
            kind = "sgd with nesterov" if optimizer.kind == "sgd" else optimizer.kind
            raise ValueError(f"search.order 2: follows the step of plain sgd, not {kind}; set optimizer.kind=sgd")
        if optimizer.accumulate > 1:
            raise ValueError("search.order 2: follows a step over one batch; set optimizer.accumulate=1")
