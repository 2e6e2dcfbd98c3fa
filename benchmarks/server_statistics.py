"""What a Triton counts about one model, and how it changed between two looks.

Sources: the statistics extension of the KServe v2 protocol, whose times are in nanoseconds, summed over requests (each
request of a batch counts the whole batch's time), and the counters of rtool's back end on the metrics port.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import PlatformError

__all__ = ["ServerTime", "server_time", "statistics"]

_PARTS = ("queue", "compute_input", "compute_infer", "compute_output", "success")
_COUNTER = re.compile(r"^rtool_backend_request_seconds\{([^}]*)\} ([0-9.eE+-]+)$", re.MULTILINE)
_ASK_SECONDS = 5.0


@dataclass(frozen=True)
class ServerTime:
    """Means per request in milliseconds, and rows per execution.

    `total` is from the arrival of the request in the server's core to its answer. `execute` and `session`, the second
    within the first, are of rtool's back end, which sends its counters once a second; None where the server has another
    one, or its metrics are not read.
    """

    requests: int
    queue: float
    copies: float
    compute: float
    total: float
    mean_batch: float
    execute: float | None = None
    session: float | None = None


def statistics(url: str, model: str, *, metrics: str | None = None) -> Mapping[str, float]:
    """The counters of `model` at `url` (host:port of gRPC), over all its versions; `metrics` is host:port too.

    Raises:
        PlatformError: the server does not answer.
    """
    import tritonclient.grpc as triton
    from tritonclient.utils import InferenceServerException

    try:
        with triton.InferenceServerClient(url) as client:
            stats = client.get_inference_statistics(model, as_json=True)["model_stats"]
    except InferenceServerException as error:
        raise PlatformError(f"triton://{url}/{model}: {error.message()}") from error
    totals: dict[str, float] = dict.fromkeys((*_PARTS, "count", "inferences", "executions"), 0.0)
    for version in stats:
        inference = version.get("inference_stats", {})
        for part in _PARTS:
            totals[part] += int(inference.get(part, {}).get("ns", 0))
        totals["count"] += int(inference.get("success", {}).get("count", 0))
        totals["inferences"] += int(version.get("inference_count", 0))
        totals["executions"] += int(version.get("execution_count", 0))
    return totals | (_counters(metrics, model) if metrics is not None else {})


def _counters(metrics: str, model: str) -> dict[str, float]:
    try:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=_ASK_SECONDS) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError) as error:
        raise PlatformError(f"{metrics}: no metrics there ({error}); give the metrics port with --metrics") from error
    totals: dict[str, float] = {}
    for found in _COUNTER.finditer(text):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
        if labels.get("model") == model:
            totals[labels["kind"]] = totals.get(labels["kind"], 0.0) + float(found[2]) * 1e9
    return totals


def server_time(before: Mapping[str, float], after: Mapping[str, float]) -> ServerTime:
    """What changed, per request."""
    change = {key: after[key] - before.get(key, 0.0) for key in after}
    requests = max(1.0, change["count"])

    def mean(*keys: str) -> float:
        return sum(change[key] for key in keys) / requests / 1e6

    counted = change.get("requests", 0.0) / 1e9
    return ServerTime(
        requests=int(change["count"]),
        queue=mean("queue"),
        copies=mean("compute_input", "compute_output"),
        compute=mean("compute_infer"),
        total=mean("success"),
        mean_batch=change["inferences"] / max(1.0, change["executions"]),
        execute=change["execute"] / counted / 1e6 if counted else None,
        session=change["session"] / counted / 1e6 if counted else None,
    )
