"""JSON Schemas (draft 2020-12) of what a model takes and gives in each protocol, from its signature; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ganglion.artifacts.package import ImageInput, TensorSpec
from ganglion.serving.gateway.instances import IMAGE_KEY
from ganglion.serving.gateway.open_inference import BYTES, DATATYPES
from ganglion.serving.gateway.tensorflow_rest import SIGNATURE_NAME
from ganglion.serving.routes import VersionRoute

Schema = dict[str, Any]

_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_SIGNATURE_NAME: Schema = {"enum": [SIGNATURE_NAME, ""]}


def element(dtype: str, *, given: bool) -> Schema:
    """One element.

    Args:
        dtype: its type.
        given: whether a model gives it; then a number may be `null`, which is NaN or infinity.
    """
    if dtype == "string":
        return {"type": "string"}
    kind = np.dtype(dtype).kind
    if kind == "b":
        return {"type": "boolean"}
    if kind in "iu":
        limits = np.iinfo(dtype)
        return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
    if given:
        return {"type": ["number", "null"]}
    about = np.finfo(dtype)
    if about.bits == 64:
        return {"type": "number"}
    limit = 2.0**about.maxexp - 2.0 ** (about.maxexp - about.nmant - 2)  # from here on it is rounded to infinity
    return {"type": "number", "exclusiveMinimum": -limit, "exclusiveMaximum": limit}


def nested(sizes: Sequence[int], inner: Schema) -> Schema:
    """Lists in lists; -1 is any size."""
    if not sizes:
        return inner
    return array(nested(sizes[1:], inner), sizes[0])


def array(items: Schema, size: int = -1, *, least: int = 0) -> Schema:
    """A list of this size, -1 for any, of at least so many items."""
    schema: Schema = {"type": "array", "items": items}
    if size >= 0:
        return schema | {"minItems": size, "maxItems": size}
    return schema | {"minItems": least} if least else schema


def record(properties: dict[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    """An object with these keys and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def any_of(*schemas: Schema) -> Schema:
    """One of several; the only one as it is."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def predict_request(version: VersionRoute) -> Schema:
    """The body of `:predict`: rows or columns."""
    inputs = version.signature.inputs
    tensors = {tensor.name: nested(tensor.shape[1:], _element_or_bytes(tensor.dtype)) for tensor in inputs}
    rows = [array(record(tensors), least=1)]
    columns = [record({name: array(schema, least=1) for name, schema in tensors.items()})]
    if len(inputs) == 1:
        bare = array(tensors[inputs[0].name], least=1)
        rows.append(bare)
        columns.append(bare)
    if version.image is not None:
        images = array(_image(version.image), least=1)
        rows.append(images)
        columns += [images, record({IMAGE_KEY: images})]
    optional = ("signature_name",)
    return any_of(
        record({"signature_name": _SIGNATURE_NAME, "instances": any_of(*rows)}, optional=optional),
        record({"signature_name": _SIGNATURE_NAME, "inputs": any_of(*columns)}, optional=optional),
    )


def _element_or_bytes(dtype: str) -> Schema:
    """One element as it may be given; text also as its bytes."""
    plain = element(dtype, given=False)
    if dtype != "string":
        return plain
    described = "UTF-8 text in base64."
    return any_of(
        plain,
        record({"b64": {"type": "string", "contentEncoding": "base64", "pattern": _BASE64, "description": described}}),
    )


def _image(image: ImageInput) -> Schema:
    """An encoded image, with and without its key."""
    described = (
        f"A PNG or JPEG file in base64; it becomes {image.width}x{image.height} pixels of the mode {image.mode}."
    )
    file: Schema = {"type": "string", "contentEncoding": "base64", "description": described, "minLength": 4}
    encoded = record({"b64": file | {"pattern": _BASE64}})
    return any_of(record({IMAGE_KEY: encoded}), encoded)


def predict_answer(version: VersionRoute) -> Schema:
    """The body of the answer to `:predict`."""
    outputs = version.signature.outputs
    each = {tensor.name: nested(tensor.shape[1:], element(tensor.dtype, given=True)) for tensor in outputs}
    only = next(iter(each.values()))
    rows = array(only if len(each) == 1 else record(each))
    columns = array(only) if len(each) == 1 else record({name: array(schema) for name, schema in each.items()})
    return any_of(record({"predictions": rows}), record({"outputs": columns}))


def examples_request(version: VersionRoute) -> Schema:
    """The body of `:classify` and `:regress`: flat features by name, in the examples or in their common context."""
    inputs = version.signature.inputs
    features = {tensor.name: _feature(tensor) for tensor in inputs}
    complete = [array(record(features), least=1)]
    if version.image is not None:
        complete.append(array(_image(version.image), least=1))
    optional = ("signature_name",)
    rest = record({} if len(inputs) == 1 else features, optional=tuple(features))
    return any_of(
        record({"signature_name": _SIGNATURE_NAME, "examples": any_of(*complete)}, optional=optional),
        record(
            {
                "signature_name": _SIGNATURE_NAME,
                "context": record(features, optional=() if len(inputs) == 1 else tuple(features)),
                "examples": array(rest, least=1),
            },
            optional=optional,
        ),
    )


def _feature(tensor: TensorSpec) -> Schema:
    sizes, value = tensor.shape[1:], _element_or_bytes(tensor.dtype)
    size = -1 if -1 in sizes else math.prod(sizes)
    flat = array(value, size)
    return any_of(flat, value) if size == 1 else flat


def classify_answer(version: VersionRoute) -> Schema:
    """The body of the answer to `:classify`: pairs of label and score."""
    label: Schema = {"enum": list(version.classes)} if version.classes else {"const": ""}
    pair = array(any_of(label, {"type": ["number", "null"]}), 2)
    return record({"results": array(array(pair))})


def regress_answer() -> Schema:
    """The body of the answer to `:regress`."""
    return record({"results": array({"type": ["number", "null"]})})


def infer_request(version: VersionRoute) -> Schema:
    """The JSON of an inference request; what `shape` says and what `data` holds have to agree."""
    tensors = [_tensor(tensor, given=False) for tensor in version.signature.inputs]
    schema = _inference(array(any_of(*tensors), len(tensors)))
    names = [tensor.name for tensor in version.signature.outputs]
    wanted = record({"name": {"enum": names}, "parameters": {"type": "object"}}, optional=("parameters",))
    schema["properties"]["outputs"] = array(wanted) | {"maxItems": len(names), "uniqueItems": True}
    return schema


def infer_answer(version: VersionRoute) -> Schema:
    """The JSON of the answer to an inference request."""
    tensors = [_tensor(tensor, given=True) for tensor in version.signature.outputs]
    schema = _inference(array(any_of(*tensors)), key="outputs")
    schema["properties"] |= {"model_name": {"type": "string"}, "model_version": {"type": "string"}}
    schema["required"] += ["model_name", "model_version"]
    return schema


def _inference(tensors: Schema, key: str = "inputs") -> Schema:
    properties = {"id": {"type": "string"}, "parameters": _parameters(), key: tensors}
    return {"type": "object", "properties": properties, "required": [key]}


def _parameters() -> Schema:
    return {"type": "object", "properties": {"timeout": {"type": "integer", "minimum": 1}}}


def _tensor(tensor: TensorSpec, *, given: bool) -> Schema:
    sizes = [{"type": "integer", "minimum": 1, "maximum": 2**31 - 1} if size < 0 else {"const": size}
             for size in tensor.shape]  # fmt: skip
    tuple_: Schema = {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "items": False}
    list_ = array({"type": "integer", "minimum": 0}, len(sizes))  # what makes clients seldom knows tuples
    value = element(tensor.dtype, given=given)
    flat = array(value, least=0 if given else math.prod(size for size in tensor.shape if size > 0))
    deep = array(nested(tensor.shape[1:], value), tensor.shape[0], least=0 if given else 1)
    return record(
        {
            "name": {"const": tensor.name},
            "datatype": {"const": DATATYPES[tensor.dtype]},
            "shape": list_ if given else tuple_,
            "parameters": {"type": "object"},
            "data": any_of(flat, deep) if len(sizes) > 1 else flat,
        },
        optional=("parameters", "data") if given else ("parameters",),
    )


def image_note(version: VersionRoute) -> str:
    """What an inference request can hold beside numbers, for a person."""
    if version.image is None:
        return ""
    name = version.signature.inputs[0].name
    return f" In binary, {name!r} may have the type {BYTES} and hold encoded images."
