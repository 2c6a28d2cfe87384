"""The page at ``/docs``: a form per model and the API reference, without external resources.

One file for the browser, so that its policy names the digests of one script and one style and allows nothing else.
"""

from pathlib import Path


def _assembled(folder: Path) -> str:
    page = (folder / "page.html").read_text(encoding="utf-8")
    script = "\n".join(
        (folder / name).read_text(encoding="utf-8") for name in ("draw.js", "form.js", "more.js", "page.js")
    )
    style = (folder / "page.css").read_text(encoding="utf-8")
    return page.replace("{{page.css}}", f"\n{style}").replace("{{page.js}}", f'\n"use strict";\n{script}')


PAGE = _assembled(Path(__file__).parent)
