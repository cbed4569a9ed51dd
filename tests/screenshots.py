"""Pictures of the dashboard for the documentation: ``python tests/screenshots.py docs/images``.

They show a server with the nano model, which compiles two documents for them (a minute or two on one core).
Needs Debian's packages ``chromium`` and ``chromium-driver``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkit.bench.http_server import LiveServer, browser, has_browser, served
from memkit.models.loading import quiet_libraries
from memkit.server.config import ServerConfig

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

PEOPLE = "Simsem lives in Lasces. Her horse is called Shopux. Vekek works at Palhus. Vekek lives in Dorvin."
OFFICE = "Talmir works at Brisol. The colour of Talmir's car is green. Talmir's sister is called Ondra."
QUESTION = "Where does Simsem live?"
REPORTS = Path(__file__).parents[1] / "results"


def main(folder: Path) -> None:
    if not has_browser():
        raise SystemExit("no browser: apt-get install chromium chromium-driver")
    folder.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    with tempfile.TemporaryDirectory() as home:
        config = ServerConfig(Path(home), reports=REPORTS if REPORTS.is_dir() else None)
        with served(config) as server:
            memory_id = fill(server)
            pages = {
                "bank": "#/",
                "memory": f"#/memory/{memory_id}",
                "ask": "#/ask",
                "queue": "#/queue",
                "report": "#/reports/2-nano-lcc",
            }
            views = (
                ("", 1200, False, pages),
                ("-dark", 1200, True, ["ask"]),
                ("-phone", 400, False, ["bank"]),
            )
            for name, width, dark, shown in views:
                with browser(width, 900, dark=dark) as driver:
                    enter(driver, server)
                    for page in shown:
                        show(driver, page, pages[page])
                        driver.save_screenshot(str(folder / f"dashboard-{page}{name}.png"))
                        print(folder / f"dashboard-{page}{name}.png", flush=True)


def fill(server: LiveServer) -> str:
    """The id of a log with two versions, among other memories."""
    with server.client("acme", "mira") as client:
        client.timeout = 300
        client.post("/memories", json={"text": PEOPLE, "title": "People"})
        client.post("/memories", json={"text": OFFICE, "title": "Office", "compile": False})
        memory_id = ""
        for line in ("Mira lives in Keldor.", "Mira's dog is called Tovin."):
            answer: dict[str, Any] = client.post("/memories", json={"text": line, "memory": "profile"}).json()
            memory_id = answer["memory"]["id"]
            client.post(f"/memories/{memory_id}/compile")
            server.settled()
        client.post("/ask", json={"question": QUESTION})
    return memory_id


def enter(driver: WebDriver, server: LiveServer) -> None:
    driver.get(server.url)
    script = (
        "sessionStorage.setItem('memkit-key', arguments[0]); sessionStorage.setItem('memkit-user', 'mira')"
    )
    driver.execute_script(script, server.key("acme"))
    driver.refresh()


def show(driver: WebDriver, page: str, address: str) -> None:
    driver.execute_script("location.hash = arguments[0]", address)
    time.sleep(1.5)
    if page == "ask":
        driver.find_element("id", "field-question").send_keys(QUESTION, "\n")
        time.sleep(4)
    driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
