"""Devices that the kernel sees, from sysfs (Linux: Documentation/ABI/stable/sysfs-*).

No serial numbers or asset tags are read: they identify the machine and nobody needs them here.
Elsewhere than on Linux the processor and the memory are told, and the notes say what is missing.
Blocking.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, Field

from hostwright_system.host import table

DeviceClass = Literal["machine", "processor", "memory", "disk", "network", "pci", "usb"]

# PCI Code and ID Assignment Specification, base classes.
_PCI_CLASSES = {
    0x00: "unclassified",
    0x01: "mass storage",
    0x02: "network",
    0x03: "display",
    0x04: "multimedia",
    0x05: "memory",
    0x06: "bridge",
    0x07: "communication",
    0x08: "system peripheral",
    0x09: "input",
    0x0A: "docking station",
    0x0B: "processor",
    0x0C: "serial bus",
    0x0D: "wireless",
    0x0E: "intelligent i/o",
    0x0F: "satellite",
    0x10: "encryption",
    0x11: "signal processing",
    0x12: "processing accelerator",
    0x13: "non-essential instrumentation",
    0x40: "co-processor",
    0xFF: "unassigned",
}
_SECTOR_BYTES = 512  # the unit of /sys/block/*/size, whatever the device's own sector


class HardwareRow(BaseModel, frozen=True, extra="forbid"):
    """One device."""

    device_class: DeviceClass
    id: str = Field(description="The kernel's name: vda, eth0, 0000:00:1f.2, 1-1, cpu.")
    name: str | None = Field(description="Model or kind, as far as it is known.")
    vendor: str | None = Field(description="Name, or the hexadecimal vendor:device numbers.")
    driver: str | None
    size_bytes: int | None
    detail: str | None


TABLE: table.Table[HardwareRow] = table.Table(
    kind="hardware",
    fields=(
        table.Field("device_class", "choice"),
        table.Field("id", "text"),
        table.Field("name", "text"),
        table.Field("vendor", "text"),
        table.Field("driver", "text"),
        table.Field("size_bytes", "number"),
    ),
    identity=lambda row: f"{row.device_class} {row.id}",
    default_sort="device_class",
)


def hardware_rows(sys_root: Path = Path("/sys")) -> tuple[list[HardwareRow], list[str]]:
    """Every device of the classes above, and notes."""
    rows = [_processor(), _memory()]
    if not sys.platform.startswith("linux"):
        return rows, ["Only processor and memory are read on this system."]
    rows += [
        *_machine(sys_root / "class/dmi/id"),
        *_disks(sys_root / "class/block"),
        *_networks(sys_root / "class/net"),
        *_pci(sys_root / "bus/pci/devices"),
        *_usb(sys_root / "bus/usb/devices"),
    ]
    return rows, []


def _row(
    device_class: DeviceClass,
    identifier: str,
    *,
    name: str | None = None,
    vendor: str | None = None,
    driver: str | None = None,
    size_bytes: int | None = None,
    detail: str | None = None,
) -> HardwareRow:
    return HardwareRow(
        device_class=device_class,
        id=identifier,
        name=name,
        vendor=vendor,
        driver=driver,
        size_bytes=size_bytes,
        detail=detail,
    )


def _processor() -> HardwareRow:
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    threads, cores = psutil.cpu_count(), psutil.cpu_count(logical=False)
    return _row(
        "processor",
        "cpu",
        name=facts.get("model name") or platform.processor() or platform.machine(),
        vendor=facts.get("vendor_id") or facts.get("CPU implementer"),
        detail=f"{platform.machine()}, {threads} threads, {cores or 'unknown'} cores",
    )


def _memory() -> HardwareRow:
    return _row("memory", "ram", size_bytes=psutil.virtual_memory().total)


def _machine(folder: Path) -> Iterator[HardwareRow]:
    vendor, name = _value(folder / "sys_vendor"), _value(folder / "product_name")
    if vendor or name:
        firmware = [_value(folder / f) for f in ("bios_vendor", "bios_version", "bios_date")]
        known = " ".join(f for f in firmware if f)
        yield _row(
            "machine",
            "dmi",
            name=name,
            vendor=vendor,
            detail=f"firmware {known}" if known else None,
        )


def _disks(folder: Path) -> Iterator[HardwareRow]:
    for device in _entries(folder):
        sectors = _value(device / "size")
        if (device / "partition").exists() or not sectors or not sectors.isdecimal():
            continue
        if int(sectors) == 0:  # a loop or card-reader device without a medium
            continue
        rotating = _value(device / "queue/rotational") == "1"
        traits = ["rotating" if rotating else "solid state"]
        traits += ["removable"] if _value(device / "removable") == "1" else []
        traits += ["read-only"] if _value(device / "ro") == "1" else []
        yield _row(
            "disk",
            device.name,
            name=_value(device / "device/model"),
            vendor=_value(device / "device/vendor"),
            driver=_driver(device / "device"),
            size_bytes=int(sectors) * _SECTOR_BYTES,
            detail=", ".join(traits),
        )


def _networks(folder: Path) -> Iterator[HardwareRow]:
    for device in _entries(folder):
        if (device / "device").exists():  # virtual interfaces have none; network_info tells them
            vendor, number = _value(device / "device/vendor"), _value(device / "device/device")
            yield _row(
                "network",
                device.name,
                vendor=_ids(vendor, number),
                driver=_driver(device / "device"),
                detail=_value(device / "address"),
            )


def _pci(folder: Path) -> Iterator[HardwareRow]:
    for device in _entries(folder):
        code = _value(device / "class") or ""
        base = int(code, 16) >> 16 if code.startswith("0x") else None
        yield _row(
            "pci",
            device.name,
            name=None if base is None else _PCI_CLASSES.get(base, f"class {base:#04x}"),
            vendor=_ids(_value(device / "vendor"), _value(device / "device")),
            driver=_driver(device),
        )


def _usb(folder: Path) -> Iterator[HardwareRow]:
    for device in _entries(folder):
        vendor, product = _value(device / "idVendor"), _value(device / "idProduct")
        if vendor and product:  # interfaces of a device have none
            yield _row(
                "usb",
                device.name,
                name=_value(device / "product"),
                vendor=_value(device / "manufacturer") or f"{vendor}:{product}",
                driver=_driver(device),
                detail=f"{vendor}:{product}",
            )


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _value(file: Path) -> str | None:
    """A sysfs attribute; drivers answer with errors of many kinds for what they do not have."""
    try:
        return file.read_bytes()[:512].decode("utf-8", "replace").strip("\0 \n\t") or None
    except OSError:
        return None


def _driver(device: Path) -> str | None:
    link = device / "driver"
    return link.readlink().name if link.is_symlink() else None


def _ids(vendor: str | None, device: str | None) -> str | None:
    return f"{vendor.removeprefix('0x')}:{device.removeprefix('0x')}" if vendor and device else None
