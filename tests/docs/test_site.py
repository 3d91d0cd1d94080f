"""The site builds without a warning, everything on it is there, and no page of it loads from another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip(
    "material", reason="mkdocs-material, of the extras docs and dev, is not installed: no site is built"
)

ROOT = Path(__file__).parents[2]
ELSEWHERE = re.compile(r"(https?:)?//")
NAMED = {"src", "srcset", "href", "poster", "data", "action"}


class Addresses(HTMLParser):
    """Gather (tag, address) of all that a page names."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, value) for name, value in attrs if name in NAMED and value]


def addresses(page):
    """Return (tag, address) of all that a page names."""
    parser = Addresses()
    parser.feed(page.read_text("utf-8"))
    return parser.found


def build(settings, folder):
    """Return the process that built a site, with the words of `make docs`."""
    target = (ROOT / "Makefile").read_text("utf-8").partition("\ndocs:")[2].partition("\n\n")[0]
    words = re.search(r"/mkdocs (build .*) -f docs/site/mkdocs.yml", target)[1].split()
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    words = [sys.executable, "-m", "mkdocs", *words, "-f", str(settings), "-d", str(folder)]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return the folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs/site/mkdocs.yml", folder)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "WARNING" not in said, said
    return folder


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path):
    """Strict is what holds the links, and options such as --quiet undo it without a word."""
    (tmp_path / "docs/site").mkdir(parents=True)
    settings = (ROOT / "docs/site/mkdocs.yml").read_text("utf-8")
    short = settings[: settings.index("\nnav:\n")].replace("hooks: [hooks.py]\n", "")
    (tmp_path / "docs/site/mkdocs.yml").write_text(short, "utf-8")
    (tmp_path / "docs/index.md").write_text("# Page\n\n[here](#page) [gone](#gone)\n", "utf-8")
    done = build(tmp_path / "docs/site/mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "#gone" in line and "no such anchor" in line], done.stderr


def test_every_page_is_there(site):
    pages = [path.stem for path in (ROOT / "docs").glob("*.md")]
    tables = [f"benchmarks/tables/{path.stem}" for path in (ROOT / "benchmarks/tables").glob("*.md")]
    for name in [*pages, *tables, "index", "changelog", "contributing", "benchmarks/index"]:
        assert (site / f"{name}.html").is_file(), name
    assert [path.name for path in site.rglob("*.py")] == []


def test_nothing_is_loaded_from_another_host(site):
    for page in site.rglob("*.html"):
        assert [found for found in addresses(page) if found[0] != "a" and ELSEWHERE.match(found[1])] == [], page
        # the theme's program fetches what draws such diagrams, where a page has one
        assert 'class="mermaid"' not in page.read_text("utf-8"), page
    for sheet in [*site.rglob("*.css"), *site.rglob("*.html")]:
        assert re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//[^)"']+""", sheet.read_text("utf-8")) == [], sheet


def test_whatever_a_page_names_is_there(site):
    for page in site.rglob("*.html"):
        for _, address in addresses(page):
            path = unquote(address.partition("#")[0])
            if path and not ELSEWHERE.match(path) and not path.startswith("data:"):
                there = site / path[1:] if path.startswith("/") else page.parent / path
                assert there.exists(), f"{page.relative_to(site)}: {address}"


def test_what_is_written_as_a_link_or_a_list_is_one(site):
    """Markdown of the repository's readers and of the site's differs: what it did not understand would stand there as it is."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>", "", page.read_text("utf-8"), flags=re.S)
        body = text[text.index("<article") : text.index("</article>")] if "<article" in text else ""
        assert re.findall(r"<p>[^<]*\n[-*] |\]\([\w./#-]+\)|\*\*\w|```|\\\|", body) == [], page
