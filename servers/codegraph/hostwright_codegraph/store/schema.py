"""The tables. Everything here is a cache: it can be made again from the files.

`symbol.scope` is the index of the definition in its file's facts, -1 for a variable. A symbol keeps
its id while its file has a definition of that name, so that edges from files that did not change
stay true. `reads` holds, for each file, the facts that its edges stand on.
"""

from __future__ import annotations

PROJECT = (
    """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE file(
  id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, language TEXT NOT NULL, module TEXT NOT NULL,
  size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, hash BLOB, lines INTEGER NOT NULL DEFAULT 0,
  flags INTEGER NOT NULL DEFAULT 0, problem TEXT, outside INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE symbol(
  id INTEGER PRIMARY KEY, file INTEGER NOT NULL, scope INTEGER NOT NULL, parent INTEGER,
  kind INTEGER NOT NULL, name TEXT NOT NULL, qual TEXT NOT NULL,
  line INTEGER NOT NULL, last INTEGER NOT NULL, doc TEXT NOT NULL DEFAULT ''
);
CREATE INDEX symbol_of_file ON symbol(file, scope);
CREATE INDEX symbol_by_name ON symbol(name COLLATE NOCASE);
CREATE TABLE edge(
  src INTEGER NOT NULL, kind INTEGER NOT NULL, dst INTEGER NOT NULL, line INTEGER NOT NULL,
  rule INTEGER NOT NULL, PRIMARY KEY(src, kind, dst, line)
) WITHOUT ROWID;
CREATE INDEX edge_in ON edge(dst, kind);
CREATE TABLE unresolved(
  src INTEGER NOT NULL, line INTEGER NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX unresolved_of ON unresolved(src);
CREATE INDEX unresolved_by_name ON unresolved(name);
CREATE TABLE reads(file INTEGER PRIMARY KEY, facts BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(text, content='', detail=none);
""",
)

FACTS = (
    """
CREATE TABLE facts(
  hash BLOB NOT NULL, language TEXT NOT NULL, version TEXT NOT NULL, seen INTEGER NOT NULL,
  core BLOB NOT NULL, calls BLOB NOT NULL, PRIMARY KEY(hash, language)
) WITHOUT ROWID;
""",
)

TEST, GENERATED, VENDORED = 1, 2, 4
"""Bits of `file.flags`."""
