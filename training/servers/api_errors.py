"""The errors of the OpenAI-compatible API, with vLLM's statuses, kinds and bodies."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response


class ApiError(Exception):
    """An answer other than success, in OpenAI's words for it."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, dict[str, str | int | None]]:
        """The JSON object that tells a client."""
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.status,
            }
        }


def bad_request(message: str, param: str | None = None) -> ApiError:
    """A question that cannot be answered; `param` names the field to blame."""
    return ApiError(400, "BadRequestError", message, param)


def invalid_input(message: str) -> ApiError:
    """An adapter that is not to be loaded or unloaded like this."""
    return ApiError(400, "InvalidUserInput", message)


def not_found(message: str, param: str | None = None) -> ApiError:
    """A model, adapter or folder that is not here; `param` names the field to blame."""
    return ApiError(404, "NotFoundError", message, param)


def server_error(message: str) -> ApiError:
    """A failure on our side."""
    return ApiError(500, "InternalServerError", message)


async def error_response(_: Request, exc: Exception) -> Response:
    """Any exception as the API tells it: of one that nobody foresaw, only that it happened."""
    if isinstance(exc, HTTPException):
        exc = ApiError(exc.status_code, exc.detail.replace(" ", ""), exc.detail)
    if not isinstance(exc, ApiError):
        exc = server_error("Something went wrong; see the server's log.")
    headers = {"Retry-After": "1"} if exc.status == 503 else None
    return JSONResponse(exc.body(), exc.status, headers)
