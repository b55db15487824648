"""Packages, generations, users, hardware, services: what is there, from the real sources."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostwright_kit.errors import HostError
from hostwright_system.host.accounts import UserRow, user_rows
from hostwright_system.host.generations import GenerationRow, generation_rows
from hostwright_system.host.hardware import HardwareRow, hardware_rows
from hostwright_system.host.packages import (
    PackageRow,
    package_rows,
    parse_apk,
    parse_pacman,
    parse_paragraphs,
    parse_rpm,
)
from hostwright_system.host.query import QueryPage, queryable_fields, system_query
from hostwright_system.host.services import ServiceRow

# Packages


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="no dpkg here")
def test_dpkg_is_read_as_dpkg_itself_reads_it() -> None:
    layout = "${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\t${Installed-Size}\n"
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", layout], capture_output=True, text=True, check=True
    )
    theirs = {
        tuple(line.split("\t")[1:])
        for line in done.stdout.splitlines()
        if line.startswith("installed\t")
    }
    rows, notes = package_rows()
    ours = {
        (r.name, r.version, r.architecture, str((r.installed_size_bytes or 0) // 1024))
        for r in rows
        if r.manager == "dpkg"
    }
    assert ours == theirs
    assert f"dpkg ({len(theirs)})" in notes[0]


async def test_packages_are_asked_page_by_page() -> None:
    page = await system_query("packages", filters={"name": "libc*"}, limit=2)
    assert page.total >= 1
    assert all(isinstance(r, PackageRow) and r.name.startswith("libc") for r in page.rows)


values = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Zs"]))
names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,10}", fullmatch=True)


@given(
    st.lists(
        st.dictionaries(names.map(str.lower), st.lists(values, min_size=1), min_size=1), max_size=5
    )
)
def test_paragraphs_are_read_back(paragraphs: list[dict[str, list[str]]]) -> None:
    content = "\n\n".join(
        "\n".join(
            f"{name.title()}: {lines[0]}\n" + "".join(f" .{line}\n" for line in lines[1:])
            for name, lines in fields.items()
        ).replace("\n\n", "\n")
        for fields in paragraphs
    )
    expected = [{name: "\n.".join(lines) for name, lines in f.items()} for f in paragraphs]
    assert list(parse_paragraphs(content)) == expected


@given(st.text())
def test_no_text_breaks_the_package_parsers(content: str) -> None:
    for fields in parse_paragraphs(content):
        assert fields
    assert all(r.manager == "apk" for r in parse_apk(content))
    assert all(r.manager == "rpm" for r in parse_rpm(content))
    row = parse_pacman(content)
    assert row is None or row.manager == "pacman"


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_only_what_is_installed_counts(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "var/lib/dpkg/status": (
                "Package: whole\nStatus: install ok installed\nVersion: 1:2.0-1\n"
                "Architecture: amd64\nInstalled-Size: 10\nDescription: a thing\n more of it\n\n"
                "Package: half\nStatus: install reinstreq half-installed\nVersion: 1\n\n"
                "Package: gone\nStatus: deinstall ok config-files\nVersion: 3\n\n"
                "Package: held\nStatus: hold ok installed\nVersion: 4\n"
            ),
            "var/lib/dpkg/status.d/tzdata": "Package: tzdata\nVersion: 2025a\n",
            "var/lib/dpkg/status.d/tzdata.md5sums": "abc  usr/share\n",
        },
    )
    rows, notes = package_rows(tmp_path)
    assert {r.name for r in rows} == {"whole", "held", "tzdata"}
    whole = next(r for r in rows if r.name == "whole")
    assert (whole.version, whole.installed_size_bytes, whole.summary) == (
        "1:2.0-1",
        10240,
        "a thing",
    )
    assert notes == ["Read: dpkg (3)."]


def test_other_managers_are_read_and_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "lib/apk/db/installed": (
                "C:Q1abc\nP:musl\nV:1.2.5-r0\nA:x86_64\nI:634880\nT:the libc\nF:lib\nR:ld.so\n\n"
                "P:busybox\nV:1.36\nA:x86_64\nI:1\nT:tools\n"
            ),
            "var/lib/pacman/local/bash-5.2-1/desc": (
                "%NAME%\nbash\n\n%VERSION%\n5.2-1\n\n%ARCH%\nx86_64\n\n%SIZE%\n9000\n\n"
                "%DESC%\nThe shell\n\n%DEPENDS%\nglibc\nreadline\n"
            ),
            "var/lib/pacman/local/ALPM_DB_VERSION": "9\n",
            "opt/homebrew/Cellar/wget/1.24.5/bin/wget": "",
            "opt/homebrew/Cellar/wget/.hidden/x": "",
        },
    )
    rows, notes = package_rows(tmp_path)
    assert {(r.manager, r.name, r.version, r.installed_size_bytes) for r in rows} == {
        ("apk", "musl", "1.2.5-r0", 634880),
        ("apk", "busybox", "1.36", 1),
        ("pacman", "bash", "5.2-1", 9000),
        ("brew", "wget", "1.24.5", None),
    }
    assert notes == ["Read: apk (2), pacman (1), brew (1)."]


def test_rpm_output_is_read() -> None:
    rows = list(
        parse_rpm(
            "bash\t0:5.2.15-5.el9\tx86_64\t8000000\tThe GNU shell\n"
            "vim\t2:9.0-1\tx86_64\t5\tAn\teditor\n"
            "gpg-pubkey\t0:1-1\t(none)\t0\tkey\n"
        )
    )
    assert [(r.name, r.version, r.installed_size_bytes, r.summary) for r in rows] == [
        ("bash", "5.2.15-5.el9", 8000000, "The GNU shell"),
        ("vim", "2:9.0-1", 5, "An\teditor"),
    ]


def test_without_a_package_manager_it_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        package_rows(tmp_path)
    assert caught.value.code == "unsupported"
    assert "dpkg, rpm, apk, pacman, brew" in caught.value.fix


def test_a_database_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"lib/apk/db/installed": "P:musl\nV:1\n"})
    (tmp_path / "var/lib/pacman/local/broken/desc").mkdir(parents=True)
    rows, notes = package_rows(tmp_path)
    assert [r.name for r in rows] == ["musl"]
    assert notes[1].startswith("pacman could not be read")


# Generations


def make_profile(folder: Path, name: str, count: int, current: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        link = folder / f"{name}-{number}-link"
        link.symlink_to(f"/nix/store/{number:032d}-{name}")
        os.utime(link, (number * 1000, number * 1000), follow_symlinks=False)
    (folder / name).symlink_to(f"{name}-{current}-link")


def test_generations_of_all_profiles(tmp_path: Path) -> None:
    make_profile(tmp_path / "nix/var/nix/profiles", "system", 3, current=2)
    make_profile(tmp_path / "nix/var/nix/profiles/per-user/ann", "profile", 1, current=1)
    make_profile(tmp_path / "home/.local/state/nix/profiles", "home-manager", 11, current=11)
    rows, notes = generation_rows(tmp_path, tmp_path / "home")
    assert len(rows) == 15
    system = {r.number: r for r in rows if r.profile.endswith("profiles/system")}
    assert [system[n].current for n in (1, 2, 3)] == [False, True, False]
    assert system[2].created_at == "1970-01-01T00:33:20.000Z"
    assert system[2].store_path.startswith("/nix/store/")
    assert "per-user/ann" in notes[0]


async def test_without_nix_it_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        generation_rows(tmp_path, tmp_path)
    assert caught.value.code == "unsupported"
    assert "NixOS" in caught.value.message


# Users


def test_users_are_those_of_the_account_database() -> None:
    rows, _ = user_rows()
    assert {(r.name, r.uid, r.home) for r in rows} == {
        (a.pw_name, a.pw_uid, a.pw_dir) for a in pwd.getpwall()
    }
    root = next(r for r in rows if r.uid == 0)
    done = subprocess.run(["id", "-Gn", root.name], capture_output=True, text=True, check=True)
    assert set(root.groups) == set(done.stdout.split())
    assert root.system_account


async def test_users_by_flag() -> None:
    page = await system_query("users", filters={"can_log_in": False}, limit=500)
    assert all(isinstance(r, UserRow) and not r.can_log_in for r in page.rows)


# Hardware


@pytest.mark.skipif(sys.platform != "linux", reason="sysfs")
def test_hardware_of_this_machine() -> None:
    rows, _ = hardware_rows()
    by_class = {r.device_class: r for r in rows}
    assert by_class["memory"].size_bytes == psutil.virtual_memory().total
    assert f"{psutil.cpu_count()} threads" in str(by_class["processor"].detail)
    keys = [(r.device_class, r.id) for r in rows]
    assert len(keys) == len(set(keys))


@pytest.mark.skipif(sys.platform != "linux", reason="sysfs")
def test_devices_as_sysfs_tells_them(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "class/dmi/id/sys_vendor": "ACME\n",
            "class/dmi/id/product_name": "Box 1\n",
            "class/dmi/id/product_serial": "SERIAL-1\n",
            "class/block/sda/size": "2048\n",
            "class/block/sda/queue/rotational": "1\n",
            "class/block/sda/removable": "0\n",
            "class/block/sda/device/model": "Spinner  \n",
            "class/block/sda1/size": "1024\n",
            "class/block/sda1/partition": "1\n",
            "class/block/loop0/size": "0\n",
            "bus/pci/devices/0000:00:02.0/class": "0x030000\n",
            "bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
            "bus/pci/devices/0000:00:02.0/device": "0x1234\n",
            "bus/usb/devices/1-1/idVendor": "046d\n",
            "bus/usb/devices/1-1/idProduct": "c31c\n",
            "bus/usb/devices/1-1/product": "Keyboard\n",
            "bus/usb/devices/1-1:1.0/bInterfaceClass": "03\n",
        },
    )
    rows, _ = hardware_rows(tmp_path)
    found = {(r.device_class, r.id): r for r in rows}
    assert found["disk", "sda"].size_bytes == 2048 * 512
    assert (found["disk", "sda"].name, found["disk", "sda"].detail) == ("Spinner", "rotating")
    assert found["pci", "0000:00:02.0"].name == "display"
    assert found["pci", "0000:00:02.0"].vendor == "8086:1234"
    assert found["usb", "1-1"].name == "Keyboard"
    assert found["machine", "dmi"].vendor == "ACME"
    assert len(found) == 6
    assert not any("SERIAL-1" in r.model_dump_json() for r in rows)


# Services


async def listed() -> list[ServiceRow]:
    states = ("active", "failed", "active")
    return [
        ServiceRow(
            name=f"{name}.service",
            description=None,
            load_state="loaded",
            active_state=state,
            sub_state="running" if state == "active" else "failed",
        )
        for name, state in zip(("b", "a", "c"), states, strict=True)
    ]


async def test_services_come_from_whoever_is_passed_in() -> None:
    page = await system_query("services", list_services=listed)
    assert [r.name for r in page.rows if isinstance(r, ServiceRow)] == [
        "a.service",
        "b.service",
        "c.service",
    ]
    page = await system_query("services", filters={"active_state": "FAILED"}, list_services=listed)
    assert page.total == 1


async def test_services_without_systemd_are_unsupported() -> None:
    with pytest.raises(HostError) as caught:
        await system_query("services")
    assert caught.value.code == "unsupported"


# All kinds together


@pytest.mark.parametrize("kind", sorted(set(queryable_fields()) - {"generations", "services"}))
async def test_every_kind_sorts_by_every_field_it_declares(kind: str) -> None:
    for field, match in queryable_fields()[kind].items():
        if match.endswith("not sortable"):
            continue
        for order in ("asc", "desc"):
            page = await system_query(kind, sort=field, order=order, limit=5)  # pyright: ignore[reportArgumentType]
            assert page.sort == field
            assert page.kind == kind
            assert len(page.rows) == min(5, page.total)


@pytest.mark.parametrize("kind", sorted(set(queryable_fields()) - {"generations", "services"}))
async def test_a_page_survives_the_way_over_json(kind: str) -> None:
    page = await system_query(kind, limit=20)  # pyright: ignore[reportArgumentType]
    again = QueryPage.model_validate_json(page.model_dump_json())
    assert again == page
    assert page.rows == () or type(again.rows[0]) is type(page.rows[0])


def test_row_types_are_told_apart_by_their_fields() -> None:
    for model in (GenerationRow, HardwareRow, PackageRow, ServiceRow, UserRow):
        assert model.model_config.get("extra") == "forbid"
