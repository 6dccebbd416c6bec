"""nbconvert's settings for a page of `make run`: what outputs show as HTML is cleaned first.

Outputs name a user's classes, folders and files, and such a name may hold anything. Tags of tables,
pictures and prose stay; every other tag is shown as the text that it is, and no script stays.
"""
import re

from bleach import ALLOWED_ATTRIBUTES, ALLOWED_TAGS, clean
from bleach.css_sanitizer import CSSSanitizer

TAGS = ALLOWED_TAGS | {*('h1 h2 h3 h4 h5 h6 p br hr pre div span img del sub sup dl dt dd details '
                         'summary table caption colgroup col thead tbody tfoot tr th td').split()}
SPANS = ['colspan', 'rowspan', 'align', 'scope']
ATTRIBUTES = ALLOWED_ATTRIBUTES | {
    '*': ['class', 'id', 'style', 'title'], 'a': ['href'], 'table': ['border'], 'th': SPANS,
    'td': SPANS, 'img': ['src', 'alt', 'width', 'height']}
CSS = CSSSanitizer() # of attributes
OF_PANDAS = re.compile(r'(\s*(?:<div>\s*)?)(<style[^<>]*>[^<]*</style>)') # where a table begins


def cleaned(html): # str, or bytes
    "HTML without a script in it; the style of a table that pandas wrote stays before it."
    text = html.decode() if isinstance(html, bytes) else str(html)
    first = OF_PANDAS.match(text)
    style = first[2] if first else ''
    if first: text = first[1] + text[first.end():]
    return style + clean(text, tags=TAGS, attributes=ATTRIBUTES, css_sanitizer=CSS)


if 'get_config' in globals(): # nbconvert reads this
    c = get_config() # noqa: F821
    c.HTMLExporter.sanitize_html = True
    c.HTMLExporter.filters = dict(clean_html=cleaned)
