# SPDX-License-Identifier: Apache-2.0
"""Kernel modules: which files a set of modules needs, in which order to load them."""
import lzma


def _name(path):
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def load_order(folder, wanted):
    """Paths below `folder` (lib/modules/VERSION) of the wanted modules and of all that they need, needed ones first.

    What is built into the kernel needs no file, and is left out; a name that the kernel does not know at all is an error.
    """
    needs, path_of = {}, {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        path_of[_name(path)] = path
        needs[path] = rest.split()
    builtin = {_name(line) for line in (folder / "modules.builtin").read_text().splitlines()}
    order = []

    def add(path):
        for need in needs[path]:
            add(need)
        if path not in order:
            order.append(path)

    for module in wanted:
        name = module.replace("-", "_")
        if name in path_of:
            add(path_of[name])
        elif name not in builtin:
            raise ValueError(f"{folder}: no module {module}")
    return order


def read(folder, path):
    """One module, decompressed: busybox's insmod takes plain files only."""
    data = (folder / path).read_bytes()
    return lzma.decompress(data) if path.endswith(".xz") else data
