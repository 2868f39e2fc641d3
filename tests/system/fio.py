# SPDX-License-Identifier: Apache-2.0
"""fio in a guest: this machine's own program and its libraries on a read-only disk, its jobs, and what it says of them."""
import json
import re
import shutil
import subprocess
from pathlib import Path

MIB = 1 << 20

# For the guest's shell. A job file is /run/NAME.fio, its report /run/NAME.json. run_fio says something only if that did not go
# well; start_fio runs it in the background, stop_fio ends it, and wait_fio waits for its own end: both say what run_fio would.
# is_busy waits until the disk in $d has had some writes.
SCRIPT = r"""
for d in /sys/block/vd*; do
	s=; read -r s 2>/dev/null <$d/serial
	[ "$s" != fio ] || { mkdir /fio; mount -t ext4 -o ro,noload /dev/${d##*/} /fio; }
done
run_fio() {
	/fio/ld.so --library-path /fio /fio/fio --trigger-file=/run/$1.stop --output-format=json --output=/run/$1.json /run/$1.fio \
		>/run/$1.said 2>&1 && return
	echo "fio $1: status $?"
	head -c 2000 /run/$1.said
}
start_fio() { rm -f /run/$1.end; { run_fio $1 >/run/$1.result; mv /run/$1.result /run/$1.end; } & }
wait_fio() { while [ ! -e /run/$1.end ]; do usleep 50000; done; cat /run/$1.end; }
stop_fio() { touch /run/$1.stop; wait_fio $1; }
count() { read -r _ _ _ _ n _ </sys/block/$d/stat; }
is_busy() { count; first=$n; while [ $n -lt $((first + 32)) ]; do usleep 20000; count; done; }
"""

# Past the guest's page cache. The clock is the kernel's: to calibrate another one takes a while on an emulated CPU.
PLAIN = {"ioengine": "libaio", "direct": 1, "thread": 1, "group_reporting": 1, "clocksource": "clock_gettime", "bsrange": "4k-64k",
         "lat_percentiles": 0, "clat_percentiles": 0, "disk_util": 0}

MAGIC = 0xACCA  # of the header of a written block: verify.h in fio's source

# Each write is read again, and nobody goes on after the first difference.
VERIFY = {**PLAIN, "rw": "randwrite", "verify": "crc32c", "verify_fatal": 1, "verify_state_save": 0}


def make_disk(path):
    """The disk with fio: an ext4 of all that the program needs."""
    program = shutil.which("fio")
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = re.findall(r"(?m)(/\S+) \(0x", said)
    files = {Path(name).name: name for name in paths}
    files["ld.so"] = files.pop(next(name for name in files if name.startswith("ld-linux")))
    files["fio"] = program
    n_bytes = sum(Path(name).stat().st_size for name in files.values())
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^resize_inode", "-m", "0", path, f"{n_bytes // MIB + 8}M"],
                   check=True)
    subprocess.run(["debugfs", "-w", "-f", "-", path], input="".join(f"write {name} {new}\n" for new, name in files.items()),
                   text=True, capture_output=True, check=True)
    return path


def option(path):
    """What `--disk` says of it."""
    return f"path={path},readonly=on,image_type=raw,serial=fio"


def jobs(common, sections):
    """The text of a job file: {option: value} for all jobs, and {job: {option: value}}."""
    lines = []
    for name, options in {"global": common, **sections}.items():
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in options.items()), "new_group=1" if name != "global" else ""]
    return "\n".join(lines) + "\n"


def put(name, text):
    """A guest's command that makes /run/NAME.fio."""
    return f"cat >/run/{name}.fio <<'EOF'\n{text}EOF\n"


def report(text):
    """{job: its part} of /run/NAME.json."""
    return {job["jobname"]: job for job in json.loads(text[text.index("{"):])["jobs"]}


def check_written(job, n_bytes):
    """All of it was written, and read again, without an error."""
    assert job["error"] == 0, job
    assert job["write"]["io_bytes"] >= n_bytes and job["read"]["total_ios"] > 0, job
