"""Application: the addresses of the page, and what they answer."""

import asyncio
import base64
import json
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.requests import ClientDisconnect

import transfer
from transfer.images import formats as image_formats
from transfer.network.card import Card
from transfer.prediction import answers, formats
from transfer.prediction.inputs import InputPhotograph
from transfer.prediction.model import Model
from transfer.prediction.page import api
from transfer.prediction.page.access import Access
from transfer.prediction.page.current import Current
from transfer.prediction.page.uploads import Uploads
from transfer.prediction.page.waiting import BusyError, Queue, Row

_FOLDER = Path(__file__).parent
_DESCRIPTION = "Predicts the classes of photographs. Nothing that is sent here is kept."

router = APIRouter()


class Served(NamedTuple):
    """What the addresses work with."""

    current: Current
    queue: Queue
    uploads: Uploads


def build(served: Served, *, port: int) -> Access:
    """Return the ASGI application.

    Args:
        served: what it works with.
        port: at which the server listens on the loopback interface.
    """
    application = FastAPI(
        title="dogs-vs-cats",
        version=transfer.__version__,
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    application.state.served = served
    application.include_router(router)
    return Access(application, port=port)


def rows(model: Model, photographs: Sequence[InputPhotograph], *, heat_maps: bool) -> list[Row]:
    """Predict photographs, and return each one's answer as the JSON of a response has it."""
    batch = answers.of_batch(model, photographs, heat_maps=heat_maps)
    return [row(answer, model=model.name) for answer in batch]


def row(answer: answers.Answer, *, model: str) -> Row:
    """Return an answer as JSON: the fields of `dogs-vs-cats predict --format json` and the model, or the error."""
    if isinstance(answer.result, str):
        return {"file": answer.name, "error": answer.result}
    fields = {**formats.fields(answer.name, answer.result), "model": model}
    if answer.heat_map is not None:
        fields["heat_map"] = f"data:image/jpeg;base64,{base64.b64encode(answer.heat_map).decode()}"
    return fields


def described(card: Card, name: str, uploads: Uploads) -> dict[str, Any]:
    """Return what the page shows of a network, and which photographs it accepts."""
    return {
        "name": name,
        "classes": card.classes,
        "scores": card.scores,
        "formats": image_formats.names(),
        "photograph_bytes": uploads.limits.photograph_bytes,
    }


@router.post("/predict", summary="Predict photographs", responses=api.PREDICT_RESPONSES, openapi_extra=api.PREDICT_BODY)
async def predict(request: Request, *, heat_maps: bool = False) -> Response:
    """Return a list with the prediction of each photograph, or the reason for which it cannot be read.

    `heat_maps` adds a JPEG to each, as a data URL. Photographs of several requests are computed together.
    """
    served: Served = request.app.state.served
    try:
        async with served.uploads.photographs(request) as photographs:
            try:
                waiting = served.queue.put(photographs, heat_maps=heat_maps)
            except BusyError as error:
                raise HTTPException(429, str(error), {"Retry-After": str(error.seconds)}) from None
            return JSONResponse(await _unless_disconnected(request, waiting))
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it


async def _unless_disconnected(request: Request, waiting: Sequence["Future[Row]"]) -> list[Row]:
    """Return the rows; if the client ends before, those that no thread computes yet are cancelled.

    Raises:
        ClientDisconnect: the client has ended.
        HTTPException: the photographs cannot be computed.
    """
    computed = asyncio.ensure_future(_rows(waiting))
    disconnected = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((computed, disconnected), return_when=asyncio.FIRST_COMPLETED)
        if computed.done():
            return computed.result()
    except Exception:  # noqa: BLE001 - the queue has logged it
        raise HTTPException(500, "The photographs could not be computed. The server's output says why.") from None
    finally:
        computed.cancel()
        disconnected.cancel()
        for row_of_photograph in waiting:
            row_of_photograph.cancel()
    raise ClientDisconnect


async def _rows(waiting: Sequence["Future[Row]"]) -> list[Row]:
    return [await asyncio.wrap_future(row) for row in waiting]


@router.get("/model", summary="Describe the model")
async def model(request: Request) -> dict[str, Any]:
    """Return the name of the network in use, its classes and scores, and which photographs are accepted."""
    served: Served = request.app.state.served
    used = served.current.model
    return described(used.card, used.name, served.uploads)


@router.get("/health", summary="Tell whether the server runs")
async def health() -> dict[str, str]:
    """Return that the server answers."""
    return {"status": "alive"}


@router.get("/ready", summary="Tell whether photographs are predicted", responses=api.READY_RESPONSES)
async def ready(request: Request) -> JSONResponse:
    """Return 200 if a network is loaded and predicts, with the reason for which a later one could not be used."""
    served: Served = request.app.state.served
    state = {"ready": not served.queue.failed, "model": served.current.model.name, "problem": served.current.problem}
    return JSONResponse(state, 503 if served.queue.failed else 200)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Return the description of these addresses as a page that loads nothing from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    template = environment.get_template("docs.html.jinja")
    return HTMLResponse(template.render(api=request.app.openapi(), address=str(request.base_url).rstrip("/")))


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(_FOLDER / "static" / "page.html")


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str) -> FileResponse:
    """Return a file of the page."""
    files = {file.name: file for file in (_FOLDER / "static").iterdir()}
    if name not in files:
        raise HTTPException(404, "There is no such file. Open the page at /.")
    return FileResponse(files[name])
