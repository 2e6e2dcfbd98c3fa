"""The zoo equals the published networks: parameter counts, state_dict names, sizes, outputs in ONNX Runtime."""

import io

import numpy as np
import onnxruntime
import pytest
import torch

from rtool.converters import ZOO, architecture_preprocessing, build_architecture
from rtool.converters.zoo.registry import _VALUES
from rtool.errors import InputError

# name -> parameters, state_dict entries, entries without num_batches_tracked (of the original projects)
PUBLISHED = {
    "iresnet18": (24_025_600, 187, 156),
    "iresnet34": (34_139_328, 331, 276),
    "iresnet50": (43_590_848, 475, 396),
    "iresnet100": (65_156_160, 925, 771),
    "iresnet200": (118_833_920, 1807, 1506),
    "ir18_adaface": (24_020_352, 179, 149),
    "ir34_adaface": (34_134_080, 323, 269),
    "ir50_adaface": (43_585_600, 467, 389),
    "ir101_adaface": (65_150_912, 917, 764),
    "mobilefacenet": (2_059_520, 333, 283),
    "osnet_x0_25": (201_864, 565, 485),
    "osnet_x1_0": (2_169_508, 565, 485),
}


def build_on_meta(name: str, **options) -> torch.nn.Module:
    with torch.device("meta"):
        return build_architecture(name, **options)


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameter_counts_and_state_dict_sizes_are_the_published_ones(name, published):
    module = build_on_meta(name)
    entries = module.state_dict()
    counted = [key for key in entries if not key.endswith("num_batches_tracked")]
    assert (sum(p.numel() for p in module.parameters()), len(entries), len(counted)) == published


# One or two characteristic names of each original project's checkpoint, with their shapes.
ORIGINAL_NAMES = [
    ("osnet_x1_0", "conv2.0.conv2d.3.conv2.weight", (64, 1, 3, 3)),
    ("osnet_x1_0", "conv3.2.0.bn.running_mean", (384,)),
    ("osnet_x1_0", "conv4.0.gate.fc1.weight", (8, 128, 1, 1)),
    ("osnet_x0_25", "fc.1.running_var", (512,)),
    ("iresnet50", "layer3.13.prelu.weight", (256,)),
    ("iresnet50", "layer2.0.downsample.1.bias", (128,)),
    ("iresnet50", "fc.weight", (512, 25088)),
    ("iresnet50", "features.running_mean", (512,)),
    ("ir50_adaface", "input_layer.2.weight", (64,)),
    ("ir50_adaface", "body.3.shortcut_layer.0.weight", (128, 64, 1, 1)),
    ("ir50_adaface", "body.0.res_layer.5.running_var", (64,)),
    ("ir50_adaface", "output_layer.3.weight", (512, 25088)),
    ("ir101_adaface", "body.48.res_layer.4.weight", (512, 512, 3, 3)),
    ("mobilefacenet", "layers.3.layers.3.layers.2.layers.1.weight", (128,)),
    ("mobilefacenet", "conv_sep.layers.2.weight", (512,)),
    ("mobilefacenet", "features.layers.0.layers.0.weight", (512, 1, 7, 7)),
    ("vit_tiny", "blocks.11.attn.qkv.weight", (768, 256)),
    ("vit_tiny", "blocks.0.mlp.fc1.bias", (1024,)),
    ("vit_tiny", "feature.0.weight", (256, 144 * 256)),
    ("vit_tiny", "mask_token", (1, 1, 256)),
    ("resnet50", "layer4.2.conv3.weight", (2048, 512, 1, 1)),
    ("resnet50_ibn_a", "layer1.0.bn1.IN.weight", (32,)),
    ("resnet50_ibn_a", "layer4.0.bn1.weight", (512,)),
]


@pytest.mark.parametrize(("name", "entry", "shape"), ORIGINAL_NAMES)
def test_state_dict_names_are_those_of_the_original_project(name, entry, shape):
    assert tuple(build_on_meta(name).state_dict()[entry].shape) == shape


@pytest.mark.parametrize(
    "name", sorted(set(ZOO) - {"iresnet200", "iresnet100", "ir101_adaface", "ir50_adaface", "pcb", "searched"})
)
def test_every_architecture_embeds_512_dimensions(name):
    size = architecture_preprocessing(name)
    images = torch.empty(2, 3, size.height, size.width, device="meta")
    assert build_on_meta(name)(images).shape == (2, 512)


@pytest.mark.parametrize(
    ("name", "size"), [("osnet_x0_25", (128, 64)), ("mobilefacenet", (64, 64)), ("iresnet18", (48, 40))]
)
def test_smaller_images_are_embedded_too(name, size):
    module = build_on_meta(name, input_size=size, embedding_size=32)
    assert module(torch.empty(2, 3, *size, device="meta")).shape == (2, 32)


@pytest.mark.parametrize("name", ["osnet_x0_25", "mobilefacenet", "resnet50_ibn_a", "vit_tiny"])
def test_onnx_runtime_agrees_with_the_module_in_eval_mode(name):
    torch.manual_seed(0)
    module = build_architecture(name, input_size=(64, 32)).eval()
    images = torch.randn(2, 3, 64, 32)
    file = io.BytesIO()
    torch.onnx.export(module, (images,), file, dynamo=False, opset_version=17)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (onnx_embeddings,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        embeddings = module(images).numpy()
    assert np.abs(embeddings - onnx_embeddings).max() <= 1e-5 * np.abs(embeddings).max()


def test_feature_map_feeds_the_embedding():
    torch.manual_seed(0)
    module = build_architecture("osnet_x0_25").eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        pooled = module.feature_map(images).mean(dim=(2, 3))
        assert torch.allclose(module.fc(pooled), module(images), atol=1e-6)


def test_resnet50_without_embedding_layer_returns_the_pooled_features():
    module = build_on_meta("resnet50", embedding_size=None)
    assert module(torch.empty(2, 3, 64, 32, device="meta")).shape == (2, 2048)
    assert module.layer4[0].conv2.stride == (1, 1)


def test_mid_joins_the_pooled_features_of_two_stages():
    torch.manual_seed(0)
    network = build_architecture("resnet50", mid=True, embedding_size=None).eval()
    plain = build_architecture("resnet50", embedding_size=None).eval()
    plain.load_state_dict(network.state_dict())
    stages = {}
    network.layer3.register_forward_hook(lambda _, __, out: stages.update(third=out))
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        joined = network(images)
        expected = torch.cat([stages["third"].mean(dim=(2, 3)), plain(images)], dim=1)
    assert joined.shape == (1, 3072)
    torch.testing.assert_close(joined, expected)
    assert build_on_meta("resnet50", mid=True).fc[0].in_features == 3072


def test_preprocessing_belongs_to_the_architecture():
    faces = architecture_preprocessing("iresnet50")
    assert (faces.height, faces.width, faces.mean[0], faces.std[0]) == (112, 112, 127.5, 127.5)
    people = architecture_preprocessing("osnet_x0_25", input_size=(128, 64))
    assert (people.height, people.width, people.mean) == (128, 64, (123.675, 116.28, 103.53))


def test_unknown_names_and_options_list_the_nearest_known_ones():
    with pytest.raises(InputError, match="osnet_x0_25"):
        build_architecture("osnet_x025")
    with pytest.raises(InputError, match=r"searched: needs option genotype: a file genotype.json"):
        build_architecture("searched")
    with pytest.raises(InputError, match="embedding_size"):
        build_architecture("osnet_x0_25", embeding_size=128)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iresnet18", {"dropout": "abc"}, "dropout takes a share from 0 to below 1, got 'abc'"),
        ("iresnet18", {"dropout": 2}, "dropout takes a share"),
        ("osnet_x0_25", {"embedding_size": -1}, "embedding_size takes a whole number from 1 on, got -1"),
        ("mobilefacenet", {"embedding_size": 0}, "embedding_size takes"),
        ("osnet_x0_25", {"embedding_size": None}, "embedding_size takes"),
        ("vit_tiny", {"embedding_size": 0.5}, "embedding_size takes"),
        ("iresnet18", {"input_size": 5}, "a height and a width, given in a configuration as model.size"),
        ("osnet_x0_25", {"input_size": (0, 5)}, "a height and a width"),
        ("pcb", {"parts": 0}, "parts takes"),
        ("pcb", {"parts": True}, "parts takes"),
        ("pcb", {"reduced": "x"}, "reduced takes"),
        ("resnet50", {"last_stride": 3}, "last_stride takes 1 or 2, got 3"),
        ("mobilefacenet", {"scale": 1.5}, "scale takes"),
        ("searched", {"genotype": 5}, "genotype takes a file genotype.json, or its content, got 5"),
        ("searched", {"genotype": {}, "cells": 2}, "cells takes a whole number from 3 on, got 2"),
    ],
)
def test_values_an_option_does_not_accept_are_refused(name, options, message):
    with pytest.raises(InputError, match=f"{name}: option .*{message}"):
        build_architecture(name, **options)


def test_every_option_of_every_architecture_is_checked():
    assert {option for architecture in ZOO.values() for option in architecture.options} == set(_VALUES)


def test_a_global_branch_lies_behind_the_stripes_and_changes_nothing_of_them():
    torch.manual_seed(0)
    plain = build_architecture("pcb", parts=2, reduced=8).eval()
    branched = build_architecture("pcb", parts=2, reduced=8, global_dim=5).eval()
    lacking = branched.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in lacking.missing_keys} == {"whole"}
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        stripes, both = plain(images), branched(images)
        features = branched.feature_map(images).mean(dim=(2, 3))
        branch = branched.whole(features[..., None, None]).flatten(1)
    assert both.shape == (2, 2 * 8 + 5)
    torch.testing.assert_close(both[:, :16], stripes, rtol=0, atol=0)
    branched.normalises = False
    with torch.no_grad():
        raw = branched(images)
    for part in (slice(0, 8), slice(8, 16), slice(16, 21)):
        assert (raw[:, part].norm(dim=1) - 1).abs().min() > 1e-3
        torch.testing.assert_close(torch.nn.functional.normalize(raw[:, part]), both[:, part])
    torch.testing.assert_close(both[:, 16:], branch / branch.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)
