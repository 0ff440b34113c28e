"""The site: `make site` builds it with Sphinx from the Markdown pages of the repository.

The source folder of Sphinx is the root of the repository, so that a link between two pages is the same in the
repository and on the site. `docs/index.md` holds the order of the pages.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

from site_pages import PAGES  # noqa: E402 - it lies beside this file

from refinedet_tf import __version__  # noqa: E402

project = "RefineDet in TensorFlow and Keras"
author = "the authors of refinedet-tf"
release = version = __version__
language = "en"

root_doc = "docs/index"
include_patterns = list(PAGES)
# Sphinx walks through all folders that are not named here.
exclude_patterns = [".*", "docs/_build", "runs", "data", "exports", "build", "gpu-results", "**/node_modules"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["markdown_docstrings", "source_pages"]

myst_heading_anchors = 4
"""Headings to this level can be linked to, as on GitHub: page.md#a-heading."""

nb_execution_mode = "cache"
"""A notebook is executed where its cells have changed since the last build."""
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_output_stderr = "remove"
"""TensorFlow's messages at its start are no output of a cell."""

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_ivar = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

nitpick_ignore_regex = [
    ("py:.*", r"(collections|keras|np|numpy|os|pathlib|pydantic|supervision|tf|tensorflow|typing)\..*")
]
"""Other packages have their own reference; nothing is fetched from the network to link to it."""
nitpick_ignore_regex += [
    ("py:.*", "Any|Path|Callable|Iterable|Iterator|Literal|Mapping|PathLike|Sequence|ndarray|Model")
]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["root"]
highlight_language = "none"
html_use_index = False
html_show_copyright = False
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
