# SPDX-License-Identifier: Apache-2.0
"""The serial port and the virtio console, both ways, over each backend; resizing; what happens without a reader."""
import hashlib
import os
import random
import re
import socket
import stat
import time

import pytest

from vmm import sections

# The line's translations are off, so what is sent is what arrives, and in large pieces; a line that nobody has open forgets
# that. A here-document would end at an end of file.
ECHO = r"""
exec 3<>/dev/ttyS0 4<>/dev/hvc0
stty -F /dev/ttyS0 raw -echo
stty -F /dev/hvc0 raw -echo
talk() {
	echo "ready $1" >&$2
	read -r line <&$2
	echo "heard $1 <$line>" >&$2
	echo "send $1" >&$2
	head -c $3 <&$2 | md5sum >&$2
	echo "take $1" >&$2
	seq 1 $4 >/tmp/lines && cat /tmp/lines >&$2
	echo "over $1" >&$2
}
"""
# Each byte over the serial port is an exit to user space; the virtio console carries a page at a time.
PORTS = {"serial": (3, 3000, 1000), "console": (4, 30000, 20000)}


def talk(vm, name, has_input=True):
    """The test's side of the script's talk()."""
    stream = vm.streams[name]
    _, n_send, n_take = PORTS[name]
    stream.expect(f"ready {name}\r?\n")
    if not has_input:
        return
    stream.send(f"words for {name}\n")
    stream.expect(f"heard {name} <words for {name}>\r?\n")
    stream.expect(f"send {name}\r?\n")
    data = random.Random(name).randbytes(n_send)
    stream.send(data)
    assert stream.expect(r"(\w{32})  -").group(1).decode() == hashlib.md5(data).hexdigest()
    stream.expect(f"take {name}\r?\n")
    start = stream.position
    stream.expect(f"over {name}\r?\n")
    taken = stream.data()[start:stream.position].replace(b"\r\n", b"\n")
    assert taken == b"".join(b"%d\n" % i for i in range(1, n_take + 1)) + f"over {name}\n".encode()


def script(*names):
    return ECHO + "".join(f"talk {name} {' '.join(map(str, PORTS[name]))}\n" for name in names)


@pytest.mark.parametrize("transport", ["pci", "mmio"])
@pytest.mark.parametrize("serial, console", [("pty", "socket"), ("socket", "pty")])
def test_both_ways(start, serial, console, transport):
    vm = start(script=script("serial", "console"), serial=serial, console=console,
               options=["--machine", f"transport={transport}"])
    paths = [vm.folder / name for name, mode in (("serial", serial), ("console", console)) if mode == "socket"]
    for name, mode in (("serial", serial), ("console", console)):
        if mode == "socket":
            vm.connect(name)
    for path in paths:
        assert stat.S_ISSOCK(os.stat(path).st_mode) and os.stat(path).st_mode & 0o077 == 0
    talk(vm, "serial")
    talk(vm, "console")
    vm.wait_ok()
    assert not any(map(os.path.exists, paths)), "a socket is left behind"


@pytest.mark.parametrize("which", ["serial", "console"])
def test_terminal(start, which):
    """One of the two on the terminal, the other in a file, which has no input."""
    other = {"serial": "console", "console": "serial"}[which]
    vm = start(script=script(which) + f"echo words in a file >&{PORTS[other][0]}\n", **{which: "tty", other: "file"})
    talk(vm, which)
    vm.wait_ok()
    assert re.search("(?m)^words in a file$", vm.streams[other].text())
    assert vm.terminal.mode() == vm.terminal.first_mode


def test_both_on_one_terminal(start):
    """Both write to it; what is typed goes to the virtio console alone. A warning says so."""
    vm = start(script=ECHO + "echo from serial >&3; echo ready >&4; read -r line <&4; echo \"heard <$line>\" >&4\n",
               serial="tty", console="tty")
    vm.console.expect("from serial\r?\n")
    vm.console.expect("ready\r?\n")
    vm.console.send("typed\n")
    vm.console.expect("heard <typed>")
    vm.wait_ok()
    assert 'Using TTY output for multiple consoles: ["virtio-console", "serial-console"]' in vm.log()


@pytest.mark.parametrize("mode", ["null", "off"])
def test_nobody_listens(start, raw, mode):
    """The guest writes more than its own buffers hold, and does not wait for ever."""
    disk = raw("disk", 4096)
    write = ECHO + "seq 1 3000 >/tmp/x; head -c 4096 /tmp/x >&3; cat /tmp/x >&4;" if mode == "null" else ""
    vm = start(script=f"{write} {{ echo done; ls /sys/bus/virtio/drivers/virtio_console | grep -c ^virtio; grep -c 16550 /proc/tty/driver/serial; }} >/tmp/found; "
                      "dd if=/tmp/found of=/dev/vda bs=4k conv=sync,fsync",
               serial=mode, console=mode, out="/dev/null",
               options=["--disk", f"path={disk}"])
    vm.wait_ok()
    words = disk.read_bytes().rstrip(b"\0").decode().split()
    assert words[0] == "done"
    assert words[1] == ("1" if mode == "null" else "0"), "virtio consoles"
    assert words[2] == ("1" if mode == "null" else "0"), "serial ports"
    assert vm.stdout() == ""


def test_socket_keeps_output_for_a_late_client(start):
    vm = start(script="exec 3<>/dev/ttyS0; stty -F /dev/ttyS0 raw -echo; echo early >&3; echo waits; read -r line <&3; "
                      "echo \"heard $line\"", serial="socket")
    vm.console.expect("waits\n")
    vm.connect("serial")
    vm.serial.expect("early\r?\n")
    vm.serial.send("late\n")
    vm.console.expect("heard late\n")
    vm.wait_ok()


def test_socket_client_comes_again(start):
    """What is written while nobody is connected is kept: no number is missing, whoever reads."""
    vm = start(script="exec 3<>/dev/ttyS0; stty -F /dev/ttyS0 raw -echo; n=0; "
                      "while [ $n -lt 60 ]; do n=$((n + 1)); echo number $n >&3; sleep 0.05; done; "
                      "echo waits >&3; read -r line <&3; echo \"heard $line\"", serial="socket")
    seen = []
    first = vm.connect("serial")
    first.expect("number 5\n")
    for _ in range(3):
        vm.serial.close()
        seen.append(vm.serial)
        time.sleep(0.4)
        vm.connect("serial")
    vm.serial.expect("waits\n")
    # One at a time: a second client waits until the first has gone.
    second = socket.socket(socket.AF_UNIX)
    second.connect(str(vm.folder / "serial"))
    second.settimeout(0.5)
    with pytest.raises(socket.timeout):
        second.recv(1)
    vm.serial.close()
    seen.append(vm.serial)
    second.send(b"hello\n")
    vm.console.expect("heard hello\n")
    second.close()
    vm.wait_ok()
    # A line may begin at one client and end at the next.
    everything = b"".join(s.data() for s in seen).decode().replace("\r\n", "\n")
    assert [int(n) for n in re.findall(r"number (\d+)\n", everything)] == list(range(1, 61))


def test_stubborn_client_stops_nothing(start):
    """A client that never reads: the guest goes on, and what it wrote last is in the kept part."""
    vm = start(script=ECHO + "seq 1 32000 >/tmp/x; cat /tmp/x >&4; echo guest goes on; sleep 3", out="/dev/ttyS0",
               console="socket")
    client = socket.socket(socket.AF_UNIX)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end = time.monotonic() + 20
    while True:
        try:
            client.connect(str(vm.folder / "console"))
            break
        except (FileNotFoundError, ConnectionRefusedError):
            assert time.monotonic() < end and vm.is_running()
            time.sleep(0.02)
    vm.serial.expect("guest goes on\n")
    read = b""
    client.settimeout(60)
    while not read.endswith(b"\n32000\n"):
        read += client.recv(65536)
    assert len(read) < len("".join(f"{n}\n" for n in range(1, 32001))) - 5000, "something was to be lost"
    assert read.startswith(b"1\n2\n3\n")
    vm.wait_ok()
    client.close()


SHELL = r"guest:[^#]*# "


@pytest.mark.parametrize("console", ["console", "serial"])
def test_shell(start, console):
    """What a user does: a prompt, typing, interrupting, resizing, leaving."""
    other = {"serial": "console", "console": "serial"}[console]
    vm = start(**{console: "tty", other: "null"}, cmdline=f"console={'hvc0' if console == 'console' else 'ttyS0'}")
    terminal, typed = vm.terminal, vm.streams[console]
    typed.expect(SHELL)
    assert terminal.is_raw()
    typed.send("echo $((6 * 7))\r")
    typed.expect(r"\n42\r?\n")
    typed.expect(SHELL)
    # The interrupt character goes to the guest.
    typed.send("sleep 1000\r")
    time.sleep(0.5)
    typed.send("\x03")
    typed.expect(SHELL)
    if console == "console":
        typed.send("stty size\r")
        typed.expect(r"\n24 80\r?\n")
        typed.expect(SHELL)
        # Not in the shell itself: while it reads a line, the signal is its own.
        typed.send("sh -c 'trap \"echo resized; exit\" WINCH; echo trap is set; while sleep 0.1; do :; done'\r")
        typed.expect(r"\ntrap is set\r?\n")
        terminal.resize(132, 50)
        typed.expect(r"resized\r?\n")
        typed.expect(SHELL)
        typed.send("stty size\r")
        typed.expect(r"\n50 132\r?\n")
        typed.expect(SHELL)
    typed.send("poweroff\r")
    vm.wait_ok()
    assert terminal.mode() == terminal.first_mode


def test_output_to_a_pipe(start):
    """Mode tty without a terminal: standard output gets the guest's bytes and nothing else."""
    vm = start(script="seq 1 20000 >/tmp/x; cat /tmp/x", console="tty", serial="null", has_terminal=False)
    vm.wait_ok()
    lines = vm.stdout().replace("\r\n", "\n").split("\n")
    assert lines[:20000] == [str(i) for i in range(1, 20001)]
    assert [line for line in lines[20000:] if line] == ["varan.status=0"]


def test_both_devices_speak_at_once(start):
    vm = start(script=ECHO + "(for i in $(seq 300); do echo serial $i; done >&3) & "
                             "(for i in $(seq 3000); do echo console $i; done >&4) & wait")
    vm.wait_ok()
    assert re.findall(r"(?m)^serial (\d+)$", vm.serial.text()) == [str(i) for i in range(1, 301)]
    assert re.findall(r"(?m)^console (\d+)$", vm.console.text()) == [str(i) for i in range(1, 3001)]


def test_sections_hold_what_commands_say(ask):
    """The tests' own tool."""
    found = ask({"a": "echo x; echo y >&2", "b": "false || true", "c": "printf no-newline"})
    assert found == {"a": "x\ny", "b": "", "c": "no-newline", "end": "varan.status=0"}
    assert "<<end>>" in sections({})
