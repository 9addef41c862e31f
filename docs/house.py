"What the book needs beyond Sphinx: docstrings in plain words, and equations without a network."

import re
from html import escape

from latex2mathml.converter import convert


def as_rst(text: str) -> str:
    "Turn a docstring in plain words with `code` in backticks into reStructuredText."
    parts = re.split(r'(``.+?``|`[^`]+`)', text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'([\\*|_])', r'\\\1', parts[i])
    for i in range(1, len(parts), 2):
        parts[i] = f'``{parts[i].strip("`")}``'
    return ''.join(parts)


def plain_docstrings(app, what, name, obj, options, lines):
    lines[:] = as_rst('\n'.join(lines)).split('\n')


def jupyter_anchor(heading: str) -> str:
    "Return the anchor that JupyterLab gives a heading, so that links work in both."
    return heading.replace(' ', '-')


def mathml(latex: str, display: str) -> str:
    "Return an equation as MathML, or as code where it cannot be converted."
    try:
        return convert(latex, display=display)
    except Exception:
        return f'<code>{escape(latex)}</code>'


def visit_inline(writer, node):
    writer.body.append(mathml(node.astext(), 'inline'))
    raise_skip()


def visit_block(writer, node):
    writer.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>')
    raise_skip()


def raise_skip():
    from docutils.nodes import SkipNode

    raise SkipNode


def setup(app):
    app.connect('autodoc-process-docstring', plain_docstrings)
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_block, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
