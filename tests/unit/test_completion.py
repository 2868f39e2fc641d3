# SPDX-License-Identifier: Apache-2.0
"""Bash completion, as bash runs it: the script is sourced, and its function is called with a line and a cursor. VARAN names
the program that prints the script."""
import os
import pty
import select
import shutil
import subprocess
import time

import pytest

VARAN = os.environ.get("VARAN", "build/varan")
BREAKS = " \t\n\"'@><=;|&(:"  # bash's own

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "varan.bash"
    path.write_bytes(subprocess.run([VARAN, "document", "completion"], stdout=subprocess.PIPE, check=True).stdout)
    return path


def complete(script, line, folder="/", breaks=BREAKS):
    test = ('set -u; source "$1"; COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$3; _varan "${2%% *}"; '
            'for word in ${COMPREPLY[@]+"${COMPREPLY[@]}"}; do printf "%s\\n" "$word"; done')
    done = subprocess.run(["bash", "--norc", "-c", test, "bash", str(script), line, breaks], cwd=folder,
                          env={**os.environ, "HOME": str(folder)}, capture_output=True, check=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_script_is_registered_for_all_names(script):
    done = subprocess.run(["bash", "--norc", "-c", 'source "$1"; complete -p', "bash", str(script)], capture_output=True,
                          check=True, text=True)
    assert sorted(line.split()[-1] for line in done.stdout.splitlines()) == ["ch-remote", "cloud-hypervisor", "varan"]


@pytest.mark.parametrize("line, expected", [
    ("varan --dis", ["--disk"]),
    ("varan --cpus boot=1 --ker", ["--kernel"]),
    ("varan re", ["remote"]),
    ("varan document man-", ["man-remote", "man-image", "man-api"]),
    ("varan ima", ["image"]),
    ("varan image c", ["create", "check", "convert", "commit"]),
    ("varan image create --format q", ["qcow2"]),
    ("varan image create --back", ["--backing", "--backing-format"]),
    ("varan image check --repair ", ["leaks", "all"]),
    ("/usr/bin/varan --disk rea", ["readonly="]),
    ("varan --disk path=/x,rea", ["/x,readonly="]),  # readline replaces what is behind the '=' only
    ("varan --disk path=/x,readonly=o", ["on", "off"]),
    ("varan --disk path=/x,image_type=q", ["qcow2"]),
    ("varan --disk path=/x path=/y,dir", ["/y,direct="]),
    ("varan --disk=path=/x,dir", ["/x,direct="]),
    ("varan --console t", ["tty"]),
    ("varan --console n", ["null"]),
    ("varan --console f", ["file="]),
    ("varan --seccomp ", ["true", "false", "log"]),
    ("varan --seccomp=l", ["log"]),
    ("varan --disk queue_affinity=[0@[1,p", []),
    ("varan --kernel k --console off --wat", ["--watchdog"]),
    ("cloud-hypervisor --dis", ["--disk"]),
    ("varan remote add-dis", ["add-disk"]),
    ("varan remote --api-socket s add-disk id=a,rea", ["a,readonly="]),
    ("varan remote --api-socket=s inf", ["info"]),
    ("varan remote resize --", ["--cpus", "--memory", "--balloon", "--api-socket", "--json", "--timeout", "--help"]),
    ("varan remote resize --cpus ", []),
    ("varan remote remove-device x --w", ["--wait"]),
    ("varan remote eve", ["events"]),
    ("ch-remote eve", []),
    ("ch-remote --api-socket s resize-disk --", ["--disk", "--size", "--help"]),
    ("ch-remote add-net vhost_mode=", ["client", "server"]),
    ("varan remote send-migration timeout_strategy=i", ["ignore"]),
    ("varan remote info xx ", []),
    ("varan nonsense ", []),
])
def test_words(script, line, expected):
    assert complete(script, line) == expected


def test_without_word_breaks_whole_words_are_given(script):
    assert complete(script, "varan --disk path=/x,rea", breaks=" ") == ["path=/x,readonly="]
    assert complete(script, "varan --disk=readonly=o", breaks=" ") == ["--disk=readonly=on", "--disk=readonly=off"]


def test_all_options_are_there(script):
    helped = {word for line in subprocess.run([VARAN, "--help"], capture_output=True, text=True).stdout.splitlines()
              if line.startswith(("      --", "  -")) for word in line.replace(",", " ").split() if word.startswith("--")}
    assert helped and helped == set(complete(script, "varan --"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "disk.img").touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a b.img").touch()
    return tmp_path


@pytest.mark.parametrize("line, expected", [
    ("varan --kernel d", ["dir/", "disk.img"]),
    ("varan --kernel=di", ["dir/", "disk.img"]),
    ("varan --disk path=di", ["dir/", "disk.img"]),
    ("varan --disk id=x,path=dir/", ["dir/a\\ b.img"]),
    ("varan --disk path=dir/a\\ ", ["dir/a\\ b.img"]),
    ("varan --disk path=dir/a\\ b.img,rea", ["dir/a\\ b.img,readonly="]),
    ("varan --kernel dir/a\\ b.img --ini", ["--initramfs"]),
    ("varan --kernel ~/d", ["~/dir/", "~/disk.img"]),
    ("varan --kernel dir", ["dir/"]),
    ("varan --kernel none", []),
    ("varan --kernel $(touch", []),
    ("varan --kernel 'd", []),
    ("varan --kernel 'disk.img' --ini", ["--initramfs"]),
    ("varan --disk path=disk.img,pat", ["disk.img,path="]),
    ("varan --serial file=dis", ["disk.img"]),
    ("varan --api-socket d", ["dir/", "disk.img"]),
    ("varan remote --api-socket d", ["dir/", "disk.img"]),
    ("varan remote create d", ["dir/", "disk.img"]),
    ("varan image info d", ["dir/", "disk.img"]),
    ("varan image create --backing d", ["dir/", "disk.img"]),
    ("varan image convert --to raw disk.img d", ["dir/", "disk.img"]),
    ("varan image resize disk.img d", []),
    ("varan remote events --event-monitor d", ["dir/", "disk.img"]),
    ("ch-remote --api-socket s add-pmem file=d", ["dir/", "disk.img"]),
])
def test_paths(script, folder, line, expected):
    assert sorted(complete(script, line, folder)) == expected


NAMES = ["a b", "$(touch pwned)", "`touch pwned`", "x;touch pwned", "x&touch pwned", "it's", 'say"so"', "a\\b", "new\nline", "!!",
         "*", "#x", "~x", "a=b:c@d", "é"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["--kernel ", "--kernel=", "--kernel ./", "--disk path=", "--disk=readonly=on,path="])
def test_what_is_typed_by_completion_means_the_name(script, tmp_path, name, prefix):
    """A terminal, bash, its readline: the line that comes of a tab has one word with the name, and runs nothing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ("disk" + name)).touch()
    (tmp_path / "varan").write_text('#!/bin/sh\nprintf "%s\\0" "$@" >"$OUT.new" && mv "$OUT.new" "$OUT"\n')
    (tmp_path / "varan").chmod(0o755)
    out = tmp_path / "out"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb", "LC_ALL": "C.UTF-8",
                   "OUT": str(out), "INPUTRC": "/dev/null", "HISTFILE": ""}
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(["bash", "--norc", "--noprofile", "-i"], cwd=folder, env=environment, stdin=theirs, stdout=theirs,
                             stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        os.write(ours, f"source {script}\nvaran {prefix}dis\t\n".encode())
        end = time.monotonic() + 20
        seen = b""
        while not out.exists() and time.monotonic() < end:
            if select.select([ours], [], [], 0.05)[0]:
                seen += os.read(ours, 4096)
        assert out.exists(), seen
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
    words = prefix.split(" ")
    # Varan's own quotes in a list of values: such a name is not offered.
    words[-1] += "dis" if "path" in prefix and '"' in name else "disk" + name
    assert out.read_bytes().decode().split("\0")[:-1] == words
    assert os.listdir(folder) == ["disk" + name]
