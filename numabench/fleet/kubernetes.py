# SPDX-License-Identifier: Apache-2.0
"""One Kubernetes Job per node that keeps the worker contract. Experimental: only its schema is checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

COMMAND = ("numabench", "validate")


def job(host: str, image: str, folder: str, command: Sequence[str] = COMMAND) -> dict[str, Any]:
    """The Job of one node: pinned by its host name, privileged for mbind and firmware tables, results on the node's
    folder. Exclusive CPUs need the node's static CPU manager and whole-CPU requests, which only a site can choose.
    """
    name = re.sub(r"[^a-z0-9-]", "-", host.lower())[:40].strip("-") or "node"
    name = f"numabench-{name}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"
    own = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    labels = {"app.kubernetes.io/name": "numabench"}
    container = {
        "name": "validate",
        "image": image,
        "command": [*command, "--node-name", "$(KUBERNETES_NODE_NAME)", "--out", "/results"],
        "env": [{"name": "KUBERNETES_NODE_NAME", "valueFrom": own}],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "results", "mountPath": "/results"}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 3600,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "nodeSelector": {"kubernetes.io/hostname": host},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [container],
                    "volumes": [{"name": "results", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
                },
            },
        },
    }


def jobs(hosts: Sequence[str], image: str, folder: str, command: Sequence[str] = COMMAND) -> str:
    """Documents for ``kubectl apply -f -``: YAML, of which JSON is a part."""
    return "".join(f"---\n{json.dumps(job(host, image, folder, command), indent=1)}\n" for host in hosts)
