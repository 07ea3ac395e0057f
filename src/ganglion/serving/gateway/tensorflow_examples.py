"""`classify` and `regress` of TensorFlow Serving's REST protocol: examples of named features, as pure functions.

https://www.tensorflow.org/tfx/serving/api_rest, whose server answers under the key `results`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ganglion.artifacts.package import ImageInput, Signature, TensorSpec
from ganglion.serving.gateway.endpoint import Endpoint
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.head import Head
from ganglion.serving.gateway.instances import array_of, image_of, is_image
from ganglion.serving.gateway.question import Question, Read, Reply
from ganglion.serving.gateway.tensorflow_rest import check_signature_name, load_object
from ganglion.serving.payload import Payload
from ganglion.serving.routes import VersionRoute
from ganglion.serving.runtime import Tensors

_KEYS = ("signature_name", "context", "examples")


def can_classify(version: VersionRoute) -> bool:
    """Whether the only output is one real score for each class."""
    outputs = version.signature.outputs
    return len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].dtype.startswith("float")


def can_regress(version: VersionRoute) -> bool:
    """Whether the only output is one real number for each instance."""
    outputs = version.signature.outputs
    return len(outputs) == 1 and outputs[0].shape[1:] in ((), (1,)) and outputs[0].dtype.startswith("float")


def reader(verb: str, name: str, version: VersionRoute) -> Read:
    """What reads the requests for a version of a model.

    Args:
        verb: `classify` or `regress`.
        name: of the model.
        version: what it gives, and the names of its classes.

    Raises:
        RequestError: the model has no such answer.
    """
    outputs = ", ".join(f"{output.name} {output.dtype} {list(output.shape)}" for output in version.signature.outputs)
    if verb == "classify" and not can_classify(version):
        text = f"Model {name!r} gives {outputs}; to classify, one output [-1, classes] is needed. Ask it by :predict."
        raise RequestError(400, text)
    if verb == "regress" and not can_regress(version):
        text = f"Model {name!r} gives {outputs}; to regress, one output [-1] or [-1, 1] is needed. Ask it by :predict."
        raise RequestError(400, text)
    render: Callable[[Tensors], Reply] = _render_values
    if verb == "classify":
        classes = version.classes

        def render(outputs: Tensors) -> Reply:
            return Reply(render_classes(next(iter(outputs.values())), classes))

    def read(endpoint: Endpoint, _head: Head, body: bytes) -> Question:
        return Question(parse_examples(body, endpoint.signature, endpoint.image), render)

    return read


def parse_examples(body: bytes, signature: Signature, image: ImageInput | None) -> Payload:
    """Read the body of a classify or regress request.

    Args:
        body: JSON: `{"examples": [{feature: value or list}, ...]}`, optionally `context` with the features that all
            examples share, and `signature_name`. A feature is the input of that name, its numbers or texts in one flat
            list.
        signature: of the model.
        image: how an encoded image becomes its input, if it takes images; then `image_bytes` is a feature as well.

    Raises:
        RequestError: the body is not JSON, has another form, or does not fit the signature.
    """
    document = load_object(body, _KEYS, "examples")
    check_signature_name(document)
    examples, context = document.get("examples"), document.get("context", {})
    if not isinstance(examples, list) or not examples:
        raise RequestError(400, "'examples' has to be a list of at least one object of features.")
    if not all(isinstance(example, dict) for example in (context, *examples)):
        raise RequestError(400, "'context' and each of the 'examples' have to be objects of features.")
    for number, example in enumerate(examples):
        if twice := sorted(context.keys() & example.keys()):
            raise RequestError(400, f"Example {number} has the features {twice}, which are in 'context' as well.")
    merged = [context | example for example in examples]
    if image is not None and all(map(_is_picture, merged)):
        return Payload(images=[_picture(example, number) for number, example in enumerate(merged)])
    names = sorted(tensor.name for tensor in signature.inputs)
    for number, example in enumerate(merged):
        if sorted(example) != names:
            raise RequestError(400, f"Example {number} has the features {sorted(example)}; the model has {names}.")
    return Payload(tensors={tensor.name: _feature(merged, tensor) for tensor in signature.inputs})


def _is_picture(example: Mapping[str, Any]) -> bool:
    """Whether the only feature is an encoded image, whatever its name."""
    return is_image(example) or (len(example) == 1 and is_image(next(iter(example.values()))))


def _picture(example: Mapping[str, Any], number: int) -> bytes:
    return image_of(example if is_image(example) else next(iter(example.values())), number)


def _feature(examples: list[dict[str, Any]], tensor: TensorSpec) -> NDArray[Any]:
    """One input from a flat list, or one number, in each example."""
    rows = [value if isinstance(value := example[tensor.name], list) else [value] for example in examples]
    sizes = tensor.shape[1:]
    flat = -1 if -1 in sizes else math.prod(sizes)
    array = array_of(rows, TensorSpec(tensor.name, tensor.dtype, (-1, flat)))
    try:
        return array.reshape(len(rows), *sizes)
    except ValueError as error:
        text = f"Input {tensor.name!r}: {array.shape[1]} values do not fill the shape {list(sizes)}."
        raise RequestError(400, text) from error


def render_classes(scores: NDArray[Any], classes: tuple[str, ...]) -> bytes:
    """The body of the answer to `classify`: pairs of label and score, in the order of the model's output.

    Args:
        scores: `[examples, classes]`.
        classes: their labels; where there are none, or another number, labels are empty.
    """
    labels = classes if len(classes) == scores.shape[1] else ("",) * scores.shape[1]
    return orjson.dumps({"results": [list(zip(labels, row, strict=True)) for row in scores.tolist()]})


def _render_values(outputs: Tensors) -> Reply:
    values = np.ascontiguousarray(next(iter(outputs.values())).reshape(-1))
    return Reply(orjson.dumps({"results": values}, option=orjson.OPT_SERIALIZE_NUMPY))
