"""Older trainers' params.json, in sections and flat, and the pages the configuration prints of itself."""

import json
import math

import pytest
import torch
import yaml
from torch import nn

from rtool.converters.zoo.registry import build_architecture
from rtool.errors import ConfigError, InputError
from rtool.finetune.config.config import FinetuneConfig
from rtool.finetune.config.foreign.fates import UNKNOWN
from rtool.finetune.config.foreign.params_json import convert_params
from rtool.finetune.config.pages import commented_config, loss_reference
from rtool.finetune.network.learner import Learner, check_freezing
from rtool.finetune.training.optimizers import build_optimizer

SECTIONS = {
    "batch_sampling_params": {"K": 4, "P": 16, "class_balanced": True},
    "batches_dir": "/data/market",
    "data_augmentation": {"mirror": True, "random_erasing": True, "rotation": 0},
    "epochs": 60,
    "evaluation_params": {"type": "market_evaluate", "epoch": 20},
    "fine_tune": True,
    "img_h": 384,
    "img_w": 128,
    "lr": {"base_lr": 0.01, "decay_gamma": 0.1, "decay_step": 20, "fc_lr": 0.1},
    "model_params": {"model": "resnet_50", "pcb_n_parts": 6},
    "pretrain_snapshot": "old.pth",
    "tri_loss_params": {"margin": "soft_margin", "lambda_tri": 10, "lambda_cls": 2},
}
FLAT = {
    "batch_size": 32,
    "base_lr": 0.02,
    "fc_lr": 0.2,
    "tri_loss_margin": 0.3,
    "tri_loss_lambda_tri": 1,
    "tri_loss_lambda_cls": 1,
    "pretrain_snapshot": "fused.onnx",
}


def convert(tmp_path, content):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(content))
    found = convert_params(path)
    return found.config, {key.key: (key.fate, key.note) for key in found.keys}


def test_settings_in_sections_are_carried_over(tmp_path):
    config, fates = convert(tmp_path, SECTIONS)
    assert (config.data.batch, config.data.sampler, config.data.images_per_identity) == (64, "pk", 4)
    assert (config.optimizer.lr, config.optimizer.head_lr) == (0.01, 0.1)
    assert config.schedule.milestone_steps == tuple(range(20, 161, 20)), "of balanced batches they are iterations"
    assert (config.model.reference, config.model.size, str(config.model.weights)) == ("pcb", (384, 128), "old.pth")
    assert config.model.freeze == {"conv1": None, "bn1": None, "layer?": None}
    assert config.optimizer.lr_multipliers == {"conv5": 10}
    classify, triplet = config.losses
    assert (classify.kind, classify.parts, classify.weight) == ("pcb", 6, 12)
    assert (triplet.kind, triplet.margin, triplet.weight) == ("triplet", "soft", 10)
    assert (config.augment.flip, config.augment.erasing, config.evaluation.every) == (0.5, 0.5, 20)
    assert config.evaluation.protocol == "retrieval"
    assert {fate for fate, _ in fates.values()} <= {"converted", "approximated"}


def test_flat_settings_are_carried_over(tmp_path):
    config, fates = convert(tmp_path, FLAT)
    assert config.model.reference == "fused.onnx"
    assert [loss.kind for loss in config.losses] == ["softmax", "triplet"]
    assert config.losses[1].margin == 0.3
    assert {fate for fate, _ in fates.values()} == {"converted"}


@pytest.mark.parametrize(
    ("settings", "frozen", "fresh"),
    [
        ({"pcb_n_parts": 6}, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}, "conv5"),
        ({}, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}, "fc"),
        ({"model": "osnet"}, {"conv1", "conv2", "conv3", "conv4", "conv5"}, "fc"),
    ],
)
def test_the_stem_alone_is_frozen_and_what_lies_above_it_has_its_own_rate(tmp_path, settings, frozen, fresh):
    config, _ = convert(tmp_path, {**FLAT, "pretrain_snapshot": "", "fine_tune": True, **settings})
    with torch.device("meta"):
        backbone = build_architecture(config.model.reference, **config.model.options)
    learner = Learner(backbone, nn.ModuleList([nn.Linear(1, 1)]), output=0, autocast=None)
    check_freezing(learner, config.model.freeze)
    learner.freeze(config.model.freeze, 0)
    names = dict(backbone.named_parameters())
    assert {name.split(".")[0] for name, parameter in names.items() if not parameter.requires_grad} == frozen
    assert {name.split(".")[0] for name, parameter in names.items() if parameter.requires_grad} == {fresh}
    optimizer, named = build_optimizer(config.optimizer, backbone, learner.heads)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in named.items():
        expected = 0.2 if name.startswith(("heads.", f"backbone.{fresh}.")) else 0.02
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert all(group["weight_decay"] == 5e-4 for group in optimizer.param_groups)  # the older trainers decay all


def test_a_network_from_onnx_is_a_stem_as_a_whole(tmp_path):
    config, _ = convert(tmp_path, {**FLAT, "fine_tune": True})
    assert (config.model.freeze, config.optimizer.lr_multipliers) == ({"*": None}, {})
    assert convert(tmp_path, FLAT)[0].model.freeze == {}


@pytest.mark.parametrize(
    ("name", "kind", "nesterov"),
    [
        ("sgd", "sgd", False),
        ("SGD", "sgd", False),
        ("nesterov", "sgd", True),
        ("Adam", "adam", False),
        ("amsgrad", "amsgrad", False),
        ("rmsprop", "rmsprop", False),
        ("adamw", "adamw", False),
    ],
)
def test_optimizers_keep_their_kind(tmp_path, name, kind, nesterov):
    config, fates = convert(tmp_path, {**FLAT, "optimizer": name, "momentum": 0.5})
    assert (config.optimizer.kind, config.optimizer.nesterov) == (kind, nesterov)
    has = kind in ("sgd", "rmsprop")
    assert config.optimizer.momentum == (0.5 if has else 0.9)
    assert fates["momentum"][0] == ("converted" if has else "left out")


@pytest.mark.parametrize(
    ("settings", "kinds", "margin"),
    [
        ({"tri_loss_margin": 0.3}, ["triplet"], 0.3),
        ({"tri_loss_margin": "soft_margin"}, ["triplet"], "soft"),
        ({"tri_loss_margin": 0.3, "tri_loss_lambda_cls": 0}, ["triplet"], 0.3),
        ({"tri_loss_margin": 0.3, "tri_loss_lambda_cls": 0.5}, ["softmax", "triplet"], 0.3),
        ({"tri_loss_margin": 0, "tri_loss_lambda_tri": 1, "tri_loss_lambda_cls": 0.5}, ["softmax"], None),
        ({"tri_loss_params": {"margin": 0.2}}, ["triplet"], 0.2),
        ({}, ["softmax"], None),
    ],
)
def test_a_margin_means_the_triplet_and_the_classification_joins_it(tmp_path, settings, kinds, margin):
    config, fates = convert(tmp_path, settings)
    assert [loss.kind for loss in config.losses] == kinds
    assert [loss.margin for loss in config.losses if loss.kind == "triplet"] == ([] if margin is None else [margin])
    if kinds == ["softmax", "triplet"]:
        assert config.losses[0].weight == 0.5
    if kinds == ["softmax"]:
        assert config.losses[0].weight == 1
        assert all(fate == "left out" for fate, _ in fates.values())


def test_am_softmax_padding_rotation_noise_and_warm_up(tmp_path):
    config, fates = convert(
        tmp_path,
        {
            "asoftmax_params": {"margin": 0.35, "scale": 0},
            "data_augmentation": {"padding_h": 10, "padding_w": 10, "rotation": 5, "gaussian_noise": True},
            "lr": {"warmup_epoch": 20},
            "epoch": 120,
            "parallels": [0, 1, 4],
        },
    )
    (loss,) = config.losses
    assert (loss.kind, loss.margin, loss.scale) == ("cosface", 0.35, 30)
    assert (config.augment.pad_crop, config.augment.rotation, config.augment.noise) == (10, 5, 0.5)
    assert (config.schedule.warmup_epochs, config.epochs) == (20, 120)
    assert fates["parallels"] == ("approximated", "--nproc 3 of rtool finetune, with CUDA_VISIBLE_DEVICES=0,1,4")
    assert fates["augmentation_gaussian_noise"][0] == "approximated"


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        ({"type": None, "epoch": 20}, None),
        ({"type": "None"}, None),
        ({"type": "market_evaluate", "epoch": 20}, ("retrieval", 20, None)),
        ({"type": "market_evaluate", "step": 500, "epoch": None}, ("retrieval", 1, 500)),
        ({"type": "my_eval.py"}, (None, 1, None)),
        ({}, (None, 1, None)),
    ],
)
def test_how_evaluation_is_asked_for(tmp_path, evaluation, expected):
    found = convert(tmp_path, {"evaluation_params": evaluation})[0].evaluation
    assert (found if found is None else (found.protocol, found.every, found.every_steps)) == expected


def test_lengths_of_features_are_options_of_pcb_alone(tmp_path):
    config, fates = convert(tmp_path, {"pcb_n_parts": 3, "model_params": {"feature_dim": 384}})
    assert config.model.options["reduced"] == 128
    assert "global_dim" not in config.model.options
    assert fates["model_feature_dim"][0] == "converted"
    config, fates = convert(tmp_path, {"model_params": {"feature_dim": 384, "feature_gobal_dim": 256}})
    assert config.model.options == {}
    assert {fates[name][0] for name in ("model_feature_dim", "model_feature_gobal_dim")} == {"left out"}
    with pytest.raises(ConfigError, match=r"'model_feature_dim': expected a multiple of pcb_n_parts, 6, got 1000"):
        convert(tmp_path, {"pcb_n_parts": 6, "model_params": {"feature_dim": 1000}})


def test_every_known_key_has_its_fate_with_a_reason(tmp_path):
    """`rl_params.json` of the trainer, and the keys of its documentation that it leaves out."""
    content = {
        "asoftmax_params": {"margin": 0.3, "step": 2000, "unlabel_fold": 1, "unlabel_update": 1, "scale": 20},
        "batch_sampling_params": {"K": 2, "P": 4, "batch_size": 64, "class_balanced": True, "softmax_only": True},
        "batches_dir": "/data/train_all",
        "data_augmentation": {
            "colour_jitering": True,
            "crop_h": 380,
            "crop_w": 128,
            "padding_h": 10,
            "padding_w": 8,
            "mirror": True,
            "random_erasing": True,
            "gaussian_noise": True,
            "imagenet_static": True,
            "rotation": 3,
        },
        "epoch": 40,
        "epochs": 50,
        "evaluation_params": {"type": "classification_evaluate", "step": 100, "epoch": 20},
        "fine_tune": True,
        "focal_loss": True,
        "imagenet_pretrain": True,
        "img_h": 384,
        "img_w": 128,
        "lr": {"base_lr": 0.01, "decay_gamma": 0.1, "decay_step": [40, 80], "warmup_epoch": 20, "fc_lr": 0.1},
        "model_params": {
            "feature_dim": 1536,
            "model": "resnet_50",
            "pcb_n_parts": 6,
            "random_drop_branchs": 6,
            "last_conv_stride": 1,
            "spectral_trans": 0.3,
            "feature_mask": True,
            "feature_gobal_dim": 256,
        },
        "gan_params": {"input_dim": 1, "lr": 0.0002, "pretrain_snapshot_d": "d.pth"},
        "momentum": 0.9,
        "nesterov": True,
        "num_preprocess_workers": 8,
        "optimizer": "sgd",
        "parallels": [4],
        "pretrain_snapshot": "old.pth",
        "tri_loss_params": {"margin": 0.3, "use_adaptive_weight": True, "lambda_tri": 1, "lambda_cls": 1},
        "weight_decay": 5e-4,
        "working_dir": "/runs/output",
        "sub_working_dir": "first",
    }
    count = sum(len(value) if isinstance(value, dict) else 1 for value in content.values())
    config, fates = convert(tmp_path, content)
    assert len(fates) == count
    assert [name for name, (_, note) in fates.items() if note == UNKNOWN or not note] == []
    assert (config.name, str(config.output), config.epochs) == ("first", "/runs/output", 50)
    assert fates["epoch"] == ("left out", "epochs is used instead")
    assert config.model.options == {"parts": 6, "last_stride": 1, "reduced": 256, "global_dim": 256}
    (classify,) = (loss for loss in config.losses if loss.kind == "pcb")
    assert (classify.parts, classify.global_dim, classify.weight) == (6, 256, 7)
    assert set(config.optimizer.lr_multipliers) == {"conv5", "whole"}
    _, fates = convert(tmp_path, {"a_new_key": 1})
    assert fates == {"a_new_key": ("left out", UNKNOWN)}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"decay_step": "20", "epochs": 60}, (20, 40)),
        ({"decay_step": 20, "max_epoch": 50.0}, (20, 40)),
        ({"decay_step": 20, "epochs": 20}, ()),
        ({"decay_step": 2.5, "epochs": 6}, (2.5, 5)),
        ({"decay_step": ["20", 50], "epochs": "60"}, (20, 50)),
    ],
)
def test_the_rate_falls_at_the_steps_however_they_are_written(tmp_path, settings, expected):
    assert convert(tmp_path, {**FLAT, **settings})[0].schedule.milestones == expected


def test_numbers_written_as_text_are_numbers(tmp_path):
    content = {"batch_sampling_params": {"class_balanced": True, "P": "8", "K": "4"}, "pcb_n_parts": "6", **FLAT}
    content |= {"pretrain_snapshot": None, "tri_loss_lambda_cls": "1", "tri_loss_margin": 0}
    config, _ = convert(tmp_path, content)
    assert (config.data.batch, config.data.images_per_identity) == (32, 4)
    assert config.losses[0].weight == 6
    assert config.losses[0].kind == "pcb"
    assert len(config.losses) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "radam"}, "'optimizer': expected one of sgd, adam, amsgrad, rmsprop, .*, got 'radam'"),
        ({"model": ["a"]}, r"'model': expected a text, got \['a'\]"),
        ({"pretrain_snapshot": 5}, "'pretrain_snapshot': expected a text, got 5"),
        ({"decay_step": "x"}, "'decay_step': expected a finite number, got 'x'"),
        ({"decay_step": [20, -1]}, "'decay_step': expected steps above 0"),
        ({"epochs": 2.5}, "'epochs': expected a whole number"),
        ({"base_lr": math.nan}, "'base_lr': expected a finite number, got nan"),
        ({"lr": {"base_lr": 0}}, r"optimizer\.lr"),
        ({"fine_tune": "yes"}, "'fine_tune': expected true or false, got 'yes'"),
        ({"tri_loss_margin": "hard"}, "'tri_loss_margin': expected a finite number"),
        ({"batch_sampling_params": {"class_balanced": True, "P": [8]}}, "'batch_sampling_P': expected a finite number"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=rf"params\.json: .*{message}"):
        convert(tmp_path, {**{name: value for name, value in FLAT.items() if name not in settings}, **settings})


def test_values_that_make_no_configuration_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        convert(tmp_path, {"base_lr": -1})
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        convert_params(tmp_path / "bad.json")


def test_the_commented_configuration_reads_back_and_explains_every_field():
    text = commented_config()
    config = FinetuneConfig.model_validate(yaml.safe_load(text))
    assert config.losses[0].kind == "arcface"
    for section in (config, config.data, config.model, config.optimizer):
        for name, field in type(section).model_fields.items():
            assert field.description, name
            assert all(f"# {line}" in text for line in field.description.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        "One of cosine, multistep, polynomial, constant.",
        "One of sgd, adamw, adam, amsgrad, rmsprop.",
        "One of retrieval, verification, classification.",
        "One of random, pk, pk_cameras, graph.",
        "One of fp32, bf16, fp16, half.",
        "rank20 or mINP",
        ".bin file",
        "or .jsonl manifest",
        "MSMT17",
    ],
)
def test_the_commented_configuration_lists_the_words_a_field_accepts(words):
    assert words in commented_config()


def test_the_loss_reference_lists_every_kind_once():
    kinds = [entry["kind"] for entry in yaml.safe_load(loss_reference())]
    assert sorted(kinds) == sorted(set(kinds))
    assert {"arcface", "adaface", "partial_fc", "pcb", "triplet", "circle_pair"} <= set(kinds)


def test_classification_is_measured_by_its_protocol_and_a_function_of_ones_own_is_pointed_to(tmp_path):
    config, fates = convert(tmp_path, {"evaluation_type": "classification_evaluate"})
    assert config.evaluation.protocol == "classification"
    assert fates["evaluation_type"][0] == "approximated"
    _, fates = convert(tmp_path, {"evaluation_type": "my_evaluate"})
    assert "evaluation.function" in fates["evaluation_type"][1]


def test_a_network_that_is_not_in_the_zoo_is_asked_for_as_a_file(tmp_path):
    config, fates = convert(tmp_path, {"batches_dir": "d", "model_params": {"model": "swin"}})
    assert config.model.reference == "path/to/model.onnx"
    assert fates["model_model"] == (
        "left out",
        "swin is not in rtool's zoo: give its ONNX file, model.reference=FILE.onnx",
    )


@pytest.mark.parametrize("section", [True, False])
def test_keys_mean_the_same_in_their_section_and_flat(tmp_path, section):
    sampling = {"class_balanced": True, "P": 6, "K": 8}
    network = {
        "model": "resnet_50",
        "pcb_n_parts": 4,
        "feature_dim": 1024,
        "feature_gobal_dim": 256,
        "last_conv_stride": 2,
    }
    nested = {"batch_sampling_params": sampling, "model_params": network}
    config, fates = convert(tmp_path, {"batches_dir": "d", **(nested if section else sampling | network)})
    assert (config.data.batch, config.data.images_per_identity) == (48, 8)
    assert config.model.options == {"parts": 4, "last_stride": 2, "reduced": 256, "global_dim": 256}
    assert {fate for fate, _ in fates.values()} <= {"converted", "approximated"}
