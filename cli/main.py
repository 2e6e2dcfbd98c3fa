"""The command group, and the one place where errors become messages and exit codes.

0 done; 1 ran but missed a gate; 2 usage, configuration or input; 101 a bug in rtool, with its traceback.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence

import click

from ..errors import RtoolError
from ..version import __version__
from .bench import bench
from .convert import onnx2torch_command, ops_command
from .distil import distil_command
from .embed import embed_command
from .evaluation.command import evaluate_command
from .export import export_command
from .gallery.adapt import adapt_command
from .gallery.command import gallery_command
from .inspection import inspect_command
from .machine import demo_command, doctor_command, fetch_command
from .search import search_command
from .serving.deploy import deploy_command
from .serving.serve import serve_command
from .train import config_group, finetune_command

__all__ = ["cli", "run"]

_BUG = 101


class _InOrder(click.Group):
    """A group that lists its commands in their order of use instead of by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rtool")
def cli() -> None:
    """Make a fused ONNX model trainable again, fine-tune it, export it and serve it on Triton.

    MODEL is an .onnx file, a bundle (NAME.rtool/), a run folder, a TorchScript .pt, an exported program .pt2,
    a zoo name such as osnet_x0_25, or triton://host:port/model.
    """


for _command, _short in (
    (inspect_command, "Describe a model: inputs, batch, BatchNorm, size."),
    (onnx2torch_command, "Convert a fused ONNX file to a trainable bundle."),
    (finetune_command, "Fine-tune the model that a configuration names."),
    (distil_command, "Train a student on a teacher's embeddings."),
    (search_command, "Search the cells of a network."),
    (evaluate_command, "Measure retrieval or verification on labelled images."),
    (embed_command, "Write the embeddings of images to a file."),
    (gallery_command, "Find the people in crops without labels."),
    (adapt_command, "Learn the people of crops without labels."),
    (export_command, "Export a model to one file: ONNX, fp16, int8, .pt2."),
    (deploy_command, "Publish an ONNX file in a Triton model repository."),
    (serve_command, "Run Triton on a model repository."),
    (bench, "Compare two models, time models, load a server."),
    (config_group, "Show, check, create and convert configurations."),
    (ops_command, "List the ONNX operators that convert."),
    (fetch_command, "Load a file whose SHA-256 is known."),
    (doctor_command, "Report what this machine supports."),
    (demo_command, "Run the whole flow on built-in data."),
):
    _command.short_help = _short  # the first sentence of the docstring is for the command's own page
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal or log must not stop a command
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(args=arguments, prog_name="rtool", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Aborted.", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except RtoolError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception:
        traceback.print_exc()
        click.echo(f"This is a bug in rtool {__version__}: please report it with the lines above.", err=True)
        return _BUG
    return code if isinstance(code, int) else 0
