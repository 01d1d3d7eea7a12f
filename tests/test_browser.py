"""The drawing page and the quiz in a real browser; skipped where there is none.

Set SIAMESE_JAX_SCREENSHOTS to a folder to keep pictures of the pages, and how long each answer took.
"""

import json
import math
import os
import pathlib
import random
import re
import shutil
import statistics
import threading

import numpy as np
import pytest

import siamese_jax
from siamese_jax.data import loading
from siamese_jax.evaluation import intervals
from siamese_jax.evaluation import trials as trials_lib
from siamese_jax.experiments import quiz
from siamese_jax.recognition import symbols

webdriver = pytest.importorskip("selenium.webdriver", reason="no browser: selenium is missing")
server = pytest.importorskip("siamese_jax.recognition.server", reason="no extra [demo]")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser: chromium and chromedriver"),
]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# The quiz pauses after each answer: for a twentieth of its time here.
HURRIED = "(later => { window.setTimeout = (f, ms) => later(f, ms / 20); })(window.setTimeout);"
SIZES = {"desktop": (1100, 900), "phone": (390, 844)}
KEPT = os.environ.get("SIAMESE_JAX_SCREENSHOTS")  # docs/demo.md has a measurement
TENT = [[(0.5, 0.2), (0.2, 0.75), (0.8, 0.75), (0.5, 0.2)]]
SUN = [[(0.5 + 0.3 * math.cos(t / 2.5), 0.5 + 0.3 * math.sin(t / 2.5)) for t in range(17)]]
BOLT = [[(0.2, 0.25), (0.75, 0.25), (0.25, 0.75), (0.8, 0.75)], [(0.3, 0.5), (0.7, 0.5)]]
STAR = [[(0.5, 0.15), (0.5, 0.85)], [(0.2, 0.35), (0.8, 0.65)], [(0.8, 0.35), (0.2, 0.65)]]


class Page:
    """A browser with a page, and what tests do with it."""

    def __init__(self, size):
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        self.width, self.height = SIZES[size]
        self.size = size
        for flag in (*FLAGS, f"--window-size={self.width},{self.height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": HURRIED})
        self.resize(self.height)

    def start_anew(self, downloads):
        """Forgets what it has shown, logged and kept, and saves files in another folder."""
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        kept = {"origin": "file://", "storageTypes": "all"}
        self.driver.execute_cdp_cmd("Storage.clearDataForOrigin", kept)
        saving = {"behavior": "allow", "downloadPath": str(downloads)}
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", saving)

    def resize(self, height):
        metrics_ = {"width": self.width, "height": height, "deviceScaleFactor": 1}
        metrics_["mobile"] = self.size == "phone"
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics_)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector):
        return self.find(selector).text

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition, seconds=20):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.02).until(lambda _: condition())

    def press(self, keys):
        self.driver.switch_to.active_element.send_keys(keys)

    def draw(self, strokes):
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        canvas = self.find("#canvas")
        self.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
        side = canvas.size["width"]
        builder = ActionBuilder(self.driver, duration=4)
        for stroke in strokes:
            for i, (x, y) in enumerate(stroke):
                place = int((x - 0.5) * side), int((y - 0.5) * side)
                builder.pointer_action.move_to(canvas, *place)
                if i == 0:
                    builder.pointer_action.pointer_down()
            builder.pointer_action.pointer_up()
        builder.perform()

    def shoot(self, name):
        """Keeps a picture of the whole page where the environment names a folder."""
        if KEPT:
            self.resize(max(self.height, self.run("return document.documentElement.scrollHeight")))
            path = pathlib.Path(KEPT) / f"{name}-{self.size}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(path))
            self.resize(self.height)

    def keep(self, name, text):
        """Keeps a JSON text where `shoot` keeps pictures."""
        if KEPT:
            (pathlib.Path(KEPT) / f"{name}-{self.size}.json").write_text(f"{text}\n")

    def check(self, own):
        """No console error, no request but to the page's own address, nothing wider than the window."""
        errors = [line for line in self.driver.get_log("browser") if line["level"] != "INFO"]
        assert not errors
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        requests = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        assert requests and all(url.startswith((own, "data:", "blob:")) for url in requests)
        assert self.run("return document.documentElement.scrollWidth") <= self.width


@pytest.fixture(scope="module", params=SIZES)
def browser(request):
    opened = Page(request.param)
    yield opened
    opened.driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    browser.start_anew(tmp_path)
    return browser


@pytest.fixture(scope="module")
def net():
    prepared = symbols.prepare(siamese_jax.load("omniglot"))
    symbols.warm_up(prepared)
    return prepared


@pytest.fixture
def address(net, tmp_path):
    known, file = symbols.open_gallery(net, tmp_path / "symbols.npz")
    listener = server.listen()
    running = server.make_server(server.make_app(net, known, file))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    running.should_exit = True
    thread.join(10)


def again(strokes, seed=0):
    """The small differences of another attempt."""
    rng = random.Random(seed)
    return [[(x + rng.gauss(0, 0.012), y + rng.gauss(0, 0.012)) for x, y in s] for s in strokes]


def label_of(page, strokes):
    page.find("#clear").click() if page.find("#clear").is_enabled() else None
    page.draw(strokes)
    page.wait(lambda: page.text("#time"))
    page.wait(lambda: page.all("#why svg"))
    return page.text("#label")


def taught(page):
    return page.run("return [...document.querySelectorAll('#symbols b')].map((e) => e.textContent)")


def test_teach_three_symbols_and_be_recognised(page, address):
    page.driver.get(address)
    page.wait(lambda: page.text("#facts"))
    page.shoot("demo-empty")
    page.find("#teach").click()
    assert page.text("#message") == "Draw the symbol first."
    for strokes, name in ((TENT, "tent"), (SUN, "sun"), (BOLT, "<i>bolt</i>")):
        page.draw(strokes)
        page.find("#name").send_keys(f"{name}\n")  # Enter teaches
        page.wait(lambda: "Learnt" in page.text("#message"))
        page.find("#name").send_keys("")
        page.wait(lambda name=name: name in taught(page))
    assert taught(page) == ["tent", "sun", "<i>bolt</i>"]

    for strokes, name in ((TENT, "tent"), (SUN, "sun"), (BOLT, "<i>bolt</i>"), (STAR, "unknown")):
        assert label_of(page, again(strokes)) == name
        assert len(page.all("#matches li")) == 3
        page.shoot(f"demo-{re.sub(r'[^a-z]', '', name)}")
    if KEPT:
        for seed in range(1, 6):
            for strokes in (TENT, SUN, BOLT):
                label_of(page, again(strokes, seed))
        times = page.run("return answerTimes")
        median = statistics.median(times)
        page.keep("answer-times", json.dumps({"milliseconds": times, "median": median}))

    page.find("#back").click()  # a stroke less
    page.wait(lambda: page.text("#time"))
    page.find("#clear").click()
    assert page.text("#label") == "" and page.find("#idle").is_displayed()

    page.find("#symbols li:nth-child(3) button").click()
    page.wait(lambda: taught(page) == ["tent", "sun"])
    assert label_of(page, again(BOLT)) == "unknown"
    page.find("#undo").click()
    page.wait(lambda: len(taught(page)) == 3)
    assert label_of(page, again(BOLT, 1)) == "<i>bolt</i>"

    page.driver.refresh()
    page.wait(lambda: len(taught(page)) == 3)
    assert label_of(page, again(SUN, 2)) == "sun"
    page.check(address)


def test_a_picture_in_place_of_a_drawing(page, address, tmp_path):
    from PIL import Image, ImageDraw

    page.driver.get(address)
    page.wait(lambda: page.text("#facts"))
    picture = Image.new("L", (900, 600), 250)
    points = [(900 * 0.2 + 400 * x, 80 + 400 * y) for x, y in TENT[0]]
    ImageDraw.Draw(picture).line(points, fill=30, width=12)
    picture.save(tmp_path / "tent.jpg")
    page.find("#file").send_keys(str(tmp_path / "tent.jpg"))
    page.wait(lambda: "name" in page.text("#message"))
    page.find("#name").send_keys("tent")
    page.find("#teach").click()
    page.wait(lambda: taught(page) == ["tent"])
    assert label_of(page, again(TENT)) == "tent"
    (tmp_path / "text.png").write_text("no picture")
    page.find("#file").send_keys(str(tmp_path / "text.png"))
    page.wait(lambda: "no picture of type" in page.text("#message"))
    assert "bad" in page.find("#message").get_attribute("class")
    page.run("window.createImageBitmap = () => new Promise((done) => { window.decoded = done; })")
    page.find("#file").send_keys(str(tmp_path / "tent.jpg"))
    page.draw(again(SUN))  # while the picture is read: it comes too late
    page.run("decoded(null)")
    assert page.run("return [picture, strokes.length]") == [None, len(SUN)]


@pytest.fixture(scope="module")
def asked(glyphs):
    """A quiz of three runs of 8 trials, whose network is wrong once in each run."""
    runs = loading.make_runs(glyphs, 0, num_runs=3, n_way=8)
    trials = trials_lib.official_trials(runs)
    chosen = trials.answers.copy()
    chosen[:, 2] = (chosen[:, 2] + 1) % 8
    correct = (chosen == trials.answers).astype(float)
    return quiz.Quiz(trials, tuple(runs.alphabets), chosen, correct, "net")


def answer_trial(page, wrong=False):
    """Answers the trial that is shown by the letter under a character."""
    page.wait(lambda: page.run("return Boolean(current)"))
    place = page.run(
        "const {trial, places} = current;"
        "return places.indexOf(quiz.runs[trial.run].answers[trial.query])"
    )
    page.press("abcdefgh"[(place + wrong) % 8])


def test_the_quiz_from_first_to_last_trial(page, asked, tmp_path):
    path = tmp_path / "quiz.html"
    quiz.write_page(asked, path)
    page.driver.get(path.as_uri())
    page.shoot("quiz-start")
    for box in page.all("#alphabets input"):
        box.click()
    page.find("#begin").click()
    assert "Every alphabet is left out" in page.text("#problem")
    for box in page.all("#alphabets input")[1:]:
        box.click()
    left_out = page.all("#alphabets input")[0].get_attribute("value")
    asked_runs = [r for r, alphabet in enumerate(asked.alphabets) if alphabet != left_out]
    page.find("#player").send_keys("Ada\n")  # Enter begins
    for number in range(len(asked_runs)):
        for trial in range(8):
            if trial == 1 and number == 0:
                page.wait(lambda: page.run("return Boolean(current)"))
                page.shoot("quiz-trial")
            answer_trial(page, wrong=trial == 0 and number == 0)
        if number < len(asked_runs) - 1:
            page.wait(lambda: page.find("#break").is_displayed())
            page.find("#next").click()
    page.wait(lambda: page.find("#end").is_displayed())
    page.shoot("quiz-end")

    total = 8 * len(asked_runs)
    low, high = intervals.wilson_interval(total - 1, total)
    tiles = page.text("#tiles")
    assert f"{100 * (total - 1) / total:.1f} %" in tiles
    assert f"{100 * low:.1f} – {100 * high:.1f}" in tiles
    assert f"{100 * 7 / 8:.1f} %" in tiles  # the network, on the same trials
    assert asked.trials.hash in page.text("#facts") and left_out in page.text("#facts")
    page.find("#download").click()
    page.wait(lambda: list(tmp_path.glob("quiz-Ada-*.json")))
    player = quiz.read_player(next(iter(tmp_path.glob("quiz-Ada-*.json"))))
    assert player.name == "Ada" and player.left_out == (left_out,)
    assert player.correct.sum() == total - 1 and len(player.correct) == total
    assert player.model.sum() == 7 * len(asked_runs)
    assert np.nanmin(player.seconds) > 0 and np.nanmax(player.seconds) < 60
    page.find("#copy").click()
    page.wait(lambda: page.text("#kept"))
    page.check("file://")


def test_the_quiz_by_arrows_and_stopped_after_a_run(page, asked, tmp_path):
    from selenium.webdriver.common.keys import Keys

    path = tmp_path / "quiz.html"
    quiz.write_page(asked, path)
    page.driver.get(path.as_uri())
    page.find("#begin").click()
    places = []
    for _ in range(8):
        page.wait(lambda: page.run("return Boolean(current)"))
        page.press(Keys.ARROW_DOWN)
        page.press(Keys.ARROW_RIGHT)
        assert page.run("return document.activeElement.getAttribute('aria-label')") == "Choose B"
        page.press(Keys.ENTER)
        places.append(page.run("return answers.at(-1).chosen"))
    assert len(set(places)) > 1  # the same place, ever another character
    page.wait(lambda: page.find("#break").is_displayed())
    page.find("#finish").click()
    page.wait(lambda: page.find("#end").is_displayed())
    content = json.loads(page.run("return document.getElementById('json').value"))
    assert len(content["answers"]) == 8 and content["complete"] is False
    assert len({answer["query"] for answer in content["answers"]}) == 8
    page.check("file://")
