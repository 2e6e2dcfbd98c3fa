"""torchreid's arguments, as a command and as YAML, with every setting accounted for; and whose file a file is."""

import pytest
import yaml

from rtool.errors import ConfigError, InputError
from rtool.finetune.config.calls import convert as convert_file
from rtool.finetune.config.files import load_config
from rtool.finetune.config.foreign.fates import UNKNOWN
from rtool.finetune.config.foreign.recognition import recognise
from rtool.finetune.config.foreign.torchreid import convert_torchreid

DEFAULTS = {
    "model": {"name": "osnet_x1_0", "pretrained": True, "load_weights": "w.pth", "resume": "r.pth"},
    "data": {
        "type": "image",
        "root": "reid-data",
        "sources": ["market1501"],
        "targets": ["market1501"],
        "workers": 4,
        "split_id": 1,
        "height": 256,
        "width": 128,
        "combineall": True,
        "transforms": ["random_flip"],
        "k_tfm": 2,
        "norm_mean": [0.485, 0.456, 0.406],
        "norm_std": [0.229, 0.224, 0.225],
        "save_dir": "log",
        "load_train_targets": True,
    },
    "market1501": {"use_500k_distractors": True},
    "cuhk03": {"labeled_images": True, "classic_split": True, "use_metric_cuhk03": True},
    "sampler": {
        "train_sampler": "RandomSampler",
        "train_sampler_t": "RandomSampler",
        "num_instances": 4,
        "num_cams": 1,
        "num_datasets": 1,
    },
    "video": {"seq_len": 15, "sample_method": "evenly", "pooling_method": "avg"},
    "train": {
        "optim": "adam",
        "lr": 0.0003,
        "weight_decay": 5e-4,
        "max_epoch": 60,
        "start_epoch": 1,
        "batch_size": 32,
        "fixbase_epoch": 5,
        "open_layers": ["classifier"],
        "staged_lr": True,
        "new_layers": ["classifier"],
        "base_lr_mult": 0.1,
        "lr_scheduler": "single_step",
        "stepsize": [20],
        "gamma": 0.1,
        "print_freq": 20,
        "seed": 1,
    },
    "sgd": {"momentum": 0.9, "dampening": 0.1, "nesterov": True},
    "rmsprop": {"alpha": 0.9},
    "adam": {"beta1": 0.9, "beta2": 0.99},
    "loss": {
        "name": "triplet",
        "softmax": {"label_smooth": True},
        "triplet": {"margin": 0.3, "weight_t": 1.0, "weight_x": 0.5},
    },
    "test": {
        "batch_size": 100,
        "dist_metric": "euclidean",
        "normalize_feature": False,
        "ranks": [1, 5, 10, 20],
        "evaluate": True,
        "eval_freq": -1,
        "start_eval": 1,
        "rerank": True,
        "visrank": True,
        "visrank_topk": 10,
    },
    "use_gpu": True,
}
COMMAND = """CUDA_VISIBLE_DEVICES=0 python scripts/main.py \\
  --config-file base.yaml -s market1501 dukemtmcreid -t msmt17 --transforms random_flip random_erase \\
  --root /data/reid train.lr 0.001 train.stepsize "[20, 40]" train.lr_scheduler multi_step test.rerank True
"""
OLD = """python train_imgreid_xent.py -s market1501 -t market1501 --height 256 --width 128 --optim amsgrad --lr 0.0003
  --max-epoch 60 --stepsize 20 40 --train-batch-size 32 -a resnet50 --label-smooth --save-dir log/r50 --gpu-devices 0
"""


def convert(path):
    found = convert_torchreid(path)
    return found.config, {key.key: (key.fate, key.note) for key in found.keys}


def test_every_key_of_the_defaults_has_its_fate_with_a_reason(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(DEFAULTS))
    config, fates = convert(path)
    assert len(fates) == 69
    assert [name for name, (_, note) in fates.items() if note == UNKNOWN or not note] == []
    assert (config.model.reference, str(config.model.weights)) == ("osnet_x1_0", "w.pth")
    assert (config.optimizer.lr, config.optimizer.head_lr) == (pytest.approx(3e-5), 3e-4)
    assert [(loss.kind, loss.weight) for loss in config.losses] == [("triplet", 1), ("softmax", 0.5)]
    assert (config.evaluation.distance, config.evaluation.rerank, config.evaluation.every) == ("euclidean", True, 60)
    assert (config.schedule.milestones, config.device) == ((20, 40), "cuda")
    assert fates["adam.beta1"][0] == "converted"
    assert fates["adam.beta2"] == ("left out", "Adam averages squares with 0.999")


def test_a_command_lies_above_the_file_that_it_names(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {name: osnet_x0_25}\ntrain: {lr: 0.5, max_epoch: 50}\n")
    (tmp_path / "train.sh").write_text(COMMAND)
    config, fates = convert(tmp_path / "train.sh")
    assert (config.model.reference, config.epochs, config.optimizer.lr) == ("osnet_x0_25", 50, 0.001)
    assert config.data.train == {
        "market1501": "/data/reid/market1501/Market-1501-v15.09.15",
        "dukemtmcreid": "/data/reid/dukemtmc-reid/DukeMTMC-reID",
    }
    assert config.data.evaluate == "/data/reid/msmt17/MSMT17_V1"
    assert (config.schedule.milestones, config.augment.flip, config.augment.erasing) == ((20, 40), 0.5, 0.5)
    assert [name for name, (_, note) in fates.items() if note == UNKNOWN] == []


def test_options_of_the_earlier_trainer_are_read(tmp_path):
    (tmp_path / "train.txt").write_text(OLD.replace("\n  ", " "))
    config, fates = convert(tmp_path / "train.txt")
    assert (config.model.reference, config.model.size, config.optimizer.kind) == ("resnet50", (256, 128), "amsgrad")
    assert (config.data.batch, config.epochs, str(config.output)) == (32, 60, "log/r50")
    assert config.losses[0].smoothing == 0.1
    assert fates["--gpu-devices"][0] == "left out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no command"),
        ("python main.py 'a", "not a command that can be read"),
        ("python main.py --lr", "--lr has no value"),
        ("python main.py surprise", "'surprise' is not an option"),
        ("python main.py train.optim radam", "'train.optim': expected one of sgd"),
        ("python main.py data.type video", "'data.type': expected image"),
    ],
)
def test_what_is_wrong_in_a_command_is_named(tmp_path, text, message):
    (tmp_path / "x.sh").write_text(text)
    with pytest.raises(ConfigError, match=message):
        convert(tmp_path / "x.sh")


@pytest.mark.parametrize(
    ("name", "text", "trainer"),
    [
        ("a.py", "", "arcface_torch"),
        ("a.json", "", "params_json"),
        ("a.sh", "", "torchreid"),
        ("a.yaml", "model: {name: osnet_x1_0}\ntrain: {lr: 1}", "torchreid"),
        ("a.yml", "_BASE_: b.yml", "fastreid"),
        ("a.yml", "SOLVER: {}", "fastreid"),
    ],
)
def test_whose_a_file_is_follows_from_its_form(tmp_path, name, text, trainer):
    (tmp_path / name).write_text(text)
    assert recognise(tmp_path / name) == trainer


def test_a_file_of_nobody_and_one_of_our_own_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {reference: x}\nlosses: []")
    with pytest.raises(ConfigError, match="is a configuration of rtool already"):
        recognise(tmp_path / "a.yaml")
    (tmp_path / "a.toml").write_text("")
    with pytest.raises(ConfigError, match=r"--from arcface_torch\|fastreid"):
        recognise(tmp_path / "a.toml")
    with pytest.raises(InputError, match="no such file"):
        convert_file(tmp_path / "b.py")


def test_the_written_file_reads_back_and_begins_with_what_is_not_as_it_was(tmp_path):
    (tmp_path / "x.yml").write_text(yaml.safe_dump(DEFAULTS))
    written = convert_file(tmp_path / "x.yml", tmp_path / "out.yaml")
    assert load_config(written.path) == convert(tmp_path / "x.yml")[0]
    head = [line for line in written.path.read_text().splitlines() if line.startswith("#   ")]
    assert len(head) == sum(key.fate != "converted" for key in written.keys)
    assert set(written.left_out) == {key.key for key in written.keys if key.fate == "left out"}
