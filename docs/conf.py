"Sphinx configuration of the book; `docs/build.py` assembles its sources and runs it."

import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
ini = ConfigParser(delimiters=['='])
ini.read(HERE.parent / 'settings.ini', encoding='utf-8')

project, author, release = 'erc', 'the erc authors', ini['DEFAULT']['version']
copyright = f'2026 onwards, {author}'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.viewcode', 'house']
source_suffix = {'.rst': 'restructuredtext', '.md': 'myst-nb', '.ipynb': 'myst-nb'}
exclude_patterns = ['build', '**/.ipynb_checkpoints']

# notebooks are shown as they were committed
nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 4
myst_heading_slug_func = 'house.jupyter_anchor'

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
default_role = 'code'

html_theme = 'furo'
html_title = f'erc {release}'
html_math_renderer = 'mathml'  # of `house`: no script from a network
html_copy_source = False
html_show_sourcelink = False

suppress_warnings = [
    'myst.header',  # a notebook may skip a level
    'mystnb.unknown_mime_type',
    'misc.highlighting_failure',  # csv has no lexer
]
