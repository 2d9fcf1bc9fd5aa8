"""The page of a run in a real browser: it draws, turns, hides, and asks for nothing from elsewhere."""

import numpy as np
import pytest
from headless_browser import Browser, find_chromium
from nvpanoptix3d_scenes import CATEGORIES, image_scene, room_scene

from skillbank_models.nvpanoptix3d import page as page_module
from skillbank_models.nvpanoptix3d.scene_writer import SceneWriter

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")

LOADED = (
    "document.querySelector('.wait').textContent === ''"
    " && document.querySelector('.scene.current .viewer') !== null"
)


def write(folder, scenes):
    writer = SceneWriter(folder, categories=CATEGORIES, rank=0, world=1)
    for name, made in scenes.items():
        writer.add(name, name, *made)
    writer.finish()
    return folder / "index.html"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Page of three scenes, one without a mesh."""
    folder = tmp_path_factory.mktemp("run")
    return write(folder, {"a.png": room_scene(), "b.png": room_scene(), "flat.png": image_scene()})


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(find_chromium(), tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser, run):
    """The page with its first room drawn; no check may leave an error behind."""
    browser.requests.clear()
    browser.problems.clear()
    browser.resize(1280, 900)
    browser.open(run)
    browser.wait_for(LOADED)
    yield browser
    assert browser.problems == []
    assert {address.split("#")[0] for address in browser.requests} == {run.as_uri()}


def colors(picture):
    return len(np.unique(picture.reshape(-1, 3), axis=0))


def changed(first, second):
    """Share of pixels that differ."""
    return float((np.abs(first.astype(int) - second).max(axis=-1) > 8).mean())


def click(page, selector):
    page.value(f"document.querySelector({selector!r}).click()")


def test_the_room_is_drawn_with_its_colours(page):
    picture = page.picture("canvas")
    assert colors(picture) > 300
    background = picture[5, picture.shape[1] // 2]
    assert 0.1 < (np.abs(picture.astype(int) - background).max(axis=-1) > 8).mean() < 0.9


def test_keys_turn_zoom_and_reset(page):
    page.value("document.querySelector('canvas').focus()")
    start = page.picture("canvas")
    for key in ("ArrowRight", "ArrowUp", "+"):
        page.press(key, times=3)
        now = page.picture("canvas")
        assert changed(start, now) > 0.02, key
        page.press("0")
        assert changed(start, page.picture("canvas")) < 0.002, key


def test_the_mouse_turns_and_the_buttons_set_the_view(page):
    start = page.picture("canvas")
    left, top, width, height = page.box("canvas")
    page.drag((left + width / 2, top + height / 2), (left + width / 2 + 120, top + height / 2))
    assert changed(start, page.picture("canvas")) > 0.02
    for view in ("photo", "above"):
        click(page, f"[data-view={view}]")
        assert changed(start, page.picture("canvas")) > 0.02, view
    click(page, "[data-view=reset]")
    assert changed(start, page.picture("canvas")) < 0.002


def test_the_view_of_the_camera_is_the_photo(page):
    """Places and colours of things are those of the image: the mesh is neither mirrored nor upside down."""
    click(page, "[data-view=photo]")
    picture = page.picture("canvas").astype(int)
    height, width = picture.shape[:2]
    shown = height * 4 / 3  # the photo is 4:3 and fits the height of the canvas
    _, scene, _ = room_scene()
    swatches = page.value(
        "[...document.querySelectorAll('.scene.current li[data-id]')].map(item => "
        "[+item.dataset.id, getComputedStyle(item.querySelector('.swatch')).backgroundColor])"
    )
    found = {number: np.array([int(v) for v in text[4:-1].split(",")]) for number, text in swatches}
    hues = {number: color / np.linalg.norm(color) for number, color in found.items()}
    right = []
    for number in (2, 3, 7):  # floor, table, cabinet: hues that differ
        rows, columns = np.nonzero(scene.segment_map == number)
        y = (rows.mean() + 0.5) / 120 * height
        x = width / 2 + ((columns.mean() + 0.5) / 160 - 0.5) * shown
        pixel = picture[round(y), round(x)]
        near = {other: float(hue @ pixel / np.linalg.norm(pixel)) for other, hue in hues.items()}
        right.append(max(near, key=near.__getitem__) == number)
    assert all(right)


def test_colours_by_class_and_by_depth(page):
    start = page.picture("canvas")
    click(page, "input[value=semantic]")
    semantic = page.picture("canvas")
    assert 0.002 < changed(start, semantic) < 0.5  # chair 2 takes the colour of its class
    click(page, "input[value=depth]")
    assert changed(semantic, page.picture("canvas")) > 0.1
    assert page.value("document.querySelector('.scale').hidden") is False
    assert page.value("document.querySelector('.scale').textContent.trim()").startswith("2.5 m")


def test_segments_hide_and_stand_out(page):
    start = page.picture("canvas")
    click(page, ".scene.current li[data-id='1'] input")  # the walls
    hidden = page.picture("canvas")
    assert changed(start, hidden) > 0.05
    click(page, ".scene.current li[data-id='6'] button")
    assert changed(hidden, page.picture("canvas")) > 0.05
    assert page.value("document.querySelector('.picked').textContent") == "sofa · 76%"
    assert (
        page.value("document.querySelector('li[data-id=\"6\"] button').getAttribute('aria-pressed')")
        == "true"
    )
    click(page, "[data-view=all]")
    assert changed(start, page.picture("canvas")) < 0.01


def test_a_click_names_what_is_there(page):
    click(page, "[data-view=photo]")
    page.picture("canvas")
    left, top, width, height = page.box("canvas")
    _, scene, _ = room_scene()
    rows, columns = np.nonzero(scene.segment_map == 7)
    x = left + width / 2 + ((columns.mean() + 0.5) / 160 - 0.5) * height * 4 / 3
    y = top + (rows.mean() + 0.5) / 120 * height
    page.drag((x, y), (x, y))
    assert page.value("document.querySelector('.picked').textContent") == "cabinet · 73%"


def test_the_list_changes_the_scene(page):
    assert page.value("document.querySelector('.scene.current h2').textContent") == "a.png"
    click(page, "nav a[href='#scene-2']")
    page.wait_for("document.querySelector('.scene.current h2').textContent === 'b.png'")
    page.wait_for(LOADED)
    assert colors(page.picture("canvas")) > 300
    click(page, "nav a[href='#scene-3']")
    page.wait_for("document.querySelector('.scene.current h2').textContent === 'flat.png'")
    assert page.value("document.querySelector('.scene.current canvas')") is None
    assert page.value("document.querySelectorAll('nav [aria-current]').length") == 1


def test_dark_and_narrow_windows(page):
    page.resize(1280, 900, dark=True)
    assert page.picture()[3, 3].max() < 60
    assert page.picture("canvas")[5, 300].max() < 80
    page.resize(390, 800)
    assert page.value("document.documentElement.scrollWidth") <= 390


def test_controls_have_names_and_the_canvas_takes_the_keyboard(page):
    nameless = page.value(
        "[...document.querySelectorAll('.scene.current :is(button, input, a, img)')].filter(item => "
        "!(item.getAttribute('aria-label') || item.textContent.trim() || item.alt || item.closest('label')"
        "?.textContent.trim())).map(item => item.outerHTML)"
    )
    assert nameless == []
    reached = False
    for _ in range(30):
        page.press("Tab")
        reached = reached or page.value("document.activeElement.tagName") == "CANVAS"
    assert reached


def test_without_scripts_the_pictures_and_files_are_there(page, run):
    page.open(run, scripts=False)
    shown = page.picture(whole=True)
    assert shown.shape[0] > 2400  # all three scenes below each other
    assert colors(shown) > 3000
    page.open(run)
    page.wait_for(LOADED)


def test_a_scene_on_a_page_of_its_own(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_SCENES", 1)
    write(tmp_path, {"x/a.png": room_scene(), "b.png": image_scene()})
    browser.problems.clear()
    browser.open(tmp_path / "index.html")
    assert browser.value("document.querySelectorAll('.cards a').length") == 2
    browser.open(tmp_path / "pages" / "x" / "a.html")
    browser.wait_for(LOADED)
    assert colors(browser.picture("canvas")) > 300
    assert browser.problems == []
