"""An exported program becomes TorchScript that computes the same at every batch, or is refused with a way out."""

import pytest
import torch
from torch import Tensor, nn

from rtool.converters.exporting.program_script import script_of_program
from rtool.errors import InputError

BATCH = torch.export.Dim("batch", min=1)


class Attention(nn.Module):
    """Reshapes with the batch in them, which a trace would write down as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, images: Tensor) -> Tensor:
        rows, tokens, width = images.shape
        q, k, v = self.qkv(images).reshape(rows, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(rows, -1)


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a - b, (a * b).sum(1, keepdim=True)


class Named(nn.Module):
    def forward(self, a: Tensor) -> dict[str, Tensor]:
        return {"embedding": a}


def program_of(module: nn.Module, *arrays: Tensor) -> torch.export.ExportedProgram:
    shapes = tuple({0: BATCH} for _ in arrays)
    return torch.export.export(module.eval(), arrays, dynamic_shapes=shapes)


def test_an_open_batch_stays_open():
    torch.manual_seed(0)
    module = Attention()
    program = program_of(module, torch.zeros(4, 5, 8))
    scripted = script_of_program(program, program.module(), "model.pt2")
    for rows in (1, 2, 4, 7):
        images = torch.randn(rows, 5, 8)
        for _ in range(3):  # the first runs are observed, later ones compiled
            assert torch.equal(scripted(images), module(images))


def test_several_inputs_and_outputs_keep_their_order():
    program = program_of(Two(), torch.zeros(4, 3), torch.zeros(4, 3))
    scripted = script_of_program(program, program.module(), "model.pt2")
    a, b = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.0, 2.0]])
    difference, product = scripted(a, b)
    assert difference.tolist() == [[0.0, 1.0, 1.0]]
    assert product.tolist() == [[9.0]]


def test_results_by_name_are_refused():
    program = program_of(Named(), torch.zeros(4, 3))
    with pytest.raises(InputError, match="returns more than a tensor"):
        script_of_program(program, program.module(), "model.pt2")
