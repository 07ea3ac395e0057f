"""The methods of `inference.GRPCInferenceService`: each asks the gateway and says its answer in messages of gRPC."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no types
import orjson

from ganglion.core.errors import ControlError
from ganglion.core.log import get_logger
from ganglion.serving.gateway.errors import RequestError
from ganglion.serving.gateway.limits import HttpLimits
from ganglion.serving.grpc import messages, translation
from ganglion.serving.grpc.gateway_client import GatewayClient
from ganglion.serving.grpc.translation import GatewayRequest

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    414: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    431: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What the gateway's status is in gRPC; any other is INTERNAL."""

PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata that tells a client that retries how long to wait (gRFC A6)."""

_LONGEST = 10**9 - 1
"""Milliseconds of the longest deadline that is passed on; a longer one is none."""

_log = get_logger(part="serving.grpc")


class InferenceService:
    """Answers calls by asking the gateway.

    Args:
        gateway: that answers.
        limits: `bodies` is how many bytes of messages may be in hand at once.
    """

    def __init__(self, gateway: GatewayClient, limits: HttpLimits) -> None:
        self._gateway = gateway
        self._limits = limits
        self._held = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server of gRPC is given."""
        methods: dict[str, tuple[Any, Callable[[Any, Any], Awaitable[Any]]]] = {
            "ServerLive": (messages.ServerLiveRequest, self._server_live),
            "ServerReady": (messages.ServerReadyRequest, self._server_ready),
            "ServerMetadata": (messages.ServerMetadataRequest, self._server_metadata),
            "ModelReady": (messages.ModelReadyRequest, self._model_ready),
            "ModelMetadata": (messages.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": (messages.ModelInferRequest, self._infer),
        }
        return grpc.method_handlers_generic_handler(
            messages.SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(self._answering(request, method))
                for name, (request, method) in methods.items()
            },
        )

    def _answering(
        self, request: Any, method: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """A method from bytes to bytes, whose errors are those of gRPC; bytes, so that they are counted unparsed."""

        async def answer(data: bytes, context: Any) -> bytes:
            self._held += len(data)
            try:
                if self._held > self._limits.bodies:
                    raise RequestError(503, "Too many bytes are arriving at once.", retry_after=1)
                message = await method(_parse(request, data), context)
                return bytes(message.SerializeToString())
            except RequestError as error:
                code, text, pause = CODES.get(error.status, grpc.StatusCode.INTERNAL), str(error), error.retry_after
            except ControlError as error:
                code, text, pause = grpc.StatusCode.UNAVAILABLE, str(error), 1
            except Exception:  # noqa: BLE001  a fault on one call must not show its inside to the caller
                _log.error("call_failed", exc_info=True)
                text = "The server failed on this request; its log says why."
                code, pause = grpc.StatusCode.INTERNAL, None
            finally:
                self._held -= len(data)
            if pause is not None:
                context.set_trailing_metadata(((PUSHBACK, str(1000 * pause)),))
            await context.abort(code, text)
            raise AssertionError("abort raises")

        return answer

    async def _server_live(self, _request: Any, _context: Any) -> Any:
        return messages.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: Any, _context: Any) -> Any:
        try:
            answer = await self._gateway.ask(GatewayRequest("GET", "/v2/health/ready"))
        except ControlError:
            return messages.ServerReadyResponse(ready=False)
        return messages.ServerReadyResponse(ready=translation.is_ready(answer))

    async def _server_metadata(self, _request: Any, _context: Any) -> Any:
        answer = await self._gateway.ask(GatewayRequest("GET", "/v2"))
        translation.refuse(answer)
        document = orjson.loads(answer.body)
        return messages.ServerMetadataResponse(
            name=document["name"], version=document["version"], extensions=document["extensions"]
        )

    async def _model_ready(self, request: Any, _context: Any) -> Any:
        path = translation.model_path(request.name, request.version, "ready")
        answer = await self._gateway.ask(GatewayRequest("GET", path))
        return messages.ModelReadyResponse(ready=translation.is_ready(answer))

    async def _model_metadata(self, request: Any, _context: Any) -> Any:
        path = translation.model_path(request.name, request.version)
        return translation.model_metadata(await self._gateway.ask(GatewayRequest("GET", path)))

    async def _infer(self, request: Any, context: Any) -> Any:
        asked = translation.infer_request(request, header_fields(context))
        return translation.infer_response(await self._gateway.ask(asked))


def _parse(request: Any, data: bytes) -> Any:
    try:
        return request.FromString(data)
    except Exception as error:  # the class of the error is protobuf's secret
        raise RequestError(400, f"The message is no {request.DESCRIPTOR.name}: {error}.") from error


def header_fields(context: Any) -> dict[str, str]:
    """The caller's key and the time that is left of a call, as the gateway reads them from a request."""
    fields = {
        key: value
        for key, value in context.invocation_metadata() or ()
        if key in translation.PASSED_ON and isinstance(value, str)
    }
    left = context.time_remaining()
    if left is not None and left * 1000.0 < _LONGEST:
        fields["x-request-timeout-ms"] = str(max(1, math.floor(left * 1000.0)))
    return fields
