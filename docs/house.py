"What the book needs beyond Sphinx: docstrings in plain words, and equations without a network."

import ast
import inspect
import re
import textwrap
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


def comments(obj) -> dict[str, str]:
    "Return what the comments beside the parameters of a function, or fields of a class, say."
    try:
        source = textwrap.dedent(inspect.getsource(obj))
        tree = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    lines, said = source.splitlines(), {}
    for name, line in places(tree):
        if found := re.search(r'\s{2}# (.+)$', lines[line - 1]):
            said[name] = found[1]
    return said


def places(tree):
    "Yield each parameter or field with its line; a function's result is 'returns'."
    if isinstance(tree, ast.ClassDef):
        for node in tree.body:
            if isinstance(node, ast.AnnAssign):
                yield node.target.id, node.end_lineno
            elif isinstance(node, ast.FunctionDef) and node.name == '__init__':
                yield from ((a.arg, a.end_lineno) for a in arguments(node))
    elif isinstance(tree, ast.FunctionDef):
        yield from ((a.arg, a.end_lineno) for a in arguments(tree))
        if tree.returns:
            yield 'returns', tree.returns.end_lineno


def arguments(node: ast.FunctionDef) -> list[ast.arg]:
    a = node.args
    return [
        *a.posonlyargs,
        *a.args,
        *filter(None, [a.vararg]),
        *a.kwonlyargs,
        *filter(None, [a.kwarg]),
    ]


def plain_docstrings(app, what, name, obj, options, lines):
    "Make a docstring reStructuredText, and add what comments say about the parameters."
    lines[:] = as_rst('\n'.join(lines)).split('\n')
    if what in ('function', 'method', 'class'):
        fields = {k: as_rst(text) for k, text in comments(obj).items()}
        lines.append('')
        lines += [
            f':{"returns" if k == "returns" else f"param {k}"}: {v}' for k, v in fields.items()
        ]
        lines.append('')


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
