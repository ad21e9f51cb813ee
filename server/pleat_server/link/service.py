"""The gRPC service of `proto/pleat/v1`: which method is whose, on raw bytes, for counting and parsing are ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from pleat.exchange import limits, question


class Service(grpc.GenericRpcHandler):
    """`session` gets a stream and its context, `asked` one message and its context."""

    def __init__(self, session: Callable[[Any, Any], Any], asked: Callable[[bytes, Any], Any]) -> None:
        self._methods: dict[str, Any] = {
            limits.METHOD: grpc.stream_stream_rpc_method_handler(session),
            question.METHOD: grpc.unary_unary_rpc_method_handler(asked),
        }

    def service(self, details: Any) -> Any:
        return self._methods.get(details.method)
