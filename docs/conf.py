"""How the site is made: from the README, the pages in this folder, the docstrings, and the notebooks, executed.

The source folder is the root of the project, so that a link in a page leads to the same place here, on a forge and in an editor.
"""

from __future__ import annotations

import os

from regaudit import __version__

project = "regaudit"
author = "the regaudit authors"
copyright = author  # noqa: A001 -- Sphinx asks for this name
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "docs/contents"
include_patterns = ["*.md", "docs/*.md", "notebooks/*.ipynb", "examples/README.md", "benchmarks/*.md"]
exclude_patterns = ["build", ".venv", "**/.ipynb_checkpoints"]

# A heading is linked to from other pages, as on a forge.
myst_heading_anchors = 3
myst_enable_extensions = ["strikethrough"]
# Links to folders of examples lead somewhere on a forge, and to nothing on a site of pages.
suppress_warnings = ["myst.xref_missing", "misc.highlighting_failure"]

# Executed from top to bottom against the embedded registry; `NOTEBOOKS=off` shows them without results, in seconds.
nb_execution_mode = os.environ.get("NOTEBOOKS", "force")
nb_execution_raise_on_error = True
nb_execution_timeout = 120
# What a notebook prints while it reads, and a widget without a kernel, are no use on a page.
nb_execution_show_tb = True
nb_output_stderr = "remove"
nb_merge_streams = True

napoleon_google_docstring = False
napoleon_use_rtype = False
# Attributes are a list in their class; a property has its own entry besides.
napoleon_use_ivar = True
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
autodoc_default_options = {"members": True, "exclude-members": "from_columns"}

html_theme = "furo"
html_title = f"regaudit {release}"
html_additional_pages = {"index": "redirect.html"}
templates_path = ["."]
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
