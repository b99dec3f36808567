"""The page in headless Chromium: every layer, slider, key and click does what it says."""

import re
from itertools import pairwise

import numpy as np
import pytest
from helpers.browser import open_browser
from helpers.explained_runs import CAVITY, HOLE, UNLABELLED_FROM, make_volume, write_run, write_tuning
from scipy import ndimage

import vesuvius_kit as vk
from vesuvius_kit.report import Places, write_report

AXES = "zyx"
WIDE, NARROW = (1280, 900), (390, 844)
# The three lowest contrasts of text to its ground, as WCAG counts them.
CONTRASTS = """() => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const color = getComputedStyle(e).backgroundColor;
    if (color !== "rgba(0, 0, 0, 0)") return color;
    return e.parentElement ? ground(e.parentElement) : "rgb(255, 255, 255)";
  };
  const wanted = ["p", "td", "th", "small", "dt", "dd", "a", "li", "label", "button", "summary", ".hint", ".worse", ".better"];
  const found = wanted.flatMap((s) => [...document.querySelectorAll(`main ${s}, header ${s}`)].slice(0, 40));
  return found.map((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName, e.className, e.textContent.slice(0, 30)];
  }).sort((a, b) => a[0] - b[0]).slice(0, 3);
}"""
# What a screen reader could not tell.
UNNAMED = """() => {
  const wanted = "button, input, select, canvas, svg[role=img], section, [role=region], [role=group]";
  const named = (e) => e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.closest("label");
  const unnamed = [...document.querySelectorAll(wanted)].filter((e) => !named(e) && !e.textContent.trim());
  return unnamed.map((e) => e.outerHTML.slice(0, 80));
}"""


@pytest.fixture(scope="module")
def browser():
    with open_browser() as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run with a tuning, compared with itself but for its masks."""
    folder = tmp_path_factory.mktemp("browser")
    run, tuning = write_run(folder / "run"), write_tuning(folder / "tuning")
    return write_report(folder / "report.html", run, places=Places(tuning=tuning), volumes=("7", "8"))


class OpenPage:
    """The page as it is open, with what the browser complained of."""

    def __init__(self, browser, path, size, scheme="light"):
        width, height = size
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.complaints, self.requests = [], []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.set_default_timeout(15_000)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.drawn("7 z")

    def drawn(self, text):
        """Wait until the canvas shows what is asked for."""
        self.page.wait_for_function(
            "text => (document.querySelector('#slice').dataset.drawn || '').startsWith(text)", arg=text
        )

    def state(self):
        return self.page.get_attribute("#slice", "data-drawn")

    def pixels(self):
        """The canvas, (rows, columns, 3)."""
        size, values = self.page.evaluate(
            """() => { const c = document.querySelector('#slice');
            return [[c.height, c.width], [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]; }"""
        )
        return np.array(values, np.uint8).reshape(*size, 4)[..., :3].astype(int)

    def show(self, *layers, opacity=1):
        """Leave these layers on, at this opacity."""
        for name in ("image", "probability", "prediction", "label", "errors"):
            box = self.page.locator(f"#layer-{name}")
            if box.count():
                box.set_checked(name in layers)
                self.page.locator(f"#opacity-{name}").fill(str(opacity))
        self.page.wait_for_function(
            "text => document.querySelector('#slice').dataset.drawn.endsWith(text)", arg=f" {','.join(layers)}"
        )

    def turn(self, axis, place):
        self.page.locator(f"input[name=axis][value='{axis}'] + span").click()
        self.page.locator("#position").fill(str(place))
        self.drawn(f"7 {AXES[axis]} {place} ")


@pytest.fixture
def wide(browser, report):
    opened = OpenPage(browser, report, WIDE)
    yield opened
    opened.page.close()
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def slice_of(volume, axis, place):
    return np.take(volume, place, axis=axis)


@pytest.mark.parametrize(("axis", "place"), [(0, 12), (0, 45), (1, 9), (2, 22)])
def test_every_layer_shows_its_volume(wide, axis, place):
    image, probability, label, prediction = make_volume()
    wide.turn(axis, place)
    wide.show("label")
    coloured = wide.pixels().any(axis=2)
    np.testing.assert_array_equal(coloured, slice_of(label, axis, place) > 0)
    wide.show("prediction")
    np.testing.assert_array_equal(wide.pixels().any(axis=2), slice_of(prediction, axis, place))
    wide.show("errors")
    judged = slice_of(label, axis, place) < 2
    expected = (slice_of(prediction, axis, place) | (slice_of(label, axis, place) == 1)) & judged
    found = wide.pixels().any(axis=2)
    assert (found <= expected).all()
    assert found[expected].mean() > 0.7  # the rest are voxels of the label near what was found
    wide.show("image")
    low, high = np.percentile(image[:: max(1, len(image) // 32)], (0.5, 99.8))
    grey = np.clip((slice_of(image, axis, place) - low) * 255 / (high - low), 0, 255)
    assert np.abs(wide.pixels()[..., 0] - grey).mean() < 12  # lossy
    wide.show("probability")
    red = wide.pixels()[..., 0]
    wanted = slice_of(probability, axis, place)
    assert red[wanted > 0.5].mean() > 200
    assert red[wanted < 0.5].mean() < 50


def test_errors_have_the_colours_of_the_key(wide):
    _, _, label, prediction = make_volume()
    wide.turn(0, 12)
    wide.show("errors")
    pixels = wide.pixels()
    assert pixels[41, 20].tolist() == [20, 150, 255]  # the sheet that is missed
    assert (label[12, 41, 20], prediction[12, 41, 20]) == (1, False)
    wide.turn(0, 52)
    assert wide.pixels()[51, 15].tolist() == [255, 140, 0]  # one that is not there
    wide.turn(0, 12)
    assert wide.pixels()[19, 30].tolist() == [64, 217, 115]
    assert wide.page.locator("#key").inner_text().split("\n")[:3] == ["found", "not there", "missed"]


def test_opacity_fades_a_layer(wide):
    wide.turn(0, 12)
    wide.show("label")
    full = wide.pixels()[19, 30]
    wide.show("label", opacity=0.5)
    assert np.abs(wide.pixels()[19, 30] - full / 2).max() <= 1
    wide.show("image", opacity=0.5)
    half = wide.pixels().mean()
    wide.show("image")
    assert abs(wide.pixels().mean() / 2 - half) < 1.5


def test_keys_move_turn_and_switch(wide):
    start = int(wide.state().split()[2])
    wide.page.focus("#viewer")
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("ArrowUp", 1),
        ("ArrowDown", 0),
        ("PageUp", 10),
        ("PageDown", 0),
    ):
        wide.page.keyboard.press(key)
        wide.drawn(f"7 z {start + place} ")
    for key in "yxz":
        wide.page.keyboard.press(key)
        wide.drawn(f"7 {key} ")
        assert wide.page.locator(f"input[name=axis][value='{AXES.index(key)}']").is_checked()
    for number, name in enumerate(("image", "probability", "prediction", "label", "errors"), 1):
        before = wide.page.locator(f"#layer-{name}").is_checked()
        wide.page.keyboard.press(str(number))
        assert wide.page.locator(f"#layer-{name}").is_checked() != before
        wide.page.wait_for_function(
            "([name, on]) => document.querySelector('#slice').dataset.drawn.split(' ')[3].split(',').includes(name) === on",
            arg=[name, not before],
        )


def test_the_arrow_keys_of_the_slider_move_once(wide):
    start = int(wide.state().split()[2])
    wide.page.focus("#position")
    wide.page.keyboard.press("ArrowRight")
    wide.drawn(f"7 z {start + 1} ")
    assert wide.page.locator("#slice-number").inner_text() == f"{start + 1} of 64"


def test_slices_end_at_the_faces(wide):
    wide.turn(0, 63)
    wide.page.focus("#viewer")
    wide.page.keyboard.press("ArrowRight")
    wide.page.keyboard.press("PageUp")
    wide.drawn("7 z 63 ")
    wide.turn(2, 55)
    assert wide.page.get_attribute("#position", "max") == "55"


def go_to(opened, title):
    """Click the first error of a list; direction, slice and (row, column) of the mark."""
    button = opened.page.locator("#error-lists details", has_text=title).first.locator("button").first
    if not button.is_visible():
        opened.page.locator("#error-lists summary", has_text=title).first.click()
    place = [int(number) for number in button.inner_text().split(", ")]
    button.click()
    opened.page.wait_for_function(
        "place => { const s = document.querySelector('#slice').dataset.drawn.split(' ');"
        " return place['zyx'.indexOf(s[1])] === Number(s[2]); }",
        arg=place,
    )
    axis = AXES.index(opened.state().split()[1])
    mark = opened.page.locator("#marks .chosen")
    mark.wait_for(state="attached")
    at = [float(mark.get_attribute(name)) for name in ("cy", "cx")]
    return place, axis, at


def test_a_click_on_an_unmatched_tunnel_shows_its_hole(wide):
    _, _, _, prediction = make_volume()
    place, axis, at = go_to(wide, "Tunnels only in the prediction")
    assert np.abs(np.subtract(place, HOLE)).max() <= 2
    assert axis != 1  # the sheet lies across y: a slice across it would show no gap
    assert at == [place[k] + 0.5 for k in range(3) if k != axis]
    wide.show("prediction")
    row, column = (int(number) for number in at)
    shown = wide.pixels().any(axis=2)
    np.testing.assert_array_equal(shown, slice_of(prediction, axis, place[axis]))
    # On either side of the gap the sheet goes on.
    assert not shown[9 if axis != 1 else row, column] or not shown[row, column]
    line = shown[9] if axis == 0 else shown[:, 9]
    gap = np.flatnonzero(~line[3:29]) + 3
    assert gap.tolist() == list(range(HOLE[2] - 2, HOLE[2] + 3) if axis == 0 else range(HOLE[0] - 2, HOLE[0] + 3))
    assert wide.page.locator("#error-lists tr.chosen").count() == 1
    assert wide.page.locator("#slices").evaluate("e => e.getBoundingClientRect().top < innerHeight")


@pytest.mark.parametrize(
    ("title", "says"),
    [
        ("Merged sheets", "predicted sheet"),
        ("Cavities only in the prediction", "not predicted"),
        ("Components only in the label", "labelled sheet"),
        ("Components only in the prediction", "not labelled"),
    ],
)
def test_a_click_on_any_error_goes_there_and_says_what_is_there(wide, title, says):
    place, _, _ = go_to(wide, title)
    wide.page.wait_for_function("text => document.querySelector('#readout').textContent.includes(text)", arg=says)
    assert f"z {place[0]}, y {place[1]}, x {place[2]}" in wide.page.locator("#readout").inner_text()
    if title.startswith("Cavities"):
        assert place == list(CAVITY)


def test_n_and_p_step_through_the_errors(wide):
    wide.page.focus("#viewer")
    n = wide.page.locator("#error-lists button").count()
    seen = []
    for _ in range(n):
        wide.page.keyboard.press("n")
        seen.append(wide.page.locator("#error-lists tr.chosen").get_attribute("data-error"))
    assert seen == [str(k) for k in range(n)]
    wide.page.keyboard.press("n")
    assert wide.page.locator("#error-lists tr.chosen").get_attribute("data-error") == "0"
    wide.page.keyboard.press("p")
    assert wide.page.locator("#error-lists tr.chosen").get_attribute("data-error") == str(n - 1)


def test_the_overlaps_of_the_sheets_are_listed(wide):
    wide.page.locator("summary", has_text="Which sheets overlap").click()
    rows = (
        wide.page.locator("#error-lists details", has_text="Which sheets overlap")
        .last.locator("tbody tr")
        .all_inner_texts()
    )
    # The first sheet is the one that the bridge made of two.
    assert re.match(r"1\s+\d+\s+\d \(\d+\), \d \(\d+\)$", rows[0])
    assert rows[-1].endswith("none") or len(rows) == 3


def test_marks_can_be_switched_off(wide):
    wide.turn(0, CAVITY[0])
    assert wide.page.locator("#marks circle").count() >= 1
    wide.page.locator("#show-marks").set_checked(False)
    assert wide.page.locator("#marks circle").count() == 0


def click_at(opened, down, across):
    """Click the slice, at shares of its height and width."""
    canvas = opened.page.locator("#slice")
    box = canvas.bounding_box()
    canvas.click(position={"x": across * box["width"], "y": down * box["height"]})


def test_a_click_on_the_slice_tells_what_is_there(wide):
    wide.turn(0, 12)
    click_at(wide, 19.5 / 60, 30.5 / 56)
    wide.page.wait_for_function("document.querySelector('#readout').textContent.startsWith('z 12, y 19, x 30')")
    told = wide.page.locator("#readout").inner_text()
    assert re.search(r"probability 0\.9\d?\b", told)
    assert re.search(r"predicted sheet \d+ \(overlaps labelled \d, \d\)", told)
    assert re.search(r"labelled sheet \d", told)
    # In another direction the same voxel is in another row.
    wide.turn(1, 19)
    click_at(wide, 60.5 / 64, 30.5 / 56)
    wide.page.wait_for_function("document.querySelector('#readout').textContent.startsWith('z 60, y 19, x 30')")
    assert "unlabelled" in wide.page.locator("#readout").inner_text()
    assert UNLABELLED_FROM < 60


def test_dragging_leafs(wide):
    start = int(wide.state().split()[2])
    wide.page.locator("#slices").evaluate("e => e.scrollIntoView({behavior: 'instant'})")
    box = wide.page.locator("#slice").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    wide.page.mouse.move(x, y)
    wide.page.mouse.down()
    wide.page.mouse.move(x - 40, y, steps=4)
    wide.page.mouse.up()
    wide.drawn(f"7 z {start + 5} ")


def test_dragging_moves_what_is_enlarged(wide):
    start = wide.state()
    frame = wide.page.locator("#frame")
    height = frame.bounding_box()["height"]
    for _ in range(3):
        wide.page.click("#larger")
    assert frame.bounding_box()["height"] == height
    wide.page.locator("#slices").evaluate("e => e.scrollIntoView({behavior: 'instant'})")
    box = frame.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    wide.page.mouse.move(x, y)
    wide.page.mouse.down()
    wide.page.mouse.move(x - 40, y - 30, steps=4)
    wide.page.mouse.up()
    assert frame.evaluate("e => [e.scrollLeft, e.scrollTop]") == [40, 30]
    assert wide.state() == start


def test_sheets_are_coloured_by_component_by_what_merged_or_alike(wide):
    wide.turn(0, 12)
    wide.show("label")
    pixels = wide.pixels()
    apart = {tuple(pixels[row, 30]) for row in (9, 19, 41)}
    assert len(apart) == 3
    wide.show("prediction")
    pixels = wide.pixels()
    assert tuple(pixels[9, 40]) == tuple(pixels[19, 40])  # joined by the bridge
    wide.page.select_option("#colours", "plain")
    wide.show("label")
    assert len({tuple(wide.pixels()[row, 30]) for row in (9, 19, 41)}) == 1
    wide.page.select_option("#colours", "seams")
    wide.show("prediction")
    strong = wide.pixels()[9, 40]
    wide.turn(0, 52)
    faint = wide.pixels()[51, 15]
    assert strong.max() > 2 * faint.max()


def test_another_volume_has_layers_and_errors_of_its_own(wide):
    wide.page.select_option("#volume", "1")
    wide.drawn("8 z ")
    assert wide.page.locator("#layers input[type=checkbox]").count() == 1
    assert "has no label" in wide.page.locator("#error-lists").inner_text()
    assert wide.page.get_attribute("#position", "max") == "39"
    wide.page.select_option("#volume", "0")
    wide.drawn("7 z ")
    assert wide.page.locator("#layers input[type=checkbox]").count() == 5


def test_zooming_keeps_the_chosen_place_in_sight(wide):
    go_to(wide, "Cavities only in the prediction")
    before = wide.page.locator("#slice").bounding_box()["width"]
    for _ in range(3):
        wide.page.click("#larger")
    assert wide.page.locator("#slice").bounding_box()["width"] > 3 * before
    mark, frame = (wide.page.locator(name).bounding_box() for name in ("#marks .chosen", "#frame"))
    assert frame["x"] <= mark["x"] + mark["width"] / 2 <= frame["x"] + frame["width"]
    assert frame["y"] <= mark["y"] + mark["height"] / 2 <= frame["y"] + frame["height"]


def test_the_sheets_can_be_seen_in_space(wide):
    wide.page.click("#space-draw")
    wide.page.wait_for_function("document.querySelector('#space-state').textContent.includes('turn')", timeout=60_000)
    names = wide.page.locator("#space-plot .legendtext").all_text_contents()
    assert any(re.match(r"sheet \d joins labelled \d, \d", name) for name in names)
    wide.page.select_option("#space-side", "label")
    wide.page.wait_for_function("document.querySelector('#space-plot').dataset.drawn === 'label'", timeout=60_000)
    # Every vertex lies within the volume.
    extent = wide.page.evaluate(
        "() => ['z', 'y', 'x'].map(a => document.querySelector('#space-plot').data.flatMap(t => t[a]))"
        ".map(v => [Math.min(...v), Math.max(...v)])"
    )
    low, high = np.array(extent).T
    label = make_volume()[2] == 1
    voxels = np.argwhere(label)
    assert np.abs(low - voxels.min(axis=0)).max() <= 2.5
    assert np.abs(high - voxels.max(axis=0)).max() <= 2.5


def test_curves_have_their_marks_and_their_figures(wide):
    charts = wide.page.locator("#training .chart")
    titles = charts.locator("figcaption").all_inner_texts()
    assert titles == ["Loss", "Validation score", "Components of the training loss", "Learning rate"]
    assert [text for text in wide.page.locator("#training .mark title").all_text_contents()] == [
        "epoch 5: rate raised to 2 times its base",
        "epoch 9: rolled back: the score fell",
    ]
    assert charts.nth(0).locator(".finding-text").all_text_contents() == ["1"]
    charts.nth(3).locator("summary").click()
    charts.nth(3).locator("tbody tr").first.wait_for()
    assert charts.nth(3).locator("tbody tr").count() == 30
    assert charts.nth(3).locator("tbody tr").nth(6).inner_text().split() == ["6", "0.002000"]
    curves = charts.nth(0).locator(".curve")
    assert curves.count() == 2
    charts.nth(0).locator(".legend button", has_text="training").click()
    assert curves.count() == 1
    charts.nth(0).locator("svg").hover()
    assert "epoch 1" in charts.nth(0).locator(".at").inner_text()
    assert wide.page.locator("#tuning-slices .chart").count() == 2
    assert wide.page.locator("#tuning-history .chart").count() == 1


def test_dark_and_light_by_the_system_and_by_the_switch(browser, report):
    grounds = {}
    for scheme in ("light", "dark"):
        opened = OpenPage(browser, report, WIDE, scheme)
        ground = "getComputedStyle(document.body).backgroundColor"
        grounds[scheme] = opened.page.evaluate(ground)
        opened.page.click("#theme")
        other = opened.page.evaluate(ground)
        assert other != grounds[scheme]
        grounds[f"not {scheme}"] = other
        opened.page.close()
        assert opened.complaints == []
    assert grounds["light"] == grounds["not dark"] == "rgb(255, 255, 255)"
    assert grounds["dark"] == grounds["not light"]


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_nothing_is_wider_than_the_page(browser, report, size, scheme):
    opened = OpenPage(browser, report, size, scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    ratios = opened.page.evaluate(CONTRASTS)
    assert ratios[0][0] >= 4.5, ratios
    assert opened.complaints == []
    opened.page.close()


def test_a_swipe_leafs_on_a_telephone(browser, report):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(report.as_uri())
    page.wait_for_function("(document.querySelector('#slice').dataset.drawn || '').startsWith('7 z')")
    page.locator("#slice").scroll_into_view_if_needed()
    start = int(page.get_attribute("#slice", "data-drawn").split()[2])
    box = page.locator("#slice").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for k in range(1, 6):
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x - 8 * k, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function(
        "start => Number(document.querySelector('#slice').dataset.drawn.split(' ')[2]) > start + 2", arg=start
    )
    context.close()


def test_the_outline_and_the_names_that_a_screen_reader_tells(wide):
    headings = wide.page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))
    unnamed = wide.page.evaluate(UNNAMED)
    assert unnamed == []
    for link in wide.page.locator("nav a").all():
        assert wide.page.locator(link.get_attribute("href")).count() == 1
    # From the top by the tabulator: the link to the content, the switch, the sections.
    for expected in ("To the content", "Dark", "Summary"):
        wide.page.keyboard.press("Tab")
        assert wide.page.evaluate("document.activeElement.textContent") == expected


@pytest.mark.long
def test_a_chunk_of_the_competition_fits_and_shows_at_once(browser, tmp_path):
    phantom = vk.make_phantom((320, 320, 320), seed=1, style="dense")
    noise = np.random.default_rng(0).standard_normal(phantom.image.shape, np.float32)
    probability = ndimage.gaussian_filter((phantom.surface > 0) + 0.25 * noise, 1.5).clip(0, 1)
    run = tmp_path / "run"
    for name, volume in (("images", phantom.image), ("labels", phantom.label), ("masks", probability > 0.4)):
        (run / name).mkdir(parents=True)
        vk.write_volume(run / name / "101.tif", volume.astype(np.uint8))
    (run / "probabilities").mkdir()
    np.save(run / "probabilities" / "101.npy", probability.astype(np.float16))
    report = write_report(tmp_path / "report.html", run)
    assert report.stat().st_size < 25e6
    seconds = []
    for _ in range(3):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(report.as_uri())
        page.wait_for_function("document.querySelector('#slice').dataset.drawn")
        seconds.append(page.evaluate("performance.getEntriesByName('first-picture')[0].startTime") / 1000)
        layers = page.evaluate("data.volumes[0].layers")
        page.close()
    assert layers == ["image", "probability", "prediction", "label", "errors"]
    # The best of three: other programs share the machine.
    assert min(seconds) < 2, seconds


def test_names_with_signs_of_html_stay_names(browser, tmp_path):
    name = "<img src=x onerror=alert(1)>&'"
    run = tmp_path / "run"
    (run / "masks").mkdir(parents=True)
    vk.write_volume(run / "masks" / f"{name}.tif", make_volume()[3].astype(np.uint8))
    page = browser.new_page()
    complaints = []
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(write_report(tmp_path / "report.html", run).as_uri())
    page.wait_for_function("document.querySelector('#slice').dataset.drawn")
    assert page.locator("#volume option").inner_text() == name
    assert name in page.locator("#error-lists").inner_text()
    assert page.locator("img").count() == 0
    assert complaints == []
    page.close()
