"""The projects that this server may look at, and which one a call means."""

from __future__ import annotations

from pathlib import Path

from hostwright_codegraph.store.places import Places
from hostwright_kit.errors import HostError


class Projects:
    """Those that were added, inside the folders that the owner allows."""

    def __init__(
        self,
        places: Places,
        *,
        roots: tuple[Path, ...] = (),
        fixed: tuple[Path, ...] = (),
        protected: tuple[Path, ...] = (),
    ) -> None:
        self.places = places
        here = _working_folder()
        folders = roots or tuple(one for one in (Path.home(), here) if one != Path("/"))
        self.roots = tuple(dict.fromkeys(one.resolve() for one in folders))
        self._fixed = tuple(one.resolve() for one in fixed)
        self._protected = tuple(one.resolve() for one in protected)
        self._here = here.resolve()

    def all(self) -> list[Path]:
        """Every project, those of the configuration first."""
        return list(dict.fromkeys((*self._fixed, *self.places.projects())))

    def allowed(self, spelled: str) -> Path:
        """The folder that a path means, if a project may lie there."""
        try:
            path = (self._here / Path(spelled).expanduser()).resolve()
            is_folder = path.is_dir()
        except (OSError, RuntimeError, ValueError) as error:
            raise HostError(
                f"{_shown(spelled)} is no folder: {error}.",
                fix="Name an existing folder, absolute or from ~.",
                code="not_found",
            ) from error
        if path not in self._fixed and not any(map(path.is_relative_to, self.roots)):
            folders = ", ".join(map(str, self.roots)) or "none"
            raise HostError(
                f"{_shown(spelled)} is outside the folders that projects may lie in ({folders}).",
                fix="Name a folder inside one of them, or let the owner add one to "
                "[codegraph] roots.",
                code="outside_roots",
            )
        if any(path.is_relative_to(one) for one in self._protected):
            raise HostError(
                f"{_shown(spelled)} belongs to the suite itself.",
                fix="Name a folder with code of yours.",
                code="denied",
            )
        if not is_folder:
            raise HostError(
                f"{_shown(spelled)} is no folder.",
                fix="Name an existing folder; a project is a folder with code.",
                code="not_found",
            )
        return path

    def meant(self, spelled: str | None) -> Path:
        """The project that a call names: by path, by its folder's name, or the only one."""
        known = self.all()
        if spelled is None:
            around = [one for one in known if self._here.is_relative_to(one)]
            if around:
                return max(around, key=lambda one: len(one.parts))
            if len(known) == 1:
                return known[0]
            raise self._unclear("Which project is meant is not clear", known)
        named = [one for one in known if spelled in (str(one), one.name)]
        if len(named) == 1:
            return named[0]
        if not named:
            try:
                path = (self._here / Path(spelled).expanduser()).resolve()
            except (OSError, RuntimeError, ValueError):
                path = None
            if path in known:
                return path
        raise self._unclear(f"{_shown(spelled)} names no project", known)

    def _unclear(self, what: str, known: list[Path]) -> HostError:
        if not known:
            return HostError(
                "There is no project yet.",
                fix="Add one: codegraph_index with action add and the path of its folder.",
                code="no_project",
            )
        listed = ", ".join(map(str, known[:10]))
        return HostError(
            f"{what}; there are: {listed}.",
            fix="Pass project with one of these, or add another with codegraph_index.",
            code="no_such_project",
        )


def _shown(path: str) -> str:
    return repr(path if len(path) <= 200 else f"{path[:200]}…")


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path.home()  # it was removed under us
