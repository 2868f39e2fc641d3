/* SPDX-License-Identifier: Apache-2.0 */
/* Persistent memory on a machine: at boot, and coming and going under a guest that writes to it all the time. */
#include "base/cleanup.h"
#include "machine_kit.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>

#define MIB (1ull << 20)
#define WORD_BYTES 4
/* Of 16 GiB, what devices bring lies between 8 and 12. */
#define PHYS_BITS 34
#define MEMORY_AT (8192 * MIB)

/* In long mode's 32-bit half: page tables at 32 MiB map the code's 2 MiB, the hotplug registers', and at 0x40000000 and
 * 0x40200000 the first 4 MiB above 8 GiB. Adds one to the first word of both, without end, and ejects what it is
 * asked for. */
GUEST(writer, 32,
      "movl $0x2004003, 0x2000000\n"
      "movl $0x2001003, 0x2004000\n"
      "movl $0x2002003, 0x2004008\n"
      "movl $0x2003003, 0x2004018\n"
      "movl $0x1000083, 0x2001040\n"
      "movl $0x83, 0x2002000\n"
      "movl $2, 0x2002004\n"
      "movl $0x200083, 0x2002008\n"
      "movl $2, 0x200200c\n"
      "movl $0xfec00083, 0x2003fb0\n"
      "mov %cr4, %eax\n"
      "or $0x20, %eax\n"
      "mov %eax, %cr4\n"
      "mov $0x2000000, %eax\n"
      "mov %eax, %cr3\n"
      "mov $0xc0000080, %ecx\n"
      "mov $0x100, %eax\n"
      "xor %edx, %edx\n"
      "wrmsr\n"
      "mov %cr0, %eax\n"
      "or $0x80000000, %eax\n"
      "mov %eax, %cr0\n"
      "1: incl 0x40000000\n"
      "incl 0x40200000\n"
      "mov 0xfec11000, %eax\n"
      "mov 0xfec11004, %eax\n"
      "test %eax, %eax\n"
      "jz 2f\n"
      "mov %eax, 0xfec11008\n"
      "2: mov $5000, %ecx\n"
      "3: dec %ecx\n"
      "jnz 3b\n"
      "jmp 1b");

static struct image new_memory(uint64_t n_bytes)
{
	struct image i = new_image();
	OK(ftruncate(i.fd, (off_t)n_bytes) == 0);
	return i;
}

static void start_writer(struct driver *d)
{
	driver_init(d, CODE(writer), 0);
	d->config.cpus.max_phys_bits = PHYS_BITS;
}

static struct pmem_config pmem_of(struct image *i, const char *id)
{
	return (struct pmem_config){ .file = i->path, .id = (char *)(uintptr_t)id };
}

/* Of the configuration of a machine that is not booted yet. */
static void add_cold(struct driver *d, const char *path, bool discard_writes)
{
	char id[16];
	(void)snprintf(id, sizeof id, "_pmem%zu", d->config.n_pmem);
	d->config.pmem = reallocarray(d->config.pmem, d->config.n_pmem + 1, sizeof *d->config.pmem);
	OK(d->config.pmem);
	d->config.pmem[d->config.n_pmem++] =
		(struct pmem_config){ .file = strdup(path), .id = strdup(id), .discard_writes = discard_writes };
}

static void cannot_boot(struct driver *d, const char *text)
{
	struct err e = { 0 };
	const struct machine_params p = {
		.config = &d->config, .hv = d->hv, .loop = d->loop, .io_loop = d->io.loop, .event = on_event, .context = d,
	};
	struct machine *m;
	OK(machine_new(&p, &m, &e) < 0);
	STR_HAS(e.text, text);
}

static uint32_t word_at(const struct image *i, uint64_t offset)
{
	uint32_t word;
	EQ(pread(i->fd, &word, WORD_BYTES, (off_t)offset), WORD_BYTES);
	return word;
}

static bool grows(const struct image *i, uint64_t offset)
{
	uint32_t before = word_at(i, offset);
	for (unsigned n = 0; n < SECONDS_LIMIT * 100; n++) {
		if (word_at(i, offset) != before)
			return true;
		(void)poll(NULL, 0, 10);
	}
	return false;
}

/* What the driver reads of it, and what the device tree says. */
static void check_place(struct driver *d, const char *id, uint64_t start, uint64_t n_bytes)
{
	uint8_t space[16];
	const struct attached *a = machine_find_device(d->m, id);
	OK(a);
	virtio_space_read(a->v, 0, space, sizeof space);
	EQ(get_le64(space), start);
	EQ(get_le64(space + 8), n_bytes);
	json_t *tree = tree_of(d);
	json_int_t base, size;
	EQ(json_unpack(tree, "{s:{s:[{s:{s:I,s:I}}]}}", id, "resources", "MmioAddressRange", "base", &base, "size", &size), 0);
	EQ(base, start);
	EQ(size, n_bytes);
	json_decref(tree);
}

static void boots_with_two(bool has_pci)
{
	struct driver d;
	struct image i = new_memory(2 * MIB), j = new_memory(4 * MIB);
	start_writer(&d);
	if (!has_pci)
		d.config.machine.transport = TRANSPORT_MMIO;
	add_cold(&d, i.path, false);
	add_cold(&d, j.path, false);
	d.config.pmem[1].has_size = true;
	d.config.pmem[1].size = 2 * MIB; /* of a file that is larger */
	boot(&d);
	check_place(&d, "_pmem0", MEMORY_AT, 2 * MIB);
	check_place(&d, "_pmem1", MEMORY_AT + 2 * MIB, 2 * MIB);
	OK(!is_unlocked(&i) && !is_unlocked(&j));
	EQ(d.m->mem.n_regions, 1); /* it is no RAM */
	EQ(d.m->mem.n_total_bytes, 64 * MIB);
	OK(grows(&i, 0) && grows(&j, 0));
	driver_done(&d);
	OK(is_unlocked(&i) && is_unlocked(&j));
	(void)close(i.fd);
	(void)close(j.fd);
}

TEST(what_the_guest_writes_is_in_the_file)
{
	boots_with_two(true);
}

TEST(over_mmio_as_well)
{
	boots_with_two(false);
}

TEST(discarded_writes_stay_with_the_guest)
{
	struct driver d;
	struct image i = new_memory(2 * MIB), j = new_memory(2 * MIB);
	start_writer(&d);
	add_cold(&d, i.path, true);
	add_cold(&d, j.path, false); /* whose growing says that the guest has been at the first */
	boot(&d);
	OK(grows(&j, 0));
	EQ(word_at(&i, 0), 0);
	struct span s;
	uint32_t word;
	OK(mem_device_span(&d.m->mem, GPA(MEMORY_AT), WORD_BYTES, &s));
	span_read(s, 0, &word, WORD_BYTES);
	OK(word != 0);
	driver_done(&d);
	(void)close(i.fd);
	(void)close(j.fd);
}

TEST(it_comes_and_goes_under_a_guest_that_writes)
{
	struct driver d;
	struct image i = new_memory(2 * MIB), j = new_memory(2 * MIB);
	struct pci_device_info info;
	struct err e = { 0 };
	start_writer(&d);
	add_cold(&d, j.path, false);
	boot(&d);
	for (unsigned n = 1; n <= 20; n++) {
		struct pmem_config c = pmem_of(&i, "mine");
		if (machine_add_device(d.m, "pmem", &c, &info, &e) < 0)
			test_fail(__FILE__, __LINE__, "%s", e.text);
		check_place(&d, "mine", MEMORY_AT + 2 * MIB, 2 * MIB); /* free again each time */
		EQ(d.m->mem.device_regions[1].n_bytes, 2 * MIB);
		OK(grows(&i, 0));
		OK(!is_unlocked(&i));
		EQ(machine_remove_device(d.m, "mine", &e), 0);
		wait_removed(&d, n);
		OK(is_unlocked(&i)); /* also by the mapping */
		EQ(d.m->mem.device_regions[1].n_bytes, 0);
		uint32_t last = word_at(&i, 0);
		OK(grows(&j, 0));
		EQ(word_at(&i, 0), last);
	}
	driver_done(&d);
	(void)close(i.fd);
	(void)close(j.fd);
}

TEST(it_comes_to_a_paused_machine)
{
	struct driver d;
	struct image i = new_memory(2 * MIB);
	struct pci_device_info info;
	struct err e = { 0 };
	start_writer(&d);
	boot(&d);
	machine_pause(d.m);
	struct pmem_config c = pmem_of(&i, "mine");
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), 0);
	EQ(word_at(&i, 0), 0);
	machine_resume(d.m);
	OK(grows(&i, 0));
	machine_pause(d.m);
	EQ(machine_remove_device(d.m, "mine", &e), 0);
	machine_resume(d.m);
	wait_removed(&d, 1);
	driver_done(&d);
	(void)close(i.fd);
}

TEST(what_cannot_be_mapped_is_refused)
{
	struct driver d;
	struct image odd = new_memory(3 * MIB), none = new_memory(0), good = new_memory(2 * MIB);
	struct pci_device_info info;
	struct err e = { 0 };
	start_writer(&d);
	boot(&d);
	struct pmem_config c = pmem_of(&odd, "p");
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -EIO);
	STR_EQ(e.text, "p: the size of 3145728 bytes is not a multiple of 2 MiB");
	c = pmem_of(&none, "p");
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -EIO);
	STR_HAS(e.text, "the size of 0 bytes is not a multiple of 2 MiB");
	c = pmem_of(&good, "p");
	c.has_size = true;
	c.size = 4 * MIB;
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -EIO);
	STR_HAS(e.text, "p: size=4194304, but '/proc/self/fd/");
	STR_HAS(e.text, "has only 2097152 bytes");
	c.size = MIB;
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -EIO);
	STR_HAS(e.text, "the size of 1048576 bytes is not a multiple of 2 MiB");
	OK(is_unlocked(&good));
	c = (struct pmem_config){ .file = (char[]){ "/no/such/file" }, .id = (char[]){ "p" } };
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -EIO);
	STR_HAS(e.text, "cannot open '/no/such/file'");
	c.file = (char[]){ "/dev/null" };
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -EIO);
	STR_HAS(e.text, "neither a regular file nor a block device");

	c = pmem_of(&good, "p");
	c.pci_segment = 1;
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -ENOTSUP);
	STR_EQ(e.text, "not supported yet: --pmem pci_segment");
	c.pci_segment = 0;
	c.iommu = true;
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -ENOTSUP);
	STR_EQ(e.text, "not supported yet: --pmem iommu");

	c.iommu = false;
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), 0);
	struct pmem_config twice = pmem_of(&good, "q");
	EQ(machine_add_device(d.m, "pmem", &twice, &info, &e), -EBUSY);
	STR_HAS(e.text, "in use by another process, or by another disk");
	struct disk_config disk = disk_of(&good, "disk");
	EQ(machine_add_device(d.m, "disks", &disk, &info, &e), -EBUSY);
	EQ(d.m->n_devices, 2);
	driver_done(&d);
	(void)close(odd.fd);
	(void)close(none.fd);
	(void)close(good.fd);
}

TEST(a_folder_lends_a_file_without_a_name)
{
	struct driver d;
	char folder[] = "/tmp/varan-pmem-XXXXXX";
	struct pci_device_info info;
	struct err e = { 0 };
	OK(mkdtemp(folder));
	start_writer(&d);
	boot(&d);
	struct pmem_config c = { .file = folder, .id = (char[]){ "p" } };
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), -EIO);
	STR_HAS(e.text, "is a folder: a file there needs a size");
	c.has_size = true;
	c.size = 2 * MIB;
	if (machine_add_device(d.m, "pmem", &c, &info, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	c.id = (char[]){ "q" };
	c.discard_writes = true;
	EQ(machine_add_device(d.m, "pmem", &c, &info, &e), 0);
	check_place(&d, "p", MEMORY_AT, 2 * MIB);
	check_place(&d, "q", MEMORY_AT + 2 * MIB, 2 * MIB);
	struct stat st;
	EQ(fstat(d.m->mem.device_regions[0].fd, &st), 0);
	EQ(st.st_nlink, 0);
	EQ(st.st_size, 2 * MIB);
	driver_done(&d);
	EQ(rmdir(folder), 0);
}

TEST(there_is_room_for_so_much)
{
	struct driver d;
	struct image i = new_memory(2 * MIB), big = new_memory(2 * MIB);
	struct pci_device_info info;
	struct err e = { 0 };
	start_writer(&d);
	boot(&d);
	uint64_t n_window = d.m->x86.device_memory.n_bytes;
	EQ(d.m->x86.device_memory.start, MEMORY_AT);
	EQ(n_window, 4096 * MIB);
	OK(ftruncate(big.fd, (off_t)n_window) == 0); /* of holes */
	struct pmem_config small = pmem_of(&i, "small"), all = pmem_of(&big, "all");
	EQ(machine_add_device(d.m, "pmem", &small, &info, &e), 0);
	EQ(machine_add_device(d.m, "pmem", &all, &info, &e), -ENOSPC);
	STR_HAS(e.text, "all: no room for 0x");
	OK(is_unlocked(&big));
	driver_done(&d);

	start_writer(&d);
	d.config.memory.size = 5120 * MIB; /* the last 4 GiB are PCI's then */
	add_cold(&d, i.path, false);
	cannot_boot(&d, "--pmem: _pmem0: no room for 0x200000 bytes among the 0x0 bytes of guest addresses");
	driver_done(&d);
	(void)close(i.fd);
	(void)close(big.fd);
}

/* There is nothing to give the guest instead. It is the end of its VM, and of nothing else. */
TEST(a_file_that_is_cut_off_ends_the_vm_with_a_report)
{
	struct driver d;
	struct image i = new_memory(2 * MIB), j = new_memory(2 * MIB);
	start_writer(&d);
	add_cold(&d, i.path, false);
	add_cold(&d, j.path, false);
	boot(&d);
	OK(grows(&i, 0) && grows(&j, 0));
	OK(ftruncate(i.fd, 0) == 0);
	uint32_t before = word_at(&j, 0);
	for (unsigned n = 0; !d.has_failed && n < SECONDS_LIMIT * 100; n++) {
		(void)poll(NULL, 0, 10);
		if (word_at(&j, 0) > before + 2)
			test_skip("this engine interprets the guest's writes, and takes what it cannot write for MMIO");
	}
	OK(d.has_failed);
	machine_free(ptr_take(d.m)); /* the vCPU's thread has ended */
	STR_HAS(d.report, "KVM_RUN failed: Bad address");
	STR_HAS(d.report, "guest memory is not there: if a file is mapped into it, has that been cut off");
	free(d.report);
	d.has_failed = false;
	driver_done(&d);
	(void)close(i.fd);
	(void)close(j.fd);
}

TEST(a_machine_that_cannot_have_it_says_so_at_boot)
{
	struct driver d;
	start_writer(&d);
	add_cold(&d, "/no/such/file", false);
	cannot_boot(&d, "--pmem: cannot open '/no/such/file'");
	driver_done(&d);
}
