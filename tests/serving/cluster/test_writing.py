"""The manifests are valid by Kubernetes' published schemas and KServe's published API, and say what they should."""

import os
import re
import stat
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from rtool.cli import main
from rtool.errors import GateError, InputError
from rtool.serving import deploy
from rtool.serving.cluster.pod import ClusterOptions
from rtool.serving.cluster.writing import write_kubernetes
from rtool.serving.releases.advisories import ADVISORIES

DIGEST = "registry.example/tritonserver@sha256:" + "0" * 64


@pytest.fixture
def root(tmp_path, onnx_files):
    deploy(onnx_files["reid"], name="m", repository=tmp_path / "models", device="cpu")
    return tmp_path / "models"


def objects(folder) -> dict[str, Any]:
    return {path.name: yaml.safe_load(path.read_text()) for path in folder.rglob("*.yaml")}


CHOICES = [ClusterOptions(), ClusterOptions(name="reid", gpus=1, config_name="gpu", image=DIGEST, replicas=1)]


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("options", CHOICES, ids=["cpu", "gpu"])
def test_every_object_is_valid_by_the_published_schemas(root, tmp_path, options, version):
    written = objects(write_kubernetes(tmp_path / "k8s", repository=root, options=options).path)
    listed = written["kustomization.yaml"]["resources"]
    assert len(listed) == 6
    for name in listed:
        kubernetes_validate.validate(written[name], version, strict=True)  # unknown fields are errors


def test_the_schemas_refuse_a_misspelt_field(root, tmp_path):
    broken = objects(write_kubernetes(tmp_path / "k8s", repository=root).path)["deployment.yaml"]
    broken["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_the_pod_is_closed_read_only_and_drains(root, tmp_path):
    written = objects(write_kubernetes(tmp_path / "k8s", repository=root).path)
    pod = written["deployment.yaml"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True
    assert volumes["models"]["persistentVolumeClaim"]["readOnly"] is True
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert "--model-control-mode=none" in container["args"]
    closed = [argument for argument in container["args"] if "rtool-key=$(RTOOL_TRITON_KEY)" in argument]
    assert [argument.split("=")[0] for argument in closed] == ["--http-restricted-api", "--grpc-restricted-protocol"]
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] == 300
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    finish = int(next(a for a in container["args"] if a.startswith("--exit-timeout-secs")).split("=")[1])
    assert pod["terminationGracePeriodSeconds"] > pause + finish


def test_objects_find_each_other(root, tmp_path):
    written = objects(write_kubernetes(tmp_path / "k8s", repository=root).path)
    deployment = written["deployment.yaml"]
    own = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == own
    assert written["service.yaml"]["spec"]["selector"] == own
    assert written["network-policy.yaml"]["spec"]["podSelector"]["matchLabels"] == own
    assert written["autoscaler.yaml"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == written["volume-claim.yaml"]["metadata"]["name"]
    (secret,) = written["kustomization.yaml"]["secretGenerator"]
    assert pod["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"] == {"name": secret["name"], "key": "key"}
    (metric,) = written["autoscaler.yaml"]["spec"]["metrics"]
    (rule,) = written["adapter-rule.yaml"]["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert metric["pods"]["target"]["averageValue"] == "20000"  # microseconds


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelFormat(Strict):
    name: str
    version: str | None = None


class Model(Strict):
    """`ModelSpec` with the inlined `PredictorExtensionSpec` and the fields of a container that are used here."""

    modelFormat: ModelFormat  # noqa: N815
    runtime: str | None = None
    storageUri: str | None = None  # noqa: N815
    runtimeVersion: str | None = None  # noqa: N815
    protocolVersion: str | None = None  # noqa: N815
    image: str | None = None
    args: list[str] | None = None
    env: list[dict[str, Any]] | None = None
    resources: dict[str, dict[str, str]] | None = None
    securityContext: dict[str, Any] | None = None  # noqa: N815
    volumeMounts: list[dict[str, Any]] | None = None  # noqa: N815


class Predictor(Strict):
    """`PredictorSpec`: the model, `ComponentExtensionSpec`, and the fields of a pod that are used here."""

    model: Model
    minReplicas: int | None = None  # noqa: N815
    maxReplicas: int | None = None  # noqa: N815
    scaleTarget: int | None = None  # noqa: N815
    scaleMetric: str | None = None  # noqa: N815
    containerConcurrency: int | None = None  # noqa: N815
    timeout: int | None = None
    securityContext: dict[str, Any] | None = None  # noqa: N815
    automountServiceAccountToken: bool | None = None  # noqa: N815
    volumes: list[dict[str, Any]] | None = None


class Spec(Strict):
    predictor: Predictor


class InferenceService(Strict):
    """`serving.kserve.io/v1beta1`, written from KServe 0.15's `pkg/apis/serving/v1beta1`."""

    apiVersion: str  # noqa: N815
    kind: str
    metadata: dict[str, Any]
    spec: Spec


@pytest.mark.parametrize("options", CHOICES, ids=["cpu", "gpu"])
def test_the_inference_service_follows_kserve_s_api(root, tmp_path, options):
    written = objects(write_kubernetes(tmp_path / "k8s", repository=root, options=options).path)
    service = InferenceService(**written["inference-service.yaml"])
    assert (service.apiVersion, service.kind) == ("serving.kserve.io/v1beta1", "InferenceService")
    model = service.spec.predictor.model
    assert (model.modelFormat.name, model.protocolVersion, model.storageUri) == ("triton", "v2", "pvc://models")
    pod = {"containers": [{"name": "c", **written["inference-service.yaml"]["spec"]["predictor"]["model"]}]}
    container = {key: value for key, value in pod["containers"][0].items() if key not in
                 ("modelFormat", "protocolVersion", "storageUri")}  # fmt: skip
    spec = written["inference-service.yaml"]["spec"]["predictor"]
    shape = {key: spec[key] for key in ("securityContext", "automountServiceAccountToken", "volumes")}
    as_pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {**shape, "containers": [container]},
    }
    kubernetes_validate.validate(as_pod, "1.37", strict=True)  # the inlined fields are those of a pod


def test_the_key_is_new_private_and_ignored_by_git(root, tmp_path):
    keys = set()
    for name in ("a", "b"):
        folder = write_kubernetes(tmp_path / name, repository=root).path
        assert stat.S_IMODE(os.stat(folder / "key.env").st_mode) == 0o600
        assert (folder / ".gitignore").read_text() == "key.env\n"
        keys.add((folder / "key.env").read_text())
    assert len(keys) == 2
    assert all(re.fullmatch(r"key=[0-9a-f]{64}\n", key) for key in keys)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "nvcr.io/nvidia/tritonserver:latest"}, "pin it by digest"),
        ({"image": "nvcr.io/nvidia/tritonserver"}, "pin it by digest"),
        ({"image": "nvcr.io/nvidia/tritonserver:25.01-py3"}, r"lacks \d+ security fixes.*take 26.07"),
        ({"name": "Reid"}, "lower-case"),
        ({"replicas": 0}, "expected 1 or more"),
        ({"replicas": 9}, "in this order"),
        ({"queue_ms": 0.0}, "positive"),
    ],
)
def test_what_cannot_be_is_refused(root, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        write_kubernetes(tmp_path / "k8s", repository=root, options=ClusterOptions(**change))
    assert not (tmp_path / "k8s").exists()


def test_the_default_image_lacks_no_fix():
    newest = max(advisory.fixed for advisory in ADVISORIES)
    assert re.search(r":(\d\d\.\d\d)-py3$", ClusterOptions().image)[1] >= newest


def test_a_repository_that_cannot_be_served_and_a_folder_that_exists_are_refused(root, tmp_path):
    write_kubernetes(tmp_path / "k8s", repository=root)
    with pytest.raises(InputError, match="exists"):
        write_kubernetes(tmp_path / "k8s", repository=root)
    (root / "m/1/model.onnx").write_bytes(b"")
    with pytest.raises(GateError, match=r"model\.onnx"):
        write_kubernetes(tmp_path / "other", repository=root)
    assert not (tmp_path / "other").exists()


def test_the_command_writes_them_and_says_how_to_apply_them(root, tmp_path, capsys):
    command = ["deploy", "--kubernetes", str(tmp_path / "k8s"), "--repository", str(root), "--name", "reid"]
    assert main.run(command) == 0
    assert f"kubectl apply -k {tmp_path / 'k8s'}" in " ".join(capsys.readouterr().out.split())
    assert objects(tmp_path / "k8s")["deployment.yaml"]["metadata"]["name"] == "reid"
    assert main.run([*command, "--keep", "3"]) == 2
    assert "--keep would have no effect with --kubernetes" in capsys.readouterr().err
