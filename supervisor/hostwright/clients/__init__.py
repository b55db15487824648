"""Other programs' MCP configuration: put our servers in, take them out, read theirs.

`plan` and `apply` edit a client's own file; `import_servers` reads such a file and proposes
manifests. No command-line code here.
"""

from .catalog import CLIENTS, Scope
from .edit import apply, plan
from .entry import Entry
from .importing import Finding, Imported, ImportedServer, import_servers
from .report import Applied, Change, Plan

__all__ = [
    "CLIENTS",
    "Applied",
    "Change",
    "Entry",
    "Finding",
    "Imported",
    "ImportedServer",
    "Plan",
    "Scope",
    "apply",
    "import_servers",
    "plan",
]
