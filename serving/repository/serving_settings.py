"""What a user may set of a configuration: a setting that is given changes its own field and no other."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ...errors import ConfigError, InputError

__all__ = ["Device", "ServingSettings", "apply_settings", "check_applicable", "thread_key"]

Device = Literal["cpu", "gpu"]

_MAX_BATCH = {"cpu": 16, "gpu": 64}
_MAX_DELAY = {"cpu": 0.0, "gpu": 2.0}
"""On a CPU, 16 rows cost less each than 64, and waiting for more wins nothing; a GPU is filled by large batches."""
_THREADS = {"onnxruntime": "intra_op_thread_count", "pytorch": "INTRA_OP_THREAD_COUNT"}
"""Back end -> the parameter for the threads of one session on the CPU."""
_BOUNDS = {
    "max_batch": (1, 1_000_000),
    "max_delay": (0, 3_600_000),
    "instances": (1, 1_000),
    "threads": (1, 1_000),
    "queue_timeout": (0.001, 3_600_000),
}
"""Far beyond what helps, and within what the fields hold."""
_OF_A_QUEUE = ("max_batch", "max_delay", "queue_timeout")
"""Settings of the batcher, which a graph with a fixed batch does not have."""


@dataclass(frozen=True)
class ServingSettings:
    """What a configuration states beyond the graph itself. Times in milliseconds.

    None keeps what is served so far; a new model gets the default.
    """

    max_batch: int | None = None
    """Largest batch, in rows, that Triton forms where the batch is dynamic; a new model: 16 on a CPU, 64 on a GPU."""
    max_delay: float | None = None
    """How long the first request of a batch waits for others; a new model: 0 on a CPU, 2 on a GPU."""
    instances: int | None = None
    """Sessions in parallel, each with its own copy of the weights; 1 for a new model."""
    threads: int | None = None
    """Intra-op threads per session on the CPU; 1 for a new model: more cores are used by more instances."""
    queue_timeout: float | None = None
    """Reject a request that was queued for longer; a new model lets it wait."""

    def __post_init__(self) -> None:
        """Reject values that no server supports.

        Raises:
            ConfigError: a value is out of range.
        """
        for name in self.given():
            value, (least, most) = getattr(self, name), _BOUNDS[name]
            if not value >= least:
                raise ConfigError(f"serving setting {name}: expected at least {least}, got {value}")
            if not value <= most:
                raise ConfigError(f"serving setting {name}: expected at most {most}, got {value}")

    def given(self) -> tuple[str, ...]:
        """Names of the settings that have a value."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def complete(self, batched: bool, device: Device) -> ServingSettings:
        """With the defaults of a new model, whose batch is dynamic where `batched`.

        They are what cost the least CPU time per row on the embedded server (`make bench-serving`).
        """
        instances = self.instances if self.instances is not None else 1
        threads = self.threads if self.threads is not None else 1
        if not batched:
            return ServingSettings(instances=instances, threads=threads)
        return replace(
            self,
            max_batch=self.max_batch if self.max_batch is not None else _MAX_BATCH[device],
            max_delay=self.max_delay if self.max_delay is not None else _MAX_DELAY[device],
            instances=instances,
            threads=threads,
        )


def check_applicable(settings: ServingSettings, *, batch: int | None, device: Device) -> None:
    """Refuse settings that would have no effect on a graph of this batch (None: dynamic), served on `device`.

    Raises:
        InputError: there are some; the message names each and the reason.
    """
    problems = []
    useless = [name for name in settings.given() if name in _OF_A_QUEUE] if batch is not None else []
    if useless:
        problems.append(
            f"{_flags(useless)} set how a dynamic batch is formed, and the graph has a fixed batch of {batch}; "
            "leave them out, or run `rtool export MODEL --batch dynamic` and deploy that"
        )
    if settings.threads is not None and device == "gpu":
        problems.append("--threads sets threads on the CPU, and the model is served on a GPU; use --device cpu")
    if problems:
        raise InputError(f"deploy: {'; '.join(problems)}")


def apply_settings(config: Any, settings: ServingSettings, device: Device) -> None:
    """Write the given settings into a configuration, in place; every other field stays.

    Raises:
        ConfigError: the configuration has no single place for a setting, after edits by hand.
    """
    if settings.instances is not None:
        if len(config.instance_group) != 1:
            raise ConfigError(
                f"{config.name}: --instances {settings.instances} sets the count of one instance_group, and the "
                f"configuration has {len(config.instance_group)}; edit config.pbtxt"
            )
        config.instance_group[0].count = settings.instances
    if settings.threads is not None and device == "cpu":
        config.parameters[thread_key(config)].string_value = str(settings.threads)
    if settings.max_batch is not None:
        config.max_batch_size = settings.max_batch
    if settings.max_delay is not None:
        _batching(config).max_queue_delay_microseconds = round(settings.max_delay * 1000)
    if settings.queue_timeout is not None:
        batching = _batching(config)
        if not batching.HasField("default_queue_policy"):
            batching.default_queue_policy.allow_timeout_override = True
        batching.default_queue_policy.default_timeout_microseconds = round(settings.queue_timeout * 1000)


def thread_key(config: Any) -> str:
    """The parameter of a configuration for the threads of one session on the CPU."""
    return _THREADS["pytorch" if "pytorch" in (config.backend, config.platform.partition("_")[0]) else "onnxruntime"]


def _batching(config: Any) -> Any:
    kind = config.WhichOneof("scheduling_choice")
    if kind not in (None, "dynamic_batching"):
        raise ConfigError(
            f"{config.name}: --max-delay and --queue-timeout set dynamic_batching, and the configuration has {kind}; "
            "edit config.pbtxt"
        )
    return config.dynamic_batching


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
