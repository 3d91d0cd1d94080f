"""Pages of the site that lie outside of docs/, and their links.

A link is written as it is right in the repository, where pages are read as well. README, changelog, contributing and benchmarks
lie beside docs/ there, and on the site below one root with its pages: their links are made anew for that.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
NAMED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Path in the repository -> path on the site, of single files beside docs/."""
KEPT = ("benchmarks/README.md", "benchmarks/tables/*.md", "benchmarks/figures/*.png")
"""What has the same path in both."""
TARGET = re.compile(r"(?<=\]\()[^)#\s]+(?=[)#])")


def outside() -> dict[str, str]:
    """Return path in the repository -> path on the site, of everything beside docs/."""
    kept = (path.relative_to(ROOT).as_posix() for pattern in KEPT for path in sorted(ROOT.glob(pattern)))
    return {**NAMED, **{path: path for path in kept}}


def moved(target: str, origin: str) -> str:
    """Return where a link leads on the site, from where it leads in the repository; `origin` is its page's path there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    there = outside().get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    start = posixpath.dirname(site_path(origin))
    return posixpath.relpath(there, start) if there and "://" not in target else target


def site_path(path: str) -> str:
    """Return a page's path on the site, from that in the repository."""
    return outside().get(path) or path.removeprefix("docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of docs/ and those beside it."""
    for path, name in outside().items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Return a page with its links as the site has them."""
    origin = {name: path for path, name in outside().items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return TARGET.sub(lambda found: moved(found[0], origin), markdown)
