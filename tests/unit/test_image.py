# SPDX-License-Identifier: Apache-2.0
"""`varan image`, from the outside, and against QEMU's own tools. VARAN names the program."""
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess

import pytest

VARAN = os.environ.get("VARAN", "build/varan")
SECONDS = 60
MiB = 1 << 20

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-img") or not shutil.which("qemu-io"),
                                reason="qemu-img and qemu-io are not installed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image(*words, status=0):
    done = subprocess.run([VARAN, "image", *map(str, words)], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == status, (words, done)
    return done.stdout if status == 0 else done.stderr


def qemu(*words):
    return subprocess.run(list(words), capture_output=True, text=True, check=True, timeout=SECONDS).stdout


def compare(a, a_format, b, b_format):
    qemu("qemu-img", "compare", "-f", a_format, "-F", b_format, str(a), str(b))


def only(folder, *names):
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


def write_pattern(path, n_bytes=5 * MiB + 512):
    """Bytes that can be compressed, bytes that cannot, zeroes, and holes."""
    with open(path, "wb") as f:
        f.truncate(n_bytes)
        for at, data in ((0, b"abcd" * 20000), (MiB - 700, os.urandom(300000)), (3 * MiB, bytes(65536)),
                         (3 * MiB + 4096, b"x"), (n_bytes - 512, b"the end" + bytes(505))):
            f.seek(at)
            f.write(data)


# --- create ---------------------------------------------------------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize("words, expected", [
    ((), {}),
    (("--cluster-size", "512"), {"cluster-size": 512}),
    (("--cluster-size", "2M"), {"cluster-size": 2 * MiB}),
    (("--extended-l2",), {"extended-l2": True}),
    (("--lazy-refcounts",), {"lazy-refcounts": True}),
    (("--compression", "zstd"), {"compression-type": "zstd"}),
    (("--preallocation", "metadata"), {}),
    (("--preallocation", "metadata", "--extended-l2"), {"extended-l2": True}),
    (("--preallocation", "falloc"), {}),
    (("--preallocation", "full", "--cluster-size", "4K"), {"cluster-size": 4096}),
])
def test_create_qcow2(folder, words, expected):
    image("create", "--format", "qcow2", *words, "a", "20M")
    only(folder, "a")
    qemu("qemu-img", "check", "-f", "qcow2", "a")
    info = json.loads(qemu("qemu-img", "info", "--output=json", "-f", "qcow2", "a"))
    told = {**info["format-specific"]["data"], **info}
    assert told["virtual-size"] == 20 * MiB and told["compat"] == "1.1"
    assert {k: told[k] for k in expected} == expected
    is_allocated = "falloc" in words or "full" in words
    assert (os.stat("a").st_blocks * 512 >= 20 * MiB) == is_allocated
    # It is a disk: what QEMU writes to it is there, and it is sound.
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 3M", "-c", "read -P 7 1M 3M", "-c", "read -P 0 4M 16M", "a")
    qemu("qemu-img", "check", "-f", "qcow2", "a")
    image("check", "a")


@pytest.mark.parametrize("word, n_bytes", [("1000", 1024), ("3K", 3072), ("7M", 7 * MiB), ("2G", 2 << 30), ("3T", 3 << 40)])
def test_create_raw_and_sizes(folder, word, n_bytes):
    before = os.umask(0o027)
    image("create", "a", word)
    os.umask(before)
    assert os.stat("a").st_size == n_bytes and os.stat("a").st_blocks == 0 and os.stat("a").st_mode & 0o777 == 0o640
    assert json.loads(image("info", "--json", "a"))["virtual-size"] == n_bytes


def test_create_raw_full(folder):
    image("create", "--preallocation", "full", "a", "5M")
    assert os.stat("a").st_blocks * 512 >= 5 * MiB


@needs_qemu
def test_create_overlay(folder):
    (folder / "d").mkdir()
    image("create", "--format", "qcow2", "d/base", "9M")
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 3M", "d/base")
    image("create", "--format", "qcow2", "--backing", "base", "--backing-format", "qcow2", "d/top")
    info = json.loads(qemu("qemu-img", "info", "--output=json", "d/top"))
    assert (info["backing-filename"], info["full-backing-filename"], info["backing-filename-format"], info["virtual-size"]) == \
        ("base", "d/base", "qcow2", 9 * MiB)
    compare("d/top", "qcow2", "d/base", "qcow2")
    image("create", "--format", "qcow2", "--backing", "base", "--backing-format", "qcow2", "d/large", "20M")
    assert json.loads(image("info", "--json", "d/large"))["virtual-size"] == 20 * MiB
    assert "No such file" in image("create", "--format", "qcow2", "--backing", "none", "--backing-format", "raw", "d/x", status=1)
    assert "in use" in image("create", "--force", "--format", "qcow2", "--backing", "base", "--backing-format", "qcow2", "d/base",
                             status=1)
    only(folder / "d", "base", "top", "large")


def test_nothing_is_overwritten_unless_that_is_asked_for(folder):
    (folder / "a").write_text("mine")
    for words in (("create", "a", "1M"), ("convert", "--to", "raw", "a", "a")):
        assert "it exists already (--force replaces it)" in image(*words, status=1)
    assert (folder / "a").read_text() == "mine"
    only(folder, "a")
    (folder / "link").symlink_to("a")
    if os.geteuid() == 0:
        os.chown("a", 12345, 54321)
    before = os.stat("a")
    image("create", "--force", "link", "1M")
    after = os.stat("a")
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert (folder / "link").is_symlink() and os.stat("a").st_size == MiB
    assert "in use" in image("convert", "--force", "--to", "qcow2", "a", "a", status=1)
    (folder / "folder").mkdir()
    assert "not a regular file" in image("create", "--force", "folder", "1M", status=1)
    only(folder, "a", "link", "folder")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_work_leaves_nothing(folder, number):
    with open("source", "wb") as f:
        f.write(os.urandom(64 * MiB))
    # Seconds of work; and should nothing stop it, a few GiB are written and no more.
    for words in (("create", "--preallocation", "full", "a", "6G"),
                  ("create", "--format", "qcow2", "--preallocation", "metadata", "--cluster-size", "4K", "a", "1T"),
                  ("convert", "--to", "qcow2", "--compress", "source", "a")):
        # Whoever runs the tests may have signals ignored, as nohup has, and programs keep to that.
        done = subprocess.Popen([VARAN, "image", *words, "--progress"], stderr=subprocess.PIPE, text=True,
                                preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
        assert done.stderr.readline().startswith("varan image " + words[0] + ": 0%")
        assert any(p.name.startswith(".varan-image-") for p in folder.iterdir()) and not (folder / "a").exists()
        done.send_signal(number)
        text = done.communicate(timeout=SECONDS)[1]
        assert done.returncode == -number and "'a' is not made: the work was stopped" in text
        only(folder, "source")


def test_no_room_leaves_nothing(folder):
    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (MiB, MiB))
    done = subprocess.run([VARAN, "image", "create", "--format", "qcow2", "--preallocation", "full", "a", "20M"],
                          capture_output=True, text=True, preexec_fn=limit, timeout=SECONDS)
    assert done.returncode == 1 and "cannot write 'a': File too large" in done.stderr
    only(folder)


def test_a_reader_that_goes_away_stops_nothing(folder):
    write_pattern("source", 64 * MiB)
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs) as gone:
        done = subprocess.run([VARAN, "image", "convert", "--to", "raw", "--progress", "source", "a"], stderr=gone, timeout=SECONDS)
    assert done.returncode == 0
    only(folder, "a", "source")


# --- info -----------------------------------------------------------------------------------------------------------------

KINDS = [("raw", ""), ("qcow2", ""), ("qcow2", "compat=0.10"), ("qcow2", "lazy_refcounts=on,cluster_size=4096"),
         ("qcow2", "extended_l2=on"), ("qcow2", "compression_type=zstd"), ("vpc", ""), ("vhdx", ""), ("vmdk", "")]


@needs_qemu
@pytest.mark.parametrize("kind, options", KINDS)
def test_info_says_what_qemu_says(folder, kind, options):
    qemu("qemu-img", "create", "-f", kind, *(["-o", options] if options else []), "a", "10M")
    theirs = json.loads(qemu("qemu-img", "info", "--output=json", "a"))
    ours = json.loads(image("info", "--json", "a"))
    if kind != "qcow2":
        theirs.pop("format-specific", None)
    assert ours == {**theirs, **({"cluster-size": ours["cluster-size"]} if kind in ("vpc", "vhdx", "vmdk") else {})}
    text = image("info", "a")
    assert "file format: " + kind.replace("vpc", "vhd") in text and f"({theirs['virtual-size']} bytes)" in text


@needs_qemu
def test_info_of_a_chain(folder):
    image("create", "base", "10M")
    image("create", "--format", "qcow2", "--backing", "base", "--backing-format", "raw", "mid")
    image("create", "--format", "qcow2", "--backing", "mid", "--backing-format", "qcow2", "top")
    qemu("qemu-img", "snapshot", "-c", "one", "top")
    theirs = json.loads(qemu("qemu-img", "info", "--backing-chain", "--output=json", "top"))
    ours = json.loads(image("info", "--backing-files", "--json", "top"))
    assert theirs[0].pop("snapshots") and ours[0].pop("snapshot-count") == 1
    assert ours == theirs
    os.unlink("base")
    assert json.loads(image("info", "--json", "top"))["backing-filename"] == "mid"
    assert "base" in image("info", "--backing-files", "top", status=1)


def test_info_of_an_image_in_use(folder):
    image("create", "--format", "qcow2", "a", "1M")
    with open("a", "r+b") as f:
        # What a VM's disk holds: a lock of the whole file, by the open file description.
        fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        assert "--force-share looks all the same" in image("info", "a", status=1)
        assert json.loads(image("info", "--force-share", "--json", "a"))["virtual-size"] == MiB
        for words in (("resize", "a", "2M"), ("check", "a"), ("create", "--force", "a", "1M"),
                      ("convert", "--to", "raw", "a", "b")):
            assert "in use" in image(*words, status=1)
    image("resize", "a", "2M")


@needs_qemu
def test_what_is_in_other_files_is_not_opened_unless_that_is_asked_for(folder):
    qemu("qemu-img", "create", "-f", "vmdk", "-o", "subformat=monolithicFlat", "a", "10M")
    extent = next(p.name for p in folder.iterdir() if p.name != "a")
    image("info", "--backing-files", "a")
    os.unlink(extent)
    os.mkfifo(extent)  # to open it would be told, and to touch it too
    for words, text in ((("info", "a"), "opened with --backing-files only"),
                        (("resize", "a", "20M"), "opened with --backing-files only"),
                        (("convert", "--to", "raw", "a", "x"), "opened with --backing-files only"),
                        (("check", "a"), "this command does not open; 'varan image convert --backing-files'"),
                        (("create", "--format", "qcow2", "--backing", "a", "--backing-format", "vmdk", "x"),
                         "the backing file: cannot open 'a': it consists of, or is based on, other files, which this command")):
        told = image(*words, status=1)
        assert text in told and "backing_files" not in told
    assert "no regular file" in image("info", "--backing-files", "a", status=1)
    only(folder, "a", extent)


def test_info_of_a_chain_says_which_image_is_in_use(folder):
    image("create", "base", "1M")
    image("create", "--format", "qcow2", "--backing", "base", "--backing-format", "raw", "top")
    with open("base", "r+b") as f:
        fcntl.fcntl(f, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        told = image("info", "--backing-files", "top", status=1)
        assert "'base'" in told and "in use" in told and "'top'" not in told and "--force-share looks all the same" in told
        image("info", "--backing-files", "--force-share", "top")


def test_json_of_names_that_are_not_utf8(folder):
    image("create", "--format", "qcow2", "a", "1M")
    name = b"a\xff"
    os.rename("a", name)
    for command in ("info", "check"):
        done = subprocess.run([VARAN, "image", command, "--json", name], capture_output=True, check=True, timeout=SECONDS)
        assert json.loads(done.stdout)["filename"] == "a?"
    with open("/dev/full", "w") as full:
        done = subprocess.run([VARAN, "image", "info", "--json", name], stdout=full, stderr=subprocess.PIPE, timeout=SECONDS)
    assert done.returncode == 1 and b"the JSON cannot be written" in done.stderr


# --- check ----------------------------------------------------------------------------------------------------------------


def patch(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


@needs_qemu
def test_check(folder):
    image("create", "--format", "qcow2", "a", "10M")
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", "a")
    ours, theirs = json.loads(image("check", "--json", "a")), json.loads(qemu("qemu-img", "check", "--output=json", "a"))
    assert {k: v for k, v in theirs.items() if k != "fragmented-clusters"} == ours
    assert "No errors were found." in image("check", "a")

    with open("a", "r+b") as f:  # a cluster that is counted, and that nothing uses
        table = struct.unpack(">Q", f.read(64)[48:56])[0]
        f.seek(table)
        block = struct.unpack(">Q", f.read(8))[0]
        end = os.stat("a").st_size // 65536
        f.truncate((end + 1) * 65536)
        f.seek(block + end * 2)
        f.write(b"\0\1")
    done = subprocess.run([VARAN, "image", "check", "--json", "a"], capture_output=True, text=True)
    assert done.returncode == 3 and json.loads(done.stdout)["leaks"] == 1
    assert json.loads(image("check", "--json", "--repair", "leaks", "a"))["leaks-fixed"] == 1
    image("check", "a")

    patch("a", block + 2 * 5, b"\0\0")  # a cluster that is used, and not counted
    done = subprocess.run([VARAN, "image", "check", "--json", "a"], capture_output=True, text=True)
    assert done.returncode == 2 and json.loads(done.stdout)["corruptions"] >= 1
    patch("a", 79, b"\x02")  # the mark of an image that somebody found to be damaged
    assert "corrupt" in image("resize", "a", "20M", status=1)
    image("check", "--repair", "all", "a")
    qemu("qemu-img", "check", "a")
    image("resize", "a", "20M")


def test_check_of_what_has_nothing_to_check(folder):
    image("create", "a", "1M")
    assert "nothing to check" in image("check", "a", status=63)
    assert "No such file" in image("check", "b", status=1)


# --- convert --------------------------------------------------------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize("kind, options", [("raw", ""), ("qcow2", ""), ("qcow2", "extended_l2=on"), ("vpc", "force_size=on"),
                                           ("vhdx", ""), ("vmdk", ""), ("vmdk", "subformat=streamOptimized")])
def test_convert_from_every_format(folder, kind, options):
    write_pattern("raw")
    qemu("qemu-img", "convert", "-f", "raw", "-O", kind, *(["-o", options] if options else []), "raw", "source")
    for target in (("raw",), ("qcow2",), ("qcow2", "--compress"), ("qcow2", "--compress", "--compression", "zstd"),
                   ("qcow2", "--extended-l2"), ("qcow2", "--cluster-size", "512"), ("qcow2", "--cluster-size", "2M", "--compress"),
                   ("qcow2", "--cluster-size", "4K", "--compress", "--lazy-refcounts")):
        image("convert", "--force", "--to", *target, "source", "target")
        compare("source", kind, "target", target[0])
        if target[0] == "qcow2":
            qemu("qemu-img", "check", "-f", "qcow2", "target")
            image("check", "target")
        else:
            assert os.stat("target").st_blocks * 512 < 500000
    only(folder, "raw", "source", "target")


# What we make of a disk, and the names that QEMU has for it and its kind.
OTHERS = [("vhd", "dynamic", "vpc", None), ("vhd", "fixed", "vpc", None), ("vhdx", "dynamic", "vhdx", None),
          ("vhdx", "fixed", "vhdx", None), ("vmdk", "monolithicSparse", "vmdk", "monolithicSparse"),
          ("vmdk", "monolithicFlat", "vmdk", "monolithicFlat"), ("vmdk", "twoGbMaxExtentSparse", "vmdk", "twoGbMaxExtentSparse"),
          ("vmdk", "twoGbMaxExtentFlat", "vmdk", "twoGbMaxExtentFlat")]


@needs_qemu
@pytest.mark.parametrize("kind, subformat, qemus, create_type", OTHERS)
def test_convert_to_other_formats_and_back(folder, kind, subformat, qemus, create_type):
    n_bytes = (2048 * MiB if "twoGb" in subformat else 0) + 5 * MiB + 512
    write_pattern("raw", n_bytes)
    image("convert", "--from", "raw", "--to", kind, "--subformat", subformat, "raw", "target.img")
    compare("raw", "raw", "target.img", qemus)
    info = json.loads(qemu("qemu-img", "info", "--output=json", "-f", qemus, "target.img"))
    assert info["virtual-size"] == n_bytes
    assert info.get("format-specific", {}).get("data", {}).get("create-type") == create_type
    if qemus != "vpc":
        qemu("qemu-img", "check", "-f", qemus, "target.img")
    assert sum(p.stat().st_blocks * 512 for p in folder.iterdir() if p.name != "raw") < 3 * MiB
    # What QEMU writes to it we read, and what QEMU makes of it.
    qemu("qemu-io", "-f", qemus, "-c", "write -P 7 1M 64k", "-c", f"write -P 9 {n_bytes - 512} 512", "target.img")
    image("convert", "--from", kind, "--backing-files", "--to", "raw", "target.img", "back")
    compare("back", "raw", "target.img", qemus)
    assert os.stat("back").st_size == n_bytes


@needs_qemu
@pytest.mark.parametrize("kind, subformat, qemus, create_type", OTHERS)
def test_create_other_formats(folder, kind, subformat, qemus, create_type):
    is_fixed = subformat in ("fixed", "monolithicFlat", "twoGbMaxExtentFlat")
    image("create", "--format", kind, "--subformat", subformat, *(("--preallocation", "full") if is_fixed else ()), "a.img", "20M")
    qemu("qemu-io", "-f", qemus, "-c", "read -P 0 0 20M", "-c", "write -P 7 3M 5M", "-c", "read -P 7 3M 5M", "a.img")
    n_allocated = sum(p.stat().st_blocks * 512 for p in folder.iterdir())
    assert 20 * MiB <= n_allocated < 28 * MiB if is_fixed else n_allocated < 13 * MiB
    ours = json.loads(image("info", "--format", kind, "--backing-files", "--json", "a.img"))[0]
    assert ours["virtual-size"] == 20 * MiB and ours["format"] == qemus
    if qemus != "vpc":
        qemu("qemu-img", "check", "-f", qemus, "a.img")


def test_the_default_kinds_of_other_formats(folder):
    for kind in ("vhd", "vhdx", "vmdk"):
        image("create", "--format", kind, f"a.{kind}", "20M")
    only(folder, "a.vhd", "a.vhdx", "a.vmdk")
    assert all(p.stat().st_blocks * 512 < 3 * MiB for p in folder.iterdir())


@needs_qemu
def test_convert_chains(folder):
    image("create", "base", "10M")
    qemu("qemu-io", "-f", "raw", "-c", "write -P 1 0 4M", "base")
    image("create", "--format", "qcow2", "--backing", "base", "--backing-format", "raw", "top")
    qemu("qemu-io", "-c", "write -P 2 1M 64k", "-c", "write -z 2M 1M", "top")
    assert "opened with --backing-files only" in image("convert", "--to", "raw", "top", "x", status=1)
    image("convert", "--backing-files", "--to", "qcow2", "top", "x")
    compare("top", "qcow2", "x", "qcow2")
    assert "backing-filename" not in json.loads(image("info", "--json", "x"))


def test_convert_of_an_odd_file_loses_nothing(folder):
    (folder / "a").write_bytes(b"x" * 100001)
    image("convert", "--from", "raw", "--to", "raw", "a", "b")
    assert (folder / "b").read_bytes() == b"x" * 100001 + bytes(100352 - 100001)


def test_convert_of_holes_takes_no_time(folder):
    image("create", "a", "10T")
    image("convert", "--from", "raw", "--to", "qcow2", "--cluster-size", "2M", "a", "b")
    assert os.stat("b").st_size < 100 * MiB


def test_progress(folder):
    write_pattern("a", 64 * MiB)
    words = [VARAN, "image", "convert", "--to", "raw", "--force", "a", "b"]
    assert subprocess.run(words, capture_output=True, check=True, text=True).stderr == ""
    lines = subprocess.run([*words, "--progress"], capture_output=True, check=True, text=True).stderr.splitlines()
    assert lines[0] == "varan image convert: 0% (0 B of 64 MiB)" and lines[-1] == "varan image convert: 100% (64 MiB of 64 MiB)"
    ours, theirs = pty.openpty()
    subprocess.run(words, stderr=theirs, check=True)
    shown = b""
    while not shown.endswith(b"\n"):  # it may come in pieces
        shown += os.read(ours, 65536)
    assert b"\rvaran image convert: 100% (64 MiB of 64 MiB)" in shown and shown.count(b"\n") == 1
    subprocess.run([*words, "--quiet"], stderr=theirs, check=True)
    os.close(theirs)
    with pytest.raises(OSError):
        os.read(ours, 1)
    os.close(ours)


# --- resize, commit -------------------------------------------------------------------------------------------------------


@needs_qemu
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_resize(folder, kind):
    image("create", "--format", kind, "a", "1M")
    image("resize", "a", "5M")
    image("resize", "a", "+1K")
    assert json.loads(image("info", "--json", "a"))["virtual-size"] == 5 * MiB + 1024
    assert "can only grow" in image("resize", "a", "1M", status=1)
    if kind == "qcow2":
        qemu("qemu-img", "check", "a")
        image("resize", "a", "3T")
        qemu("qemu-img", "check", "a")


def test_resize_of_others(folder):
    for words in (("nonsense",), ("-1",), ("1X",), ("99999999999T",), ("",)):
        image("create", "--force", "a", "1M")
        image("resize", "a", *words, status=2)
    assert "No such file" in image("resize", "b", "1M", status=1)


@needs_qemu
def test_resize_of_an_overlay_wants_to_know_what_is_below(folder):
    image("create", "base", "4M")
    qemu("qemu-io", "-f", "raw", "-c", "write -P 1 0 4M", "base")
    image("create", "--format", "qcow2", "--backing", "base", "--backing-format", "raw", "top", "1M")
    assert "opened with --backing-files only" in image("resize", "top", "3M", status=1)
    image("resize", "--backing-files", "top", "3M")
    qemu("qemu-io", "-c", "read -P 1 0 1M", "-c", "read -P 0 1M 2M", "top")
    qemu("qemu-img", "check", "top")


@needs_qemu
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
@pytest.mark.parametrize("how", ["", "extended_l2=on", "cluster_size=4096", "-c"])
def test_commit(folder, kind, how):
    write_pattern("data")
    image("convert", "--from", "raw", "--to", kind, "data", "base")
    options = ["-o", how] if "=" in how else []
    qemu("qemu-img", "create", "-f", "qcow2", *options, "-b", "base", "-F", kind, "top", "9M")
    qemu("qemu-io", "-c", f"write {how if how == '-c' else ''} -P 2 1M 64k", "-c", "write -z 0 65536", "-c", "write -P 3 8M 1M",
         "-c", "write -P 4 5M 512", "top")
    qemu("qemu-img", "convert", "-O", "raw", "top", "expected")
    image("commit", "top")
    compare("base", kind, "expected", "raw")
    compare("top", "qcow2", "expected", "raw")
    if kind == "qcow2":
        qemu("qemu-img", "check", "base")
    image("commit", "top")
    compare("base", kind, "expected", "raw")


@needs_qemu
def test_commit_in_a_chain_reaches_the_next_image_only(folder):
    image("create", "base", "4M")
    image("create", "--format", "qcow2", "--backing", "base", "--backing-format", "raw", "mid")
    image("create", "--format", "qcow2", "--backing", "mid", "--backing-format", "qcow2", "top")
    qemu("qemu-io", "-c", "write -P 2 1M 1000k", "top")
    image("commit", "top")
    assert not any((folder / "base").read_bytes())
    qemu("qemu-io", "-c", "read -P 2 1M 1000k", "mid")
    assert "not based on another image" in image("commit", image_of_its_own(folder), status=1)
    assert "no qcow2 image" in image("commit", "base", status=1)


@needs_qemu
def test_commit_does_not_make_a_raw_base_look_like_another_format(folder):
    """The overlay does not say what its base is, which looks raw: what a guest wrote to the first sector may not change that."""
    image("create", "base", "4M")
    qemu("qemu-img", "create", "-f", "qcow2", "-b", "base", "-F", "raw", "top")
    header = bytearray((folder / "top").read_bytes())
    at = header.index(bytes.fromhex("e2792aca"))  # the extension that names the base's format: unknown now, and passed over
    header[at:at + 4] = b"none"
    (folder / "top").write_bytes(header)
    (folder / "evil").write_bytes(header[:512])
    qemu("qemu-io", "-f", "qcow2", "-c", "write -s evil 0 512", "-c", "write -P 7 1M 64k", "top")
    assert "Operation not permitted" in image("commit", "top", status=1)
    assert not any((folder / "base").read_bytes()[:512])
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 8 0 512", "top")
    image("commit", "top")
    qemu("qemu-io", "-f", "raw", "-c", "read -P 8 0 512", "-c", "read -P 7 1M 64k", "base")


def image_of_its_own(folder):
    image("create", "--format", "qcow2", "alone", "1M")
    return "alone"


# --- what should not be ---------------------------------------------------------------------------------------------------


@needs_qemu
def test_loops(folder):
    for name, below in (("a", "b"), ("b", "a")):
        qemu("qemu-img", "create", "-u", "-f", "qcow2", "-b", below, "-F", "qcow2", name, "1M")
    for words in (("info", "--backing-files", "a"), ("convert", "--backing-files", "--to", "raw", "a", "x"), ("commit", "a")):
        assert "leads back" in image(*words, status=1)
    image("info", "a")
    image("check", "a")
    only(folder, "a", "b")


@pytest.mark.parametrize("offset, data, text", [
    (20, b"\0\0\0\x63", "clusters have 2^99 bytes"),
    (36, b"\xff\xff\xff\xff", "L1 table has 4294967295 entries"),
    (40, b"\0\0\0\0\0\0\0\x07", "L1 table is at 0x7"),
    (4, b"\0\0\0\x09", "not supported yet: qcow2 version 9"),
    (8, b"\0\0\0\0\0\1\0\1", "name of its backing file"),
    (48, b"\x7f\0\0\0\0\0\0\0", "refcount table is at"),
])
def test_damaged_headers(folder, offset, data, text):
    image("create", "--format", "qcow2", "a", "1G")
    patch("a", offset, data)
    for words in (("info", "a"), ("check", "a"), ("convert", "--to", "raw", "a", "x"), ("resize", "a", "2G")):
        assert text in image(*words, status=1)
    only(folder, "a")


def test_names_do_nothing_to_the_terminal(folder):
    base = "b\x1b[2J\n"
    image("create", base, "1M")
    image("create", "--format", "qcow2", "--backing", base, "--backing-format", "raw", "top")
    assert "backing file: b?[2J?\n" in image("info", "top")
    assert json.loads(image("info", "--json", "top"))["backing-filename"] == base
    os.unlink(base)
    assert "\x1b" not in image("info", "--backing-files", "top", status=1)


@pytest.mark.parametrize("words, text", [
    ((), "Commands:"),
    (("nonsense",), "unrecognized subcommand 'nonsense'"),
    (("create",), "<file>"),
    (("create", "a"), "<size>"),
    (("create", "a", "1Q"), "invalid value '1Q' for '<size>'"),
    (("create", "--format", "floppy", "a", "1M"), "possible values: raw, qcow2"),
    (("create", "--cluster-size", "64K", "a", "1M"), "'--cluster-size' is for '--format qcow2' only"),
    (("create", "--format", "qcow2", "--cluster-size", "5000", "a", "1M"), "a power of two from 512 to 2M"),
    (("create", "--format", "qcow2", "--cluster-size", "4M", "a", "1M"), "a power of two from 512 to 2M"),
    (("create", "--format", "qcow2", "--cluster-size", "4K", "--extended-l2", "a", "1M"), "16K at least"),
    (("create", "--format", "qcow2", "--backing", "b", "a"), "given together"),
    (("create", "--backing", "b", "--backing-format", "raw", "a"), "'--format qcow2' only"),
    (("create", "--preallocation", "metadata", "a", "1M"), "only qcow2 images have any"),
    (("create", "--format", "qcow2", "--preallocation", "full", "--backing", "b", "--backing-format", "raw", "a"), "exclude"),
    (("create", "--format", "vmdk", "--subformat", "fixed", "a", "1M"), "that is a kind of '--format vhd' or 'vhdx'"),
    (("create", "--format", "vhd", "--subformat", "monolithicFlat", "a", "1M"), "that is a kind of '--format vmdk'"),
    (("create", "--subformat", "fixed", "a", "1M"), "that is a kind of '--format vhd' or 'vhdx'"),
    (("create", "--format", "vhdx", "--preallocation", "full", "a", "1M"), "is for images that do not grow"),
    (("convert", "--to", "vhdx", "--subformat", "streamOptimized", "a", "b"), "that is a kind of '--to vmdk'"),
    (("convert", "--to", "vhd", "--compress", "a", "b"), "'--compress' is for '--to qcow2' only"),
    (("convert", "a", "b"), "--to <to>"),
    (("convert", "--to", "raw", "--compress", "a", "b"), "'--compress' is for '--to qcow2' only"),
    (("check", "--repair", "some", "a"), "possible values: leaks, all"),
    (("resize", "a"), "<size>"),
    (("info", "a", "b"), "unexpected argument 'b'"),
])
def test_usage(folder, words, text):
    assert text in image(*words, status=1 if words[:1] == ("check",) else 2)
    only(folder)


def test_not_supported_yet(folder):
    image("create", "a", "1M")
    for words in (("create", "--format", "vmdk", "--subformat", "streamOptimized", "x", "1M"),
                  ("convert", "--to", "vmdk", "--subformat", "streamOptimized", "a", "x")):
        assert image(*words, status=1) == f"varan image {words[0]}: not supported yet: --subformat streamOptimized\n"
    only(folder, "a")


def test_help(folder):
    for name in ("create", "info", "check", "convert", "resize", "commit"):
        assert name in image("--help")
        assert f"Usage: varan image {name}" in image(name, "--help")
