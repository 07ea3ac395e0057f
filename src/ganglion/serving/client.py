"""A client of the gateway: small, blocking, standard library only on the wire."""

from __future__ import annotations

import http.client
import json
import select
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from ganglion.core.errors import ControlError, GanglionError, UserError


class ServiceError(GanglionError):
    """The service answered with an error.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status


class Client:
    """Asks a gateway over one kept connection; not for several threads at once.

    Args:
        url: of the gateway, such as `http://127.0.0.1:8501`.
        timeout: seconds for each answer.

    Raises:
        UserError: the URL is not of that form.
    """

    def __init__(self, url: str, *, timeout: float = 60.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise UserError(f"{url!r} is not the address of a service; write for example http://127.0.0.1:8501.")
        self.url = f"http://{parts.netloc}"
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)

    def predict(
        self,
        model: str,
        instances: Sequence[Any] | None = None,
        *,
        images: Sequence[bytes | Path] | None = None,
        version: int | None = None,
    ) -> list[Any]:
        """Predictions for instances or for encoded images.

        Args:
            model: name of a model or an ensemble.
            instances: nested lists (or a NumPy array), or objects by input name.
            images: content of PNG or JPEG files, or their paths.
            version: a version other than the one that is served by default.

        Returns:
            One prediction for each instance, in order.

        Raises:
            UserError: not exactly one of `instances` and `images` is given, or a file cannot be read.
            ServiceError: the service refused or failed.
            ControlError: no service answers; the request may or may not have been carried out.
        """
        if (instances is None) == (images is None):
            raise UserError("Give either instances or images.")
        rows: Any = [_encode_image(image) for image in images] if images is not None else instances
        answer = self._ask(
            "POST", f"{_path(model, version)}:predict", json.dumps({"instances": rows}, default=_plain).encode()
        )
        predictions = answer.get("predictions")
        if not isinstance(predictions, list):
            raise ServiceError(200, f"{self.url} gave no predictions; is it a model service?")
        return predictions

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
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        tries = 2 if method == "GET" else 1  # a repeated GET changes nothing
        for attempt in range(1, tries + 1):
            try:
                return self._exchange(method, path, body)
            except (ConnectionError, http.client.BadStatusLine) as error:
                self._connection.close()
                if attempt == tries:
                    raise ControlError(
                        f"No service answers at {self.url}: {str(error) or type(error).__name__}."
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                raise ControlError(f"{self.url} did not answer: {_reason(error)}.") from error
        raise AssertionError("the last try returns or raises")

    def _exchange(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        self._drop_stale()
        headers = {"content-type": "application/json"} if body is not None else {}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServiceError(response.status, f"{self.url} did not answer with JSON; is it a model service?")
        if response.status >= 400:
            raise ServiceError(response.status, str(answer.get("error", response.reason)))
        return answer

    def _drop_stale(self) -> None:
        """Close a kept connection that the service has closed meanwhile: it is readable although nothing was asked."""
        if self._connection.sock is not None and select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()


def _reason(error: OSError | http.client.HTTPException) -> str:
    return str(error) or type(error).__name__


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
    raise UserError(f"A {type(value).__name__} cannot be sent; give numbers, nested lists or arrays.")
