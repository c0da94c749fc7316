"""Errors in the shape of OpenAI's API: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from zoo_core.errors import ZooError, nearest
from zoo_core.serve.jobs import Failure

__all__ = ["Refusal", "error_body", "of_failure", "of_validation"]

_FAILURES = {
    "model": (500, "server_error", "model_error"),
    "timeout": (504, "timeout_error", "request_timeout"),
    "stopped": (503, "server_error", "shutting_down"),
}


class Refusal(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of HTTP.
        message: for the client, one sentence or two.
        kind: OpenAI's `type`.
        param: the key of the request that is wrong.
        code: OpenAI's, for programs.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: ZooError, param: str | None = None) -> Refusal:
        """The refusal of what zoo itself refuses."""
        return cls(400, ": ".join(part for part in (error.what, error.why) if part), param=param)

    @property
    def body(self) -> dict[str, Any]:
        """What the client reads."""
        return error_body(self.message, self.kind, self.param, self.code)

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body, self.status, self.headers)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def of_failure(failure: Failure) -> Refusal:
    """Return what the client of a failed job gets."""
    status, kind, code = _FAILURES[failure.kind]
    return Refusal(status, failure.message, kind=kind, code=code)


def of_validation(errors: Sequence[Any], keys: Sequence[str]) -> Refusal:
    """Return the refusal of a body that is no JSON, or not of the right form.

    Args:
        errors: pydantic's.
        keys: that the request may have.
    """
    first = errors[0]
    # A union reports once for each of its kinds, at the same key: the key is what the client needs.
    where = [part for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        why = (first.get("ctx") or {}).get("error", "")
        return Refusal(400, f"the body is not JSON: {why} at character {where[0] if where else 0}", code="invalid_json")
    if first["type"] == "together":
        return Refusal(400, first["msg"], param=first["ctx"]["param"], code="invalid_value")
    if not where:
        return Refusal(400, "the body has to be a JSON object", code="invalid_json")
    param = str(where[0])
    if first["type"] == "extra_forbidden" and len(where) == 1:
        near = nearest(param, keys)
        hint = f"; did you mean {near}?" if near else ""
        return Refusal(400, f"unknown key: {param}{hint}", param=param, code="unknown_parameter")
    wanted = list(
        dict.fromkeys(e["msg"].removeprefix("Value error, ") for e in errors if e["loc"][:2] == first["loc"][:2])
    )
    path = _path(where, first["type"])
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return Refusal(400, f"{path}: {' or '.join(wanted)}", param=path, code=code)


def _path(where: Sequence[str | int], kind: str) -> str:
    """`messages[0].content` of a place in the body; what pydantic calls the kinds of a union is left out."""
    text = str(where[0])
    for part in where[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "list", "float", "bool"):
            text += f".{part}"
    return text
