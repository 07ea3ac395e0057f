"""What the gateway answers, as an OpenAPI 3.1 document: one path for each model, version and label; pure.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ganglion.serving.callers import Callers
from ganglion.serving.gateway import openapi_schemas as schemas
from ganglion.serving.gateway.exchange import JSON
from ganglion.serving.gateway.open_inference import HEADER_LENGTH
from ganglion.serving.gateway.openapi_schemas import Schema, array, record
from ganglion.serving.gateway.tensorflow_examples import can_classify, can_regress
from ganglion.serving.routes import VersionRoute

PATH = "/openapi.json"
_ERROR = {"$ref": "#/components/schemas/Error"}
_REFUSALS = {
    "400": "The request does not fit the model.",
    "404": "There is no such model or version.",
    "408": "The request did not arrive in time.",
    "413": "The body is too large.",
    "414": "The target is too long.",
    "415": "The body is compressed.",
    "417": "The expectation cannot be met.",
    "431": "The header is too large.",
}
"""Errors that any request may get."""

_PREDICTION_REFUSALS = _REFUSALS | {
    "500": "The model or its replicas failed on this request.",
    "503": "It cannot be answered in time, or too much is waiting; `retry-after` says when to try again.",
    "504": "The replica did not answer in time.",
}
_LIMITS = {
    "401": "An API key is needed, or the one given is not known.",
    "429": "A limit of the caller was reached; `retry-after` says when to try again.",
}


class Served(NamedTuple):
    """A model or an ensemble as the document describes it.

    Attributes:
        name: of it.
        default: what answers where no version is asked for.
        versions: those that can be asked for by number.
        labels: versions by the labels that stand for them.
    """

    name: str
    default: VersionRoute
    versions: Sequence[VersionRoute] = ()
    labels: Mapping[str, int] = {}


def document(served: Sequence[Served], callers: Callers | None, version: str) -> dict[str, Any]:
    """Describe everything that can be asked.

    Args:
        served: models and ensembles.
        callers: whether keys are known and needed.
        version: of Ganglion.
    """
    paths: dict[str, Any] = {**_server_paths()}
    for model in served:
        paths |= _model_paths(model, callers)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ganglion", "version": version, "description": "Predictions of the models served here."},
        "paths": paths,
        "components": {
            "schemas": {"Error": record({"error": {"type": "string"}}), "Status": _status(), "Models": _models()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _server_paths() -> dict[str, Any]:
    anything: Schema = {"type": "object"}
    ready = record({"ready": {"type": "boolean"}, "error": {"type": "string"}, "models": array({"type": "string"})},
                   optional=("error", "models"))  # fmt: skip
    return {
        "/healthz": _page("The process lives.", record({"status": {"const": "ok"}})),
        "/readyz": _page("Every model can answer.", ready, waiting=ready),
        "/metrics": _page("Measurements in the text format of Prometheus.", {"type": "string"}, "text/plain"),
        PATH: _page("This document.", anything),
        "/v1/models": _page("Models and ensembles.", {"$ref": "#/components/schemas/Models"}),
        "/v2": _page("About the server.", anything),
        "/v2/health/live": _page("The process lives.", record({"live": {"const": True}})),
        "/v2/health/ready": _page("Every model can answer.", ready, waiting=ready),
    }


def _model_paths(model: Served, callers: Callers | None) -> dict[str, Any]:
    name = quote(model.name, safe="")
    numbered = {version.version: version for version in model.versions}
    places = {"": model.default}
    places |= {f"/versions/{number}": version for number, version in numbered.items()}
    labelled = {f"/labels/{label}": numbered[to] for label, to in model.labels.items() if to in numbered}
    paths: dict[str, Any] = {}
    for place, version in {**places, **labelled}.items():
        paths |= _tensorflow_paths(f"/v1/models/{name}{place}", version, callers)
    for place, version in places.items():
        paths |= _open_inference_paths(f"/v2/models/{name}{place}", version, callers)
    return paths


def _tensorflow_paths(place: str, version: VersionRoute, callers: Callers | None) -> dict[str, Any]:
    paths = {
        place: _page("States of the versions.", {"$ref": "#/components/schemas/Status"}),
        f"{place}/metadata": _page("The signature.", {"type": "object", "required": ["model_spec", "metadata"]}),
        f"{place}:predict": _question(
            "Predictions for rows ('instances') or columns ('inputs').",
            {JSON: schemas.predict_request(version)},
            {JSON: schemas.predict_answer(version)},
            callers,
        ),
    }
    request = schemas.examples_request(version)
    if can_classify(version):
        answer = schemas.classify_answer(version)
        paths[f"{place}:classify"] = _question(
            "Labels and scores of examples.", {JSON: request}, {JSON: answer}, callers
        )
    if can_regress(version):
        answer = schemas.regress_answer()
        paths[f"{place}:regress"] = _question("Values of examples.", {JSON: request}, {JSON: answer}, callers)
    return paths


def _open_inference_paths(place: str, version: VersionRoute, callers: Callers | None) -> dict[str, Any]:
    binary: Schema = {"type": "string", "format": "binary"}
    infer = _question(
        "Inference; tensors as JSON, or as binary behind it." + schemas.image_note(version),
        {JSON: schemas.infer_request(version), "application/octet-stream": binary},
        {JSON: schemas.infer_answer(version), "application/octet-stream": binary},
        callers,
    )
    infer["post"]["parameters"].append(
        _header(HEADER_LENGTH, {"type": "integer", "minimum": 0}, "Bytes of the JSON that binary tensors follow.")
    )
    ready = record({"ready": {"type": "boolean"}})
    return {
        place: _page("The signature.", {"type": "object", "required": ["name", "inputs", "outputs"]}),
        f"{place}/ready": _page("Whether it can answer.", ready, waiting=ready),
        f"{place}/infer": infer,
    }


def _page(summary: str, schema: Schema, content_type: str = JSON, waiting: Schema | None = None) -> dict[str, Any]:
    """A path that can only be looked at; `waiting` is what it answers, as 503, while something is not ready."""
    responses = {"200": _response(summary, {content_type: schema})} | _errors(_REFUSALS)
    if waiting is not None:
        responses["503"] = _response("Something is not ready.", {JSON: waiting})
    return {"get": {"summary": summary, "responses": responses}}


def _question(
    summary: str, bodies: Mapping[str, Schema], answers: Mapping[str, Schema], callers: Callers | None
) -> dict[str, Any]:
    """A path that asks for predictions."""
    limits = _LIMITS if callers is not None else {}
    timeout = _header(
        "X-Request-Timeout-Ms",
        {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        "Milliseconds after which an answer is of no use.",
    )
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": [timeout],
        "requestBody": {"required": True, "content": _content(bodies)},
        "responses": {"200": _response("The predictions.", answers)} | _errors(_PREDICTION_REFUSALS | limits),
    }
    if callers is not None:
        nobody: list[dict[str, Any]] = [{}] if callers.anonymous is not None else []
        operation["security"] = [*nobody, {"bearer": []}, {"key": []}]
    return {"post": operation}


def _errors(refusals: Mapping[str, str]) -> dict[str, Any]:
    return {status: _response(text, {JSON: _ERROR}) for status, text in refusals.items()}


def _response(description: str, contents: Mapping[str, Schema]) -> dict[str, Any]:
    return {"description": description, "content": _content(contents)}


def _content(contents: Mapping[str, Schema]) -> dict[str, Any]:
    return {content_type: {"schema": schema} for content_type, schema in contents.items()}


def _header(name: str, schema: Schema, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def _status() -> Schema:
    status = record({"error_code": {"type": "string"}, "error_message": {"type": "string"}})
    state = {"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]}
    version = record({"version": {"type": "string"}, "state": state, "status": status})
    return record({"model_version_status": array(version)})


def _models() -> Schema:
    model = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name", "ready"]}
    return record({"models": array(model)})
