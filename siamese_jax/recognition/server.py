"""The drawing page and its API, served on this computer only.

Every route is listed in `/openapi.json`. Errors of the app are `{"error": "one line"}`. Before it is
read, a request is refused if it is too large, comes from another site's page, or names another host.
While it is read, it is refused if it takes too long to arrive. What uvicorn itself refuses (too many
connections, no valid HTTP) is plain text.
"""

from __future__ import annotations

import asyncio
import collections
import pathlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from siamese_jax.inference.network import Siamese
from siamese_jax.recognition import identification, symbols
from siamese_jax.recognition.gallery import Gallery
from siamese_jax.recognition.storage import GalleryFile
from siamese_jax.reporting import page

_T = TypeVar("_T")
HOST = "127.0.0.1"
MAX_BYTES = 8_000_000  # of a request
_SECONDS = 10  # for a whole request to arrive
_WAITING = 16  # requests that may wait for the network
_UNDO = 100  # changes that can be undone
_TEMPLATE = pathlib.Path(__file__).with_name("demo.html")
_HOSTS = ("127.0.0.1", "localhost")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PICTURE = {
    "requestBody": {
        "required": True,
        "description": "A PNG, JPEG, WEBP, GIF or BMP file: dark ink on light paper, or the reverse.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class Name(BaseModel):
    """A taught name."""

    name: str = Field(max_length=200)


class Taught(BaseModel):
    """A name and the pictures that it was taught by, as data URIs."""

    name: str
    pictures: list[str]


class State(BaseModel):
    """What is taught."""

    network: str
    symbols: list[Taught]
    can_undo: bool
    kept_in: str | None = Field(description="Name of the gallery's file; null: nothing is kept.")
    false_accept_rate: float | None = Field(
        description="Share of untaught symbols that the threshold was set to name; null: no threshold."
    )


class Match(BaseModel):
    """A name that a picture was compared with: its best reference."""

    name: str
    score: float
    probability: float | None = Field(description="That the two are the same symbol.")


class Answer(BaseModel):
    """What is on a picture."""

    name: str | None = Field(description="The name; null: unknown, or there is no threshold.")
    threshold: float | None = Field(description="Lowest score that is named.")
    matches: list[Match] = Field(description="The nearest names, best first.")
    milliseconds: float = Field(description="From the request's arrival to this answer.")


class Why(BaseModel):
    """Why a picture is like the nearest reference."""

    html: str | None = Field(description="A figure; null where the network compares no places.")


class _Session:
    """The one thing that changes: the gallery, what it was before, and the file."""

    def __init__(self, known: Gallery, file: GalleryFile | None) -> None:
        self.known, self.file = known, file
        self.before: collections.deque[Gallery] = collections.deque(maxlen=_UNDO)

    def become(self, known: Gallery) -> None:
        if self.file is not None:
            self.file.write(known)  # where this fails nothing has changed
        self.before.append(self.known)
        self.known = known

    def undo(self) -> None:
        if not self.before:
            raise ValueError("there is nothing to undo")
        if self.file is not None:
            self.file.write(self.before[-1])
        self.known = self.before.pop()


def make_app(net: Siamese, known: Gallery, file: GalleryFile | None = None) -> ASGIApp:
    """The page and its API.

    Args:
        net: the network, as `symbols.prepare` gives it.
        known: what is taught at the beginning.
        file: where the gallery is written after each change; None keeps nothing.
    """
    app = FastAPI(
        title="siamese_jax: teach and recognise symbols",
        description="Errors of the app are {error: one line}.",
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    session, lock, waiting = _Session(known, file), asyncio.Lock(), 0
    template = page.filled(_TEMPLATE)

    async def compute(function: Callable[..., _T], *arguments: Any) -> _T:
        """One at a time, away from the loop that answers requests."""
        nonlocal waiting
        if waiting >= _WAITING:
            raise HTTPException(429, "too many requests at a time: try again")
        waiting += 1
        try:
            async with lock:
                return await run_in_threadpool(function, *arguments)
        finally:
            waiting -= 1

    def state() -> State:
        pictures: dict[str, list[str]] = {}
        for reference in session.known.references:
            uri = page.data_uri(reference.thumbnail, "png")
            pictures.setdefault(reference.name, []).append(uri)
        calibration = session.known.calibration
        return State(
            network=net.name,
            symbols=[Taught(name=name, pictures=uris) for name, uris in pictures.items()],
            can_undo=bool(session.before),
            kept_in=None if session.file is None else session.file.path.name,
            false_accept_rate=None if calibration is None else calibration.rate,
        )

    @app.get("/", response_class=HTMLResponse, summary="The drawing page")
    async def show_page() -> HTMLResponse:
        return HTMLResponse(template)

    @app.get("/api/symbols", summary="What is taught")
    async def list_symbols() -> State:
        return state()

    @app.post("/api/recognise", openapi_extra=_PICTURE, summary="Which taught symbol is this?")
    async def recognise(request: Request) -> Answer:
        began = time.perf_counter()
        data = await request.body()

        def answer() -> identification.Answer:
            return symbols.recognise(session.known, net, symbols.picture(data))

        answered = await compute(answer)
        return Answer(
            name=answered.name,
            threshold=answered.threshold,
            matches=[
                Match(name=m.name, score=m.score, probability=m.probability)
                for m in answered.matches
            ],
            milliseconds=1000 * (time.perf_counter() - began),
        )

    @app.post("/api/explain", openapi_extra=_PICTURE, summary="Why is it like the nearest one?")
    async def explain(request: Request) -> Why:
        data = await request.body()

        def figure() -> str | None:
            return symbols.explain(session.known, net, symbols.picture(data))

        return Why(html=await compute(figure))

    @app.post("/api/teach", openapi_extra=_PICTURE, summary="Teach a symbol, or one more example")
    async def teach(request: Request, name: Annotated[str, Query(max_length=200)]) -> State:
        data = await request.body()

        def change() -> None:
            session.become(symbols.teach(session.known, net, name, symbols.picture(data)))

        await compute(change)
        return state()

    @app.post("/api/remove", summary="Forget a name")
    async def remove(body: Name) -> State:
        await compute(lambda: session.become(symbols.forget(session.known, body.name)))
        return state()

    @app.post("/api/undo", summary="Take the last change back")
    async def undo() -> State:
        await compute(session.undo)
        return state()

    @app.exception_handler(ValueError)
    async def mistake(_: Request, error: ValueError) -> JSONResponse:
        return _error(400, str(error))

    @app.exception_handler(StarletteHTTPException)
    async def refusal(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return _error(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(Exception)
    async def failure(_: Request, error: Exception) -> JSONResponse:
        return _error(500, f"the server failed ({type(error).__name__})")

    return _Guard(app)  # outside of the handlers: their answers have its headers too


class _Guard:
    """Refuses what is not from this page or a local program, and what is too large or too slow."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        problem = _refused(scope)
        if problem:
            await _error(*problem)(scope, receive, with_headers)
            return
        loop = asyncio.get_running_loop()
        end, arrived, complete = loop.time() + _SECONDS, 0, False

        async def limited() -> Message:
            nonlocal arrived, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), end - loop.time())
            except TimeoutError:
                raise HTTPException(408, f"the request took more than {_SECONDS} s") from None
            arrived += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if arrived > MAX_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self.app(scope, limited, with_headers)


_TOO_LARGE = f"at most {MAX_BYTES // 1_000_000} MB are taken"


def _refused(scope: Scope) -> tuple[int, str] | None:
    """Status and reason for which a request is refused by its head alone."""
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
    host = headers.get("host", "")
    if host.rpartition(":")[0] not in _HOSTS and host not in _HOSTS:
        return 421, "this server answers to 127.0.0.1 and localhost only"
    if headers.get("origin", f"http://{host}") != f"http://{host}":
        return 403, "requests from another site's page are refused"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return 403, "requests from another site's page are refused"
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BYTES:
        return 413, _TOO_LARGE
    return None


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": " ".join(text.split())[:300]}, status)


def listen(port: int = 0) -> socket.socket:
    """A socket on this computer's own address.

    Args:
        port: 0 takes a free one.

    Raises:
        ValueError: the port is taken, or not allowed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(128)  # from now on connections wait, and none is refused
    except (OSError, OverflowError) as error:
        listener.close()
        raise ValueError(
            f"port {port} is not available ({error}); --port=0 takes a free one"
        ) from None
    return listener


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A server of the app; call its `run(sockets=[listen()])`, which returns after Ctrl-C."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            server_header=False,
            log_level="warning",
            limit_concurrency=64,
            timeout_keep_alive=20,
            ws="none",
        )
    )


def serve(net: Siamese, known: Gallery, file: GalleryFile | None, port: int = 0) -> None:
    """Warms the network up, prints the address and serves until it is stopped.

    Args:
        net: the network.
        known: what is taught at the beginning.
        file: where it is kept; or None.
        port: 0 takes a free one.
    """
    net = symbols.prepare(net)
    listener = listen(port)
    symbols.warm_up(net)
    print(f"http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C stops)", flush=True)
    # Larger galleries are rare: their steps are compiled while the first drawings are made.
    threading.Thread(target=symbols.warm_up, args=(net, 3), daemon=True).start()
    make_server(make_app(net, known, file)).run(sockets=[listener])
