"""API: the parts of the OpenAPI description that FastAPI cannot derive, as forms are read in a stream."""

from typing import Any

_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}

PREDICTION: dict[str, Any] = {
    "type": "object",
    "required": ["file", "class", "probability", "answer", "probabilities", "model"],
    "properties": {
        "file": {"type": "string", "description": "the name in the request"},
        "class": {"type": "string", "description": "the most probable class"},
        "probability": {**_PROBABILITY, "description": "of this class"},
        "answer": {"type": "string", "description": "the class, `not sure` or `none of these`"},
        "probabilities": {"type": "object", "additionalProperties": _PROBABILITY, "description": "of every class"},
        "model": {"type": "string", "description": "the version or file of the network"},
        "heat_map": {"type": "string", "description": "a JPEG as a data URL, with `heat_maps=true`"},
    },
}
UNREADABLE: dict[str, Any] = {
    "type": "object",
    "required": ["file", "error"],
    "properties": {
        "file": {"type": "string", "description": "the name in the request"},
        "error": {"type": "string", "description": "why the photograph cannot be read"},
    },
}
PREDICTIONS: dict[str, Any] = {"type": "array", "items": {"anyOf": [PREDICTION, UNREADABLE]}}
EXAMPLE = [
    {
        "file": "cat.jpg",
        "class": "cat",
        "probability": 0.98,
        "answer": "cat",
        "probabilities": {"cat": 0.98, "dog": 0.02},
        "model": "v2.0.0, in production since 2026-01-31 08:00",
    },
    {"file": "notes.txt", "error": "not one of JPEG, PNG, GIF, BMP, WEBP, TIFF"},
]
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "one or more files"}

PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["photographs"], "properties": {"photographs": _FILES}}
            }
        },
    }
}


def _refused(description: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"detail": {"type": "string"}}}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One object for each photograph, in their order.",
        "content": {"application/json": {"schema": PREDICTIONS, "example": EXAMPLE}},
    },
    400: _refused("The form is damaged, or has no files."),
    403: _refused("The request comes from another origin, or names another host."),
    408: _refused("The request did not arrive in time."),
    413: _refused("The request has too many photographs or bytes."),
    415: _refused("The request is no multipart/form-data."),
    429: _refused("Too many photographs wait; `Retry-After` has the seconds to wait."),
}
READY_RESPONSES: dict[int | str, dict[str, Any]] = {503: {"description": "The last photographs were not computed."}}
