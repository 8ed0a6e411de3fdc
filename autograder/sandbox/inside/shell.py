"""IPython without a terminal or a kernel: what a cell shows is kept as nbformat's outputs, up to a limit."""

from __future__ import annotations

import base64
import io
import json
from typing import Any, Literal

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Instance, Type
from traitlets.config import Config

Output = dict[str, Any]


class Outputs:
    """The outputs of the cell that runs, in order; what is over ``limit`` bytes is dropped, and that is said."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.start()

    def start(self) -> None:
        """Forgets everything, for the next cell."""
        self.items: list[Output] = []
        self.room = self.limit

    def write(self, name: Literal["stdout", "stderr"], text: str) -> None:
        """Adds to the stream ``name``."""
        if self.room <= 0 or not text:
            return
        if len(text) > self.room:
            text = f"{text[: self.room]}\n[output over {self.limit:,} characters was left out]\n"
            self.room = 0
        self.room -= len(text)
        last = self.items[-1] if self.items else None
        if last is not None and last["output_type"] == "stream" and last["name"] == name:
            last["text"].append(text)
        else:
            self.items.append({"output_type": "stream", "name": name, "text": [text]})

    def add(self, output: Output) -> None:
        """Adds a result, a figure or an error."""
        size = len(json.dumps(output))
        if size > self.room:
            self.write("stderr", f"[an output of {size:,} characters was left out]\n")
            return
        self.room -= size
        self.items.append(output)

    def finished(self) -> list[Output]:
        """The outputs as a notebook file holds them."""
        return [item | {"text": "".join(item["text"])} if "text" in item else item for item in self.items]


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a notebook."""

    encoding = "utf-8"

    def __init__(self, outputs: Outputs, name: Literal["stdout", "stderr"]) -> None:
        self.outputs, self.name = outputs, name

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Adds ``text`` to the cell's outputs."""
        self.outputs.write(self.name, text)
        return len(text)


class _ResultHook(DisplayHook):
    """The value of a cell's last expression becomes its ``execute_result``."""

    shell: NotebookShell

    def write_output_prompt(self) -> None:
        """A notebook has no prompt in its output."""

    def write_format_data(self, format_dict: Output, md_dict: Output | None = None) -> None:
        self.shell.outputs.add(
            {"output_type": "execute_result", "execution_count": self.prompt_count, **_bundle(format_dict, md_dict)}
        )

    def finish_displayhook(self) -> None:
        """No newline after a result."""


class _Publisher(DisplayPublisher):
    """``display(...)``."""

    shell: NotebookShell

    def publish(self, data: Output, metadata: Output | None = None, *_: Any, update: bool = False, **__: Any) -> None:
        if not update:
            self.shell.outputs.add({"output_type": "display_data", **_bundle(data, metadata)})

    def clear_output(self, wait: bool = False) -> None:
        self.shell.outputs.start()


class NotebookShell(InteractiveShell):
    """Runs cells as a notebook does: magics, ``display``, last expressions, top-level await, inline figures."""

    outputs = Instance(Outputs)
    displayhook_class = Type(_ResultHook)
    display_pub_class = Type(_Publisher)

    def __init__(self) -> None:
        config = Config()
        config.HistoryManager.enabled = False
        super().__init__(outputs=Outputs(0), config=config, colors="nocolor")
        self.run_line_magic("matplotlib", "inline")

    def enable_gui(self, gui: str | None = None) -> None:
        """There is no event loop to start."""

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        self.outputs.add({"output_type": "error", "ename": etype.__name__, "evalue": _text(evalue), "traceback": stb})


def _text(error: BaseException) -> str:
    # A student's exception may raise when it is shown.
    try:
        return str(error)
    except Exception as another:
        return f"<{type(another).__name__} in its __str__>"


def _bundle(data: Output, metadata: Output | None) -> Output:
    """Pictures come as bytes, and a notebook file holds text."""
    text = {
        mime: base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        for mime, value in data.items()
    }
    return {"data": text, "metadata": metadata or {}}
