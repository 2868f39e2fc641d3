/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/remote_commands.h"

#include "api/bodies.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "config/generic_vhost_user.h"
#include "config/migration.h"
#include "config/vm_config.h"
#include "config/vmm_config.h"
#include "schema/schema.h"
#include "schema/words.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void remote_body_done(struct remote_body *b)
{
	text_done(&b->text);
	free(b->fds);
	*b = (struct remote_body){ 0 };
}

/* A small request; *object holds strings of the command line. */
static int write_body(const struct schema *s, const void *object, struct remote_body *b, struct err *e)
{
	return schema_write_json(s, object, SCHEMA_WITH_SECRETS, &b->text, e);
}

/* JSON's strings are read through pointers to what may change; nothing is changed. */
static char *word_of(const struct command_line *line, const char *name)
{
	return (char *)(uintptr_t)command_line_value(line, name);
}

static int read_size(const struct command_line *line, const char *option, const char *what, struct remote_body *b,
                     uint64_t *ret_bytes, struct err *e)
{
	const char *word = command_line_value(line, option);
	b->what = what;
	if (!word_to_size(word, ret_bytes))
		return err_set(e, EINVAL, "invalid value: %s", word);
	return 0;
}

static int body_of_id(const struct remote_command *c, const struct command_line *line, struct remote_body *b, struct err *e)
{
	const struct remove_device_body body = { .id = word_of(line, "id") };
	(void)c;
	return write_body(&remove_device_schema, &body, b, e);
}

static int body_of_destination(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                               struct err *e)
{
	const struct destination_body body = { .destination_url = word_of(line, "destination_url") };
	(void)c;
	return write_body(&snapshot_schema, &body, b, e);
}

static int body_of_resize(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                          struct err *e)
{
	const char *cpus = command_line_value(line, "cpus");
	struct resize_body body = { .has_desired_vcpus = cpus, .has_desired_ram = command_line_count(line, "memory") > 0,
	                            .has_desired_balloon = command_line_count(line, "balloon") > 0 };
	uint64_t n_vcpus = 0;
	int rc = 0;
	(void)c;
	if (cpus && (!word_to_number(cpus, &n_vcpus) || n_vcpus > UINT32_MAX)) {
		b->what = "Error parsing CPU count";
		return err_set(e, EINVAL, "invalid value: %s", cpus);
	}
	body.desired_vcpus = (uint32_t)n_vcpus;
	if (body.has_desired_ram)
		rc = read_size(line, "memory", "Error parsing memory size", b, &body.desired_ram, e);
	if (rc == 0 && body.has_desired_balloon)
		rc = read_size(line, "balloon", "Error parsing balloon size", b, &body.desired_balloon, e);
	return rc < 0 ? rc : write_body(&resize_schema, &body, b, e);
}

static int body_of_resize_disk(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                               struct err *e)
{
	struct resize_disk_body body = { .id = word_of(line, "disk") };
	int rc = read_size(line, "size", "Error parsing disk size", b, &body.desired_size, e);
	(void)c;
	return rc < 0 ? rc : write_body(&resize_disk_schema, &body, b, e);
}

static int body_of_resize_zone(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                               struct err *e)
{
	struct resize_zone_body body = { .id = word_of(line, "id") };
	int rc = read_size(line, "size", "Error parsing memory size", b, &body.desired_ram, e);
	(void)c;
	return rc < 0 ? rc : write_body(&resize_zone_schema, &body, b, e);
}

/* Not parsed: what is wrong with it, the server says, and says it better than a parser without the schema could. */
static int body_of_file(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                        struct err *e)
{
	const char *path = command_line_value(line, "path");
	bool is_stdin = strcmp(path, "-") == 0;
	fd_scoped opened = is_stdin ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	int fd = is_stdin ? STDIN_FILENO : opened;
	char bytes[16384];
	ssize_t n;

	(void)c;
	b->what = is_stdin ? "Error reading from stdin" : "Error reading from file";
	if (fd < 0)
		return err_set_errno(e, errno, "cannot open %s", path);
	while ((n = read(fd, bytes, sizeof bytes)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_set_errno(e, errno, "cannot read %s", path);
		text_append_n(&b->text, bytes, (size_t)n);
		if (b->text.is_out_of_memory)
			return err_set(e, ENOMEM, "out of memory");
		if (b->text.n_bytes > SCHEMA_JSON_MAX_BYTES)
			return err_set(e, EFBIG, "%s has more than %u bytes", path, SCHEMA_JSON_MAX_BYTES);
	}
	return b->text.n_bytes ? 0 : err_set(e, EINVAL, "%s is empty", path);
}

/* Appends them to those that are sent; the list stays the object's. */
static int add_fds(struct remote_body *b, const int32_t *fds, size_t n, struct err *e)
{
	int *grown = n ? reallocarray(b->fds, b->n_fds + n, sizeof *grown) : b->fds;
	if (n && !grown)
		return err_set(e, ENOMEM, "out of memory");
	b->fds = grown;
	for (size_t i = 0; i < n; i++) {
		if (fcntl(fds[i], F_GETFD) < 0)
			return err_set(e, EBADF, "file descriptor %d is not open", fds[i]);
		b->fds[b->n_fds++] = fds[i];
	}
	return 0;
}

/* Descriptors are numbers of this process: they leave the object for the socket. */
static int take_net_fds(void *object, struct remote_body *b, struct err *e)
{
	struct net_config *net = object;
	int rc = add_fds(b, net->fds, net->n_fds, e);
	free(net->fds);
	net->fds = NULL;
	net->n_fds = 0;
	return rc;
}

static int take_device_fd(void *object, struct remote_body *b, struct err *e)
{
	struct device_config *device = object;
	int rc = device->has_fd ? add_fds(b, &device->fd, 1, e) : 0;
	device->has_fd = false;
	return rc;
}

static int take_restore_fds(void *object, struct remote_body *b, struct err *e)
{
	struct restore_config *restore = object;
	for (size_t i = 0; i < restore->n_net_fds; i++) {
		struct restored_net_config *net = &restore->net_fds[i];
		int rc = add_fds(b, net->fds, net->n_fds, e);
		if (rc < 0)
			return rc;
		net->num_fds = net->n_fds;
		free(net->fds);
		net->fds = NULL;
		net->n_fds = 0;
	}
	return 0;
}

static int write_schema(const struct remote_command *c, const char *string,
                        int (*take_fds)(void *object, struct remote_body *b, struct err *e), struct remote_body *b,
                        struct err *e)
{
	free_scoped void *object = malloc(c->schema->size);
	b->what = c->what;
	if (!object)
		return err_set(e, ENOMEM, "out of memory");
	int rc = schema_parse_option(c->schema, string, object, e);
	if (rc < 0)
		return rc;
	if (take_fds)
		rc = take_fds(object, b, e);
	if (rc == 0)
		rc = schema_write_json(c->schema, object, SCHEMA_WITH_SECRETS, &b->text, e);
	schema_done(c->schema, object);
	return rc;
}

static int body_of_device(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                          struct err *e)
{
	return write_schema(c, command_line_value(line, c->rows[0].name), NULL, b, e);
}

static int body_of_vfio_device(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                               struct err *e)
{
	return write_schema(c, command_line_value(line, c->rows[0].name), take_device_fd, b, e);
}

static int body_of_net(const struct remote_command *c, const struct command_line *line, struct remote_body *b, struct err *e)
{
	return write_schema(c, command_line_value(line, c->rows[0].name), take_net_fds, b, e);
}

static int body_of_restore(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                           struct err *e)
{
	return write_schema(c, command_line_value(line, c->rows[0].name), take_restore_fds, b, e);
}

static int take_migration_fds(void *object, struct remote_body *b, struct err *e)
{
	const struct receive_migration_config *receive = object;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < receive->n_vfio_fds; i++)
		rc = add_fds(b, &receive->vfio_fds[i].fd, 1, e);
	if (rc == 0 && receive->has_iommufd_fd)
		rc = add_fds(b, &receive->iommufd_fd, 1, e);
	return rc;
}

/* A bare URL is fine, too: the only form until version 52 of ch-remote. */
static int body_of_migration(const struct remote_command *c, const struct command_line *line, struct remote_body *b,
                             struct err *e)
{
	const char *word = command_line_value(line, c->rows[0].name);
	bool is_receive = c->schema == &receive_migration_schema;
	bool is_url = strncmp(word, "unix:", 5) == 0 || strncmp(word, "tcp:", 4) == 0;
	text_scoped string = TEXT_INIT;
	if (is_url)
		text_append(&string, is_receive ? "receiver_url=" : "destination_url=");
	text_append(&string, word);
	if (string.is_out_of_memory)
		return err_set(e, ENOMEM, "out of memory");
	return write_schema(c, text_get(&string), is_receive ? take_migration_fds : NULL, b, e);
}

#define WORD(name_, help_, ...) { .name = name_, .arity = OPTION_WORD, .is_required = true, .help = help_, __VA_ARGS__ }
#define ROWS(r) .rows = r, .n_rows = ARRAY_LEN(r)

static const struct option_row device_rows[] = { WORD("device_config", "A VFIO device", .schema = &device_schema) };
static const struct option_row disk_rows[] = { WORD("disk_config", "A block device", .schema = &disk_schema) };
static const struct option_row fs_rows[] = { WORD("fs_config", "A shared directory", .schema = &fs_schema) };
static const struct option_row generic_rows[] = { WORD("generic_vhost_user_config", "A vhost-user device",
	                                               .schema = &generic_vhost_user_schema) };
static const struct option_row net_rows[] = { WORD("net_config", "A network device", .schema = &net_schema) };
static const struct option_row pmem_rows[] = { WORD("pmem_config", "Persistent memory", .schema = &pmem_schema) };
static const struct option_row user_device_rows[] = { WORD("device_config", "A vfio-user device",
	                                                   .schema = &user_device_schema) };
static const struct option_row vdpa_rows[] = { WORD("vdpa_config", "A vDPA device", .schema = &vdpa_schema) };
static const struct option_row vsock_rows[] = { WORD("vsock_config", "A vsock device", .schema = &vsock_schema) };
static const struct option_row restore_rows[] = { WORD("restore_config", "The snapshot", .schema = &restore_schema) };
static const struct option_row receive_rows[] = { WORD("receive_migration_config", "A URL, or:",
	                                               .schema = &receive_migration_schema) };
static const struct option_row send_rows[] = { WORD("send_migration_config", "A URL, or:",
	                                            .schema = &send_migration_schema) };
static const struct option_row destination_rows[] = { WORD("destination_url", "Where it is written: file://<path>") };
static const struct option_row create_rows[] = {
	{ .name = "path", .arity = OPTION_WORD, .def = "-", .is_path = true,
	  .help = "File with the configuration in JSON; '-' is standard input" },
};
static const struct option_row remove_rows[] = { WORD("id", "The device's identifier") };
static const struct option_row remove_our_rows[] = {
	{ .name = "wait", .help = "Until the guest has let go, and the identifier is free" },
};
static const struct option_row resize_rows[] = {
	{ .name = "cpus", .arity = OPTION_ONE, .help = "New number of vCPUs" },
	{ .name = "memory", .arity = OPTION_ONE, .help = "New size of memory in bytes, or with K, M or G" },
	{ .name = "balloon", .arity = OPTION_ONE, .help = "New size of the balloon in bytes, or with K, M or G" },
};
static const struct option_row resize_disk_rows[] = {
	{ .name = "disk", .arity = OPTION_ONE, .is_required = true, .help = "The disk's identifier" },
	{ .name = "size", .arity = OPTION_ONE, .is_required = true, .help = "New size in bytes, or with K, M or G" },
};
static const struct option_row resize_zone_rows[] = {
	{ .name = "id", .arity = OPTION_ONE, .is_required = true, .help = "The memory zone's identifier" },
	{ .name = "size", .arity = OPTION_ONE, .is_required = true, .help = "New size in bytes, or with K, M or G" },
};
static const struct option_row events_rows[] = {
	{ .name = "event-monitor", .arity = OPTION_ONE, .is_required = true, .is_path = true,
	  .help = "The file or FIFO that the VMM was given as its --event-monitor" },
	{ .name = "no-follow", .help = "Only what is there, without waiting for more" },
};

#define ADD(name_, about_, rows_, schema_, what_, body_)                                                             \
	{ .name = "add-" name_, .about = about_, .method = "PUT", .endpoint = "vm.add-" name_, ROWS(rows_),           \
	  .schema = schema_, .what = "Error parsing " what_ " syntax", .write_body = body_, .show = show_added }
#define PLAIN(name_, about_, ...)                                                                                     \
	{ .name = name_, .about = about_, .method = "PUT", .endpoint = "vm." name_, __VA_ARGS__ }

const struct remote_command remote_commands[] = {
	ADD("device", "Add a VFIO device", device_rows, &device_schema, "device", body_of_vfio_device),
	ADD("disk", "Add a block device", disk_rows, &disk_schema, "disk", body_of_device),
	ADD("fs", "Add a shared directory (virtio-fs)", fs_rows, &fs_schema, "filesystem", body_of_device),
	ADD("generic-vhost-user", "Add a vhost-user device of any type", generic_rows, &generic_vhost_user_schema,
	    "generic vhost-user", body_of_device),
	ADD("net", "Add a network device", net_rows, &net_schema, "network", body_of_net),
	ADD("pmem", "Add persistent memory", pmem_rows, &pmem_schema, "persistent memory", body_of_device),
	ADD("user-device", "Add a vfio-user device", user_device_rows, &user_device_schema, "user device", body_of_device),
	ADD("vdpa", "Add a vDPA device", vdpa_rows, &vdpa_schema, "vDPA device", body_of_device),
	ADD("vsock", "Add a vsock device", vsock_rows, &vsock_schema, "vsock", body_of_device),
	PLAIN("boot", "Boot the VM that was created", .is_slow = true),
	PLAIN("coredump", "Write a core dump of the guest", ROWS(destination_rows), .write_body = body_of_destination,
	      .is_slow = true),
	{ .name = "counters", .about = "Counters of the devices", .method = "GET", .endpoint = "vm.counters",
	  .show = show_counters },
	PLAIN("create", "Create a VM from a JSON configuration", ROWS(create_rows), .write_body = body_of_file),
	PLAIN("delete", "Delete the VM, shutting it down first", .is_slow = true),
	{ .name = "events", .about = "Follow the event stream of the VMM", ROWS(events_rows), .is_ours = true },
	{ .name = "info", .about = "Configuration, state and devices of the VM", .method = "GET", .endpoint = "vm.info",
	  .show = show_info },
	PLAIN("nmi", "Send the guest a non-maskable interrupt"),
	PLAIN("pause", "Pause the VM", .is_slow = true),
	{ .name = "ping", .about = "Is the VMM there, and which one", .method = "GET",
	  .endpoint = "vmm.ping", .show = show_ping },
	PLAIN("power-button", "Press the guest's power button"),
	PLAIN("reboot", "Reboot the VM", .is_slow = true),
	PLAIN("receive-migration", "Wait for a VM that another process sends", ROWS(receive_rows),
	      .schema = &receive_migration_schema, .what = "Error parsing receive migration syntax",
	      .write_body = body_of_migration, .is_slow = true),
	PLAIN("remove-device", "Ask the guest to let a device go", ROWS(remove_rows), .our_rows = remove_our_rows,
	      .n_our_rows = ARRAY_LEN(remove_our_rows), .write_body = body_of_id),
	PLAIN("resize", "Resize the VM", ROWS(resize_rows), .write_body = body_of_resize, .is_slow = true),
	PLAIN("resize-disk", "Resize a disk", ROWS(resize_disk_rows), .write_body = body_of_resize_disk, .is_slow = true),
	PLAIN("resize-zone", "Resize a memory zone", ROWS(resize_zone_rows), .write_body = body_of_resize_zone, .is_slow = true),
	PLAIN("restore", "Make the VM of a snapshot", ROWS(restore_rows), .schema = &restore_schema,
	      .what = "Error parsing restore syntax", .write_body = body_of_restore, .is_slow = true),
	PLAIN("resume", "Let a paused VM go on", .is_slow = true),
	PLAIN("send-migration", "Send the VM to another process", ROWS(send_rows), .schema = &send_migration_schema,
	      .what = "Error parsing send migration syntax", .write_body = body_of_migration, .is_slow = true),
	PLAIN("shutdown", "Shut the VM down, as if its power was cut", .is_slow = true),
	{ .name = "shutdown-vmm", .about = "End the VMM, and the VM with it", .method = "PUT", .endpoint = "vmm.shutdown",
	  .is_slow = true },
	PLAIN("snapshot", "Write a snapshot of the paused VM", ROWS(destination_rows), .write_body = body_of_destination,
	      .is_slow = true),
};
const size_t n_remote_commands = ARRAY_LEN(remote_commands);

const struct remote_command *remote_command_find(const char *name)
{
	for (size_t i = 0; i < n_remote_commands; i++)
		if (strcmp(remote_commands[i].name, name) == 0)
			return &remote_commands[i];
	return NULL;
}
