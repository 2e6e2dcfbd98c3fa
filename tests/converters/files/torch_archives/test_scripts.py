"""TorchScript: what torch saved opens to the same numbers, and source that reaches beyond tensors is never compiled."""

import io
import pickle
import warnings
import zipfile

import pytest
import torch
from torch import nn

from rtool.converters.files.torch_archives.archive import pack
from rtool.converters.files.torch_archives.forbidden_operators import RECORDED
from rtool.converters.files.torch_archives.script_code import CodeError, check_code, defined_names, parse_code
from rtool.converters.files.torch_archives.scripts import load_script
from rtool.errors import InputError


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))
        self.gamma = nn.Parameter(torch.full((1,), 0.5))
        self.sizes = [1, 2]

    def forward(self, x):
        x = self.layers(x) * self.gamma
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        return x.mean((2, 3)) if x.shape[0] > 1 else x.flatten(1)[:, : self.sizes[1]]


def saved(kind):
    module = Small().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.script(module) if kind == "scripted" else torch.jit.trace(module, torch.randn(2, 3, 8, 8))
        file = io.BytesIO()
        torch.jit.save(made, file, _extra_files={"note": "text"})
    return module, file.getvalue()


@pytest.mark.parametrize("kind", ["scripted", "traced"])
def test_a_module_opens_to_the_same_numbers(tmp_path, kind):
    module, content = saved(kind)
    (tmp_path / "model.pt").write_bytes(content)
    opened, stated = load_script(tmp_path / "model.pt", ["note", "other"])
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(opened(images), module(images))
    assert stated == {"note": "text"}


def records(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def refused(tmp_path, **edits):
    found = records(saved("scripted")[1])
    found.update(edits)
    (tmp_path / "evil.pt").write_bytes(pack(found).getvalue())
    with pytest.raises(InputError) as caught:
        load_script(tmp_path / "evil.pt")
    return str(caught.value)


HEAD = "class Net(Module):\n  save : Tensor\n  def forward(self: __torch__.Net, x: Tensor) -> Tensor:\n"


def check(source):
    tree = parse_code(source)
    check_code(source, tree, defined_names([tree]), RECORDED)


@pytest.mark.parametrize(
    "line",
    [
        'torch.save(x, "MARK")', 'x.save("MARK")', 'ops.aten.save(x, "MARK")', '_0 = torch.save', '_0 = x.save',
        'getattr(x, "save")("MARK")', 'torch.from_file("/etc/passwd", False, 4)', 'ops.quantized.linear_prepack(x)',
        'print("text")', 'ops.prim.Print("text")', "fork(x)", '_0 = x.from_file', 'x.set_data(x)',
        "torch.manual_seed(1)",
        "y = (lambda: x)()", "import os", "exec(x)",
        "__torch__.torch.classes.quantized.Base(x)",
        "with x:\n    pass", "ops.aten.wait(x)", 'getattr(x, "sa" + "ve")', "x.layers().save", "del x",
    ],
)  # fmt: skip
def test_source_that_reaches_beyond_tensors_is_refused(line):
    with pytest.raises(CodeError):
        check(f"{HEAD}    {line}\n    return x\n".encode())


@pytest.mark.parametrize(
    "source",
    [
        b"x = 1 # type: (str) -> str\n",
        b"x = 'a'\n", b'x = """a"""\n', b'x = r"a"\n', b'x = f"{y}"\n',
        b"x = 1\\\n+2\n",
        b"x = 1\r\ny = 2\n", b"x = \xc3\xa9\n", b"x\t= 1\n", b"x = (\n",
    ],
)  # fmt: skip
def test_source_that_two_readers_could_read_differently_is_refused(source):
    with pytest.raises(CodeError):
        parse_code(source)


def test_a_defined_name_does_not_allow_an_operator_of_that_name():
    with pytest.raises(CodeError, match="save"):
        check(f'{HEAD}    x.save("a")\n    return x\n'.encode())


def test_a_method_that_runs_while_the_file_is_opened_is_refused():
    source = b"class Net(Module):\n  def __setstate__(self: Net, x: Tensor) -> NoneType:\n    return None\n"
    with pytest.raises(CodeError, match="__setstate__"):
        check(source)


def test_source_as_torch_writes_it_passes():
    lines = '    _0 = "eps must be positive, got \\"{}\\""\n    y = torch.add_(x, CONSTANTS.c0)\n    return y\n'
    check(f"class Net(Module):\n  def forward(self: __torch__.Net, x: Tensor) -> Tensor:\n{lines}".encode())


class Evil:
    def __reduce__(self):
        return (eval, ("1",))


def test_pickles_that_ask_for_code_are_refused(tmp_path):
    assert "eval" in refused(tmp_path, **{"data.pkl": pickle.dumps(Evil(), 2)})
    assert "eval" in refused(tmp_path, **{"constants.pkl": pickle.dumps((Evil(),), 2)})
    packed = b"\x80\x02c__torch__.torch.classes.quantized\nLinearPackedParamsBase\n)\x81."
    assert "torch.classes" in refused(tmp_path, **{"data.pkl": packed})


def test_a_storage_longer_than_its_record_is_refused(tmp_path):
    assert "its record has" in refused(tmp_path, **{"data/0": b""})


def test_records_beside_the_module_are_refused_by_name(tmp_path):
    assert "model.json" in refused(tmp_path, **{"model.json": b"{}"})


def test_a_record_that_is_there_twice_is_refused(tmp_path):
    content = saved("scripted")[1]
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        warnings.simplefilter("ignore")
        for name, text in records(content).items():
            archive.writestr(f"archive/{name}", text)
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(), 2))
    with pytest.raises(InputError, match="twice"):
        load_script(tmp_path / "evil.pt")


def test_a_pickled_module_is_never_opened(tmp_path):
    torch.save(Small(), tmp_path / "evil.pt")
    with pytest.raises(InputError, match="expected TorchScript"):
        load_script(tmp_path / "evil.pt")
