"""Parts of the report in a real browser: narrow, dark, and pointed at; skipped where there is none."""

import json
import re
import shutil

import numpy as np
import pytest

from siamese_jax.data.image_set import ImageSet
from siamese_jax.reporting import curves, drawing, embedding_map, image_sheets, page

webdriver = pytest.importorskip("selenium.webdriver", reason="no browser: selenium is missing")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no browser: chromium and chromedriver"),
]
WIDTH = 390


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A browser as narrow as a phone, with a page of a table, a chart, pictures and a map."""
    from selenium.webdriver.chrome.service import Service

    rng = np.random.default_rng(0)
    images = ImageSet(
        images=rng.integers(0, 256, (30, 40, 40, 1)).astype(np.uint8),
        classes=np.repeat(np.arange(3), 10).astype(np.int32),
        drawers=np.tile(np.arange(1, 11), 3).astype(np.int32),
        class_names=("a/one", "a/two", "a/three"),
        class_alphabets=np.zeros(3, np.int32),
        alphabet_names=("a",),
        kind="ink",
        name="small",
    )
    head = ("System", *(f"Column {i}" for i in range(12)))
    table = page.table(head, [("x " * 60), (True, ["a system"] * 13)], range(1, 13))
    chart = [
        drawing.to_svg(curves.training_figure(LOG, "validation", narrow=narrow), "loss")
        for narrow in (False, True)
    ]
    shown = image_sheets.image_sheet(
        images.images[:20] / 255.0, ["a long name of a class"] * 20, "ink"
    )
    mapped = embedding_map.map_of(
        "map", rng.normal(size=(30, 8)), images, [f"file {i}" for i in range(30)]
    )
    content = table + page.figure(page.chart(*chart), "A caption.") + shown + mapped
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page.document("t", "<h1>A title</h1>", [("a", "A", content)]), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    resize(driver, WIDTH)
    driver.get(path.as_uri())
    yield driver
    driver.quit()


LOG = [
    {"phase": "train", "step": 1, "loss": 0.7, "accuracy": 0.5},
    {"phase": "train", "step": 2, "loss": 0.5, "accuracy": 0.7},
    {"phase": "validation", "step": 2, "accuracy": 0.6},
]


def resize(driver, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def box(driver, selector):
    return driver.execute_script(
        "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]",
        selector,
    )


def colour(driver, selector, name):
    """The (3,) colour of an element, 0 to 1."""
    text = driver.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]",
        selector,
        name,
    )
    return np.array([float(x) for x in re.findall(r"[\d.]+", text)[:3]]) / 255


def contrast(first, second):
    """The contrast ratio of WCAG 2."""
    linear = [
        np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        for c in (first, second)
    ]
    return (max(linear) + 0.05) / (min(linear) + 0.05)


def test_nothing_is_wider_than_a_phone_and_a_wide_table_scrolls_beside_its_names(driver):
    assert driver.execute_script("return document.documentElement.scrollWidth") <= WIDTH
    wide = "document.querySelector('.wide')"
    assert driver.execute_script(f"return {wide}.scrollWidth > {wide}.clientWidth")
    before = box(driver, "tbody td")
    driver.execute_script(f"{wide}.scrollLeft = 300")
    assert box(driver, "tbody td")[0] == before[0]  # the system's name stays
    assert box(driver, "tbody td:nth-child(5)")[0] < 300
    driver.execute_script(f"{wide}.scrollLeft = 0")


def test_a_window_has_the_chart_of_its_width(driver):
    assert box(driver, ".broad")[2] == 0 and box(driver, ".slim")[2] > 300
    # Letters of a chart are as large as small type of the page.
    height = driver.execute_script(
        "return document.querySelector('.slim svg text').getBoundingClientRect().height"
    )
    assert height >= 10
    resize(driver, 1280)
    assert box(driver, ".broad")[2] > 800 and box(driver, ".slim")[2] == 0
    resize(driver, WIDTH)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_and_charts_are_legible_in_the_light_and_in_the_dark(driver, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    paper = colour(driver, "body", "backgroundColor")
    assert (paper.mean() < 0.5) == (scheme == "dark")
    for selector, name in (
        ("h1", "color"),
        ("figcaption", "color"),
        ("th", "color"),
        (".slim svg text", "fill"),
    ):
        assert contrast(colour(driver, selector, name), paper) >= 4.5, selector
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_point_of_the_map_shows_its_picture_and_name_when_pointed_at(driver):
    from selenium.webdriver.common.action_chains import ActionChains

    def before(name):
        return driver.execute_script(
            "return getComputedStyle(document.querySelector('.map i'), arguments[0])[arguments[1]]",
            *name,
        )

    point = driver.find_element("css selector", ".map i")
    assert before(("::before", "content")) == "none"
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(driver).move_to_element(point).perform()
    assert before(("::before", "backgroundImage")).startswith('url("data:image/png')
    assert float(before(("::before", "width")).removesuffix("px")) > 60
    assert before(("::after", "content")) == '"file 0"'


def test_the_page_asks_nobody_for_anything(driver):
    assert not [line for line in driver.get_log("browser") if line["level"] != "INFO"]
    messages = [json.loads(line["message"])["message"] for line in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"].endswith("WillBeSent")]
    assert urls and all(url.startswith(("file:", "data:")) for url in urls)
