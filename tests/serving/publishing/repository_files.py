"""What lies in a repository, and what a configuration says."""

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


def parsed(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()
