"""A teacher of another size and embedding than the tiny student, as an ONNX file and as a fused one."""

from pathlib import Path

import pytest
import torch
from torch import nn


class Teacher(nn.Module):
    """48 x 24 pixels to 24 numbers, with layers named as the tiny network's, and 8 class scores as a second output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12)
        self.conv5, self.bn5 = nn.Conv2d(12, 12, 3, 2, 1), nn.BatchNorm2d(12)
        self.fc, self.classifier = nn.Linear(12, 24), nn.Linear(24, 8)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = torch.relu(self.bn5(self.conv5(torch.relu(self.bn1(self.conv1(images))))))
        embedding = self.fc(maps.mean((2, 3)))
        return embedding, self.classifier(embedding)


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory) -> Path:
    """The teacher, its BatchNorms kept."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    torch.manual_seed(5)
    network = Teacher()
    network(torch.randn(16, 3, 48, 24))  # statistics other than the initial ones
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, 3, 48, 24),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        input_names=["images"],
        output_names=["embedding", "scores"],
        dynamic_axes={"images": {0: "batch"}},
    )
    return path


@pytest.fixture(scope="session")
def open_file(tmp_path_factory) -> Path:
    """A network of any size, so nothing tells its preprocessing."""
    path = tmp_path_factory.mktemp("open") / "open.onnx"
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    dynamic = {"images": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        network, (torch.zeros(1, 3, 64, 64),), path, dynamo=False, input_names=["images"], dynamic_axes=dynamic
    )
    return path
