"""Configurations of arcface_torch: parsed, never executed, with every key accounted for."""

import pytest

from rtool.errors import ConfigError, InputError
from rtool.finetune.config.foreign.arcface_torch import convert_arcface_torch
from rtool.finetune.config.foreign.fates import UNKNOWN

HEAD = "from easydict import EasyDict as edict\n\n# make training faster\nconfig = edict()\n"
EXAMPLE = {
    "margin_list": (1.0, 0.5, 0.0),
    "network": "r50",
    "resume": False,
    "output": None,
    "embedding_size": 512,
    "sample_rate": 1.0,
    "fp16": True,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "lr": 0.02,
    "verbose": 2000,
    "dali": False,
    "rec": "/train_tmp/ms1m",
    "num_classes": 93431,
    "num_image": 5179510,
    "num_epoch": 20,
    "warmup_epoch": 1,
    "val_targets": ["lfw", "cfp_fp", "agedb_30"],
}
BASE = {
    "save_all_states": True,
    "interclass_filtering_threshold": 0.4,
    "optimizer": "sgd",
    "frequent": 10,
    "dali_aug": True,
    "gradient_acc": 4,
    "seed": 2048,
    "num_workers": 2,
    "wandb_key": "secret",
    "suffix_run_name": "a",
    "using_wandb": True,
    "wandb_entity": "entity",
    "wandb_project": "faces",
    "wandb_log_all": True,
    "save_artifacts": True,
    "wandb_resume": True,
    "notes": "a note",
    "decay_epoch": [8, 12],
}


def write(path, settings, head=HEAD, tail=""):
    path.write_text(head + "".join(f"config.{key} = {value!r}\n" for key, value in settings.items()) + tail)
    return path


def convert(path):
    found = convert_arcface_torch(path)
    return found.config, {key.key: (key.fate, key.note) for key in found.keys}


def test_the_example_configuration_is_carried_over(tmp_path):
    config, fates = convert(write(tmp_path / "ms1mv3_r50.py", EXAMPLE))
    assert (config.epochs, config.seed, config.precision, config.log_every) == (20, 2048, "half", 10)
    assert (config.model.reference, config.data.train, config.data.batch) == ("iresnet50", "/train_tmp/ms1m", 128)
    sets = {name: f"/train_tmp/ms1m/{name}.bin" for name in ("lfw", "cfp_fp", "agedb_30")}
    assert config.data.evaluate == sets
    assert (config.evaluation.every_steps, config.evaluation.protocol) == (2000, "verification")
    (loss,) = config.losses
    assert (loss.kind, loss.scale, loss.margins, loss.gradient) == ("arcface", 64, (1, 0.5, 0), "straight_through")
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.lr, optimizer.momentum, optimizer.clip) == ("sgd", 0.02, 0.9, 5)
    assert (optimizer.weight_decay, optimizer.decay_norms, optimizer.accumulate) == (5e-4, True, 1)
    assert (config.schedule.kind, config.schedule.power, config.schedule.warmup_epochs) == ("polynomial", 1, 1)
    assert (str(config.output), config.name) == ("work_dirs", "ms1mv3_r50")
    assert fates["embedding_size"][0] == "left out"
    assert any(key.startswith("(") for key in fates), "what it does without a key is said as well"


def test_every_known_key_has_its_fate_with_a_reason(tmp_path):
    config, fates = convert(write(tmp_path / "x.py", EXAMPLE | BASE))
    assert set(EXAMPLE | BASE) <= set(fates)
    assert [name for name, (_, note) in fates.items() if note == UNKNOWN or not note] == []
    assert (config.losses[0].filter_above, config.optimizer.accumulate, config.tracking.wandb) == (0.4, 4, "faces")
    assert "secret" not in str(fates)
    assert convert(write(tmp_path / "y.py", {"new_key": 1}))[1]["new_key"] == ("left out", UNKNOWN)


def test_settings_of_a_base_file_lie_below_those_of_the_file(tmp_path):
    write(tmp_path / "base.py", {"lr": 0.1, "num_epoch": 7, "fp16": True})
    beside = write(tmp_path / "beside.py", {"lr": 0.5})
    imported = write(tmp_path / "imported.py", {"lr": 0.5}, head="from configs.base import config\n")
    for path in (beside, imported):
        config, fates = convert(path)
        assert (config.optimizer.lr, config.epochs, config.precision) == (0.5, 7, "half")
        assert fates["num_epoch"][0] == "converted"
    lost = write(tmp_path / "lost.py", {}, head="from configs.other import config\n")
    with pytest.raises(InputError, match=r"takes its settings from configs\.other.*other\.py does not exist"):
        convert(lost)


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("config.lr = 0.1 * 4 / 2", "lr", 0.2),
        ("batch = 64\nconfig.batch_size = batch * 2\nconfig.lr = config.batch_size / 1000", "lr", 0.128),
        ('config.dataset = "a"\nif config.dataset == "a":\n    config.lr = 0.3\nelse:\n    config.lr = 9', "lr", 0.3),
        ("config.update({'lr': 0.4})", "lr", 0.4),
        ('config["lr"] = 0.6', "lr", 0.6),
        ("config = dict(lr=0.7)", "lr", 0.7),
        ("config = {'lr': 0.8}", "lr", 0.8),
    ],
)
def test_what_can_be_read_without_running_it_is_read(tmp_path, text, field, expected):
    path = tmp_path / "x.py"
    path.write_text(HEAD + text + "\n")
    assert getattr(convert(path)[0].optimizer, field) == pytest.approx(expected)


def test_code_is_left_out_by_line_and_never_run(tmp_path):
    tail = "def step(epoch):\n    raise SystemExit\nconfig.lr_func = step\nconfig.num_epoch = max(1, 2)\n"
    config, fates = convert(write(tmp_path / "x.py", {"lr": 0.3}, tail=tail))
    assert config.epochs == 20
    assert fates["num_epoch"] == ("left out", "code in line 9, which is not run; set the field that it would have set")
    assert fates["lr_func"][1].startswith("code in line 8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os\nos.remove('a')", "line 2 is code that would have to run"),
        ("config = dict()\nif print('x'):\n    config.lr = 1", "line 2 decides by code"),
        ("for i in range(3):\n    pass", "line 1 is code"),
        ("config.lr = ", "not Python that can be read"),
        ("import os\n", "sets nothing of config"),
        ("config = dict(lr=1, **other)", "line 1: expected a mapping"),
        ("config = dict()\nconfig.margin_list = (1, 2)", "'margin_list': expected three numbers"),
        ("config = dict()\nconfig.optimizer = 'lamb'", "'optimizer': expected sgd or adamw"),
        ("config = dict()\nconfig.fp16 = 'yes'", "'fp16': expected true or false"),
        ("config = dict()\nconfig.lr = 0", r"optimizer\.lr"),
    ],
)
def test_what_cannot_be_read_is_refused_by_line_or_key(tmp_path, text, message):
    path = tmp_path / "x.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        convert(path)


def test_numbers_do_not_grow_without_bound(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("config = dict()\nconfig.lr = 0.1\nconfig.a = 99999999 * 99999999 * 99999999\n")
    assert convert(path)[1]["a"][1].startswith("code in line 3")


@pytest.mark.parametrize(
    ("settings", "kind", "left_out"),
    [
        ({"sample_rate": 0.1}, "partial_fc", ()),
        ({"sample_rate": 0.1, "gradient_acc": 2}, "partial_fc", ("gradient_acc",)),
        (
            {"sample_rate": 0.1, "interclass_filtering_threshold": 0.4},
            "partial_fc",
            ("interclass_filtering_threshold",),
        ),
        ({"margin_list": (1.0, 0.0, 0.4)}, "arcface", ()),
    ],
)
def test_the_loss_is_the_one_that_has_the_margins_and_the_rate(tmp_path, settings, kind, left_out):
    config, fates = convert(write(tmp_path / "x.py", settings))
    assert config.losses[0].kind == kind
    assert tuple(key for key in settings if fates[key][0] == "left out") == left_out


def test_a_network_outside_the_zoo_and_no_validation(tmp_path):
    config, fates = convert(write(tmp_path / "x.py", {"network": "vit_b_dp005_mask_005", "val_targets": []}))
    assert fates["network"][0] == "left out"
    assert "model.reference=FILE.onnx" in fates["network"][1]
    assert config.evaluation is None


def test_random_pixels_are_no_data_set(tmp_path):
    path = tmp_path / "speed.py"
    path.write_text('config.rec = "synthetic"\nconfig.lr = 0.1\n')
    fates = {key.key: (key.fate, key.note) for key in convert_arcface_torch(path).keys}
    assert fates["rec"][0] == "left out"
    assert "synthetic-faces:" in fates["rec"][1]
