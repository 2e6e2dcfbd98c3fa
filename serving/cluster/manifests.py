"""The objects that serve a repository on Kubernetes, and the one for KServe, as plain data.

The API groups are those of Kubernetes 1.25 and newer. KServe's is `serving.kserve.io/v1beta1`, as its 0.15 publishes it
(`pkg/apis/serving/v1beta1`); its ClusterServingRuntime `kserve-tritonserver` listens on 8080 and 9000 and mounts the
repository at /mnt/models.
"""

from __future__ import annotations

from typing import Any

from .pod import GPU, ClusterOptions, labels, pod_spec, secure_container, secure_pod

__all__ = ["QUEUE_METRIC", "adapter_rule", "inference_service", "kustomization", "manifests"]

QUEUE_METRIC = "triton_queue_microseconds_per_request"


def manifests(options: ClusterOptions) -> dict[str, dict[str, Any]]:
    """File name -> object, for kustomize."""
    name, own = options.name, labels(options)
    deployment = {
        "replicas": options.replicas,
        "selector": {"matchLabels": own},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {"metadata": {"labels": own, "annotations": _scraped()}, "spec": pod_spec(options)},
    }
    ports = [{"name": one, "port": port, "targetPort": one} for one, port in (("http", 8000), ("grpc", 8001))]
    claim = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": options.models_size}}}
    return {
        "deployment.yaml": _object("apps/v1", "Deployment", name, deployment),
        "service.yaml": _object("v1", "Service", name, {"clusterIP": "None", "selector": own, "ports": ports}),
        "autoscaler.yaml": _object("autoscaling/v2", "HorizontalPodAutoscaler", name, _autoscaler(options)),
        "network-policy.yaml": _object("networking.k8s.io/v1", "NetworkPolicy", name, _network(own)),
        "disruption-budget.yaml": _object(
            "policy/v1", "PodDisruptionBudget", name, {"maxUnavailable": 1, "selector": {"matchLabels": own}}
        ),
        "volume-claim.yaml": _object("v1", "PersistentVolumeClaim", options.claim, claim),
    }


def kustomization(options: ClusterOptions, resources: list[str]) -> dict[str, Any]:
    """What kustomize applies; it makes the Secret from `key.env` and names it by its content."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
        "secretGenerator": [{"name": f"{options.name}-key", "envs": ["key.env"]}],
    }


def adapter_rule() -> dict[str, Any]:
    """The Prometheus adapter's rule for the autoscaler's metric: microseconds in the queue per request."""
    queue, done = "nv_inference_queue_duration_us", "nv_inference_request_success"
    pods = "{<<.LabelMatchers>>}[1m])) by (<<.GroupBy>>)"
    return {
        "rules": {
            "custom": [
                {
                    "seriesQuery": f'{queue}{{namespace!="",pod!=""}}',
                    "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
                    "name": {"as": QUEUE_METRIC},
                    "metricsQuery": f"sum(rate({queue}{pods} / (sum(rate({done}{pods} > 0)",
                }
            ]
        }
    }


def inference_service(options: ClusterOptions) -> dict[str, Any]:
    """The same repository for KServe."""
    gpus = {GPU: str(options.gpus)} if options.gpus else {}
    resources = {"cpu": options.cpu, "memory": options.memory, **gpus}
    model = {
        "modelFormat": {"name": "triton"},
        "protocolVersion": "v2",
        "storageUri": f"pvc://{options.claim}",
        "image": options.image,
        "resources": {"requests": resources, "limits": resources},
        "securityContext": secure_container(),
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    }
    predictor = {
        "minReplicas": options.replicas,
        "maxReplicas": options.most_replicas,
        "securityContext": secure_pod(),
        "automountServiceAccountToken": False,
        "volumes": [
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
        "model": model,
    }
    return _object("serving.kserve.io/v1beta1", "InferenceService", options.name, {"predictor": predictor})


def _object(version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _scraped() -> dict[str, str]:
    return {"prometheus.io/scrape": "true", "prometheus.io/port": "8002", "prometheus.io/path": "/metrics"}


def _autoscaler(options: ClusterOptions) -> dict[str, Any]:
    target = {"type": "AverageValue", "averageValue": str(round(options.queue_ms * 1000))}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": options.name},
        "minReplicas": options.replicas,
        "maxReplicas": options.most_replicas,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": QUEUE_METRIC}, "target": target}}],
        # A new pod needs its warm-up: do not remove it at the first quiet minute.
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }


def _network(own: dict[str, str]) -> dict[str, Any]:
    """Only pods of the namespace reach the ports; nothing is called from inside but the cluster's name service."""
    ports = [{"protocol": "TCP", "port": port} for port in (8000, 8001, 8002)]
    names = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    return {
        "podSelector": {"matchLabels": own},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"podSelector": {}}], "ports": ports}],
        "egress": [{"ports": names}],
    }
