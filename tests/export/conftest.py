"""A stand-in for Argo and the operators: it does with a workflow what they do, with processes of this machine."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Template = dict[str, Any]


class Workflows:
    """Runs workflows, one after the other, with one volume and one memory for all of them."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        self.project = project
        self.volume = folder / "volume"
        self.memory: dict[str, dict[str, str]] = {}
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.outputs: dict[str, dict[str, str]] = {}
        self.remembered: list[str] = []
        self.name = ""

    def run(self, workflow: Any, name: str) -> dict[str, dict[str, str]]:
        """Run the tasks in an order that their dependencies allow, and return their outputs."""
        self.name, self.outputs, self.remembered = name, {}, []
        templates = {template["name"]: template for template in workflow["spec"]["templates"]}
        tasks = templates[workflow["spec"]["entrypoint"]]["dag"]["tasks"]
        while waiting := [task for task in tasks if task["name"] not in self.outputs]:
            ready = [task for task in waiting if set(task.get("dependencies", ())) <= self.outputs.keys()]
            assert ready, "the tasks wait for each other"
            for task in ready:
                given = {
                    parameter["name"]: self.fill(parameter["value"], {})
                    for parameter in task.get("arguments", {}).get("parameters", ())
                }
                self.outputs[task["name"]] = self.task(templates[task["template"]], given)
        return self.outputs

    def task(self, template: Template, given: dict[str, str]) -> dict[str, str]:
        assert [parameter["name"] for parameter in template.get("inputs", {}).get("parameters", ())] == list(given)
        memoize = template.get("memoize")
        if memoize and memoize["key"] in self.memory:
            self.remembered.append(template["name"])
            return self.memory[memoize["key"]]
        found = self.container(template, given) if "container" in template else self.resource(template, given)
        if memoize:
            assert memoize["maxAge"]
            assert memoize["cache"]["configMap"]["name"]
            self.memory[memoize["key"]] = found
        return found

    def fill(self, text: str, given: dict[str, str]) -> str:
        values = {"workflow.name": self.name, "retries": "0"}
        values |= {f"inputs.parameters.{name}": value for name, value in given.items()}
        for task, outputs in self.outputs.items():
            values |= {f"tasks.{task}.outputs.parameters.{name}": value for name, value in outputs.items()}
        return re.sub(r"\{\{([^}]+)\}\}", lambda match: values[match[1]], text)

    def start(self, container: Any, arguments: list[str], **variables: str) -> subprocess.Popen[bytes]:
        """Run a container's command; its paths are moved from the pod to this machine."""
        assert container["command"][0] == "python"
        environment = {found["name"]: found["value"] for found in container["env"]}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert environment["GANGLION_HOME"] in mounts
        moved = {"GANGLION_HOME": str(self.volume), "GANGLION_REPORT": "", "GANGLION_READY": str(self.folder / "ready")}
        local = {name: value for name, value in moved.items() if name in environment}
        return subprocess.Popen(
            [sys.executable, *container["command"][1:], *arguments],
            env={**os.environ, **environment, **local, "PYTHONPATH": str(self.project), **variables},
        )

    def container(self, template: Template, given: dict[str, str]) -> dict[str, str]:
        container = template["container"]
        (output,) = template["outputs"]["parameters"]
        path = output["valueFrom"]["path"]
        here = self.folder / "receipt"
        here.unlink(missing_ok=True)
        arguments = [self.fill(text, given).replace(path, str(here)) for text in container["args"]]
        assert self.start(container, arguments).wait() == 0, template["name"]
        return {output["name"]: here.read_text()}

    def resource(self, template: Template, given: dict[str, str]) -> dict[str, str]:
        resource = template["resource"]
        assert resource["successCondition"]
        assert resource["failureCondition"]
        manifest = yaml.safe_load(self.fill(resource["manifest"], given))
        status = self.serve(manifest) if manifest["kind"] == "InferenceService" else self.train(manifest)
        found = {**manifest, "status": status}
        return {
            output["name"]: _at(found, output["valueFrom"]["jsonPath"]) for output in template["outputs"]["parameters"]
        }

    def train(self, job: Any) -> Any:
        roles = [job["spec"]["pytorchReplicaSpecs"][role] for role in ("Master", "Worker")]
        pods = [role["template"]["spec"]["containers"][0] for role in roles for _ in range(role["replicas"])]
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        port = str(_free_port())
        members = [
            self.start(pod, [], **dict(zip(names, (str(rank), str(len(pods)), "127.0.0.1", port), strict=True)))
            for rank, pod in enumerate(pods)
        ]
        assert [member.wait() for member in members] == [0] * len(pods)
        return {}

    def serve(self, service: Any) -> Any:
        (container,) = service["spec"]["predictor"]["containers"]
        probe = container["readinessProbe"]["httpGet"]
        url = f"http://127.0.0.1:{container['ports'][0]['containerPort']}"
        self.stop(service["metadata"]["name"])
        process = self.services[service["metadata"]["name"]] = self.start(container, [])
        while not _answers(url + probe["path"]):
            assert process.poll() is None
        return {"address": {"url": url}}

    def stop(self, name: str) -> None:
        if process := self.services.pop(name, None):
            process.terminate()
            assert process.wait() == 0

    def close(self) -> None:
        for name in list(self.services):
            self.stop(name)


def _at(manifest: Any, path: str) -> str:
    """What `kubectl -o jsonpath` prints."""
    found = manifest
    for name in path.strip("{}").lstrip(".").split("."):
        found = found[name]
    return str(found)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    return _free_port()


@pytest.fixture
def workflows(tmp_path: Path) -> Iterator[Callable[[Path], Workflows]]:
    """Make a stand-in for the project in a folder."""
    made: list[Workflows] = []

    def make(project: Path) -> Workflows:
        made.append(Workflows(tmp_path, project))
        return made[-1]

    yield make
    for workflow in made:
        workflow.close()
