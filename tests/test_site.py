"""The site: `make site`'s build passes without a warning, and every link of it leads somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from check_links import dead_links

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info < (3, 11), reason="Sphinx 9 needs Python 3.11"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. It needs the extra `docs`, which `make test-all` installs."""
    folder = tmp_path_factory.mktemp("site")
    build = ["-m", "sphinx", "-W", "-n", "-E", "-q", "-c", "docs/site", "-d", str(folder / "doctrees"), "."]
    result = subprocess.run(
        [sys.executable, *build, str(folder / "html")], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return folder / "html"


def test_every_link_leads_somewhere(site):
    assert list(dead_links(site)) == []


def test_docstrings_are_shown(site):
    page = (site / "docs/reference.html").read_text(encoding="utf-8")
    for text in ("Returns", "Raises", "arm_loc", 'href="#refinedet_tf.Detector.load"'):
        assert text in page
    assert "`" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_link_to_a_file_leads_to_its_text(site):
    page = (site / "docs/how-it-works.html").read_text(encoding="utf-8")
    assert 'href="../source/refinedet_tf/refinedet/boxes.py.html"' in page
    text = (site / "source/refinedet_tf/refinedet/boxes.py.html").read_text(encoding="utf-8")
    (line,) = (
        number
        for number, line in enumerate((ROOT / "refinedet_tf/refinedet/boxes.py").open(encoding="utf-8"), 1)
        if line.startswith("def decode(")
    )
    assert f'id="L-{line}"' in text
    reference = (site / "docs/reference.html").read_text(encoding="utf-8")
    assert f"../source/refinedet_tf/refinedet/boxes.py.html#L-{line}" in reference


def test_nothing_is_fetched_from_the_network(site):
    """The site works without a network, from the disk."""
    fetched = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"(?:https?:)?//[^\"]*")
    for file in site.rglob("*.html"):
        assert fetched.findall(file.read_text(encoding="utf-8")) == [], file
