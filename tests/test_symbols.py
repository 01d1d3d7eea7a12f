"""Symbols taught by drawing, and the API that serves them to this computer only."""

import asyncio
import contextlib
import dataclasses
import http.client
import io
import json
import pathlib
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from launching import launch
from PIL import Image, ImageDraw

import siamese_jax
from siamese_jax.data import drawing
from siamese_jax.recognition import gallery, storage, symbol_calibration, symbols

server = pytest.importorskip("siamese_jax.recognition.server", reason="no extra [demo]")
LAUNCHER = pathlib.Path(__file__).resolve().parents[1] / "launch" / "demo.py"
SHAPES = {
    "tent": [[(0.5, 0.2), (0.2, 0.8), (0.8, 0.8), (0.5, 0.2)]],
    "bolt": [[(0.2, 0.2), (0.8, 0.25), (0.2, 0.75), (0.8, 0.8)]],
    "post": [[(0.5, 0.15), (0.5, 0.85)]],
    "star": [[(0.5, 0.15), (0.5, 0.85)], [(0.2, 0.3), (0.8, 0.7)], [(0.8, 0.3), (0.2, 0.7)]],
}


def draw(name, seed=0, side=420, pen=20):
    """A PNG of a shape with the small differences of another attempt."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (side, side), 255)
    for stroke in SHAPES[name]:
        points = [tuple(side * (p + rng.normal(0, 0.012)) for p in point) for point in stroke]
        ImageDraw.Draw(image).line(points, fill=0, width=pen, joint="curve")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def net():
    return symbols.prepare(siamese_jax.load("omniglot"))


@pytest.fixture(scope="module")
def taught(net):
    known, _ = symbols.open_gallery(net, None)
    for name in ("tent", "bolt", "post"):
        known = symbols.teach(known, net, name, symbols.picture(draw(name)))
    return known


# ---------------------------------------------------------------------------------- what is taught


@pytest.mark.parametrize("name", ["tent", "bolt", "post"])
@pytest.mark.parametrize("pen", [10, 20, 40])
def test_a_symbol_is_recognised_from_one_drawing(net, taught, name, pen):
    answer = symbols.recognise(taught, net, symbols.picture(draw(name, seed=1, pen=pen)))
    assert answer.name == name and answer.matches[0].probability > 0.9


def test_what_was_not_taught_is_unknown(net, taught):
    answer = symbols.recognise(taught, net, symbols.picture(draw("star")))
    assert answer.name is None and len(answer.matches) == 3


def test_padded_comparisons_score_as_unpadded_ones(net, taught):
    plain = siamese_jax.load("omniglot")
    h = net.embed(symbols.picture(draw("star")).image[None])
    np.testing.assert_allclose(
        net.score_matrix(h, taught.embeddings), plain.score_matrix(h, taught.embeddings), atol=1e-4
    )


def test_teaching_and_forgetting_leave_the_old_gallery_as_it_was(net, taught):
    more = symbols.teach(taught, net, "  bolt ", symbols.picture(draw("bolt", seed=5)))
    assert more.count_of("bolt") == 2
    less = symbols.forget(more, "bolt")
    assert less.names == ("tent", "post") and taught.names == ("tent", "bolt", "post")


@pytest.mark.parametrize("name", ["", "  ", "unknown", "a\u202eb", "x" * 61, "a\x00b"])
def test_what_is_no_name_is_refused(net, taught, name):
    with pytest.raises(ValueError):
        symbols.teach(taught, net, name, symbols.picture(draw("star")))


def test_one_drawing_is_taught_once(net, taught):
    with pytest.raises(ValueError, match="this drawing is a reference of 'tent' already"):
        symbols.teach(taught, net, "roof", symbols.picture(draw("tent")))


def test_without_anything_taught_there_is_no_answer(net):
    known, _ = symbols.open_gallery(net, None)
    with pytest.raises(ValueError, match="nothing has been taught"):
        symbols.recognise(known, net, symbols.picture(draw("tent")))


def test_the_gallery_is_kept_in_a_file(net, taught, tmp_path):
    known, file = symbols.open_gallery(net, tmp_path / "symbols.npz")
    assert not len(known) and known.calibration is not None
    file.write(taught)
    again, _ = symbols.open_gallery(net, tmp_path / "symbols.npz")
    assert again.names == taught.names and again.calibration == taught.calibration
    for reference in again.references:
        image = symbols.image_of(reference)
        assert drawing.digest(image[..., 0]) == reference.digest


def test_a_reference_from_a_file_is_shown_as_ink_whatever_its_size(net):
    light = 255 - np.asarray(Image.open(io.BytesIO(draw("post", side=105, pen=5))))
    buffer = io.BytesIO()
    Image.fromarray(light).save(buffer, format="PNG")
    reference = gallery.Reference("post", "/p/post.png", "0" * 16, buffer.getvalue())
    assert (symbols.image_of(reference) > 127).mean() < 0.1


def test_a_calibration_for_pictures_decides_nothing_about_drawings(net, taught):
    of_pictures = {"pictures": taught.calibration}
    other = symbols.prepare(dataclasses.replace(net, calibrations=of_pictures))
    known, _ = symbols.open_gallery(other, None)
    known = dataclasses.replace(taught, calibration=known.calibration)
    answer = symbols.recognise(known, other, symbols.picture(draw("star")))
    assert known.calibration is answer.threshold is answer.matches[0].probability is None


def test_the_calibration_of_the_package_fits_its_network(net, tmp_path):
    calibration = symbol_calibration.find(net)
    assert calibration is not None and calibration.rate == symbol_calibration.RATE
    (tmp_path / "c.json").touch()
    old = (tmp_path / "c.json").stat().st_ino
    symbol_calibration.write(tmp_path / "c.json", net, calibration)
    assert (tmp_path / "c.json").stat().st_ino != old  # it is replaced at once
    assert symbol_calibration.read(tmp_path / "c.json", net) == calibration
    content = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(content | {"network": "0" * 16}))
    (tmp_path / "spoilt.json").write_text("{}")
    for name, words in (
        ("other", "another network"),
        ("spoilt", "no calibration"),
        ("no", "no cal"),
    ):
        with pytest.raises(ValueError, match=words):
            symbol_calibration.read(tmp_path / f"{name}.json", net)
    assert "0.05" in symbol_calibration.describe(calibration)


# ------------------------------------------------------------------------------------------ the API


@pytest.fixture
def site(net, taught, tmp_path):
    """(call, file) of a running server that has been taught three symbols."""
    _, file = symbols.open_gallery(net, tmp_path / "symbols.npz")
    file.write(taught)
    listener = server.listen()
    running = server.make_server(server.make_app(net, taught, file))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    port = listener.getsockname()[1]

    def call(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers["content-type"] == "application/json"
        return response.status, json.loads(content) if is_json else content, response.headers

    call.port = port
    yield call, file
    running.should_exit = True
    thread.join(10)


def names(state):
    return [symbol["name"] for symbol in state["symbols"]]


def test_teach_recognise_explain_remove_undo(site):
    call, file = site
    status, answer, _ = call("POST", "/api/recognise", draw("star"))
    assert status == 200 and answer["name"] is None
    status, state, _ = call("POST", "/api/teach?name=st%C3%A4r%20%3Cb%3E", draw("star", seed=3))
    assert status == 200 and names(state)[-1] == "stär <b>" and state["can_undo"]
    _, answer, _ = call("POST", "/api/recognise", draw("star"))
    assert answer["name"] == "stär <b>" and answer["matches"][0]["probability"] > 0.9
    _, why, _ = call("POST", "/api/explain", draw("star"))
    assert "<svg" in why["html"] and "stär &lt;b&gt;" in why["html"] and "<b>" not in why["html"]
    assert len(storage.GalleryFile(file.path).read()) == 4
    as_json = {"Content-Type": "application/json"}
    status, state, _ = call("POST", "/api/remove", json.dumps({"name": "tent"}), as_json)
    assert status == 200 and names(state) == ["bolt", "post", "stär <b>"]
    _, state, _ = call("POST", "/api/undo")
    assert "tent" in names(state)
    _, state, _ = call("POST", "/api/undo")
    assert names(state) == ["tent", "bolt", "post"] and not state["can_undo"]
    status, problem, _ = call("POST", "/api/undo")
    assert status == 400 and problem == {"error": "there is nothing to undo"}
    assert storage.GalleryFile(file.path).read().names == ("tent", "bolt", "post")


@pytest.mark.parametrize(
    "method, path, body, status, words",
    [
        ("POST", "/api/recognise", b"", 400, "no picture"),
        ("POST", "/api/recognise", b"hello", 400, "no picture"),
        ("POST", "/api/teach?name=x", draw("post")[:90], 400, "damaged"),
        ("POST", "/api/teach?name=", draw("star"), 400, "give the symbol a name"),
        ("POST", "/api/teach?name=" + "x" * 100, draw("star"), 400, "at most 60"),
        ("POST", "/api/teach?name=" + "x" * 300, draw("star"), 422, "name"),
        ("POST", "/api/teach", draw("star"), 422, "name"),
        ("POST", "/api/remove", b'{"name": "tant"}', 400, "did you mean 'tent'"),
        ("POST", "/api/remove", b"{", 422, "body"),
        ("GET", "/api/teach", None, 405, "Method"),
        ("GET", "/api/", None, 404, "Not Found"),
        ("GET", "/../setup.py", None, 404, "Not Found"),
        ("GET", "/demo.html", None, 404, "Not Found"),
        ("GET", "/docs", None, 404, "Not Found"),
    ],
    ids=[str(i) for i in range(14)],
)
def test_mistakes_are_told_in_one_line(site, method, path, body, status, words):
    call, file = site
    headers = {"Content-Type": "application/json"} if path == "/api/remove" else {}
    given, problem, _ = call(method, path, body, headers)
    assert given == status and list(problem) == ["error"]
    assert words in problem["error"] and "\n" not in problem["error"]
    assert len(storage.GalleryFile(file.path).read()) == 3


def test_only_this_computers_own_pages_are_answered(site):
    call, _ = site
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": f"evil.example:{call.port}"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": f"http://127.0.0.1:{call.port}"}, 400),
    ):
        assert call("POST", "/api/undo", None, headers)[0] == status, headers


def test_large_requests_are_refused_before_they_are_read(site):
    call, _ = site
    with socket.create_connection(("127.0.0.1", call.port)) as connection:
        head = "POST /api/recognise HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(f"{head}Content-Length: 9000000000\r\n\r\n".encode())
        assert b"413" in connection.recv(100)
    status, problem, _ = call("POST", "/api/recognise", iter([bytes(1_000_000)] * 9))  # in chunks
    assert status == 413 and problem == {"error": "at most 8 MB are taken"}


def ask(app, parts, wait=0.0, **headers):
    """The status, the headers and the JSON that the app itself answers; parts of a body come slowly."""
    sent, left = [], list(parts)

    async def receive():
        await asyncio.sleep(wait)
        return {"type": "http.request", "body": left.pop(), "more_body": True}

    async def send(message):
        sent.append(message)

    head = {"host": "localhost", **headers}
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/api/recognise"}
    scope |= {"headers": [(k.encode(), v.encode()) for k, v in head.items()], "query_string": b""}
    with contextlib.suppress(IndexError):  # which the server would log
        asyncio.run(app(scope, receive, send))
    start, *bodies = sent
    content = b"".join(message["body"] for message in bodies)
    return start["status"], dict(start["headers"]), json.loads(content)


def test_the_time_limit_is_of_the_whole_request(net, taught, monkeypatch):
    monkeypatch.setattr(server, "_SECONDS", 0.1)
    app = server.make_app(net, taught)
    status, _, problem = ask(app, [b"x"] * 9, wait=0.03)
    assert (status, problem) == (408, {"error": "the request took more than 0.1 s"})


def test_every_answer_has_the_headers_of_the_page(net, taught):
    app = server.make_app(net, taught)
    status, headers, _ = ask(app, [], **{"content-length": "9" * 5000})
    assert status == 413 and b"content-security-policy" in headers
    status, headers, problem = ask(app, [])  # `receive` fails
    assert (status, problem) == (500, {"error": "the server failed (IndexError)"})
    assert b"content-security-policy" in headers


def test_a_picture_of_too_many_pixels_is_refused_unread(site, monkeypatch):
    call, _ = site
    monkeypatch.setattr(drawing, "MAX_PIXELS", 1000)
    status, problem, _ = call("POST", "/api/recognise", draw("post"))
    assert status == 400 and "at most 1,000" in problem["error"]


def test_a_flood_is_told_to_wait_and_nothing_breaks(site):
    call, _ = site
    statuses = []

    def ask():
        statuses.append(call("POST", "/api/recognise", draw("tent", seed=2))[0])

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 429, 503} and statuses.count(200) >= 10
    assert call("POST", "/api/recognise", draw("tent", seed=2))[1]["name"] == "tent"


def test_a_changed_file_is_not_overwritten(site):
    call, file = site
    other = storage.GalleryFile(file.path)
    other.write(gallery.remove(other.read(), "post"))
    status, problem, _ = call("POST", "/api/teach?name=star", draw("star"))
    assert status == 400 and "changed by another process" in problem["error"]
    assert names(call("GET", "/api/symbols")[1]) == ["tent", "bolt", "post"]


def test_the_page_and_the_list_of_routes(site):
    call, _ = site
    status, page, headers = call("GET", "/")
    assert status == 200 and b"<canvas" in page
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert b"http://" not in page and b"https://" not in page
    _, routes, _ = call("GET", "/openapi.json")
    routes_of_api = ("symbols", "recognise", "explain", "teach", "remove", "undo")
    paths = {f"/api/{name}" for name in routes_of_api}
    assert set(routes["paths"]) == paths | {"/"}
    assert not any("{" in path for path in routes["paths"])


@pytest.mark.slow
def test_the_launcher_serves_and_says_where(tmp_path):
    command = [sys.executable, str(LAUNCHER), f"--gallery={tmp_path / 's.npz'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline().split()[0]
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=30)
        connection.request("GET", "/api/symbols")
        state = json.loads(connection.getresponse().read())
        assert state["kept_in"] == "s.npz" and state["false_accept_rate"] == 0.05
    finally:
        process.terminate()
        process.wait(20)
    failed = launch(LAUNCHER.name, command[-1], "--port=99999")
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert "--port=0" in failed.stderr
