"""Kubernetes objects: the daemon as a StatefulSet of one, behind a Service.

One replica, because ledger and approvals are SQLite in one volume. API reference:
https://kubernetes.io/docs/reference/kubernetes-api/. Checked with kubernetes-validate.
"""

from __future__ import annotations

from typing import Any

import yaml

from hostwright.exporting import container
from hostwright.exporting.model import Export, File, Options, Suite, split

NAME = "hostwright"
SECRET = "hostwright-variables"  # noqa: S105 - the name of an object
LABELS = {"app.kubernetes.io/name": NAME}
HEADER = """\
# Made by `hostwright export kubernetes`. Changes of your own: a kustomization over it.
# The Secret `hostwright-variables` is not in here: it is made on the cluster and in no file.
"""


def render(suite: Suite, options: Options) -> Export:
    """kubernetes.yaml and the Dockerfile of its image."""
    carried, left_out = split(suite, container.cannot(suite))
    suite = suite.model_copy(update={"servers": tuple(carried)})
    documents = [_config(suite), _service(), _stateful_set(suite, options), _network_policy()]
    text = HEADER + yaml.safe_dump_all(documents, sort_keys=False, width=100)
    literals = " ".join(f"--from-literal={need.name}=…" for need in suite.needs)
    return Export(
        format="kubernetes",
        files=(File(path="kubernetes.yaml", text=text), container.dockerfile(suite)),
        left_out=left_out,
        needs=suite.needs,
        next_steps=(
            f"Build the image {container.image(suite, options)} where the cluster can pull it "
            "(--image names another).",
            *([f"kubectl create secret generic {SECRET} {literals}"] if literals else []),
            "kubectl apply -f kubernetes.yaml",
            f"kubectl exec {NAME}-0 -- hostwright token NAME   # a client's bearer token",
        ),
    )


def _config(suite: Suite) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{NAME}-manifests", "labels": LABELS},
        "data": container.manifests(suite),
    }


def _service() -> dict[str, Any]:
    port = {"name": "mcp", "port": container.PORT, "targetPort": "mcp", "protocol": "TCP"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {"selector": LABELS, "ports": [port]},
    }


def _network_policy() -> dict[str, Any]:
    """In: the gateway's port, from pods of the namespace that are labelled as its clients."""
    clients = {"podSelector": {"matchLabels": {f"{NAME}.dev/client": "true"}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "podSelector": {"matchLabels": LABELS},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [clients], "ports": [{"protocol": "TCP", "port": container.PORT}]}
            ],
        },
    }


def _stateful_set(suite: Suite, options: Options) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 45,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": container.USER,
            "runAsGroup": container.USER,
            "fsGroup": container.USER,
            # Else every start would open the folders of the state to the group.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(suite, options)],
        "volumes": [
            {"name": "manifests", "configMap": {"name": f"{NAME}-manifests"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    claim = {
        "metadata": {"name": "state"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "replicas": 1,
            "serviceName": NAME,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": spec},
            "volumeClaimTemplates": [claim],
        },
    }


def _container(suite: Suite, options: Options) -> dict[str, Any]:
    variables = container.environment((NAME, f"{NAME}.*"))
    # A socket's folder must belong to the daemon itself, which no mounted volume's root does.
    variables["HOSTWRIGHT_RUNTIME_DIR"] = "/tmp/hostwright"  # noqa: S108
    env: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in variables.items()
    ]
    for need in suite.needs:
        reference = {"name": SECRET, "key": need.name, "optional": need.default is not None}
        env.append({"name": need.name, "valueFrom": {"secretKeyRef": reference}})
    return {
        "name": NAME,
        "image": container.image(suite, options),
        "args": ["up"],
        "env": env,
        "ports": [{"name": "mcp", "containerPort": container.PORT}],
        "startupProbe": {**_probe("/healthz"), "failureThreshold": 30, "periodSeconds": 2},
        "livenessProbe": {**_probe("/healthz"), "periodSeconds": 10, "timeoutSeconds": 5},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "state", "mountPath": container.STATE},
            {"name": "manifests", "mountPath": container.MANIFESTS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _probe(path: str) -> dict[str, Any]:
    # The kubelet asks by the pod's address, which the gateway takes for a rebinding attack.
    host = {"name": "Host", "value": "localhost"}
    return {"httpGet": {"path": path, "port": "mcp", "httpHeaders": [host]}}
