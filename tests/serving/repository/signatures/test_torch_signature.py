"""What is served of a torch file: what it states, else what example arrays show, by the stock back end's names."""

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from torch import Tensor, nn
from tritonclient.grpc import model_config_pb2

from rtool.errors import InputError
from rtool.serving.repository.config_rules import check_against_graph
from rtool.serving.repository.signatures.reading import read_signature
from rtool.serving.repository.signatures.torch_configured import as_configured


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a - b, (a * b).sum(1, keepdim=True)


class Named(nn.Module):
    def forward(self, a: Tensor) -> dict[str, Tensor]:
        return {"embedding": a}


class Numbers(nn.Module):
    def forward(self, a: Tensor, times: int) -> Tensor:
        return a * times


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "two.pt"
    torch.jit.script(Two()).save(str(path))
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_file_of_ours_states_its_inputs_and_outputs(make_torch, tmp_path, suffix):
    signature = read_signature(make_torch(tmp_path / f"model{suffix}"))
    assert [(one.name, one.data_type, one.dims) for one in signature.inputs] == [("images", "TYPE_FP32", (-1, 3, 8, 4))]
    assert [(one.name, one.data_type, one.dims) for one in signature.outputs] == [("embedding", "TYPE_FP32", (-1, 4))]
    assert (signature.backend, signature.batch, signature.opset) == ("pytorch", None, None)


def test_the_file_of_others_needs_arrays_that_show_its_shapes(two):
    with pytest.raises(InputError, match=r"states no shapes.*\(a, b\) with --warmup"):
        read_signature(two)
    arrays = {"a": np.zeros((4, 3), np.float32), "b": np.zeros((4, 3), np.float32)}
    signature = read_signature(two, lambda: arrays)
    assert [(one.name, one.dims) for one in signature.inputs] == [("a", (-1, 3)), ("b", (-1, 3))]
    assert [(one.name, one.dims) for one in signature.outputs] == [("OUTPUT__0", (-1, 3)), ("OUTPUT__1", (-1, 1))]


def test_arrays_that_do_not_fit_are_refused(two):
    with pytest.raises(InputError, match="takes a, b, and the arrays given are a"):
        read_signature(two, lambda: {"a": np.zeros((4, 3), np.float32)})
    with pytest.raises(InputError, match="torch refused inputs"):
        read_signature(two, lambda: {"a": np.zeros((4, 3), np.float32), "b": np.zeros((4, 2), np.float32)})


def test_a_type_that_the_back_end_does_not_carry_is_refused(tmp_path):
    torch.jit.trace(lambda x: x.to(torch.bfloat16), torch.zeros(4, 3)).save(str(tmp_path / "half.pt"))
    with pytest.raises(InputError, match=r"returns torch\.bfloat16, expected tensors"):
        read_signature(tmp_path / "half.pt", lambda: np.zeros((4, 3), np.float32))


def test_a_model_with_another_kind_of_argument_is_refused(tmp_path):
    torch.jit.script(Numbers()).save(str(tmp_path / "numbers.pt"))
    with pytest.raises(InputError, match=r"takes times \(int\)"):
        read_signature(tmp_path / "numbers.pt")


def test_results_by_name_are_refused(tmp_path):
    torch.jit.script(Named()).save(str(tmp_path / "named.pt"))
    with pytest.raises(InputError, match=r"returns Dict\[str, Tensor\], expected a tensor"):
        read_signature(tmp_path / "named.pt", lambda: np.zeros((4, 3), np.float32))


def test_results_in_a_list_are_refused_for_the_stock_back_end_takes_none(tmp_path):
    torch.jit.trace(lambda a: [a, a], torch.zeros(4, 3), strict=False).save(str(tmp_path / "list.pt"))
    with pytest.raises(InputError, match=r"returns List\[Tensor\]"):
        read_signature(tmp_path / "list.pt", lambda: np.zeros((4, 3), np.float32))


def test_a_program_of_others_states_itself(tmp_path):
    program = torch.export.export(Two(), (torch.zeros(4, 3), torch.zeros(4, 3)))
    torch.export.save(program, tmp_path / "two.pt2")
    signature = read_signature(tmp_path / "two.pt2")
    assert [one.dims for one in (*signature.inputs, *signature.outputs)] == [(4, 3), (4, 3), (4, 3), (4, 1)]


def test_a_fixed_batch_is_found(tmp_path):
    script = torch.jit.trace(lambda x: x.reshape(4, 6) * 2, torch.zeros(4, 2, 3))
    script.save(str(tmp_path / "fixed.pt"))
    signature = read_signature(tmp_path / "fixed.pt", lambda: np.zeros((4, 2, 3), np.float32))
    assert signature.batch == 4


def configured(inputs: list[str], outputs: list[str]) -> model_config_pb2.ModelConfig:
    text = 'name: "two" backend: "pytorch" platform: "pytorch_libtorch" max_batch_size: 8 '
    text += "".join(f'input {{ name: "{name}" data_type: TYPE_FP32 dims: 3 }} ' for name in inputs)
    for name in outputs:
        size = 1 if name.endswith("1") else 3
        text += f'output {{ name: "{name}" data_type: TYPE_FP32 dims: {size} }} '
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_configuration_names_arguments_as_the_stock_back_end_does(two):
    signature = read_signature(two, lambda: dict.fromkeys("ab", np.zeros((4, 3), np.float32)))
    exchanged = as_configured(signature, configured(["INPUT__1", "INPUT__0"], ["OUTPUT__1"]))
    assert [one.name for one in exchanged.inputs] == ["INPUT__0", "INPUT__1"]
    assert not list(check_against_graph(configured(["b", "a"], ["OUTPUT__1", "OUTPUT__0"]), signature))
    assert not list(check_against_graph(configured(["first", "second"], ["OUTPUT__1"]), signature))
    (problem,) = check_against_graph(configured(["a__0", "b__2"], ["OUTPUT__0"]), signature)
    assert "'b__2' means input 2" in problem
    (problem,) = check_against_graph(configured(["a"], ["OUTPUT__0"]), signature)
    assert "the graph's 'b' is missing" in problem


def test_another_back_end_does_not_serve_it(two):
    signature = read_signature(two, lambda: dict.fromkeys("ab", np.zeros((4, 3), np.float32)))
    config = configured(["a", "b"], ["OUTPUT__0"])
    config.backend, config.platform = "onnxruntime", ""
    (problem,) = check_against_graph(config, signature)
    assert problem.startswith("backend: 'onnxruntime' does not serve two.pt")
