"""How Sphinx builds the site: ``make docs``. Every page's code is executed, and nothing is loaded from elsewhere."""

import hashlib
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))

project = "pyro_aevb"
author = "pyro_aevb contributors"
copyright = author  # Sphinx's own name for it

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "reference",
    "streams",
]
exclude_patterns = ["_build", ".jupyter_cache"]
nitpicky = True
nitpick_ignore_regex = [  # other libraries: their inventories are elsewhere, and the build asks nobody
    ("py:.*", r"(abc|argparse|collections|contextlib|enum|functools|logging|os|pathlib|types|typing)\..*"),
    ("py:.*", r"(jsonargparse|matplotlib|narwhals|numpy|pandas|pyro|sklearn|torch|torchvision)\..*"),
    ("py:.*", r"pyro_aevb\..*\._\w+"),  # private base classes
    # type variables
    (
        "py:.*",
        r"pyro_aevb\..*\.(Called|Drawn|Earlier|Given|Kind|Number|Options|Parameters|Recording|Report|Result)"
        r"|~(Given|Parameters)",
    ),
    ("py:class", "TakenApart"),  # imported for type checkers alone, where its module imports the one that names it
]
suppress_warnings = ["config.cache"]


def what_pages_depend_on() -> str:
    """A digest of the package and of the committed results: where one of them changed, all pages are executed anew."""
    digest = hashlib.sha256()
    sources = [
        *(ROOT / "pyro_aevb").rglob("*.py"),
        *(HERE / "results").glob("*.py"),
        *(ROOT / "experiments").glob("*/*.*"),
    ]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# The code of the pages: run by a kernel of the environment that builds, once for each version of a page.
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / ".jupyter_cache" / what_pages_depend_on())
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_execution_in_temp = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # by default they are loaded from a distant host
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYRO_AEVB_CHECKOUT"] = str(ROOT)  # where pages find the committed results of the experiments
os.environ.setdefault("OMP_NUM_THREADS", "1")  # pages are executed side by side
os.environ.setdefault("PYRO_AEVB_DATA", "")
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm would ask for widgets, which a page has not

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrtalpha"

html_extra_path = ["../experiments/many_runs"]  # reports and pages to explore, which open by themselves

mathjax_path = "mathjax/tex-svg.js"
mathjax4_config = {
    "loader": {"load": []},
    "svg": {"fontCache": "global"},
    "options": {  # speech would be made by a worker that is loaded from elsewhere; screen readers are given MathML
        "enableMenu": False,
        "menuOptions": {"settings": {"speech": False, "braille": False, "enrich": False, "assistiveMml": True}},
    },
}

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "pyro_aevb"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copybutton_exclude = ".linenos, .gp, .go"
