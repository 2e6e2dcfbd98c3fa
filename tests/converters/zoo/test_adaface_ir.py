"""AdaFace's network against its layers written out, by the names of the published weights."""

import torch
from torch.nn import functional as F

from rtool.converters.zoo.registry import architecture_preprocessing, build_architecture


def written_out(state, x, blocks):
    """The network of a state_dict in eval mode; `blocks` are (number, stride)."""

    def norm(name, x):
        scale, shift = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        return F.batch_norm(x, state[f"{name}.running_mean"], state[f"{name}.running_var"], scale, shift)

    x = F.conv2d(x, state["input_layer.0.weight"], padding=1)
    x = F.prelu(norm("input_layer.1", x), state["input_layer.2.weight"])
    for number, stride in blocks:
        name = f"body.{number}"
        if f"{name}.shortcut_layer.0.weight" in state:
            shortcut = norm(
                f"{name}.shortcut_layer.1", F.conv2d(x, state[f"{name}.shortcut_layer.0.weight"], stride=stride)
            )
        else:
            shortcut = x[:, :, ::stride, ::stride]
        y = F.conv2d(norm(f"{name}.res_layer.0", x), state[f"{name}.res_layer.1.weight"], padding=1)
        y = F.prelu(norm(f"{name}.res_layer.2", y), state[f"{name}.res_layer.3.weight"])
        y = F.conv2d(y, state[f"{name}.res_layer.4.weight"], stride=stride, padding=1)
        x = norm(f"{name}.res_layer.5", y) + shortcut
    x = norm("output_layer.0", x).flatten(1)
    x = F.linear(x, state["output_layer.3.weight"], state["output_layer.3.bias"])
    return norm("output_layer.4", x)


def test_it_computes_what_its_state_dict_says():
    torch.manual_seed(0)
    network = build_architecture("ir18_adaface", input_size=(32, 32)).eval()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = written_out(network.state_dict(), images, [(n, 2 - n % 2) for n in range(8)])
        torch.testing.assert_close(network(images), expected, atol=1e-3, rtol=1e-4)


def test_its_images_are_bgr_as_the_authors_prepare_them():
    preprocessing = architecture_preprocessing("ir50_adaface")
    assert (preprocessing.channel_order, preprocessing.mean, preprocessing.std) == ("bgr", (127.5,) * 3, (127.5,) * 3)
