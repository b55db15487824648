"""The file tools: reading, writing, searching and bringing back files inside configured roots.

Plain blocking functions; nothing here knows MCP. `Roots` is the one way in (`roots.py` says how a
path becomes a descriptor), `FileSpace` adds the state folder with backups and trash.

    roots = Roots(protected=paths.protected, trash=trash_folder(paths.state_dir / "files"))
    space = open_file_space(roots, paths.state_dir / "files")
    file_read(roots, "~/notes.txt", limit=20)
    file_write(space, "~/notes.txt", "new text", expected_sha256=…)
"""

from hostwright_system.files.editing import Edit, file_edit
from hostwright_system.files.history import Limits
from hostwright_system.files.listing import directory_list
from hostwright_system.files.moving import file_delete, file_move
from hostwright_system.files.reading import file_read
from hostwright_system.files.restoring import backup_list, file_restore, trash_list
from hostwright_system.files.roots import Roots, default_roots
from hostwright_system.files.searching import file_search
from hostwright_system.files.space import FileSpace, open_file_space, trash_folder
from hostwright_system.files.writing import file_write

__all__ = [
    "Edit",
    "FileSpace",
    "Limits",
    "Roots",
    "backup_list",
    "default_roots",
    "directory_list",
    "file_delete",
    "file_edit",
    "file_move",
    "file_read",
    "file_restore",
    "file_search",
    "file_write",
    "open_file_space",
    "trash_folder",
    "trash_list",
]
