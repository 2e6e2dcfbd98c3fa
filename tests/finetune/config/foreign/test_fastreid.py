"""YAML of fast-reid over its base files, in both of its namings, with every key accounted for."""

import pytest
import yaml

from rtool.errors import ConfigError, InputError
from rtool.finetune.config.foreign.fastreid import convert_fastreid
from rtool.finetune.config.foreign.fastreid_keys import AVERAGED, COUNTED, NO_COUNTERPART
from rtool.finetune.config.foreign.fates import UNKNOWN

BASE = """
MODEL:
  META_ARCHITECTURE: Baseline
  BACKBONE:
    NAME: build_resnet_backbone
    DEPTH: 50x
    WITH_IBN: True
    PRETRAIN: True
  HEADS:
    CLS_LAYER: CircleSoftmax
    SCALE: 64
    MARGIN: 0.35
  LOSSES:
    NAME: ("CrossEntropyLoss", "TripletLoss",)
    CE: {EPSILON: 0.1, SCALE: 1.}
    TRI: {MARGIN: 0.0, HARD_MINING: True, NORM_FEAT: False, SCALE: 0.5}
INPUT:
  SIZE_TRAIN: [256, 128]
  REA: {ENABLED: True, PROB: 0.4}
  DO_PAD: True
DATALOADER: {NUM_INSTANCE: 4, NUM_WORKERS: 8, SAMPLER_TRAIN: NaiveIdentitySampler}
SOLVER:
  AMP: {ENABLED: True}
  OPT: Adam
  MAX_EPOCH: 120
  BASE_LR: 0.00035
  STEPS: [40, 90]
  GAMMA: 0.1
  WARMUP_FACTOR: 0.1
  WARMUP_ITERS: 2000
  IMS_PER_BATCH: 64
TEST: {EVAL_PERIOD: 30, IMS_PER_BATCH: 128, METRIC: cosine}
"""
TOP = """
_BASE_: base.yml
DATASETS:
  NAMES: ("Market1501", "DukeMTMC")
  TESTS: ("Market1501",)
SOLVER: {BASE_LR: 0.0005}
OUTPUT_DIR: logs/market1501/bagtricks_R50
"""


def convert(path, text, base=None):
    if base is not None:
        (path / "base.yml").write_text(base)
    (path / "x.yml").write_text(text)
    found = convert_fastreid(path / "x.yml")
    return found.config, {key.key: (key.fate, key.note) for key in found.keys}


def test_a_configuration_over_its_base_is_carried_over(tmp_path):
    config, fates = convert(tmp_path, TOP, BASE)
    assert (config.model.reference, config.model.size) == ("resnet50_ibn_a", (256, 128))
    assert config.data.train == ("datasets/Market-1501-v15.09.15", "datasets/DukeMTMC-reID")
    assert (config.data.evaluate, config.data.sampler) == ("datasets/Market-1501-v15.09.15", "pk")
    circle, triplet = config.losses
    assert (circle.kind, circle.scale, circle.margin) == ("circle", 64, 0.35)
    assert (triplet.margin, triplet.weight, triplet.normalise) == ("soft", 0.5, False)
    assert (config.optimizer.kind, config.optimizer.lr) == ("adam", 0.0005)
    assert (config.schedule.milestones, config.schedule.warmup_steps) == ((40, 90), 2000)
    assert (config.augment.erasing, config.augment.pad_crop, config.augment.flip) == (0.4, 10, 0.5)
    assert (config.evaluation.every, config.evaluation.flip, config.precision) == (30, False, "half")
    assert fates["MODEL.LOSSES.CE.EPSILON"] == ("left out", "circle has no label smoothing")
    assert "_BASE_" not in fates


def test_every_known_key_has_its_fate_with_a_reason(tmp_path):
    keys = [*NO_COUNTERPART, *COUNTED, *(f"SOLVER.SWA.{name}" for name in AVERAGED)]
    keys += [
        "MODEL.LOSSES.CIRCLE.MARGIN",
        "MODEL.LOSSES.CIRCLE.GAMMA",
        "MODEL.LOSSES.COSFACE.MARGIN",
        "KD.MODEL_CONFIG",
    ]
    content: dict = {}
    for key in keys:
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = 1
    settings = {
        "MODEL.WEIGHTS": "a.pth",
        "MODEL.DEVICE": "cuda",
        "INPUT.SIZE_TEST": [384, 128],
        "INPUT.DO_FLIP": True,
        "INPUT.FLIP_PROB": 0.3,
        "INPUT.DO_CJ": True,
        "INPUT.DO_AUTOAUG": True,
        "INPUT.DO_AUGMIX": True,
        "INPUT.RPT.ENABLED": True,
        "DATALOADER.PK_SAMPLER": True,
        "SOLVER.BIAS_LR_FACTOR": 2.0,
        "SOLVER.HEADS_LR_FACTOR": 3.0,
        "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
        "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.NESTEROV": True,
        "SOLVER.SCHED": "CosineAnnealingLR",
        "SOLVER.ETA_MIN_LR": 3.5e-5,
        "SOLVER.CLIP_GRADIENTS.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 5.0,
        "SOLVER.LOG_PERIOD": 30,
        "TEST.RERANK.ENABLED": True,
        "TEST.RERANK.K1": 30,
        "TEST.RERANK.K2": 5,
        "TEST.RERANK.LAMBDA": 0.2,
        "TEST.FLIP.ENABLED": True,
    }
    for key, value in settings.items():
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    content["_BASE_"] = "base.yml"
    config, fates = convert(tmp_path, yaml.safe_dump(content), BASE)
    assert {*keys, *settings} <= set(fates)
    assert [name for name, (_, note) in fates.items() if note == UNKNOWN or not note] == []
    assert (config.optimizer.head_lr, config.optimizer.lr_multipliers) == (pytest.approx(0.00105), {"*.bias": 2})
    assert (config.schedule.kind, config.schedule.final) == ("cosine", pytest.approx(0.1))
    evaluation = config.evaluation
    assert (evaluation.rerank, evaluation.rerank_k1, evaluation.rerank_k2, evaluation.rerank_lambda) == (
        True,
        30,
        5,
        0.2,
    )
    assert (config.augment.flip, config.augment.random_patch, config.optimizer.clip) == (0.3, 0.5, 5)
    assert convert(tmp_path, "MODEL: {A_NEW_KEY: 1}")[1]["MODEL.A_NEW_KEY"] == ("left out", UNKNOWN)


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(InputError, match=r"base\.yml: no such file"):
        convert(tmp_path, TOP)
    with pytest.raises(ConfigError, match=r"'SOLVER\.OPT': expected one of adam"):
        convert(tmp_path, "SOLVER: {OPT: Ranger}")
    with pytest.raises(ConfigError, match="over 10 _BASE_ files"):
        convert(tmp_path, "_BASE_: x.yml")
    with pytest.raises(ConfigError, match="not valid YAML"):
        convert(tmp_path, "MODEL: !!python/object/apply:os.system [true]")


def test_max_iter_counts_epochs_up_to_a_thousand_and_iterations_beyond(tmp_path):
    text = "SOLVER: {{MAX_ITER: {}, STEPS: {}, WARMUP_ITERS: {}}}\nTEST: {{EVAL_PERIOD: {}}}\n"
    config, keys = convert(tmp_path, text.format(60, [30, 50], 10, 20))
    assert (config.epochs, config.schedule.milestones, config.schedule.warmup_epochs) == (60, (30, 50), 10)
    assert (config.schedule.milestone_steps, config.schedule.warmup_steps) == ((), None)
    assert (config.evaluation.every, config.evaluation.every_steps) == (20, None)
    assert keys["SOLVER.MAX_ITER"][0] == "approximated"
    config, keys = convert(tmp_path, text.format(18000, [8000, 14000], 1000, 2000))
    assert (config.schedule.milestone_steps, config.schedule.warmup_steps) == ((8000, 14000), 1000)
    assert (config.schedule.milestones, config.evaluation.every_steps) == ((), 2000)
    assert keys["SOLVER.MAX_ITER"][0] == "left out"


def test_query_expansion_is_converted_where_it_is_on(tmp_path):
    text = "TEST: {{AQE: {{ENABLED: {}, QE_TIME: 1, QE_K: 7, ALPHA: 2.5}}}}\n"
    config, keys = convert(tmp_path, text.format(True))
    assert (config.evaluation.expand, config.evaluation.expand_alpha) == (7, 2.5)
    assert keys["TEST.AQE.QE_TIME"][0] == "left out"
    config, keys = convert(tmp_path, text.format(False))
    assert config.evaluation.expand == 0
    assert keys["TEST.AQE.QE_K"] == ("left out", "off there, and so here")
