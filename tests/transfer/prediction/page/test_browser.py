"""The page in a real browser: choose, drop and paste photographs, with the mouse and with the keyboard."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser, networks
from transfer.prediction.page.uploads import Limits, Uploads
from transfer.prediction.page.waiting import BusyError

CARDS = "[...document.querySelectorAll('#photographs article')]"
ANSWERS = f"{CARDS}.map(card => [card.querySelector('.file').textContent, card.querySelector('.class').textContent])"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    """A tab of a browser."""
    with browser.running(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture
def opened(page: Any, tab: browser.Browser) -> Iterator[browser.Browser]:
    """The page in a browser; no script may fail and nothing may be refused while a test uses it."""
    tab.problems.clear()
    tab.open(f"{page.address}/")
    tab.wait("document.getElementById('name').textContent.startsWith('Model: ')")
    yield tab
    tab.evaluate("1")  # so that late problems are received
    assert tab.problems == []


@pytest.fixture
def photographs(tmp_path: Path, paint: Callable[..., bytes]) -> list[Path]:
    """A red and a blue photograph, and a file that is none."""
    contents = {"red one.jpg": paint("red"), "blue.png": paint("blue", form="PNG"), "notes.jpg": b"some notes"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def answers(tab: browser.Browser, number: int) -> dict[str, str]:
    """Wait until so many photographs have an answer; return the answer of each, by its name."""
    tab.wait(f"{CARDS}.length === {number} && !document.querySelector('.waiting')")
    return dict(tab.evaluate(ANSWERS))


def test_chosen_photographs_are_predicted(opened: browser.Browser, photographs: list[Path]) -> None:
    """Each photograph has its class, probability and heat map, or the reason why it has none, and all are counted."""
    opened.choose("#files", photographs)
    found = answers(opened, 3)
    assert list(found) == ["red one.jpg", "blue.png", "notes.jpg"]
    assert found["red one.jpg"] == "dog"
    assert found["blue.png"] == "cat"
    assert found["notes.jpg"].startswith("not one of JPEG, PNG")
    assert opened.evaluate("document.getElementById('status').textContent") == "1 dog, 1 cat, 1 not predicted"
    assert opened.evaluate(f"{CARDS}[0].querySelector('.probability').textContent") == "> 99.9 %"
    opened.wait(f"{CARDS}[0].querySelector('.heat').naturalWidth === 40")
    assert opened.evaluate(f"{CARDS}[0].querySelector('.heat').alt") == "heat map for dog"
    assert opened.evaluate(f"{CARDS}[2].querySelector('.heat').hidden")


def test_other_answers_than_classes_are_shown(
    page: Any, opened: browser.Browser, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph whose answer is no class shows the answer, and the probabilities of the classes below it."""
    compute = page.served.queue._compute

    def unsure(*arguments: Any) -> list[dict[str, Any]]:
        return [{**row, "answer": "not sure"} for row in compute(*arguments)]

    monkeypatch.setattr(page.served.queue, "_compute", unsure)
    opened.choose("#files", photographs[:1])
    assert answers(opened, 1) == {"red one.jpg": "not sure"}
    assert opened.evaluate(f"{CARDS}[0].querySelector('.others').textContent") == "dog > 99.9 %, cat 0.0 %"
    assert opened.evaluate(f"{CARDS}[0].querySelector('.probability').hidden")


def test_the_model_and_its_scores_are_shown(page: Any, opened: browser.Browser) -> None:
    """The page asks in the words of the classes, and names network and scores."""
    assert opened.evaluate("document.title") == "cat or dog?"
    name = page.served.current.model.name
    shown = f"Model: {name} · validation accuracy 98.5 %, loss 0.042"
    assert opened.evaluate("document.getElementById('name').textContent") == shown
    assert opened.evaluate("document.querySelector('#scores dt').textContent") == "validation accuracy"


def test_dropped_photographs_are_predicted(opened: browser.Browser, photographs: list[Path]) -> None:
    """Photographs from the desktop may be dropped anywhere on the page."""
    opened.drop(photographs[:2], x=50, y=300)
    assert answers(opened, 2) == {"red one.jpg": "dog", "blue.png": "cat"}
    assert not opened.evaluate("document.body.classList.contains('over')")


def test_a_pasted_photograph_is_predicted(opened: browser.Browser) -> None:
    """A picture in the clipboard, as of a screenshot, is predicted; other clipboards are left alone."""
    opened.evaluate("""(async () => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 30, height: 30 });
      const context = canvas.getContext("2d");
      context.fillStyle = "blue";
      context.fillRect(0, 0, 30, 30);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve));
      const pasted = new DataTransfer();
      pasted.items.add(new File([blob], "image.png", { type: "image/png" }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: pasted }));
      document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: new DataTransfer() }));
    })()""")
    assert answers(opened, 1) == {"image.png": "cat"}


def test_many_photographs_wait_for_a_busy_page(
    page: Any, opened: browser.Browser, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the server asks to come again, the page does, and every photograph is predicted."""
    put, refusals = page.served.queue.put, [1, 1, 1]

    def busy(*arguments: Any, **options: Any) -> Any:
        if refusals:
            refusals.pop()
            raise BusyError(1)
        return put(*arguments, **options)

    monkeypatch.setattr(page.served.queue, "put", busy)
    opened.choose("#files", photographs[:1] * 6)
    assert answers(opened, 6) == {"red one.jpg": "dog"}
    assert refusals == []
    opened.problems[:] = [problem for problem in opened.problems if "status of 429" not in problem]


def test_photographs_can_be_cleared(opened: browser.Browser, photographs: list[Path]) -> None:
    """After `Clear` the page is as before, and the same photograph can be chosen again."""
    for _ in range(2):
        opened.choose("#files", photographs[:1])
        assert answers(opened, 1) == {"red one.jpg": "dog"}
        opened.evaluate("document.getElementById('clear').click()")
        assert opened.evaluate(f"{CARDS}.length") == 0


def test_the_page_works_by_the_keyboard(opened: browser.Browser, photographs: list[Path]) -> None:
    """Tab reaches scores, input, `Clear` and documentation, each of which has a name."""
    opened.choose("#files", photographs[:1])
    answers(opened, 1)
    opened.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(4):
        opened.press("Tab")
        reached.append(opened.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert reached[0].startswith("Model: ")
    assert reached[1:] == ["files", "clear", "For programs"]
    assert opened.evaluate("document.getElementById('files').labels[0].textContent") == "Choose photographs"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_fits_a_phone(opened: browser.Browser, photographs: list[Path], width: int) -> None:
    """Nothing reaches beyond the window, also with a long name, on a phone and on a desk."""
    long = photographs[0].with_name(f"{'a long name ' * 8}{'w' * 100}.jpg")
    os.link(photographs[0], long)
    opened.resize(width, 800)
    opened.choose("#files", [*photographs, long])
    answers(opened, 4)
    assert opened.evaluate(f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")


def test_a_server_that_has_ended_is_named(
    served: Any, serve: Callable[..., Any], tab: browser.Browser, photographs: list[Path]
) -> None:
    """A photograph that reaches no server has a sentence that says what to do."""
    with serve(served) as ended:
        tab.open(f"{ended.address}/")
        tab.wait("document.getElementById('name').textContent.startsWith('Model: ')")
    tab.choose("#files", photographs[:1])
    assert answers(tab, 1)["red one.jpg"].startswith("The server does not answer. Start it with ")


def test_an_upload_beyond_the_limits_has_its_reason(
    served: Any, serve: Callable[..., Any], tab: browser.Browser, photographs: list[Path]
) -> None:
    """A photograph that the server refuses for its size shows the server's sentence beside it."""
    with photographs[2].open("ab") as file:
        file.truncate(3_000_000)
    limits = Limits(request_bytes=1_000_000, photograph_bytes=500_000)
    with serve(served._replace(uploads=Uploads(limits))) as small:
        tab.open(f"{small.address}/")
        tab.choose("#files", photographs)
        found = answers(tab, 3)
    assert found == {"red one.jpg": "dog", "blue.png": "cat", "notes.jpg": found["notes.jpg"]}
    assert found["notes.jpg"].startswith("A request may have 1 MiB.")


def test_another_network_is_shown_with_its_first_answer(
    page: Any, opened: browser.Browser, photographs: list[Path], model_folder: Path
) -> None:
    """After a promotion the page names the new network as soon as it has answered."""
    current = page.served.current
    before, name = current.model, current._name
    networks.write_by_colour(model_folder, certainty=-10)
    try:
        current._name = str(model_folder / "model.keras")
        current.refresh()
        current.refresh()
        opened.choose("#files", photographs[:1])
        assert answers(opened, 1) == {"red one.jpg": "cat"}
        opened.wait(f"document.getElementById('name').textContent.includes('{model_folder.name}/model.keras')")
    finally:
        current.model, current._name = before, name
