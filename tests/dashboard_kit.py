"""What the tests of the dashboard do in a browser."""

from __future__ import annotations

from typing import Any

from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


def wait(driver: WebDriver, selector: str, text: str = "") -> Any:
    """An element, once it is there and holds that text."""

    def found(_: WebDriver) -> Any:
        elements = driver.find_elements(By.CSS_SELECTOR, selector)
        return next((each for each in elements if text in (each.text or "")), None)

    return WebDriverWait(driver, 10, ignored_exceptions=[Exception]).until(found)


def go(driver: WebDriver, page: str) -> None:
    driver.execute_script("location.hash = arguments[0]", page)
    WebDriverWait(driver, 10).until(
        lambda d: d.execute_script("return document.getElementById('main').dataset.shown") == page
    )


def click(driver: WebDriver, text: str) -> None:
    wait(driver, "button", text).click()
