# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The backend vm: a kernel of its own in QEMU, which itself runs without privileges in a sandbox of bubblewrap's.

Whoever breaks out of the guest's kernel, and then out of QEMU, is an unprivileged process that sees what the guest
was given and QEMU's own files, and nothing else of the host.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from .. import files, guest, kvm, procs, qmp, seccomp, toolchain
from ..commands import Completed, Invocation
from ..errors import ConflictError, SandboxError, shown
from ..grants import READ_ONLY, Bind
from ..guest_agent import Agent
from ..host import Account, Host, Problem, missing
from ..instance import launch_folder
from ..privileged import Handler
from ..procs import Process, Usage
from ..spec import VM_OPTIONS, Spec
from ..toolchain import Toolchain
from . import bubblewrap
from .base import Command, Job, Running, check_mounts, ordered

OWN_SCREEN = True
_ARGS, _STATUS, _GATE, _FILTER, _JOB, _FILES = 3, 4, 5, 6, 7, 8
_PROGRAM = "qemu-system-x86_64"
_OWN_FILES = "vm"  # in the launch folder: QEMU's sockets, and what it writes
# Where things are inside QEMU's own sandbox.
_INSIDE, _GUEST, _WORK, _TOOLS = "/run/qemu", "/guest", f"/{guest.WORK}", f"/{guest.TOOLS}"
_GUEST_FILES = ("kernel", "initrd")
_NEEDED_INSIDE = {"qemu-ga": "qemu-guest-agent", "setpriv": "util-linux", "setsid": "util-linux", "env": "coreutils"}
_XORG = ("/usr/lib/xorg/Xorg", "/usr/libexec/Xorg", "/usr/bin/Xorg")
_NOT_SHARED = ("x11", "wayland", "audio", "gpu", "dbus", "keyring", "ssh_agent", "nix")
_OF_MEMORY = ("/tmp", "/var/tmp")
_STATUS_LIMIT = 65536  # bytes
_LOG_LIMIT = 1 << 20  # bytes
_FRAME_LIMIT = 256 << 20  # bytes
_GATE_SECONDS = 20.0
_BOOT_SECONDS = 120.0  # an emulated guest takes about 4 on a processor of its own
_END_SECONDS = 2.0  # for the guest to go down once its agent has ended, and for QEMU to quit
_STEP = 0.01
# Without what a guest that is put together from shares has no use for.
_MACHINE = "q35,sata=off,smbus=off,usb=off,hpet=off,i8042=off,smm=off,vmport=off,graphics=off"
_KERNEL_WORDS = "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests 8250.nr_uarts=1 apparmor=0 audit=0"
# An emulated processor has none of the faults that these work around, and pays for it at each system call.
_KERNEL_WORDS_EMULATED = "mitigations=off tsc=reliable no_timer_check"
_PANIC, _NO_MEMORY = "Kernel panic - not syncing: ", "Out of memory: Killed process "


def problems(host: Host, spec: Spec) -> list[Problem]:
    """Why no virtual machine can run on this host, or not as asked."""
    machine = os.uname().machine
    if machine != "x86_64":
        return [Problem(f"The backend vm is made for x86_64, and this is {machine}.", "Use another backend.")]
    found = bubblewrap.problems(host, spec)
    if host.find(_PROGRAM) is None:
        found.append(missing(_PROGRAM))
    if spec.glx:
        found.append(Problem("glx has no effect in a virtual machine, whose screen is its own.", "Leave it out."))
    tools, unusable = _toolchain(spec)
    folder = _guest_folder(spec, tools)
    if not all(os.access(f"{folder}/{name}", os.R_OK) for name in _GUEST_FILES):
        found.append(
            Problem(f"{shown(folder)} has no kernel and initrd for a guest.", "Make them (make guest, as root).")
        )
    if spec.vm["accel"] == "kvm":
        trouble = _kvm_trouble()
        if trouble is not None:
            found.append(Problem(f"KVM does not work: {trouble}.", _kvm_hint()))
    return [*found, *_grant_problems(spec), *unusable]


def _guest_folder(spec: Spec, tools: Toolchain | None) -> str:
    """Where the kernel is: the toolchain's own, where it brings one and no other is named."""
    folder = str(spec.vm["guest"])
    own = tools.guest if tools is not None and folder == VM_OPTIONS["guest"].default else None
    return own or folder


def _kvm_hint() -> str:
    if not os.path.exists(kvm.DEVICE):
        return "As root: modprobe kvm_intel (or kvm_amd), with virtualization switched on in the firmware."
    if not os.access(kvm.DEVICE, os.R_OK | os.W_OK):
        return "As root: usermod -a -G kvm ACCOUNT, then log in anew."
    return "Use accel: tcg, which needs no KVM, or a host that gives its guests virtualization of their own."


def _grant_problems(spec: Spec) -> Iterator[Problem]:
    for name in _NOT_SHARED:
        if spec.granted(name):
            yield Problem(
                f"grants.{name} cannot be given to a virtual machine, which reaches no socket or device of the host.",
                "Take the grant away, or use the backend bubblewrap.",
            )


def _toolchain(spec: Spec) -> tuple[Toolchain | None, list[Problem]]:
    """The programs for the guest, and why it cannot run with them."""
    try:
        tools = toolchain.find(spec)
    except SandboxError as error:
        return None, [Problem(error.what, error.hint)]
    lacking = sorted({package for name, package in _NEEDED_INSIDE.items() if _program(tools, name) is None})
    if not lacking:
        return tools, []
    what = f"The programs for the guest ({tools.kind}) lack what runs it: {', '.join(lacking)}."
    return tools, [Problem(what, f"Install {' '.join(lacking)} there.")]


def _program(tools: Toolchain, name: str) -> str | None:
    """Where a program is inside, or None."""
    for folder in guest.programs_path(tools.path).split(":"):
        if os.access(f"{tools.root}{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    return None


def accelerator(spec: Spec) -> tuple[str, str]:
    """`kvm` or `tcg`, and where it is not kvm though that was not ruled out, why not."""
    wanted = spec.vm["accel"]
    trouble = None if wanted == "tcg" else _kvm_trouble()
    return ("tcg" if wanted == "tcg" or (wanted == "auto" and trouble) else "kvm"), trouble or ""


def _kvm_trouble() -> str | None:
    return _kvm_trouble_in(int(time.monotonic() // 60))


@functools.lru_cache(maxsize=1)
def _kvm_trouble_in(minute: int) -> str | None:
    """Tried once a minute at most: a start asks more than once, and a KVM that does not work takes its time to show."""
    return kvm.trouble()


def check(spec: Spec, owner: Account) -> None:
    """Whatever the account can use, it can use here."""


def handlers(owner: Account, trusted: bool) -> Mapping[str, Handler]:
    """Nothing of it needs root."""
    return {}


def command(host: Host, spec: Spec, argv: Sequence[str], files: int) -> Command:
    """bwrap with QEMU in it; no path of a user's and no secret is in either's argv."""
    calls = (_FILTER,) if seccomp.program(os.uname().machine) is not None else ()
    program = os.path.realpath(host.need(_PROGRAM))
    return Command(
        (host.need("bwrap"), "--args", str(_ARGS), "--", program, *_qemu_options(spec)),
        (_ARGS, *calls, _JOB, _FILES),
        {_STATUS: "status"},
        {_GATE: "gate"},
        resizes=False,
    )


def _qemu_options(spec: Spec) -> Iterator[str]:
    accel = accelerator(spec)[0]
    words = f"{_KERNEL_WORDS} {_KERNEL_WORDS_EMULATED}" if accel == "tcg" else _KERNEL_WORDS
    yield from ("-nodefaults", "-no-user-config", "-nographic", "-no-reboot")
    yield from ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
    yield from ("-machine", _MACHINE, "-accel", accel, "-cpu", "host" if accel == "kvm" else "max")
    yield from ("-m", f"{spec.vm['memory']}M", "-smp", str(spec.vm["cpus"]))
    kernel, initrd = (f"{_GUEST}/{name}" for name in _GUEST_FILES)
    yield from ("-kernel", kernel, "-initrd", initrd, "-append", words)
    yield from ("-chardev", f"file,id=log,path={_INSIDE}/log", "-serial", "chardev:log")
    yield from ("-chardev", f"socket,id=qmp,path={_INSIDE}/qmp,server=on,wait=off", "-mon", "qmp,mode=control")
    yield from ("-device", "virtio-serial-pci,max_ports=8")
    yield from ("-chardev", "stdio,id=console,signal=off", "-device", "virtconsole,nr=0,chardev=console")
    ports = (
        (guest.REPORT_PORT, f"file,id=report,path={_INSIDE}/report"),
        (guest.AGENT_PORT, f"socket,id=agent,path={_INSIDE}/agent,server=on,wait=off"),
        (guest.CONTROL_PORT, f"pipe,id=control,path={_INSIDE}/control"),
    )
    for number, chardev in ports:
        name = chardev.split("id=")[1].split(",")[0]
        yield from ("-chardev", chardev, "-device", f"virtserialport,nr={number},chardev={name},name={name}")
    for name, more in ((guest.WORK, ""), (guest.TOOLS, ",readonly=on")):
        yield from ("-fsdev", f"local,id={name},path=/{name},security_model=none,multidevs=remap{more}")
        yield from ("-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}")
    if spec.network:
        yield from ("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile=")
    else:
        yield from ("-nic", "none")
    if spec.granted("display"):
        width, height = spec.screen_size()
        memory = 1 << max(24, (width * height * 4 - 1).bit_length())
        yield from ("-device", f"bochs-display,edid=on,xres={width},yres={height},vgamem={memory}")


def contents(job: Job) -> dict[int, bytes]:
    """The options, the filter of system calls, what the guest is told, and its files.

    Makes the folder for QEMU's sockets, too, which must be there before it starts.
    """
    os.mkdir(f"{job.folder}/{_OWN_FILES}", 0o700)
    os.mkfifo(f"{job.folder}/{_OWN_FILES}/control", 0o600)
    task = _task(job)
    options = [*_options(job)]
    for number, name in ((_JOB, guest.JOB), (_FILES, guest.FILES)):
        options += ["--perms", "0600", "--file", str(number), f"{_WORK}/{name}"]
    options += ["--remount-ro", "/", "--json-status-fd", str(_STATUS), "--block-fd", str(_GATE)]
    found = {_JOB: guest.script(task), _FILES: guest.archive(task)}
    calls = seccomp.program(os.uname().machine)
    if calls is not None:
        options += ["--seccomp", str(_FILTER)]
        found = {_FILTER: calls, **found}
    return {_ARGS: b"".join(option.encode() + b"\0" for option in options), **found}


def _task(job: Job) -> guest.Task:
    shared = _shared(job)
    places = (guest.Place(path, bind.target, os.path.isdir(bind.source)) for path, bind in shared)
    screen = _x_server(job.toolchain) if job.spec.granted("display") else None
    return guest.Task(
        name=job.name,
        owner=_guest_account(job.owner),
        places=tuple(places),
        files=job.files,
        links=job.toolchain.links,
        argv=job.argv,
        env=job.env,
        cwd=job.spec.project_dir,
        shell=job.toolchain.shell,
        path=job.toolchain.path,
        network=job.spec.network,
        setpriv=_program(job.toolchain, "setpriv") or "setpriv",
        guest_agent=_program(job.toolchain, "qemu-ga") or "qemu-ga",
        screen=screen,
    )


def own_grants(spec: Spec, toolchain: Toolchain) -> tuple[str, ...]:
    """A screen, where its programs have what draws on it."""
    return ("display",) if _x_server(toolchain) is not None else ()


def _x_server(tools: Toolchain) -> str | None:
    """The X server that the guest can run, or None."""
    found = next((path for path in _XORG if os.path.exists(f"{tools.root}{path}")), None)
    return found or _program(tools, "Xorg")


def _guest_account(owner: Account) -> guest.Account:
    return guest.Account(owner.uid, owner.gid, owner.home)


def _shared(job: Job) -> list[tuple[str, Bind]]:
    """Each bind with the path that it has both in QEMU's sandbox and, where the shares are mounted, in the guest.

    A share is named by number: no path of a user's has to fit QEMU's or the guest's rules for names.
    """
    programs = set(job.toolchain.binds)
    found = []
    # A share takes no socket, so that the guest has a /tmp of its own unless the user mounts one.
    binds = (bind for bind in job.binds if bind.checked or bind.target not in _OF_MEMORY)
    for number, bind in enumerate(ordered(tuple(binds))):
        is_program = bind in programs and bind.mode == READ_ONLY
        found.append((f"{_TOOLS if is_program else _WORK}/{number}", bind))
    return found


def _options(job: Job) -> Iterator[str]:
    yield from ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    if not job.spec.network:
        yield "--unshare-net"
    yield from ("--die-with-parent", "--cap-drop", "ALL", "--hostname", job.name, "--clearenv")
    yield from ("--proc", "/proc", "--dev", "/dev")
    if accelerator(job.spec)[0] == "kvm":
        yield from ("--dev-bind", kvm.DEVICE, kvm.DEVICE)
    yield from _system()
    yield from ("--ro-bind", _guest_folder(job.spec, job.toolchain), _GUEST)
    yield from ("--bind", f"{job.folder}/{_OWN_FILES}", _INSIDE)
    yield from ("--dir", _TOOLS, "--dir", _WORK)
    for path, bind in _shared(job):
        yield from ("--ro-bind" if bind.mode == READ_ONLY else "--bind", bind.source, path)
    for path, is_folder in _masks(job):
        yield from ("--tmpfs", path) if is_folder else ("--ro-bind", "/dev/null", path)


def _system() -> Iterator[str]:
    """What of the host QEMU itself needs: libraries, firmware, and where names are asked for."""
    for path in ("/usr", "/nix/store", "/etc/ld.so.cache"):
        if os.path.exists(path):
            yield from ("--ro-bind", path, path)
    for path in ("/lib", "/lib64", "/lib32", "/libx32", "/bin"):
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)
    resolver = os.path.realpath(guest.RESOLVER)
    if os.path.exists(resolver):
        yield from ("--ro-bind", resolver, guest.RESOLVER)


def _masks(job: Job) -> Iterator[tuple[str, bool]]:
    """What is to be hidden of the programs, by its path in QEMU's sandbox."""
    for target, is_folder in job.masks:
        for path, bind in _shared(job):
            if bind.mode == READ_ONLY and target.startswith(f"{bind.target}/"):
                yield f"{path}{target.removeprefix(bind.target)}", is_folder


def settle(host: Host, job: Job, pane: Process, release: Callable[[], None]) -> Process:
    """Let QEMU go once its sandbox is what was meant, and wait until the agent runs in the guest."""
    init = procs.until(lambda: _ready(job, pane), _GATE_SECONDS)
    if not isinstance(init, Process):
        raise SandboxError("bubblewrap could not make the sandbox that QEMU runs in.")
    check_mounts(init, ((bind, path) for path, bind in _shared(job)))
    release()
    procs.until(lambda: _begun(job.folder) or not pane.alive(), _BOOT_SECONDS, _STEP)
    report = _report(job.folder)
    if report.missing:
        raise SandboxError(
            f"The agent's program {shown(job.argv[0])} could not be executed in the sandbox.",
            "Give one that is there: of the system's own, or in the project.",
        )
    if report.pid is None:
        raise SandboxError(_never_began(job.folder, pane))
    return init


def _ready(job: Job, pane: Process) -> Process | bool:
    """bwrap's first process, once it stands at the gate in its finished root; True when all is over."""
    pid = bubblewrap.status(job.folder).get("child-pid")
    init = procs.identify(pid) if isinstance(pid, int) else None
    if init is not None and _root_stands(init):
        return init
    return not pane.alive()


def _root_stands(init: Process) -> bool:
    root = f"/proc/{init.pid}/root"
    return os.path.lexists(f"{root}{_WORK}/{guest.FILES}") and os.path.lexists(f"{root}{_GUEST}/kernel")


def _begun(folder: str) -> bool:
    report = _report(folder)
    return report.pid is not None or report.failure is not None or report.missing


def _never_began(folder: str, pane: Process) -> str:
    why = _trouble(folder)
    if why is not None:
        return why
    if pane.alive():
        return f"The guest has not come up within {_BOOT_SECONDS:.0f} seconds."
    return "The virtual machine ended before its agent began."


def why_dead(folder: str) -> str | None:
    """What the guest or its end says about why it ended, in one line; None where it was the agent's own end.

    folder: the launch folder.
    """
    trouble = _trouble(folder)
    if trouble is None and _report(folder).exit_code is None and "exit-code" not in bubblewrap.status(folder):
        return "The terminal that the virtual machine ran in was ended."
    return trouble


def _trouble(folder: str) -> str | None:
    report = _report(folder)
    if report.failure is not None:
        return f"The guest could not be put together: {report.failure}."
    log = _content(f"{folder}/{_OWN_FILES}/log", _LOG_LIMIT).decode("utf-8", "replace")
    for mark, words in (
        (_PANIC, "The guest's kernel panicked:"),
        (_NO_MEMORY, "The guest ran out of memory: it killed"),
    ):
        if mark in log:
            line = log.rpartition(mark)[2].splitlines()[0][:200].rstrip(".")
            return f"{words} {''.join(c if c.isprintable() else '?' for c in line)}."
    code = bubblewrap.status(folder).get("exit-code")
    if report.exit_code is None and isinstance(code, int) and code != 0:
        how = f"by signal {code - 128}" if code > 128 else f"with the exit code {code}"
        return f"QEMU ended {how}."
    return None


def exit_code(folder: str) -> int | None:
    """What the agent ended with, as the guest has reported it."""
    return _report(folder).exit_code


def agent_pid(running: Running) -> int | None:
    """The pid that the agent has in the guest."""
    return _report(_launch(running)).pid


def usage(running: Running) -> Usage:
    """What QEMU uses, with all that it runs."""
    return procs.usages([running.init.pid])[running.init.pid]


def execute(host: Host, running: Running, invocation: Invocation) -> Completed:
    """Run a command beside the agent: the guest's own root starts it, as the owner and without any privilege."""
    lost = secrets.token_hex(16)
    argv = guest.beside(
        _guest_account(running.owner), invocation.shell, invocation.argv, invocation.env, invocation.cwd, lost
    )
    agent = _agent(running)
    done = agent.run(argv, invocation.shell, invocation.stdin, invocation.timeout)
    if done.code == guest.LOST and done.stderr == lost.encode():
        raise SandboxError(f"The sandbox could not be entered: {shown(invocation.cwd)} is no directory in it.")
    return done


def interact(host: Host, running: Running, invocation: Invocation, terminal: int | None) -> int:
    """A guest has one terminal, which is its agent's."""
    raise SandboxError(
        f"Sandbox {shown(running.name)} is a virtual machine, which has no second terminal.",
        "Attach to it, or run a command in it.",
    )


def exists(host: Host, running: Running, path: str) -> bool:
    """Whether a path exists, as seen from inside."""
    shell = toolchain.find(running.spec).shell
    looks = [shell, "-p", "-c", '[ -e "$0" ] || [ -L "$0" ]', path]
    env = {"PATH": "/usr/bin:/bin"}
    argv = guest.beside(_guest_account(running.owner), shell, looks, env, "/", "")
    return _agent(running).run(argv, shell).code == 0


def _agent(running: Running) -> Agent:
    folder = _launch(running)
    if running.instance is None or not running.instance.pane.alive():
        raise SandboxError(f"Sandbox {shown(running.name)} could not be entered: it ended.")
    return Agent(f"{folder}/{_OWN_FILES}")


def end(host: Host, running: Running, grace: float) -> None:
    """Have the guest end its agent, write what it holds and switch itself off; else have QEMU quit; else kill it."""
    instance = running.instance
    if instance is None or not instance.pane.alive():
        return
    for word, seconds in ((guest.END, grace), (guest.KILL, _END_SECONDS)):
        if grace > 0 and _tell(running, word) and instance.pane.wait(seconds):
            return
    with contextlib.suppress(SandboxError):
        qmp.command(f"{_launch(running)}/{_OWN_FILES}", "quit", seconds=_END_SECONDS)
    if not instance.pane.wait(_END_SECONDS):
        instance.init.end(0)
        instance.pane.wait(_END_SECONDS)


def _tell(running: Running, word: bytes) -> bool:
    """Say something to the guest's first program; whether that could be said."""
    try:
        pipe = os.open(f"{_launch(running)}/{_OWN_FILES}/control", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return os.write(pipe, word + b"\n") > 0
    except OSError:
        return False
    finally:
        os.close(pipe)


def monitor(folder: str) -> str:
    """QEMU's own socket (QMP), in a launch folder."""
    return f"{folder}/{_OWN_FILES}/qmp"


def frame(running: Running) -> bytes:
    """What its screen shows, as PNG. Raises SandboxError where it has none, or QEMU does not draw it."""
    if not running.spec.granted("display"):
        raise SandboxError(f"Sandbox {shown(running.name)} has no screen.", "Give it one (grants.display).")
    name = f"screen-{secrets.token_hex(8)}.png"
    folder = f"{_launch(running)}/{_OWN_FILES}"
    try:
        qmp.command(folder, "screendump", {"filename": f"{_INSIDE}/{name}", "format": "png"})
        return _content(f"{folder}/{name}", _FRAME_LIMIT)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(f"{folder}/{name}")


def _launch(running: Running) -> str:
    instance = running.instance
    if instance is None:
        raise ConflictError(f"Sandbox {shown(running.name)} is not running.", "Start it first (state: started).")
    return launch_folder(instance.folder)


def _report(folder: str) -> guest.Report:
    return guest.report(_content(f"{folder}/{_OWN_FILES}/report", _STATUS_LIMIT))


def _content(path: str, limit: int) -> bytes:
    file = files.open_regular(path, own=3)
    if file is None:
        return b""
    with file:
        return file.read(limit)
