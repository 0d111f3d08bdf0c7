"""A headless Chromium spoken to over its DevTools pipe: only what the report's tests need, with no package for it.

The browser reads commands on file descriptor 3 and answers on 4, each message JSON and a zero byte. The protocol is
https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
)
#: Puts the two ends that it is handed where Chromium looks for them; first both are moved away, as they may be 3 or 4.
LAUNCHER = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
    "for place, end in enumerate(ends, start=3): os.dup2(end, place); os.close(end)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)
KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
}


def find_chromium() -> str | None:
    """The distribution's Chromium, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page in one Chromium. Every console message, exception and request since its start is kept."""

    def __init__(self, chromium: str, profile: Path) -> None:
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        command = [sys.executable, "-c", LAUNCHER, str(read_commands), str(write_answers), chromium]
        self._process = subprocess.Popen(
            [*command, *FLAGS.split(), f"--user-data-dir={profile}"],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer = bytearray()
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.loaded = 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=20)
        os.close(self._commands)
        os.close(self._answers)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        view = memoryview(json.dumps(message).encode() + b"\0")
        while view:
            view = view[os.write(self._commands, view) :]
        while True:
            answer = self._receive(60)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def open(self, url: str) -> None:
        """Load a page and wait until it has loaded."""
        before = self.loaded
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 60
        while self.loaded == before:
            self._receive(deadline - time.monotonic())

    def show(self, width: int, height: int, scheme: str) -> None:
        """The size of the window (a phone below 600) and the colour scheme that the system prefers."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[feature])

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, replMode=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Real key events, one key after another: names of `KEYS` or characters."""
        for key in keys:
            code, text = KEYS.get(key, (ord(key[0].upper()), key))
            event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            typed = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
            self.call("Input.dispatchKeyEvent", **typed, **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self) -> bytes:
        """A PNG of what the window shows."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (end := self._buffer.find(b"\0")) < 0:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._answers, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError("Chromium said nothing more")
            self._buffer += chunk
        message: dict[str, Any] = json.loads(self._buffer[:end])
        del self._buffer[: end + 1]
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Page.loadEventFired":
                self.loaded += 1
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(f"console.{params['type']}: {params['args']}")
            case "Log.entryAdded":
                self.complaints.append(str(params["entry"]))
            case "Page.javascriptDialogOpening":
                self.complaints.append(f"a dialogue: {params['message']}")


@contextlib.contextmanager
def opened(chromium: str, profile: Path) -> Iterator[Browser]:
    """A browser that is ended with the block."""
    browser = Browser(chromium, profile)
    try:
        yield browser
    finally:
        browser.close()


def photograph(chromium: str, profile: Path, page: str, folder: Path) -> list[Path]:
    """The two pictures of the README: a desk in daylight and a phone in the dark, each as much as fits the window."""
    kinds = {"report-desktop.png": (1120, 930, "light"), "report-phone.png": (390, 1100, "dark")}
    with opened(chromium, profile) as browser:
        for name, size in kinds.items():
            browser.show(*size)
            browser.open(page)
            (folder / name).write_bytes(browser.screenshot())
    return [folder / name for name in kinds]


if __name__ == "__main__":  # python tests/browser.py RUN/report/index.html docs
    program = find_chromium()
    if program is None:
        raise SystemExit("Chromium is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for picture in photograph(
            program, Path(place), Path(sys.argv[1]).resolve().as_uri(), Path(sys.argv[2])
        ):
            print(picture, picture.stat().st_size, "bytes")
