"""How `make site` builds the pages: Sphinx with MyST-NB; executed notebooks are shown as they are."""

import longalign

project = "LongAlign, reproducible"
author = "The authors of LongAlign, reproducible"
copyright = "2026, Apache-2.0"  # noqa: A001  Sphinx's name for it
version = release = longalign.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxarg.ext", "sphinx-mathjax-offline"]
root_doc = "docs/index"
include_patterns = ["docs/**", "results/models.md", "results/notebooks/*.ipynb", "CONTRIBUTING.md", "CHANGELOG.md"]

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["tables.css"]

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
# outputs of papermill's runs that have no place on a page, and languages that a notebook's cells do not name
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure"]

autodoc_typehints = "none"
autodoc_member_order = "bysource"
