"""Every page of a built site in a browser, at desk and phone width: python docs/make/look.py SITE [FOLDER of pictures]

Says which pages are wider than the window, which pictures are missing, what is fetched from elsewhere, and what the
console complains of; exit code 1 if anything. Needs playwright and Chromium ($CHROMIUM, default chromium on the PATH).
Three minutes on 2 cores of a Xeon.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTHS = {"desk": 1280, "phone": 390}
WIDER = """() => {
  const width = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll('.md-content *')].filter(e => {
    for (let p = e; p; p = p.parentElement) {
      if (p.matches('.md-typeset__scrollwrap, pre, code, .md-nav, .md-tooltip')) return false;
    }
    return e.getBoundingClientRect().right > width + 1;
  });
  return document.documentElement.scrollWidth > width + 1 || wide.length
    ? wide.slice(0, 3).map(e => e.tagName + ' ' + (e.textContent || '').trim().slice(0, 60)) : [];
}"""
BROKEN = "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"


def main() -> None:
    site = Path(sys.argv[1]).resolve()
    pictures = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    found = 0
    with sync_playwright() as play:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 900}, device_scale_factor=1)
            fetched: list[str] = []
            errors: list[str] = []
            page.on("request", lambda request, fetched=fetched: fetched.append(request.url))
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            for file in sorted(site.rglob("*.html")):
                if file.name == "404.html":
                    continue
                fetched.clear()
                errors.clear()
                page.goto(file.as_uri())
                page.wait_for_load_state("load")
                wrong = [f"wider than the window: {each}" for each in page.evaluate(WIDER)]
                wrong += [f"no picture: {each}" for each in page.evaluate(BROKEN)]
                wrong += [f"fetches {url}" for url in fetched if not url.startswith(("file:", "data:", "blob:"))]
                wrong += [f"script: {each}" for each in errors]
                if pictures:
                    pictures.mkdir(parents=True, exist_ok=True)
                    stem = "-".join(file.relative_to(site).with_suffix("").parts)
                    page.screenshot(path=pictures / f"{stem}-{name}.png", full_page=True)
                for line in wrong:
                    print(f"{file.relative_to(site)} at {width}: {line}")
                found += len(wrong)
        browser.close()
    print(f"{found} faults")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
