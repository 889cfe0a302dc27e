"""An HTML page without scripts and without anything from elsewhere: markup that escapes, charts as inline SVG.

Numbers and words come in; no run, file or agent is known here. The charts are our own, and not matplotlib's, because
they take their colours from the page's style sheet (light and dark), have text of a readable size on a phone, and
tell values to a pointer; and so a report needs no extra package.

    markup.py   elements; all text in them is escaped
    charts.py   lines, intervals, heat maps
    page.py     a whole document, with its style sheet
"""
