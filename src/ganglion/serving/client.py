"""A client of the gateways: small, blocking, standard library only on the wire."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from ganglion.core.errors import ControlError, GanglionError, UserError
from ganglion.serving.client_connection import Answer, ConnectionPool
from ganglion.serving.retries import RetryBudget, pause_before

_REFUSED = (429, 503)
"""What was refused before anything was done, with a hint when to try again."""


class ServiceError(GanglionError):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status


class Client:
    """Asks the gateways of a service; from any number of threads at once.

    A prediction changes nothing, so what gets no answer is asked again, on another connection and so by another gateway
    where there are several: at most `retries` times, after growing pauses, as far as a budget allows. What was refused
    with a hint when to try again (429 and 503) is asked again then. `timeout` bounds all of it.

    Args:
        url: of the gateways, such as `http://127.0.0.1:8501`.
        timeout: seconds for each answer, retries included; the service is told what is left of it.
        retries: how often one request is asked again at most; 0 for never.
        key: API key, if the service wants one.

    Raises:
        UserError: the URL is not of that form.
    """

    def __init__(self, url: str, *, timeout: float = 60.0, retries: int = 5, key: str = "") -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise UserError(f"{url!r} is not the address of a service; write for example http://127.0.0.1:8501.")
        self.url = f"http://{parts.netloc}"
        self._timeout = timeout
        self._retries = retries
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._connections = ConnectionPool(parts.hostname, parts.port or 80)
        self._budget = RetryBudget()

    def predict(
        self,
        model: str,
        instances: Sequence[Any] | None = None,
        *,
        images: Sequence[bytes | Path] | None = None,
        version: int | None = None,
    ) -> list[Any]:
        """Predictions for instances or for encoded images, in the form of TensorFlow Serving.

        Args:
            model: name of a model or an ensemble.
            instances: nested lists (or a NumPy array) of numbers or text, or objects by input name.
            images: content of PNG or JPEG files, or their paths.
            version: a version other than the one that is served by default.

        Returns:
            One prediction for each instance, in order.

        Raises:
            UserError: not exactly one of `instances` and `images` is given, or a file cannot be read.
            ServiceError: the service refused or failed.
            ControlError: no service answers in time.
        """
        if (instances is None) == (images is None):
            raise UserError("Give either instances or images.")
        rows: Any = [_encode_image(image) for image in images] if images is not None else instances
        body = json.dumps({"instances": rows}, default=_plain).encode()
        answer = self._ask("POST", f"{_path(model, version)}:predict", body)
        predictions = answer.get("predictions")
        if not isinstance(predictions, list):
            raise ServiceError(200, f"{self.url} gave no predictions; is it a model service?")
        return predictions

    def infer(self, model: str, inputs: Mapping[str, Any], *, version: int | None = None) -> dict[str, Any]:
        """Outputs for whole tensors, which travel in binary, by the Open Inference Protocol.

        Args:
            model: name of a model or an ensemble.
            inputs: NumPy arrays by name, those of `str` for text; the first dimension is that of the instances.
            version: a version other than the one that is served by default.

        Returns:
            NumPy arrays by name of the output; text as arrays of `str`.

        Raises:
            UserError: a type has no name in the protocol, or something is no text.
            ServiceError: the service refused or failed.
            ControlError: no service answers in time.
        """
        from ganglion.serving import binary_tensors

        suffix = "" if version is None else f"/versions/{version}"
        body, headers = binary_tensors.encode(inputs)
        answer = self._answer("POST", f"/v2/models/{quote(model, safe='')}{suffix}/infer", body, headers)
        try:
            outputs: dict[str, Any] = binary_tensors.decode(answer.body, answer.headers)
        except (KeyError, ValueError, TypeError) as error:
            raise ServiceError(200, f"{self.url} gave no tensors: {error}.") from error
        return outputs

    def status(self, model: str, version: int | None = None) -> list[dict[str, Any]]:
        """Versions of a model and their states, newest first, as TensorFlow Serving gives them."""
        found: list[dict[str, Any]] = self._ask("GET", _path(model, version))["model_version_status"]
        return found

    def metadata(self, model: str, version: int | None = None) -> dict[str, Any]:
        """The signature of a model, its classes and how images become its input."""
        return self._ask("GET", f"{_path(model, version)}/metadata")

    def models(self) -> list[dict[str, Any]]:
        """Every model and ensemble with its versions and whether it is ready."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/models")["models"]
        return found

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"content-type": "application/json"} if body is not None else {}
        answer = self._answer(method, path, body, headers)
        found = _object(answer.body)
        if found is None:
            raise ServiceError(answer.status, f"{self.url} did not answer with JSON; is it a model service?")
        return found

    def _answer(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """The answer to a request that may be repeated."""
        end = time.monotonic() + self._timeout
        for attempt in itertools.count(1):
            left = end - time.monotonic()
            wanted = {**self._headers, **headers, "x-request-timeout-ms": str(max(1, int(1000 * left)))}
            problem: GanglionError
            hint = 0.0
            try:
                answer = self._connections.exchange(method, path, body, wanted, timeout=max(0.001, left))
            except (ConnectionError, http.client.HTTPException) as error:
                problem = ControlError(f"No service answers at {self.url}: {str(error) or type(error).__name__}.")
                problem.__cause__ = error
            except OSError as error:
                raise ControlError(f"{self.url} did not answer: {str(error) or type(error).__name__}.") from error
            else:
                if answer.status < 400:
                    self._budget.earn()
                    return answer
                said = (_object(answer.body) or {}).get("error", answer.reason)
                problem = ServiceError(answer.status, str(said))
                after = answer.headers.get("retry-after", "")
                if answer.status not in _REFUSED or not after.isdigit():
                    raise problem
                hint = float(after)
            pause = pause_before(attempt, random.random(), at_least=hint)
            if attempt > self._retries or time.monotonic() + pause >= end or not self._budget.spend():
                raise problem
            time.sleep(pause)
        raise AssertionError("unreachable: tries are counted without end")


def _object(content: bytes) -> dict[str, Any] | None:
    """The JSON object that was answered; `None` for anything else."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _path(model: str, version: int | None) -> str:
    path = f"/v1/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{version}"


def _encode_image(image: bytes | Path) -> dict[str, Any]:
    if isinstance(image, Path):
        try:
            image = image.read_bytes()
        except OSError as error:
            raise UserError(f"Cannot read the image {error.filename}: {error.strerror}.") from error
    return {"image_bytes": {"b64": b64encode(image).decode("ascii")}}


def _plain(value: Any) -> Any:
    """What JSON has no form for: NumPy's arrays and numbers, and whatever else becomes a list."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise UserError(f"A {type(value).__name__} cannot be sent; give numbers, text, nested lists or arrays.")
