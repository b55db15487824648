"""The graph for other programs: JSON, Graphviz, Mermaid, GraphML."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from hostwright_codegraph.queries.reader import Index
from hostwright_codegraph.store.kinds import EDGE_WORDS, KIND_WORDS, RULE_WORDS, Edge

EXPORTED = (Edge.CALLS, Edge.INSTANTIATES, Edge.IMPORTS, Edge.INHERITS, Edge.OVERRIDES)


class Node(NamedTuple):
    """A definition or a file."""

    id: str
    name: str
    kind: str
    at: str


class Line(NamedTuple):
    """An edge."""

    source: str
    target: str
    kind: str
    line: int
    rule: str


class Graph(NamedTuple):
    """What is exported."""

    nodes: list[Node]
    edges: list[Line]


def export(index: Index, form: str, *, files: bool) -> str:
    """The whole graph as a text; of `files`, or of definitions."""
    return FORMATS[form](_of_files(index) if files else _of_symbols(index))


def _of_symbols(index: Index) -> Graph:
    kinds = ",".join(str(int(kind)) for kind in EXPORTED)
    rows = index.rows(
        f"SELECT src, dst, kind, line, rule FROM edge WHERE kind IN ({kinds}) ORDER BY 1,2,3,4"  # noqa: S608
    )
    known = index.by_id([row[0] for row in rows] + [row[1] for row in rows])
    names = {one.id: f"{one.path}::{one.qual}" for one in known.values()}
    nodes = [Node(names[one.id], one.shown, KIND_WORDS[one.kind], one.at) for one in known.values()]
    edges = [
        Line(names[row[0]], names[row[1]], EDGE_WORDS[row[2]], row[3], RULE_WORDS[row[4]])
        for row in rows
    ]
    return Graph(sorted(nodes), edges)


def _of_files(index: Index) -> Graph:
    nodes = [
        Node(row[0], row[0], "file", f"{row[0]}:1")
        for row in index.rows("SELECT path FROM file ORDER BY path")
    ]
    rows = index.rows(
        "SELECT f.path, g.path, edge.kind FROM edge JOIN symbol s ON s.id=src "
        "JOIN file f ON f.id=s.file JOIN symbol t ON t.id=dst JOIN file g ON g.id=t.file "
        "WHERE f.id!=g.id AND edge.kind IN (1, 2, 3, 4) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )
    return Graph(nodes, [Line(row[0], row[1], EDGE_WORDS[row[2]], 0, "") for row in rows])


def _json(graph: Graph) -> str:
    data = {
        "nodes": [one._asdict() for one in graph.nodes],
        "edges": [one._asdict() for one in graph.edges],
    }
    return json.dumps(data, indent=1) + "\n"


def _dot(graph: Graph) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [f"  {quoted(one.id)} [label={quoted(one.name)}];" for one in graph.nodes]
    lines += [
        f"  {quoted(one.source)} -> {quoted(one.target)} [label={quoted(one.kind)}];"
        for one in graph.edges
    ]
    return "digraph code {\n" + "\n".join(lines) + "\n}\n"


def _mermaid(graph: Graph) -> str:
    number = {one.id: f"n{count}" for count, one in enumerate(graph.nodes)}
    lines = [f'  {number[one.id]}["{one.name.replace(chr(34), "#quot;")}"]' for one in graph.nodes]
    lines += [f"  {number[one.source]} -->|{one.kind}| {number[one.target]}" for one in graph.edges]
    return "flowchart LR\n" + "\n".join(lines) + "\n"


def _graphml(graph: Graph) -> str:
    keys = [("name", "node"), ("kind", "node"), ("at", "node"), ("edge", "edge"), ("line", "edge")]
    lines = [
        f'  <key id="{name}" for="{of}" attr.name="{name}" attr.type="string"/>'
        for name, of in keys
    ]
    lines.append('  <graph id="code" edgedefault="directed">')
    for one in graph.nodes:
        data = "".join(
            f'<data key="{key}">{escape(value)}</data>'
            for key, value in (("name", one.name), ("kind", one.kind), ("at", one.at))
        )
        lines.append(f"    <node id={quoteattr(one.id)}>{data}</node>")
    for edge in graph.edges:
        data = f'<data key="edge">{edge.kind}</data><data key="line">{edge.line}</data>'
        ends = f"source={quoteattr(edge.source)} target={quoteattr(edge.target)}"
        lines.append(f"    <edge {ends}>{data}</edge>")
    lines.append("  </graph>")
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    return head + "\n".join(lines) + "\n</graphml>\n"


FORMATS: dict[str, Callable[[Graph], str]] = {
    "json": _json,
    "dot": _dot,
    "mermaid": _mermaid,
    "graphml": _graphml,
}
