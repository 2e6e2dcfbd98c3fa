"""The pod that serves a repository: one Triton, closed, read-only, watched by probes.

Sources: Kubernetes' API reference (core/v1, apps/v1) and Triton's `docs/customization_guide/deploy.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...converters.runtime.calling.access_key import KEY_NAME
from ..server.access import OPTIONS, RESTRICTED
from ..server.container import IMAGE, KEY_VARIABLE

__all__ = ["GPU", "ClusterOptions", "labels", "pod_spec", "secure_container", "secure_pod", "triton_arguments"]

GPU = "nvidia.com/gpu"
_NOBODY = 65534
_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
_START_SECONDS, _START_PERIOD = 300, 5
"""Loading and warming up may take this long, as NVIDIA's own charts allow."""
_DRAIN_SECONDS, _FINISH_SECONDS = 10, 30


@dataclass(frozen=True)
class ClusterOptions:
    """What a user may choose. `queue_ms` is the queue time of a request beyond which replicas are added."""

    name: str = "triton"
    image: str = IMAGE
    replicas: int = 2
    most_replicas: int = 8
    gpus: int = 0
    config_name: str | None = None
    cpu: str = "2"
    memory: str = "4Gi"
    queue_ms: float = 20.0
    claim: str = "models"
    models_size: str = "10Gi"


def labels(options: ClusterOptions) -> dict[str, str]:
    """The labels by which everything finds the pods."""
    return {"app.kubernetes.io/name": options.name, "app.kubernetes.io/component": "triton"}


def secure_pod() -> dict[str, Any]:
    """Not root, and only the system calls of the runtime's profile."""
    nobody = {"runAsUser": _NOBODY, "runAsGroup": _NOBODY, "fsGroup": _NOBODY}
    return {"runAsNonRoot": True, **nobody, "seccompProfile": {"type": "RuntimeDefault"}}


def secure_container() -> dict[str, Any]:
    """No privileges to gain, and nothing to write to."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def triton_arguments(options: ClusterOptions, repository: str) -> list[str]:
    """Triton's command line; Kubernetes puts the key in place of `$(RTOOL_TRITON_KEY)`."""
    closed = [f"{option}={','.join(RESTRICTED)}:{KEY_NAME}=$({KEY_VARIABLE})" for option in OPTIONS]
    arguments = ["tritonserver", f"--model-repository={repository}", "--model-control-mode=none", *closed]
    arguments += ["--disable-auto-complete-config", "--allow-sagemaker=false", "--allow-vertex-ai=false"]
    arguments.append(f"--exit-timeout-secs={_FINISH_SECONDS}")
    if options.config_name is not None:
        arguments.append(f"--model-config-name={options.config_name}")
    return arguments


def pod_spec(options: ClusterOptions) -> dict[str, Any]:
    """The pod of the Deployment."""
    memory = [{"name": "shared-memory", "mountPath": "/dev/shm"}, {"name": "scratch", "mountPath": "/tmp"}]
    container = {
        "name": "triton",
        "image": options.image,
        "args": triton_arguments(options, "/models"),
        "env": [{"name": KEY_VARIABLE, "valueFrom": {"secretKeyRef": {"name": f"{options.name}-key", "key": "key"}}}],
        "ports": [{"name": name, "containerPort": port} for name, port in _PORTS.items()],
        "resources": _resources(options),
        "securityContext": secure_container(),
        "startupProbe": _probe("ready", _START_PERIOD, _START_SECONDS // _START_PERIOD),
        "readinessProbe": _probe("ready", 5, 3),
        "livenessProbe": _probe("live", 10, 3),
        # Load balancers need a moment to notice that the pod ends; Triton then finishes what it has.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_DRAIN_SECONDS)]}}},
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}, *memory],
    }
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": _DRAIN_SECONDS + _FINISH_SECONDS + 10,
        "securityContext": secure_pod(),
        "containers": [container],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": options.claim, "readOnly": True}},
            # 64 MiB, the usual /dev/shm, is soon full: Triton's Python back end takes 1 MiB per instance and more.
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }


def _resources(options: ClusterOptions) -> dict[str, Any]:
    gpus = {GPU: str(options.gpus)} if options.gpus else {}
    return {
        "requests": {"cpu": options.cpu, "memory": options.memory, **gpus},
        "limits": {"memory": options.memory, **gpus},
    }


def _probe(door: str, period: int, failures: int) -> dict[str, Any]:
    get = {"path": f"/v2/health/{door}", "port": "http"}
    return {"httpGet": get, "periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": failures}
