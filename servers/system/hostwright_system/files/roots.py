"""Where file tools may work, and the only way in: every open goes through here.

A path that a caller spells is a hint. It is resolved once (`realpath`: links inside a root, also
absolute ones, and `~` work as the user expects), the root that the result lies in is opened, and
the result is opened **again beneath that root with no link on any component** (openat2(2), see
`openat2`). If somebody exchanges a folder for a link in between, the second open fails; it never
follows. Work then happens on names inside the opened folder, so later swaps change nothing.

The deny rules are applied to the resolved path *and* to what was opened: the path that the system
reports for the descriptor, its inode, and the inodes of the folders above it.

Blocking functions; the tools run them in threads.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hostwright_kit.errors import HostError
from hostwright_system.files.deny import KEY_HEAD_BYTES, Denial, DenyRules, HardLinks
from hostwright_system.files.failures import MOVING, failed, shown
from hostwright_system.files.openat2 import open_folder_beneath, open_slash, path_of
from hostwright_system.files.places import OpenFile, OpenFolder, Place, kind_of, sync_folder

MAX_PATH_CHARS = 4096
_ATTEMPTS = 8


def default_roots(home: Path | None = None, working_folder: Path | None = None) -> list[Path]:
    """Home and working folder; as root also /etc, /var/log, /srv and /opt.

    A working folder of `/` (daemons have it) would open the whole machine and is left out.
    """
    roots = [home or Path.home(), working_folder or _working_folder()]
    if os.geteuid() == 0:
        roots += [Path("/etc"), Path("/var/log"), Path("/srv"), Path("/opt")]
    return [root for root in dict.fromkeys(roots) if root != Path("/")]


class Roots:
    """The configured roots with their deny rules. Holds no descriptor between calls."""

    def __init__(
        self,
        roots: Sequence[Path] | None = None,
        *,
        protected: Sequence[Path] = (),
        deny: Sequence[str] = (),
        allow: Sequence[str] = (),
        home: Path | None = None,
        working_folder: Path | None = None,
        trash: Path | None = None,
    ) -> None:
        """`roots=None` takes `default_roots`. `deny`/`allow`: gitignore patterns of the owner.

        `trash`: where `TrashStore` keeps its items (inside a protected folder).
        """
        self.home = home or Path.home()
        self.working_folder = working_folder or _working_folder()
        chosen = default_roots(self.home, self.working_folder) if roots is None else roots
        # Resolved once, by the owner's word; afterwards a root is opened with no link in its path.
        self.folders: tuple[Path, ...] = tuple(
            dict.fromkeys(Path(os.path.realpath(root)) for root in chosen)
        )
        self.rules = DenyRules(protected, deny=deny, allow=allow)
        self.trash = None if trash is None else Path(os.path.realpath(trash))
        self._links = HardLinks(self.rules, [self.home], except_below=self.trash)
        self._by_depth = sorted(self.folders, key=lambda root: -len(root.parts))

    # -- the ways in ---------------------------------------------------------------------------

    @contextmanager
    def place(
        self, path: str, *, follow: bool = True, create_parents: bool = False
    ) -> Generator[Place]:
        """The name `path` in its open folder. `follow=False`: a link is meant itself."""
        place = self._open_place(path, follow, create_parents)
        try:
            yield place
        finally:
            os.close(place.folder_fd)

    @contextmanager
    def file(self, path: str) -> Generator[OpenFile]:
        """The regular file `path`, open for reading."""
        left = _ATTEMPTS
        while True:
            with self.place(path) as place:
                try:
                    opened = self.open_file(place)
                except OSError as error:
                    if error.errno in MOVING and (left := left - 1):
                        continue
                    raise failed(path, "read", error) from error
            break
        try:
            yield opened
        finally:
            opened.close()

    @contextmanager
    def folder(self, path: str) -> Generator[OpenFolder]:
        """The folder `path`, open for listing."""
        opened = self._open_folder(path)
        try:
            yield opened
        finally:
            os.close(opened.fd)

    # -- vetting -------------------------------------------------------------------------------

    def open_file(self, place: Place) -> OpenFile:
        """Open the regular file at `place` for reading; the caller closes it.

        Raises `OSError` when it is missing or changes meanwhile, `HostError` when it is closed.
        """
        before = os.stat(place.name, dir_fd=place.folder_fd, follow_symlinks=False)
        if stat.S_ISLNK(before.st_mode):
            # The path was free of links when it was resolved.
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), place.name)
        # Looked at before it is opened: opening some devices acts on them.
        self._require_regular(place.path, before)
        fd = self.open_entry(place.folder_fd, place.name)
        try:
            info = os.fstat(fd)
            _require_same(info, before, place.name)
            actual = path_of(fd)
            if actual is not None and info.st_nlink:
                self._refuse(self.rules.why(actual), actual)
            folder_uid = os.stat(".", dir_fd=place.folder_fd).st_uid
            self.vet(place.path, info, folder_uid, fd)
        except BaseException:
            os.close(fd)
            raise
        return OpenFile(fd, place.path, info)

    @staticmethod
    def open_entry(folder_fd: int, name: str) -> int:
        """Open one name for reading; never a link, never waiting for a FIFO's other end."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=folder_fd)

    def vet(self, path: str, info: os.stat_result, folder_uid: int, fd: int) -> None:
        """Refuse an opened file that is closed by path, inode, link or content (`HostError`)."""
        self._require_regular(path, info)
        self._refuse(self.rules.why(path), path)
        if (info.st_dev, info.st_ino) in self.rules.inodes():
            self._refuse(Denial("secret", "an account file"), path)
        if reason := self._links.why(info, folder_uid):
            raise HostError(
                f"{shown(path)} is closed: {reason}.",
                fix="Copy the file (its bytes, not its name) and use the copy.",
                code="denied",
            )
        if self.rules.begins_as_key(path, os.pread(fd, KEY_HEAD_BYTES, 0)):
            self._refuse(Denial("secret", "its content begins as a private key"), path)

    def refuse_path(self, path: str, *, folder: bool = False) -> None:
        """`HostError` when a rule closes `path`."""
        self._refuse(self.rules.why(path, folder=folder), path)

    def refuse_uprooting(self, path: str) -> None:
        """`HostError` when moving or deleting `path` would take away a root or protected state."""
        inside = path.rstrip("/") + "/"
        if any(f"{root}/".startswith(inside) for root in self.folders):
            raise HostError(
                f"{shown(path)} is a root of the file tools, or holds one.",
                fix="Move or delete what lies in it instead.",
                code="denied",
            )
        if self.rules.holds_protected(path):
            raise HostError(
                f"{shown(path)} holds the suite's own state.",
                fix="Move or delete its other entries one by one.",
                code="denied",
            )

    # -- inside --------------------------------------------------------------------------------

    def _absolute(self, path: str) -> str:
        if not path or "\0" in path or len(path) > MAX_PATH_CHARS:
            raise HostError(
                f"{path[:80]!r} is not a usable path.",
                fix=f"Give 1 to {MAX_PATH_CHARS} characters without NUL.",
                code="bad_path",
            )
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise HostError(
                f"{path[:80]!r} is not valid Unicode.",
                fix="Give the path as directory_list shows it.",
                code="bad_path",
            ) from None
        if path == "~" or path.startswith("~/"):
            path = f"{self.home}{path[1:]}"
        return path if path.startswith("/") else f"{self.working_folder}/{path}"

    def _root_of(self, canonical: str, spelled: str) -> Path:
        for root in self._by_depth:
            if canonical == str(root) or canonical.startswith(str(root).rstrip("/") + "/"):
                return root
        roots = ", ".join(str(root) for root in self.folders) or "none"
        raise HostError(
            f"{shown(spelled)} is outside the folders that the file tools may use ({roots}).",
            fix="Use a path inside one of them, or let the owner add a root to the configuration.",
            code="outside_roots",
        )

    def _resolve(self, spelled: str, follow: bool) -> str:
        parent, name = os.path.split(spelled.rstrip("/"))
        whole = follow or name in ("", ".", "..")
        left = _ATTEMPTS
        while True:
            try:
                if whole:
                    return os.path.realpath(spelled)
                return os.path.join(os.path.realpath(parent or "/"), name)  # noqa: PTH118
            except OSError as error:
                # realpath looks at a name and then reads it as a link; in between it was exchanged.
                left -= 1
                if not left:
                    moving = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), spelled)
                    raise failed(spelled, "open", moving) from error

    def _open_place(self, path: str, follow: bool, create_parents: bool) -> Place:
        spelled = self._absolute(path)
        left = _ATTEMPTS
        while True:
            canonical = self._resolve(spelled, follow)
            root = self._root_of(canonical, path)
            if canonical == str(root):
                raise HostError(
                    f"{shown(path)} is a root of the file tools.",
                    fix="Name something inside it.",
                    code="is_a_folder",
                )
            self._refuse(self.rules.why(canonical), canonical)
            *parts, name = canonical[len(str(root).rstrip("/")) + 1 :].split("/")
            try:
                fd = self._descend(root, parts, create=create_parents)
            except OSError as error:
                if error.errno in MOVING and (left := left - 1):
                    continue
                raise failed(path, "open", error) from error
            break
        try:
            folder = self._vetted_folder(fd, root, parts)
            place = Place(fd, folder, name)
            self._refuse(self.rules.why(place.path), place.path)
        except BaseException:
            os.close(fd)
            raise
        return place

    def _open_folder(self, path: str) -> OpenFolder:
        spelled = self._absolute(path)
        left = _ATTEMPTS
        while True:
            canonical = self._resolve(spelled, follow=True)
            root = self._root_of(canonical, path)
            parts = [p for p in canonical[len(str(root).rstrip("/")) + 1 :].split("/") if p]
            try:
                fd = self._descend(root, parts, listing=True)
            except OSError as error:
                if error.errno in MOVING and (left := left - 1):
                    continue
                raise failed(path, "open", error) from error
            break
        try:
            return OpenFolder(fd, self._vetted_folder(fd, root, parts), os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise

    def _descend(
        self, root: Path, parts: Sequence[str], *, listing: bool = False, create: bool = False
    ) -> int:
        slash = open_slash()
        try:
            last = listing and not parts
            root_fd = open_folder_beneath(slash, root.parts[1:], listing=last)
        finally:
            os.close(slash)
        if not parts:
            return root_fd
        try:
            try:
                return open_folder_beneath(root_fd, parts, listing=listing)
            except FileNotFoundError:
                if not create:
                    raise
            return self._create(root, root_fd, parts)
        finally:
            os.close(root_fd)

    def _create(self, root: Path, root_fd: int, parts: Sequence[str]) -> int:
        current = os.dup(root_fd)
        try:
            for index, part in enumerate(parts):
                self.refuse_path("/".join((str(root), *parts[: index + 1])), folder=True)
                try:
                    deeper = open_folder_beneath(current, [part])
                except FileNotFoundError:
                    with suppress(FileExistsError):  # made by somebody else meanwhile: as good
                        os.mkdir(part, 0o755, dir_fd=current)
                    sync_folder(current)
                    deeper = open_folder_beneath(current, [part])
                os.close(current)
                current = deeper
        except BaseException:
            os.close(current)
            raise
        return current

    def _vetted_folder(self, fd: int, root: Path, parts: Sequence[str]) -> str:
        """The real path of the open folder, after the rules were applied to what it is."""
        walked = "/".join((str(root).rstrip("/"), *parts)) or "/"
        actual = path_of(fd) or walked
        for path in {walked, actual}:
            self._refuse(self.rules.why(path, folder=True), path)
        self._root_of(actual, walked)
        closed = self.rules.inodes()
        for up in range(len(parts) + 1):
            info = os.stat("/".join([".."] * up) or ".", dir_fd=fd)
            if (info.st_dev, info.st_ino) in closed:
                self._refuse(Denial("protected", "the suite's own state"), walked)
        return actual

    def _require_regular(self, path: str, info: os.stat_result) -> None:
        if stat.S_ISREG(info.st_mode):
            return
        if stat.S_ISDIR(info.st_mode):
            raise HostError(
                f"{shown(path)} is a folder.", fix="Use directory_list.", code="is_a_folder"
            )
        raise HostError(
            f"{shown(path)} is a {kind_of(info)}, not a regular file.",
            fix="The file tools work on regular files only; use shell_exec if you mean this one.",
            code="not_a_regular_file",
        )

    def _refuse(self, denial: Denial | None, path: str) -> None:
        if denial is None:
            return
        fix = (
            "It belongs to the suite; its own tools and command line are the way to it."
            if denial.kind == "protected"
            else "If the owner wants it open, a pattern in [system] allow of config.toml does that."
        )
        raise HostError(
            f"{shown(path)} is closed to the file tools ({denial.rule}).", fix=fix, code="denied"
        )


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path.home()  # it was removed under us; a relative path has to mean something


def _require_same(info: os.stat_result, before: os.stat_result, name: str) -> None:
    if not os.path.samestat(info, before):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), name)
