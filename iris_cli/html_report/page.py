"""A whole HTML document: its head, its style sheet for light and dark, wide and narrow screens, and its sections.

The policy in the head lets a browser load nothing but what lies in the file, and run no script at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from iris_cli.html_report.markup import Html, join, tag

POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'"
STYLE = """
:root{color-scheme:light dark;--back:#fbfbfa;--card:#fff;--ink:#1d1f23;--soft:#5f6570;--edge:#e2e3e6;--grid:#ececee;
--accent:#0a6ebd;--warn:#8a5a00;--warnback:#fff6e0;
--c0:#0072b2;--c1:#d55e00;--c2:#00855f;--c3:#b3558c;--c4:#a87400;--c5:#2f8fc9;--c6:#7a7000;--c7:#7c7c7c}
@media (prefers-color-scheme:dark){:root{--back:#121417;--card:#1a1d21;--ink:#e7e8ea;--soft:#a2a8b3;--edge:#2d3138;
--grid:#282c32;--accent:#6cb6f5;--warn:#f0c674;--warnback:#2b2516;
--c0:#56b4e9;--c1:#ff9149;--c2:#3ccf9f;--c3:#e39ac6;--c4:#e9b44c;--c5:#8fd0f5;--c6:#d9cf5a;--c7:#b0b0b0}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 16px}
header{padding-top:28px}footer{padding-top:8px;padding-bottom:40px;color:var(--soft);font-size:14px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:20px;margin:36px 0 10px;padding-top:10px;border-top:1px solid var(--edge)}
h3{font-size:16px;margin:22px 0 8px;overflow-wrap:anywhere}
p{margin:8px 0;max-width:78ch;overflow-wrap:anywhere}
.lead{color:var(--soft)}.note{color:var(--soft);font-size:14px}
.warn{background:var(--warnback);color:var(--warn);border-radius:6px;padding:6px 10px;font-size:14px;margin:6px 0}
nav{display:flex;flex-wrap:wrap;gap:4px 14px;margin:14px 0;font-size:14px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px;margin:14px 0}
.fact{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:10px 12px;min-width:0}
.fact b{display:block;font-size:20px;line-height:1.3;overflow-wrap:anywhere}.fact span{color:var(--soft);font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:12px}
figure{margin:0;min-width:0}
.chart{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:8px;
max-width:calc(var(--w)*1.35)}
.charts .chart{max-width:none}
figcaption{font-size:13px;color:var(--soft);padding:0 4px 4px;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
svg text{font:11.5px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--soft)}
svg text.strong{fill:var(--ink);font-weight:600}
.grid{stroke:var(--grid)}.level{stroke:var(--soft);stroke-dasharray:2 3}
.line{fill:none;stroke:var(--l);stroke-width:1.8;stroke-linejoin:round}.faint{opacity:.45;stroke-width:1.2}
.band{fill:var(--l);opacity:.16}.point{fill:var(--l)}
.whisker{stroke:var(--soft);stroke-width:1.6}.whisker.strong{stroke:var(--accent);stroke-width:3}
.point.dot{fill:var(--soft)}.point.strong{fill:var(--accent)}
.heat{fill:var(--accent);stroke:var(--grid)}
.c0{--l:var(--c0)}.c1{--l:var(--c1)}.c2{--l:var(--c2)}.c3{--l:var(--c3)}
.c4{--l:var(--c4)}.c5{--l:var(--c5)}.c6{--l:var(--c6)}.c7{--l:var(--c7)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:14px}
.key{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:6px;vertical-align:middle}
.b0{background:var(--c0)}.b1{background:var(--c1)}.b2{background:var(--c2)}.b3{background:var(--c3)}
.b4{background:var(--c4)}.b5{background:var(--c5)}.b6{background:var(--c6)}.b7{background:var(--c7)}
.scroll{overflow-x:auto;max-width:100%;margin:8px 0}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 12px 4px 0;border-bottom:1px solid var(--edge);white-space:nowrap;vertical-align:top}
th{font-weight:500;color:var(--soft)}tbody th{color:var(--ink);font-weight:400}
th:first-child,td.left{text-align:left}td.left{white-space:normal;min-width:24ch}
.bar{fill:var(--accent);opacity:.8}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(400px,100%),1fr));gap:12px;align-items:start}
.stack{display:grid;gap:12px;min-width:0}.pair .chart{max-width:none}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(118px,1fr));gap:8px}.pairs img{width:100%}
pre{white-space:pre-wrap;overflow-wrap:anywhere;
background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:10px 12px;overflow-x:auto;
font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;max-width:100%}
img,video{max-width:100%;height:auto;border-radius:8px;border:1px solid var(--edge);background:#101114;display:block}
img.pixels{image-rendering:pixelated}
img.map{width:100%;max-width:760px}video{max-height:90vh}
details{margin:8px 0}summary{cursor:pointer;color:var(--accent)}
@media (max-width:520px){h1{font-size:22px}h2{font-size:18px}.facts{grid-template-columns:repeat(2,1fr)}
.fact b{font-size:17px}}
@media print{details{display:block}.chart{break-inside:avoid}}
"""


@dataclass(frozen=True)
class Chapter:
    """A section of the page, with a name in its table of contents."""

    title: str
    content: Html


def document(title: str, lead: Html, chapters: Sequence[Chapter], footer: Html) -> str:
    """The whole file.

    Args:
        title: of the page.
        lead: below it.
        chapters: in order.
        footer: the last lines.
    """
    links = (tag("a", chapter.title, href=f"#s{number}") for number, chapter in enumerate(chapters))
    sections = (
        tag("section", tag("h2", chapter.title), chapter.content, id=f"s{number}")
        for number, chapter in enumerate(chapters)
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Html(f'<link rel="icon" href="data:,"><style>{STYLE}</style>'),
    )
    body = tag(
        "body", tag("header", tag("h1", title), lead, tag("nav", *links)), tag("main", *sections),
        tag("footer", footer),
    )  # fmt: skip
    return "<!DOCTYPE html>\n" + join([tag("html", head, body, lang="en")]) + "\n"
