"""Settings without effect: each condition by an example, and every field of the configuration in one of the tables."""

from pathlib import Path
from typing import get_args

import pytest

import rtool
from rtool.finetune.config.config import EvaluationConfig, FinetuneConfig, LossConfig
from rtool.finetune.config.distillation import DistilConfig, DistilTerm, TeacherConfig
from rtool.finetune.config.effects.conditions import RunFacts
from rtool.finetune.config.effects.settings import settings_without_effect
from rtool.finetune.config.effects.table import ALWAYS, IDLE
from rtool.finetune.config.files import dump_config, load_config
from rtool.finetune.config.search import SearchConfig
from rtool.finetune.config.section import Section

EXAMPLES = sorted((Path(rtool.__file__).parent / "examples").glob("*.yaml"))
FACTS = RunFacts(
    steps_per_epoch=10,
    steps_in_data=10,
    processes=1,
    channels=3,
    several_cameras=True,
    backbone_learns=True,
    batchnorm_learns=True,
)


def config(**sections: object) -> FinetuneConfig:
    base = {"model": {"reference": "osnet_x0_25"}, "data": {"train": "faces"}, "losses": [{"kind": "arcface"}]}
    return FinetuneConfig.model_validate({**base, **sections})


def searched(**fields: object) -> dict[str, object]:
    return {"model": {"reference": "searched"}, "search": fields}


def fields() -> list[str]:
    found = []
    for name, field in FinetuneConfig.model_fields.items():
        kind = next((part for part in get_args(field.annotation) if part is EvaluationConfig), field.annotation)
        if kind is EvaluationConfig:
            found.append(name)  # which may be null as a whole
        if isinstance(kind, type) and issubclass(kind, Section):
            found += [f"{name}.{inner}" for inner in kind.model_fields]
        elif name == "distil":
            found += [
                name,
                *(f"distil.{inner}" for inner in DistilConfig.model_fields if inner not in ("teachers", "terms")),
            ]
            found += [f"distil.teachers.{inner}" for inner in TeacherConfig.model_fields]
            for term in get_args(get_args(DistilTerm)[0]):
                word = get_args(term.model_fields["kind"].annotation)[0]
                inner = [each for each in term.model_fields if each not in ("kind", "weight")]
                found += [f"distil.terms.{word}.{each}" for each in inner]
        elif name == "search":
            found.append(name)
            for inner, of in SearchConfig.model_fields.items():
                section = of.annotation
                if isinstance(section, type) and issubclass(section, Section):
                    found += [f"search.{inner}.{each}" for each in section.model_fields]
                else:
                    found.append(f"search.{inner}")
        elif name == "losses":
            for loss in get_args(get_args(LossConfig)[0]):
                word = get_args(loss.model_fields["kind"].annotation)[0]
                found += [f"losses.{word}.{inner}" for inner in loss.model_fields if inner not in ("kind", "weight")]
        else:
            found.append(name)
    return found


def test_every_field_is_always_effective_or_has_its_condition():
    known = set(ALWAYS) | set(IDLE)
    assert sorted(set(fields()) - known) == []
    assert sorted(known - set(fields())) == []
    assert not set(ALWAYS) & set(IDLE)


@pytest.mark.parametrize(
    ("sections", "facts", "line"),
    [
        ({"steps_per_epoch": 1000}, {}, "steps_per_epoch 1000 has no effect: the data make 10 steps"),
        ({"model": {"reference": "x", "calibration_images": 9}}, {}, "model.calibration_images 9 has no effect"),
        ({"model": {"reference": "x", "weights_may_lack": ["fc*"]}}, {}, "model.weights is null"),
        ({"model": {"reference": "x", "freeze": {"a": 0}}}, {}, "'a' trains from epoch 0"),
        ({"model": {"reference": "x", "freeze": {"a": 30}}}, {}, "'a' would train after the last of 10 epochs"),
        ({"model": {"reference": "x", "sync_batchnorm": True}}, {}, "there is one process"),
        (
            {"model": {"reference": "x", "sync_batchnorm": True}},
            {"processes": 2, "batchnorm_learns": False},
            "no BatchNorm learns",
        ),
        ({"model": {"reference": "x", "gradient_checkpointing": True}}, {"backbone_learns": False}, "no activations"),
        ({"data": {"train": "a", "evaluate": "b", "holdout": 0.3}}, {}, "data.evaluate gives the held-out data"),
        ({"data": {"train": "a", "images_per_identity": 8}}, {}, "data.sampler is random; set it to pk"),
        ({"data": {"train": "a", "sampler": "pk_cameras"}}, {"several_cameras": False}, "so it is pk"),
        ({"augment": {"hue": 0.1}}, {}, "augment.photometric is 0"),
        ({"distil": {"teachers": "t", "unlabelled_batch": 8}}, {}, "distil.unlabelled is null"),
        (
            {
                "distil": {"teachers": "t", "unlabelled": "u", "unlabelled_batch": 8, "labels": False},
                "losses": [],
                "evaluation": None,
            },
            {},
            "drawn alike",
        ),
        (
            {"distil": {"teachers": "t", "cache": "c"}, "augment": {"erasing": 0.5}},
            {},
            "erasing makes every view a new one",
        ),
        ({"distil": {"teachers": "ema", "cache": "c"}, "optimizer": {"ema": 0.9}}, {}, "ema, which moves"),
        ({"distil": {"teachers": {"reference": "t", "weight": 2}}}, {}, "there is one teacher"),
        ({"distil": {"teachers": {"reference": "t", "logits": 1}}}, {}, "distil.terms has no logits"),
        ({"distil": {"teachers": {"reference": "triton://h:1/m", "runtime": "onnxruntime"}}}, {}, "always served"),
        (
            {"distil": {"teachers": {"reference": "ema", "size": [8, 8]}}, "optimizer": {"ema": 0.9}},
            {},
            "sees what the student sees",
        ),
        (
            {"distil": {"teachers": {"reference": "t", "logits": 1}, "terms": [{"kind": "logits", "scale": 9}]}},
            {},
            "every teacher has logits",
        ),
        (
            {"distil": {"teachers": "t"}, "losses": [{"kind": "triplet"}], "optimizer": {"head_lr": 0.1}},
            {"heads_learn": False},
            "neither losses nor distil has weights",
        ),
        (searched(method="random", order=2), {}, "search.order 2 has no effect: search.method random has no alpha"),
        (searched(alpha={"weight_decay": 0.1}), {}, "search.alpha.weight_decay 0.1 has no effect: search.guard beta"),
        (searched(guard="none", guard_weight=3), {}, "search.guard is none"),
        (searched(operations=["sep3", "part"], most_skips=1), {}, "search.operations has no skip"),
        (searched(temperature=[5, 1]), {}, "search.temperature [5.0, 1.0] has no effect: only sampled paths"),
        (searched(shortlist=1, shortlist_steps=9), {}, "search.shortlist_steps 9 has no effect: search.shortlist is 1"),
        (searched(shortlist=1, shortlist_holdout=0.3), {}, "so no cell is ranked"),
        (searched(method="random", shortlist_steps=9), {}, "search.method random has a budget over all rounds"),
        (searched(cost={"target_ms": 3.0}), {}, "search.cost.target_ms 3.0 has no effect: search.cost.weight is 0"),
        (searched(budget=100), {}, "only search.method random has a budget"),
        ({"augment": {"brightness": 0.1}}, {}, "augment.photometric is 0"),
        ({"augment": {"photometric": 0.5, "saturation": 0.1}}, {"channels": 1}, "the images are grey"),
        ({"augment": {"photometric": 0.5, "brightness": 0, "contrast": 0, "saturation": 0}}, {}, "strengths are 0"),
        ({"augment": {"grey": 0.2}}, {"channels": 1}, "augment.grey 0.2 has no effect: the images are grey"),
        ({"augment": {"rand_augment_magnitude": 5}}, {}, "augment.rand_augment is 0"),
        ({"augment": {"aug_mix_severity": 5}}, {}, "augment.aug_mix is 0"),
        (
            {"losses": [{"kind": "arcface", "margins": [1, 0, 0.4], "gradient": "straight_through"}]},
            {},
            "losses.0.gradient straight_through has no effect: margins without an angle",
        ),
        ({"losses": [{"kind": "arcface", "filter_above": 2}]}, {}, "no cosine is above 1"),
        ({"losses": [{"kind": "adaface", "h": 0}]}, {}, "losses.0.h 0.0 has no effect: h is 0, so all images have one"),
        ({"losses": [{"kind": "adaface", "margin": 0, "h": 0.5}]}, {}, "losses.0.h 0.5 has no effect: margin is 0"),
        ({"optimizer": {"lr": 0.5, "head_lr": 0.1}}, {"backbone_learns": False}, "optimizer.lr 0.5 has no effect"),
        ({"losses": [{"kind": "triplet"}], "optimizer": {"head_lr": 0.1}}, {}, "no loss of triplet has weights"),
        ({"optimizer": {"momentum": 0.5}}, {}, "optimizer.momentum 0.5 has no effect: only sgd and rmsprop"),
        ({"optimizer": {"momentum": 0.9}}, {}, "optimizer.momentum 0.9"),  # the default, but written
        ({"optimizer": {"kind": "adam", "nesterov": True}}, {}, "only sgd has Nesterov's momentum"),
        ({"optimizer": {"lr_multipliers": {"a": 2}}}, {"idle_multipliers": ("a",)}, "'a' matches only parameters"),
        ({"optimizer": {"decay_norms": True, "weight_decay": 0}}, {}, "optimizer.weight_decay is 0"),
        (
            {"optimizer": {"ema": 0.999}},
            {},
            "after the run's 100 steps the average is still 90.5% the weights it began",
        ),
        ({"optimizer": {"ema_warmup": True}}, {}, "optimizer.ema is 0"),
        ({"schedule": {"milestones": [2, 4]}}, {}, "schedule.kind is cosine; set it to multistep"),
        ({"schedule": {"milestone_steps": [2, 4]}}, {}, "schedule.kind is cosine"),
        ({"schedule": {"kind": "multistep"}}, {}, "schedule.kind multistep has no effect: it has no milestones"),
        ({"schedule": {"kind": "multistep", "milestones": [4, 40]}}, {}, "the run ends after 10 epochs, before 40"),
        ({"schedule": {"kind": "multistep", "milestone_steps": [100]}}, {}, "ends after 100 steps, before 100"),
        ({"schedule": {"warmup_epochs": 10}}, {}, "the run ends after 10 epochs, before the rate falls"),
        ({"schedule": {"warmup_epochs": 5, "warmup_steps": 3}}, {}, "schedule.warmup_steps gives the length"),
        ({"schedule": {"warmup_epochs": 0.01}}, {}, "no more than one step of 10 per epoch"),
        ({"schedule": {"warmup_steps": 1}}, {}, "one step of a linear rise"),
        ({"schedule": {"warmup_steps": 100}}, {}, "the run ends after 100 steps"),
        ({"schedule": {"gamma": 0.5}}, {}, "schedule.gamma 0.5 has no effect: schedule.kind is cosine"),
        ({"schedule": {"power": 2}}, {}, "only polynomial has a power"),
        ({"schedule": {"kind": "constant", "final": 0.1}}, {}, "only cosine and polynomial end at a share"),
        ({"schedule": {"kind": "polynomial", "final": 1}}, {}, "schedule.final is 1"),
        ({"schedule": {"kind": "constant", "moves": "epoch"}}, {}, "schedule.kind is constant"),
        ({"epochs": 1, "schedule": {"kind": "cosine", "moves": "epoch"}}, {}, "there is one epoch"),
        ({"evaluation": {"patience": 9}}, {}, "the run has 10 evaluations"),
        ({"evaluation": {"patience": 4, "every": 2}}, {}, "the run has 5 evaluations"),
        ({"checkpoints": {"every_steps": 20}}, {}, "epochs of 10 steps end with a checkpoint"),
        ({"checkpoints": {"every_steps": 101}}, {}, "checkpoints.every_steps 101 has no effect"),
    ],
)
def test_a_setting_without_effect_is_named_with_the_reason(sections, facts, line):
    lines = settings_without_effect(config(**sections), RunFacts(**{**vars(FACTS), **facts}))
    assert [found for found in lines if line in found], lines


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"reference": "x", "restore_bn": True, "calibration_images": 9}},
        {"model": {"reference": "x", "freeze": {"a": None, "b": 9}}},
        {"data": {"train": "a", "holdout": 0.3}},
        {"data": {"train": "a", "sampler": "pk", "images_per_identity": 8}},
        {"augment": {"photometric": 0.5, "hue": 0.1, "grey": 0.1}},
        {"augment": {"rand_augment": 0.5, "rand_augment_magnitude": 5, "aug_mix": 0.1, "aug_mix_severity": 1}},
        {"losses": [{"kind": "arcface", "gradient": "straight_through", "filter_above": 0.4}]},
        {"losses": [{"kind": "triplet"}, {"kind": "softmax"}], "optimizer": {"head_lr": 0.1}},
        {"optimizer": {"kind": "sgd", "momentum": 0.5, "nesterov": True, "decay_norms": True}},
        {"optimizer": {"kind": "rmsprop", "momentum": 0.5}},
        {"optimizer": {"ema": 0.97}},
        {"optimizer": {"ema": 0.999, "ema_warmup": True}},
        {"schedule": {"kind": "multistep", "milestones": [2], "milestone_steps": [99], "gamma": 0.5}},
        {"schedule": {"kind": "polynomial", "power": 2, "final": 0.1, "warmup_epochs": 9.5, "moves": "epoch"}},
        {"schedule": {"warmup_steps": 99}},
        {"evaluation": {"patience": 8}},
        {"checkpoints": {"every_steps": 15}},
        {"steps_per_epoch": 9},
    ],
)
def test_settings_with_an_effect_are_not_named(sections):
    facts = RunFacts(**{**vars(FACTS), "steps_per_epoch": sections.get("steps_per_epoch", 10)})
    assert settings_without_effect(config(**sections), facts) == []


def test_what_needs_data_or_network_is_left_out_without_them():
    assert settings_without_effect(config(optimizer={"ema": 0.999}, steps_per_epoch=1000)) == []


def test_a_file_that_writes_every_field_is_not_reproached_with_its_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(config(optimizer={"momentum": 0.5})))
    assert [line.split(" has")[0] for line in settings_without_effect(load_config(path))] == ["optimizer.momentum 0.5"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_no_setting_without_effect(example):
    assert settings_without_effect(load_config(example)) == []
