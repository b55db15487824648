"""Attempts on the file system. World: secret, marker, shown, shared, masked, state, home_key."""

# pyright: basic
from __future__ import annotations

import ctypes
import os
import stat

from attempt import attempt, libc, number, syscall, world  # pyright: ignore[reportMissingImports]


def read(path):
    with open(path) as file:
        text = file.read()
    return text if world("marker") in text else None


def into_shared(name):
    return os.path.join(world("shared"), name)


@attempt("anyone")
def read_by_its_path():
    return read(world("secret"))


@attempt("anyone")
def read_through_own_symlink():
    os.symlink(world("secret"), into_shared("own-link"))
    return read(into_shared("own-link"))


@attempt("anyone")
def read_through_symlink_that_was_there():
    return read(os.path.join(world("shown"), "link"))


@attempt("anyone")
def read_through_symlinked_folder():
    os.symlink(os.path.dirname(world("secret")), into_shared("own-folder"))
    return read(into_shared("own-folder") + "/" + os.path.basename(world("secret")))


@attempt("anyone")
def read_by_climbing():
    return read(world("shared") + "/../" * 12 + world("secret"))


@attempt("anyone")
def read_through_proc_self_root():
    return read("/proc/self/root" + world("secret"))


@attempt()
def read_through_first_process():
    return read("/proc/1/root" + world("secret"))


@attempt("anyone")
def read_through_proc_cwd():
    os.chdir(world("shared"))
    return read("/proc/self/cwd/../private/secret")


@attempt()
def read_through_inherited_descriptors():
    for name in os.listdir("/proc/self/fd"):
        path = os.readlink("/proc/self/fd/" + name)
        if int(name) > 2 and ("doorstep" in path or path.startswith(("/root", world("state")))):
            return path
    return None


@attempt("anyone")
def write_what_is_only_shown():
    with open(os.path.join(world("shown"), "file"), "a") as file:
        file.write("x")
    return "written"


@attempt("anyone")
def write_through_hard_link():
    """A link into the folder that may be written would make the file writable."""
    os.link(os.path.join(world("shown"), "file"), into_shared("hard"))
    with open(into_shared("hard"), "a") as file:
        file.write("x")
    return "written"


@attempt("anyone")
def hard_link_to_the_secret():
    os.link(world("secret"), into_shared("hard-secret"))
    return read(into_shared("hard-secret"))


@attempt("anyone")
def rename_out_of_the_shared_folder():
    path = into_shared("to-move")
    open(path, "w").close()
    os.rename(path, os.path.join(os.path.dirname(world("secret")), "moved"))
    return "moved"


@attempt("anyone")
def change_mode_of_what_is_shown():
    os.chmod(os.path.join(world("shown"), "file"), 0o600)
    return "changed"


@attempt("anyone")
def remove_what_is_shown():
    os.rename(os.path.join(world("shown"), "other"), os.path.join(world("shown"), "gone"))
    return "removed"


@attempt("anyone")
def read_a_state_folder_inside_a_shown_one():
    return read(os.path.join(world("masked"), "key"))


@attempt("anyone")
def read_a_key_inside_a_shown_home():
    return read(world("home_key"))


def mount(source, target, kind, flags):
    if libc.mount(source, target.encode(), kind, ctypes.c_ulong(flags), None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return "mounted"


@attempt()
def mount_a_tmpfs():
    return mount(b"none", "/tmp", b"tmpfs", 0)


@attempt()
def mount_proc():
    return mount(b"proc", "/tmp", b"proc", 0)


@attempt()
def mount_sysfs():
    return mount(b"sysfs", "/tmp", b"sysfs", 0)


@attempt()
def mount_control_groups():
    return mount(b"none", "/tmp", b"cgroup2", 0)


@attempt()
def mount_by_binding():
    return mount(b"/", "/tmp", None, 4096)


@attempt()
def remount_writable():
    return mount(None, world("shown"), None, 4096 | 32)


@attempt()
def unmount_what_hides():
    if libc.umount2(world("masked").encode(), 2):
        raise OSError(ctypes.get_errno(), "umount2")
    return "unmounted"


@attempt()
def unmount_the_proc_cover():
    if libc.umount2(b"/proc/sys", 2):
        raise OSError(ctypes.get_errno(), "umount2")
    return "unmounted"


@attempt()
def open_a_file_system():
    return syscall(430, b"tmpfs", 0)


@attempt()
def clone_a_mount_tree():
    return syscall(428, -100, b"/", 1)


@attempt()
def move_a_mount():
    return "moved" if syscall(429, -100, b"/tmp", -100, b"/dev/shm", 0) == 0 else None


@attempt()
def set_mount_attributes():
    attributes = (ctypes.c_uint64 * 4)(0, 1, 0, 0)
    size = ctypes.sizeof(attributes)
    return "set" if syscall(442, -100, world("shown").encode(), 0, attributes, size) == 0 else None


@attempt()
def pivot_the_root():
    return "pivoted" if syscall(number(155, 41), b"/tmp", b"/tmp") == 0 else None


@attempt("root")
def change_the_root():
    os.chroot("/tmp")
    return "changed"


@attempt("root")
def make_a_block_device():
    os.mknod(into_shared("disk"), 0o600 | stat.S_IFBLK, os.makedev(8, 0))
    return "made"


@attempt("root")
def make_a_character_device():
    os.mknod(into_shared("memory"), 0o600 | stat.S_IFCHR, os.makedev(1, 1))
    return "made"


@attempt("anyone")
def make_a_socket_file():
    os.mknod(into_shared("socket"), 0o600 | stat.S_IFSOCK)
    return "made"


@attempt()
def open_the_machines_devices():
    for name in ("mem", "kmsg", "fuse", "net/tun", "vda", "sda", "loop-control", "kvm", "vsock"):
        try:
            os.close(os.open("/dev/" + name, os.O_RDONLY))
        except OSError:
            continue
        return name
    return None


def set_id(make):
    """Whether a file got a set-ID bit that would count outside."""
    path = into_shared(make.__name__)
    open(path, "w").close()
    make(path)
    return oct(os.stat(path).st_mode) if os.stat(path).st_mode & 0o6000 else None


@attempt("anyone")
def set_user_id_with_chmod():
    return set_id(lambda path: os.chmod(path, 0o4755))


@attempt("anyone")
def set_group_id_with_fchmod():
    def make(path):
        file = os.open(path, os.O_RDWR)
        os.fchmod(file, 0o2755)

    return set_id(make)


@attempt("anyone")
def set_user_id_when_creating():
    path = into_shared("created")
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o4755))
    return oct(os.stat(path).st_mode) if os.stat(path).st_mode & 0o6000 else None


@attempt()
def set_user_id_with_fchmodat2():
    def make(path):
        syscall(452, -100, path.encode(), 0o4755, 0)

    return set_id(make)


@attempt("anyone")
def set_group_id_on_a_folder():
    path = into_shared("folder")
    os.mkdir(path)
    os.chmod(path, 0o2777)
    return oct(os.stat(path).st_mode) if os.stat(path).st_mode & 0o2000 else None


@attempt("root")
def set_a_file_capability():
    path = into_shared("capable")
    open(path, "w").close()
    # vfs_cap_data, version 2, effective, cap_sys_admin
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200002000" + "00" * 12))
    return "set"


@attempt()
def become_root_through_a_set_user_id_program():
    with open("/proc/self/mountinfo") as file:
        lines = [line.split() for line in file]
    # Fields 4 and 5: mount point and its options.
    bad = [fields[4] for fields in lines if "nosuid" not in fields[5]]
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return bad if bad and status["NoNewPrivs"].strip() != "1" else None


@attempt("root")
def open_by_file_handle():
    handle = (ctypes.c_ubyte * 136)()
    handle[0] = 128
    mount_id = ctypes.c_int()
    syscall(number(303, 264), -100, world("shown").encode(), handle, ctypes.byref(mount_id), 0)
    folder = os.open(world("shown"), os.O_RDONLY)
    return "opened %d" % syscall(number(304, 265), folder, handle, 0)


@attempt()
def open_by_forged_file_handle():
    """Inode 2 is the root of most file systems, whatever is mounted of them."""
    handle = (ctypes.c_ubyte * 16)(8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0)
    folder = os.open(world("shown"), os.O_RDONLY)
    return "opened %d" % syscall(number(304, 265), folder, handle, 0)


@attempt()
def write_a_kernel_setting():
    for name in ("kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory"):
        path = "/proc/sys/" + name
        try:
            with open(path, "r+") as file:
                text = file.read()
                file.seek(0)
                file.write(text)
        except OSError:
            continue
        return path
    return None


@attempt()
def press_a_system_request_key():
    with open("/proc/sysrq-trigger", "w") as file:
        file.write("h")
    return "pressed"


@attempt()
def read_kernel_memory():
    for name in ("kcore", "kmsg", "kallsyms", "slabinfo", "vmallocinfo", "keys", "kpageflags"):
        try:
            with open("/proc/" + name, "rb") as file:
                if file.read(16):
                    return name
        except OSError:
            continue
    return None


@attempt()
def find_the_systems_tree():
    return os.listdir("/sys") if os.path.exists("/sys") else None


@attempt()
def write_a_file_without_end():
    with open(into_shared("large"), "wb") as file:
        file.truncate(world("file_mb") * 2**20 + 1)
    return "written"


@attempt()
def fill_the_scratch_folder():
    with open("/tmp/large", "wb") as file:
        for _ in range(world("scratch_mb") + 1):
            file.write(b"x" * 2**20)
            file.flush()
    return "filled"
