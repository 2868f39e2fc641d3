# SPDX-License-Identifier: Apache-2.0
"""The host kernel's tracing, as far as it is needed: events with filters, counts by key, and one event to wait for.

Each purpose has an instance of its own, with its own buffer. The clock is the TSC: in the emulated host with instruction
counting that is the number of instructions since it was switched on.
"""
import os
import re
import select
import time
from contextlib import contextmanager
from pathlib import Path

LOOK_AGAIN_SECONDS = 3  # of the host's clock
TRACEFS = Path("/sys/kernel/tracing")


class TracingError(RuntimeError):
    pass


def _write(path, text):
    # Not open(path, "w"): truncating a file of triggers removes those that are there.
    try:
        file = os.open(path, os.O_WRONLY)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
    except OSError as error:
        raise TracingError(f"cannot write {text!r} to {path}: {error.strerror}") from error


class Instance:
    def __init__(self, name):
        self.path = TRACEFS / "instances" / f"bench-{name}"

    def __enter__(self):
        try:
            self.path.mkdir()
        except OSError as error:
            raise TracingError(f"cannot create {self.path}: {error.strerror}") from error
        _write(self.path / "trace_clock", "x86-tsc")
        _write(self.path / "buffer_percent", "0")  # whoever waits is woken by the first event, not by half a buffer
        return self

    def __exit__(self, *_):
        _write(self.path / "events" / "enable", "0")
        self.path.rmdir()

    def _file(self, event, name):
        return self.path / "events" / event / name

    def record(self, event, condition=None):
        """Events that fulfil the condition go to the buffer."""
        if condition:
            _write(self._file(event, "filter"), condition)
        _write(self._file(event, "enable"), "1")

    def stop_at(self, event, condition):
        """The first such event is recorded, and then nothing more."""
        _write(self._file(event, "trigger"), f"traceoff:1 if {condition}")
        self.record(event)

    def count(self, event, *keys):
        """Events are not recorded, but counted by the values of their fields."""
        _write(self._file(event, "trigger"), f"hist:keys={','.join(keys)}:size=4096")

    def stop_counting(self, event, *keys):
        _write(self._file(event, "trigger"), f"hist:keys={','.join(keys)}:size=4096:pause")

    def count_between(self, event, keys, begin, end):
        """Counts only from one event to another: each is (event, condition)."""
        _write(self._file(event, "trigger"), f"hist:keys={','.join(keys)}:size=4096:pause")
        for verb, (other, condition) in (("enable", begin), ("disable", end)):
            _write(self._file(other, "trigger"), f"{verb}_hist:{event.replace('/', ':')} if {condition}")

    def clear_counts(self, event, keys):
        _write(self._file(event, "trigger"), f"hist:keys={','.join(keys)}:size=4096:clear")

    def clear(self):
        """Forgets the events of the buffer."""
        with open(self.path / "trace", "w"):  # truncating it is the way
            pass

    def counts(self, event):
        """{tuple of the keys' values, as text: count}"""
        found = {}
        for line in self._file(event, "hist").read_text().splitlines():
            match = re.match(r"\{ (.*?) \}\s*hitcount:\s*(\d+)", line)
            if match:
                values = tuple(item.split(":", 1)[1].strip() for item in match.group(1).split(", "))
                found[values] = int(match.group(2))
            elif line.strip().startswith("Dropped:") and int(line.split(":")[1]):
                raise TracingError(f"counts of {event} were lost")
        return found

    def events(self):
        """[(task's id, time, event, text)]"""
        for line in (self.path / "trace").read_text().splitlines():
            match = re.match(r"\s*.*?-(\d+)\s+\[\d+\]\s+\S+\s+(\d+): (\w+)(?:: |\(| (?=->))(.*)", line)
            if match:
                yield int(match.group(1)), int(match.group(2)), match.group(3), match.group(4)

    @contextmanager
    def waiting(self):
        """Opens the buffer for reading while the machine is still. Gives a function that waits for the first event and
        returns its line, or None if there was none in time. Whoever waits in it sleeps, and costs nothing."""
        pipe = os.open(self.path / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(pipe, select.POLLIN)

            def wait(seconds):
                # The kernel can lose the one wake-up that there is; the event is there all the same. So look again when
                # even the slowest boot is over.
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    poll.poll(LOOK_AGAIN_SECONDS * 1000)
                    try:
                        return os.read(pipe, 65536).decode()
                    except BlockingIOError:
                        pass
                return None
            yield wait
        finally:
            os.close(pipe)


def time_of(line):
    return int(re.search(r"\s(\d+): \w+:", line).group(1))


def _number(text):
    """The kernel prints constants as sums: `0x040 + 14`."""
    return sum(int(part, 0) for part in text.split("+"))


def names_of(event, field):
    """{number: name} for a field that the event prints by name. kvm_exit has two lists: for Intel, and for AMD."""
    text = (TRACEFS / "events" / event / "format").read_text()
    lists = [{_number(number): name for number, name in re.findall(r'\{ ([-+0-9a-fx ]+), "([^"]*)" \}', part)}
             for part in re.findall(r"__print_symbolic\(REC->%s\b(.*?\})\s*\)" % field, text, re.S)]
    is_amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    return lists[-1 if is_amd else 0]
