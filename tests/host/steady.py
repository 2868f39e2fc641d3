# SPDX-License-Identifier: Apache-2.0
"""Keeps the emulated host clear of two faults of QEMU's TCG with several CPUs (7.2). Either hung about one session in fifty.

Stale code. Linux turns rarely used branches on and off by patching its own code ("static keys"): it puts in an `int3`,
changes the rest, and takes the `int3` out. TCG may go on with its translation of the `int3` for ever. KVM does this in the
scheduler, of all places, whenever the first VM of a host is made and the last one is gone (`preempt_notifier_key`), and in
its own code for vCPUs whose APIC is off or missing. So one VM of each kind exists here always: nothing is patched then.

Lost interrupts. Where a CPU enters or leaves a nested guest, TCG changes the CPU's word of pending requests without the lock
under which a timer sets a bit in it (`helper_vmrun` and `do_vmexit` in svm_helper.c). If the timer's bit is what gets lost,
the CPU stays in the nested guest until the next interrupt makes its interrupt controller look again; on a quiet host there
is none. So each CPU has a thread of the highest priority here, and wakes the others' threads: that is an interrupt.
"""
import fcntl
import os
import select
import threading

KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_CREATE_IRQCHIP = 0xAE01, 0xAE41, 0xAE60  # <linux/kvm.h>
PERIOD_S = 0.1


def make_vm(has_irqchip):
    """A VM with a vCPU that never runs. Its descriptors live as long as this process does."""
    kvm = os.open("/dev/kvm", os.O_RDWR)
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    if has_irqchip:
        fcntl.ioctl(vm, KVM_CREATE_IRQCHIP, 0)
    fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)


def beat(cpu, own, others):
    """The thread of one CPU. Woken by another one it only empties its pipe; after a period it wakes the others."""
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while True:
        if select.select([own], [], [], PERIOD_S)[0]:
            os.read(own, 64)
        else:
            for other in others:
                os.write(other, b"x")


def main():
    make_vm(has_irqchip=True)
    make_vm(has_irqchip=False)
    cpus = sorted(os.sched_getaffinity(0))
    pipes = {cpu: os.pipe() for cpu in cpus}
    for cpu in cpus:
        others = [pipes[c][1] for c in cpus if c != cpu]
        threading.Thread(target=beat, args=(cpu, pipes[cpu][0], others)).start()


if __name__ == "__main__":
    main()
