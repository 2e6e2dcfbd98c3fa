"""Every kind of model reference opens as a runner with the same interface and gives the same outputs."""

import warnings

import numpy as np
import pytest
import torch

from rtool.converters import (
    OnnxRunner,
    TorchRunner,
    load_model,
    measure_parity,
    onnx2torch,
    onnx_to_torch,
    open_runner,
    run_in_batches,
)
from rtool.converters.records.record import TensorSpec
from rtool.errors import InputError


def test_all_kinds_of_reference_agree(model_file, tmp_path, images):
    bundle = onnx2torch(model_file, tmp_path / "small.rtool").output
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    bundle_copy = run / "checkpoints" / "best.rtool"
    onnx2torch(model_file, bundle_copy)
    module = onnx_to_torch(model_file)
    x = torch.from_numpy(images(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, x), tmp_path / "small.pt")
    shapes = ({0: torch.export.Dim("N")},)
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=shapes), tmp_path / "small.pt2")
    expected = OnnxRunner(model_file).run(images(3))
    for reference in (model_file, bundle, run, tmp_path / "small.pt", tmp_path / "small.pt2"):
        runner = open_runner(reference)
        assert runner.batch is None
        if reference.suffix == ".pt2":
            assert [(spec.dtype, *spec.shape) for spec in runner.inputs] == [("float32", "batch", 3, 16, 8)]
        assert measure_parity(expected, runner.run(images(3))).max_rel <= 1e-5, reference


def test_a_zoo_name_builds_the_architecture_and_a_typo_gets_the_nearest():
    model = load_model("mobilefacenet")
    assert model.kind == "zoo"
    assert model.inputs[0].shape == ("batch", 3, 112, 112)
    with pytest.raises(InputError, match="mobilefacenet"):
        load_model("mobilefacenett")


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path):
    for name in ("model.pt", "model.pt2", "model.onnx"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(InputError, match="expected"):
            load_model(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found nothing"):
        load_model(tmp_path / "empty")
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="has no graph"):
        load_model(tmp_path / "model.pth")


def test_the_tail_of_a_fixed_batch_is_padded_and_cut(exported, images):
    _, proto = exported("cnn", "ts", 11, 4)
    runner = OnnxRunner(proto)
    assert runner.batch == 4
    whole = run_in_batches(runner, images(6), 32)[0]
    single = OnnxRunner(exported("cnn", "ts", 11)[1]).run(images(6))[0]
    assert whole.shape == single.shape
    assert np.allclose(whole, single, atol=1e-5)


def test_wrong_inputs_name_the_model_and_what_it_expects(model_file, images):
    runner = OnnxRunner(model_file)
    with pytest.raises(InputError, match=r"takes 1 inputs \(x\), got 2"):
        runner.run(images(1), images(1))
    with pytest.raises(InputError, match="refused the input"):
        runner.run(images(1)[:, :1])


def test_inputs_that_torch_cannot_take_are_refused_without_a_traceback(exported, images, capsys):
    runner = TorchRunner(onnx_to_torch(exported("cnn", "ts", 11)[1]), name="small")
    with pytest.raises(InputError, match=r"small: torch refused inputs of shape \[2, 1, 16, 8\]"):
        runner.run(images(2)[:, :1])
    assert capsys.readouterr().err == ""


class Stand:
    """A runner that applies a function to its inputs and records the batch sizes it received."""

    def __init__(self, function, inputs, batch=None):
        self.name, self.function, self.batch, self.outputs, self.fed = "stand", function, batch, (), []
        self.inputs = tuple(TensorSpec(f"x{index}", "float32", shape) for index, shape in enumerate(inputs))

    def run(self, *arrays):
        self.fed.append(tuple(array.shape[0] if array.ndim else None for array in arrays))
        return self.function(*arrays)


ROWS = np.arange(14, dtype=np.float32).reshape(7, 2)
WEIGHT = np.arange(8, dtype=np.float32).reshape(4, 2)
SPLIT = {
    "two inputs": (
        Stand(lambda a, b: (a + b,), [("n", 2), ("n", 2)]),
        [ROWS, ROWS],
        [2 * ROWS],
        [(3, 3), (3, 3), (1, 1)],
    ),
    "an input without a batch axis": (
        Stand(lambda a, b: (a * b,), [("n", 2), ()]),
        [ROWS, np.float32(2) * np.ones(())],
        [2 * ROWS],
        [(3, None), (3, None), (1, None)],
    ),
    "a fixed input as long as the batch": (
        Stand(lambda a, b: (a @ b.T,), [("n", 2), (7, 2)]),
        [ROWS, ROWS],
        [ROWS @ ROWS.T],
        [(3, 7), (3, 7), (1, 7)],
    ),
    "outputs without a batch axis": (
        Stand(lambda a: (a, np.float32(5) * np.ones(()), WEIGHT), [("n", 2)]),
        [ROWS],
        [ROWS, np.float32(5), WEIGHT],
        [(3,), (3,), (1,)],
    ),
    "a fixed batch": (Stand(lambda a: (-a,), [(4, 2)], batch=4), [ROWS], [-ROWS], [(4,), (4,)]),
    "several rows per image at a fixed batch": (
        Stand(lambda a: (a.reshape(-1, 1),), [(4, 2)], batch=4),
        [ROWS],
        [ROWS.reshape(-1, 1)],
        [(4,), (4,)],
    ),
    "no more rows than fit": (Stand(lambda a: (a.sum(0),), [("n", 2)]), [ROWS[:3]], [ROWS[:3].sum(0)], [(3,)]),
}


@pytest.mark.parametrize("case", SPLIT)
def test_batches_are_cut_where_there_is_a_batch_axis(case):
    runner, arrays, expected, fed = SPLIT[case]
    outputs = run_in_batches(runner, arrays, 3)
    for got, wanted in zip(outputs, expected, strict=True):
        assert np.array_equal(got, wanted)
    assert runner.fed == fed


def test_an_output_that_depends_on_the_cut_is_refused():
    with pytest.raises(InputError, match="stand: output 0 has no batch axis"):
        run_in_batches(Stand(lambda a: (a.sum(keepdims=True)[0],), [("n", 2)]), ROWS, 2)
    with pytest.raises(InputError, match="stand: output 0 has no batch axis"):
        run_in_batches(Stand(lambda a: (a.sum(),), [("n", 2)]), ROWS, 2)


def test_onnx_runtime_says_what_it_expected(model_file):
    with pytest.raises(InputError, match="Got: 32 Expected: 16"):
        OnnxRunner(model_file).run(np.zeros((2, 3, 32, 8), np.float32))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (torch.nn.InstanceNorm2d(4, affine=True), "num_features"),
        (torch.nn.Flatten(1, 5), "Dimension out of range"),
        (torch.nn.Bilinear(4, 4, 2), "input2"),
    ],
    ids=["ValueError", "IndexError", "TypeError"],
)
def test_whatever_type_torch_raises_becomes_a_refusal(module, reason):
    with pytest.raises(InputError, match=rf"own: torch refused inputs of shape \[2, 3, 4, 4\] \(.*{reason}"):
        TorchRunner(module, name="own").run(np.zeros((2, 3, 4, 4), np.float32))
