"""A pipeline as one Argo Workflow; pure.

| step | template |
|---|---|
| function, selection, publication, ... | a container that runs `ganglion.export.step` |
| training | a resource: a PyTorchJob or TrainJob whose pods run `ganglion.export.pod:train` |
| service | a resource: an InferenceService whose pods run `ganglion.export.pod:serve` |

Results pass through the volume that all of them mount. What Argo hands from task to task, and remembers, is the id of
the run whose folder holds a result. A step that follows others `as_completed` waits for all of them: a task of Argo is
executed once.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from ganglion.backends.kubernetes import pods
from ganglion.backends.kubernetes.checks import check_config
from ganglion.backends.kubernetes.config import KubernetesConfig
from ganglion.backends.kubernetes.names import LABEL_PREFIX
from ganglion.backends.kubernetes.quantities import seconds
from ganglion.core.config import Config
from ganglion.core.errors import SpecError
from ganglion.export.naming import RUN, pipeline_name, step_name
from ganglion.export.order import StepOrder
from ganglion.export.resources import serving_resource, training_resource
from ganglion.workflow.graph import Graph, Node
from ganglion.workflow.options import StepOptions

Manifest = dict[str, Any]

RECEIPT = "/tmp/ganglion-run"
"""Where a container leaves the id of the run that holds its result."""

DAG = "DAG"
"""The template of the graph; no step has a name with capitals."""


class ArgoExport(Config, frozen=True):
    """What decides a workflow, beside the graph and the cluster.

    Attributes:
        parameters: overrides of the pipeline's parameters, as `key=value`; they are fixed in the workflow.
        seed: of the run.
        limit: number of records to take from each source; `None` for all.
        code: digest of the pipeline's code; a memoized result is not used for other code.
        max_age: seconds for which Argo uses a result again without looking, for steps that do not say it themselves; 0
            for never. A container that does start still finds what has not changed by its fingerprint.
    """

    parameters: tuple[str, ...] = ()
    seed: int = 0
    limit: int | None = None
    code: str = ""
    max_age: float = 3600.0


def workflow(graph: Graph, export: ArgoExport, config: KubernetesConfig) -> Manifest:
    """The workflow that runs `graph`.

    Args:
        graph: of the pipeline; its module has to be in the image.
        export: parameters, seed and memory.
        config: of the cluster; its first claim is the volume for results.

    Raises:
        SpecError: a step cannot run there; the message says why.
    """
    check_config(config)
    if not config.claims:
        raise SpecError("The steps of a workflow pass their results through a volume; declare a claim for it.")
    if config.claims[0].read_only:
        raise SpecError(f"The claim {config.claims[0].name!r} is read-only; results are written to it.")
    for text in (*export.parameters, graph.pipeline):
        if "{{" in text:
            raise SpecError(f"{text!r} contains '{{{{', which Argo would replace; use another value.")
    name = pipeline_name(graph.pipeline)
    maker = _Maker(graph, export, config, cache=f"{name}-memo")
    spec: Manifest = {
        "entrypoint": DAG,
        "podGC": {"strategy": "OnPodSuccess"},
        "volumes": pods.volumes(config),
        "templates": [
            {"name": DAG, "dag": {"tasks": [maker.task(node) for node in graph.nodes.values()]}},
            *(maker.template(node) for node in graph.nodes.values()),
        ],
    }
    if config.service_account:
        spec["serviceAccountName"] = config.service_account
    if config.node_selector:
        spec["nodeSelector"] = dict(config.node_selector)
    metadata: Manifest = {
        "generateName": f"{name}-",
        "labels": {"app.kubernetes.io/managed-by": "ganglion"},
        "annotations": _annotations(graph),
    }
    if config.namespace:
        metadata["namespace"] = config.namespace
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, "spec": spec}


def _annotations(graph: Graph) -> dict[str, str]:
    found = {f"{LABEL_PREFIX}pipeline": graph.pipeline}
    waits = {
        node.name: [output.step for stream in node.streams() for output in stream.outputs]
        for node in graph.nodes.values()
    }
    texts = [f"{name} waits for all of {', '.join(sources)}" for name, sources in waits.items() if sources]
    if texts:
        found[f"{LABEL_PREFIX}as-completed"] = "; ".join(texts)
    return found


class _Maker:
    """Makes the tasks and templates of one workflow."""

    def __init__(self, graph: Graph, export: ArgoExport, config: KubernetesConfig, cache: str) -> None:
        self.graph = graph
        self.export = export
        self.config = config
        self.cache = cache

    def task(self, node: Node) -> Manifest:
        """The step in the graph, with what it gets from others."""
        name = step_name(node.name)
        found: Manifest = {"name": name, "template": name}
        if sources := node.sources():
            found["dependencies"] = [step_name(source) for source in sources]
            found["arguments"] = {
                "parameters": [
                    {"name": parameter, "value": f"{{{{tasks.{step_name(source)}.outputs.parameters.{output}}}}}"}
                    for source in sources
                    for parameter, output in self.outputs_of(source)
                ]
            }
        return found

    def template(self, node: Node) -> Manifest:
        """What runs the step."""
        found: Manifest = {"name": step_name(node.name)}
        parameters = [{"name": parameter} for source in node.sources() for parameter, _ in self.outputs_of(source)]
        if parameters:
            found["inputs"] = {"parameters": parameters}
        if node.options.retries:
            found["retryStrategy"] = _retries(node.options)
        if key := self.memory_key(node):
            age = self.export.max_age if node.options.max_age is None else node.options.max_age
            found["memoize"] = {
                "key": key,
                "maxAge": f"{seconds(age)}s",
                "cache": {"configMap": {"name": self.cache}},
            }
        order = self.order(node)
        match node.operation.kind:
            case "training":
                return {**found, **training_resource(node, order, self.home, self.config)}
            case "service":
                return {**found, **serving_resource(node, order, self.home, self.config)}
            case _:
                return {**found, **self.container(node, order)}

    @property
    def home(self) -> dict[str, str]:
        """Where containers find the project folder."""
        return {"GANGLION_HOME": self.config.claims[0].path}

    def outputs_of(self, source: str) -> list[tuple[str, str]]:
        """Parameters that steps get from `source`, each with the output that it comes from."""
        name = step_name(source)
        found = [(name, "run")]
        if self.graph.nodes[source].operation.kind == "service":
            found.append((f"{name}_url", "url"))
        return found

    def order(self, node: Node) -> StepOrder:
        """What the containers of the step are told, with what Argo will fill in."""
        services = [name for name in node.sources() if self.graph.nodes[name].operation.kind == "service"]
        return StepOrder(
            pipeline=self.graph.pipeline,
            step=node.name,
            run=RUN,
            parameters=self.export.parameters,
            inputs={name: f"{{{{inputs.parameters.{step_name(name)}}}}}" for name in node.sources()},
            urls={name: f"{{{{inputs.parameters.{step_name(name)}_url}}}}" for name in services},
            seed=self.export.seed,
            limit=self.export.limit,
        )

    def container(self, node: Node, order: StepOrder) -> Manifest:
        """The template of a step that runs in one container."""
        options = node.options
        environment = {**options.numerics.environment(), **options.environment, **self.home}
        container = pods.container("main", environment, options.resources, self.config, who=f"step {node.name}")
        del container["name"]  # Argo calls it main
        arguments = [order.pipeline, "--step", order.step, "--run", order.run, "--seed", str(order.seed)]
        if order.limit is not None:
            arguments += ["--limit", str(order.limit)]
        for option, texts in (
            ("--set", order.parameters),
            ("--input", [f"{name}={run}" for name, run in order.inputs.items()]),
            ("--url", [f"{name}={url}" for name, url in order.urls.items()]),
        ):
            for text in texts:
                arguments += [option, pods.literal(text)]
        if options.retries:
            arguments += ["--retries", "{{retries}}"]
        container["command"] = ["python", "-m", "ganglion.export.step"]
        container["args"] = [*arguments, "--receipt", RECEIPT]
        found: Manifest = {
            "container": container,
            "outputs": {"parameters": [{"name": "run", "valueFrom": {"path": RECEIPT}}]},
        }
        if options.timeout is not None:
            found["activeDeadlineSeconds"] = seconds(options.timeout)
        return found

    def memory_key(self, node: Node) -> str:
        """The key under which Argo remembers the step; empty for one that is to be executed every time.

        Code, parameters, seed and image decide all arguments that are not results of other steps, so a key of these
        holds as long as those results, too, are such as can be used again.
        """
        age = self.export.max_age if node.options.max_age is None else node.options.max_age
        if age <= 0 or not all(self.is_cached(name) for name in (node.name, *self.ancestors(node))):
            return ""
        decisive = (
            self.graph.pipeline,
            node.name,
            self.export.code,
            self.export.parameters,
            self.export.seed,
            self.export.limit,
            self.config.image,
        )
        return f"{step_name(node.name)}-{hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()[:20]}"

    def is_cached(self, step: str) -> bool:
        node = self.graph.nodes[step]
        return node.options.cache and node.operation.resumable

    def ancestors(self, node: Node) -> list[str]:
        found: dict[str, None] = {}
        waiting = node.sources()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = None
                waiting += self.graph.nodes[name].sources()
        return list(found)


def _retries(options: StepOptions) -> Manifest:
    return {
        "limit": str(options.retries),
        "retryPolicy": "Always",
        "backoff": {"duration": f"{options.backoff:g}s", "factor": "2", "maxDuration": "1h"},
    }
