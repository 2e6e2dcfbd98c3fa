"""Older trainers' params.json, in sections and flat, and the pages the configuration prints of itself."""

import json

import pytest
import yaml

from rtool.errors import ConfigError, InputError
from rtool.finetune.config import FinetuneConfig
from rtool.finetune.config_pages import commented_config, loss_reference
from rtool.finetune.params_json import convert_params

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
    return convert_params(path)


def test_settings_in_sections_are_carried_over(tmp_path):
    config, unused = convert(tmp_path, SECTIONS)
    assert (config.data.batch, config.data.sampler, config.data.images_per_identity) == (64, "pk", 4)
    assert (config.optimizer.lr, config.optimizer.head_lr) == (0.01, 0.1)
    assert config.schedule.milestones == (20, 40)
    assert (config.model.reference, config.model.size, str(config.model.weights)) == ("pcb", (384, 128), "old.pth")
    assert config.model.freeze == {"*": None}
    classify, triplet = config.losses
    assert (classify.kind, classify.parts, classify.weight) == ("pcb", 6, 12)
    assert (triplet.kind, triplet.margin, triplet.weight) == ("triplet", "soft", 10)
    assert (config.augment.flip, config.augment.erasing, config.evaluation.every) == (0.5, 0.5, 20)
    assert unused == ("augmentation_rotation", "evaluation_type")


def test_flat_settings_are_carried_over(tmp_path):
    config, unused = convert(tmp_path, FLAT)
    assert config.model.reference == "fused.onnx"
    assert [loss.kind for loss in config.losses] == ["softmax", "triplet"]
    assert config.losses[1].margin == 0.3
    assert unused == ()


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
        "One of sgd, adamw.",
        "One of retrieval, verification.",
        "One of random, pk, pk_cameras.",
        "One of fp32, bf16, fp16, half.",
        "rank10 or mINP",
        ".bin file",
        "or .jsonl manifest",
        "MSMT17",
    ],
)
def test_the_commented_configuration_tells_the_words_a_field_takes(words):
    assert words in commented_config()


def test_the_loss_reference_lists_every_kind_once():
    kinds = [entry["kind"] for entry in yaml.safe_load(loss_reference())]
    assert sorted(kinds) == sorted(set(kinds))
    assert {"arcface", "adaface", "partial_fc", "pcb", "triplet", "circle_pair"} <= set(kinds)
