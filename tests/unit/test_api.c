/* SPDX-License-Identifier: Apache-2.0 */
/* The routes, over a real socket, with a VMM that only notes what it is asked for. */
#include "api/api.h"
#include "api/bodies.h"
#include "api/routes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"
#include "config/vm_config.h"
#include "http_kit.h"
#include "schema/schema.h"
#include "vm/vmm.h"

/* The double: what the next operation returns, and what was asked. */
struct vmm {
	int rc;
	const char *text, *bdf;
	char asked[32], argument[64];
	struct vm_config config;
	bool has_config, is_stopped;
};

static int ask(struct vmm *v, const char *what, const char *argument, struct err *e)
{
	(void)snprintf(v->asked, sizeof v->asked, "%s", what);
	(void)snprintf(v->argument, sizeof v->argument, "%s", argument);
	if (v->rc < 0 && v->text)
		(void)err_set(e, -v->rc, "%s", v->text);
	return v->rc;
}

int vmm_create(struct vmm *v, struct vm_config *config, struct err *e)
{
	int rc = ask(v, "create", config->payload.kernel ? config->payload.kernel : "", e);
	if (rc == 0) {
		v->config = *config;
		v->has_config = true;
	}
	return rc;
}

#define OPERATION(name)                               \
	int vmm_##name(struct vmm *v, struct err *e)  \
	{                                             \
		return ask(v, #name, "", e);          \
	}
OPERATION(boot)
OPERATION(pause)
OPERATION(resume)
OPERATION(shutdown)
OPERATION(reboot)
OPERATION(power_button)
OPERATION(nmi)
OPERATION(delete)

/* "add_<member>" of what its path, socket or tag says, and how many descriptors came; it takes the first of them. */
int vmm_add_device(struct vmm *v, const struct device_addition *a, struct pci_device_info *ret_info, struct err *e)
{
	char what[64], of[64] = "";
	(void)snprintf(what, sizeof what, "add_%s", a->member);
	if (strcmp(a->member, "disks") == 0) {
		const struct disk_config *disk = a->device;
		(void)snprintf(of, sizeof of, "%s", disk->path ? disk->path : "");
		(void)snprintf(ret_info->id, sizeof ret_info->id, "%s", disk->id ? disk->id : "_disk0");
	} else if (strcmp(a->member, "net") == 0) {
		const struct net_config *net = a->device;
		(void)snprintf(of, sizeof of, "%zu of %zu%s", net->n_fds, a->n_fds,
		               a->n_fds && net->fds[a->n_fds - 1] == a->fds[a->n_fds - 1] ? ", the same" : "");
		(void)snprintf(ret_info->id, sizeof ret_info->id, "_net0");
	}
	int rc = ask(v, what, of, e);
	if (rc == 0)
		(void)snprintf(ret_info->bdf, sizeof ret_info->bdf, "%s", v->bdf);
	if (rc == 0 && a->n_fds)
		OK(close(fd_take(&a->fds[0])) == 0);
	return rc;
}

int vmm_remove_device(struct vmm *v, const char *id, struct err *e)
{
	return ask(v, "remove_device", id, e);
}

int vmm_resize_disk(struct vmm *v, const char *id, uint64_t n_bytes, struct err *e)
{
	char argument[64];
	(void)snprintf(argument, sizeof argument, "%s to %llu", id, (unsigned long long)n_bytes);
	return ask(v, "resize_disk", argument, e);
}

int vmm_info(struct vmm *v, struct text *json, struct err *e)
{
	text_append(json, "{\"state\":\"Created\"}");
	return ask(v, "info", "", e);
}

int vmm_counters(struct vmm *v, struct text *json, struct err *e)
{
	text_append(json, "{}");
	return ask(v, "counters", "", e);
}

void vmm_stop(struct vmm *v)
{
	v->is_stopped = true;
}

struct bench {
	struct loop *loop;
	struct api *api;
	struct vmm vmm;
	char folder[64], path[80];
	int fd;
	char answer[1u << 16];
};

static const char *const features[] = { "kvm", "tests", NULL };

static void bench_init(struct bench *b)
{
	memset(b, 0, sizeof *b);
	b->vmm.bdf = "";
	(void)snprintf(b->folder, sizeof b->folder, "/tmp/varan-api-XXXXXX");
	OK(mkdtemp(b->folder));
	(void)snprintf(b->path, sizeof b->path, "%s/sock", b->folder);
	EQ(loop_new(&b->loop, NULL), 0);
	const struct api_params p = { .loop = b->loop, .vmm = &b->vmm, .path = b->path, .fd = -1, .version = "1.2.3",
		                      .features = features };
	EQ(api_open(&p, &b->api, NULL), 0);
	b->fd = client_connect(b->path);
}

static void bench_done(struct bench *b)
{
	close(b->fd);
	api_close(b->api);
	loop_free(b->loop);
	if (b->vmm.has_config)
		vm_config_done(&b->vmm.config);
	EQ(rmdir(b->folder), 0);
}

/* Status of the answer; its body is in *ret_body. */
static unsigned request(struct bench *b, const char *method, const char *name, const char *body, const char **ret_body)
{
	text_scoped t = TEXT_INIT;
	bool is_end;
	text_appendf(&t, "%s /api/v1/%s HTTP/1.1\r\n", method, name);
	if (body)
		text_appendf(&t, "Content-Length: %zu\r\n", strlen(body));
	text_appendf(&t, "\r\n%s", body ? body : "");
	OK(client_send(b->loop, b->fd, text_get(&t)));
	(void)client_read(b->loop, b->fd, b->answer, sizeof b->answer, &is_end);
	OK(!is_end);
	unsigned status = 0;
	OK(sscanf(b->answer, "HTTP/1.1 %u ", &status) == 1);
	const char *empty_line = strstr(b->answer, "\r\n\r\n");
	OK(empty_line);
	*ret_body = empty_line + 4;
	OK((status == 204) == !strstr(b->answer, "Content-Length:"));
	return status;
}

static void expect(struct bench *b, const char *method, const char *name, const char *body, unsigned status, const char *answer)
{
	const char *got;
	unsigned got_status = request(b, method, name, body, &got);
	if (got_status != status || strcmp(got, answer) != 0)
		test_fail(__FILE__, __LINE__, "%s %s: %u \"%s\", expected %u \"%s\"", method, name, got_status, got, status,
		          answer);
}

/* An error of that status, whose chain begins like that and holds these words. */
static void expect_error(struct bench *b, const char *method, const char *name, const char *body, unsigned status,
                         const char *kind, const char *words)
{
	const char *got;
	char begin[64];
	(void)snprintf(begin, sizeof begin, "[\"%s\"", kind);
	unsigned got_status = request(b, method, name, body, &got);
	if (got_status != status || strncmp(got, begin, strlen(begin)) != 0 || !strstr(got, words))
		test_fail(__FILE__, __LINE__, "%s %s: %u \"%s\", expected %u \"%s\"...\"%s\"", method, name, got_status, got,
		          status, begin, words);
}

static void count_warnings(void *context, const struct log_record *r)
{
	unsigned *n = context;
	*n += strstr(r->text, "'fds' in the body") != NULL;
}

/* Numbers of another process's descriptors: neither used nor refused. */
TEST(descriptors_in_a_body_are_dropped)
{
	struct bench b;
	unsigned n_warnings = 0;
	const struct log_sink sink = { .write = count_warnings, .context = &n_warnings, .max_level = LOG_WARN };
	bench_init(&b);
	api_close(b.api);
	(void)close(b.fd);
	const struct api_params p = { .loop = b.loop, .vmm = &b.vmm, .path = b.path, .fd = -1, .log_sink = &sink, .version = "1" };
	EQ(api_open(&p, &b.api, NULL), 0);
	b.fd = client_connect(b.path);
	expect(&b, "PUT", "vm.create", "{\"payload\":{},\"net\":[{\"fds\":[5,6]}]}", 204, "");
	OK(b.vmm.config.n_net == 1 && !b.vmm.config.net[0].fds && !b.vmm.config.net[0].n_fds);
	EQ(n_warnings, 1);
	bench_done(&b);
}

TEST(ping_says_who_answers)
{
	struct bench b;
	char answer[256];
	bench_init(&b);
	(void)snprintf(answer, sizeof answer,
	               "{\"build_version\":\"v1.2.3\",\"version\":\"1.2.3\",\"pid\":%d,\"features\":[\"kvm\",\"tests\"]}",
	               getpid());
	expect(&b, "GET", "vmm.ping", NULL, 200, answer);
	expect(&b, "GET", "vmm.ping", "ignored", 200, answer); /* as Cloud Hypervisor does */
	bench_done(&b);
}

TEST(operations_reach_the_vmm)
{
	static const char *const names[][2] = {
		{ "vm.boot", "boot" },       { "vm.pause", "pause" },           { "vm.resume", "resume" },
		{ "vm.shutdown", "shutdown" }, { "vm.reboot", "reboot" },       { "vm.power-button", "power_button" },
		{ "vm.nmi", "nmi" },         { "vm.delete", "delete" },
	};
	struct bench b;
	bench_init(&b);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		expect(&b, "PUT", names[i][0], NULL, 204, "");
		STR_EQ(b.vmm.asked, names[i][1]);
	}
	expect(&b, "GET", "vm.info", NULL, 200, "{\"state\":\"Created\"}");
	expect(&b, "GET", "vm.counters", NULL, 200, "{}");
	expect(&b, "PUT", "vm.remove-device", "{\"id\":\"_disk7\"}", 204, "");
	STR_EQ(b.vmm.argument, "_disk7");
	expect(&b, "PUT", "vm.add-disk", "{\"path\":\"/d\"}", 204, "");
	STR_EQ(b.vmm.argument, "/d");
	b.vmm.bdf = "0000:00:04.0";
	expect(&b, "PUT", "vm.add-disk", "{\"path\":\"/d\",\"id\":\"d\"}", 200, "{\"id\":\"d\",\"bdf\":\"0000:00:04.0\"}");
	expect(&b, "PUT", "vm.create", "{\"payload\":{\"kernel\":\"/k\"}}", 204, "");
	STR_EQ(b.vmm.argument, "/k");
	STR_EQ(b.vmm.config.payload.kernel, "/k");
	bench_done(&b);
}

TEST(failures_become_a_status_and_a_chain_of_errors)
{
	static const struct {
		int rc;
		unsigned status;
	} cases[] = { { -ENOENT, 404 }, { -EEXIST, 409 }, { -EINVAL, 400 }, { -EBUSY, 500 }, { -ENOTSUP, 500 }, { -EIO, 500 },
		      { -ENOMEM, 500 } };
	struct bench b;
	bench_init(&b);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		b.vmm.rc = cases[i].rc;
		b.vmm.text = "The VM could not boot\nthe \"disk\"";
		const char *chain = "[\"Error from API\",\"The VM could not boot\",\"the \\\"disk\\\"\"]";
		expect(&b, "PUT", "vm.boot", NULL, cases[i].status, chain);
		expect(&b, "GET", "vm.info", NULL, cases[i].status, chain); /* nothing of what was written before it failed */
		expect(&b, "PUT", "vm.create", "{\"payload\":{}}", cases[i].status, chain);
		expect(&b, "PUT", "vm.add-disk", "{}", cases[i].status, chain);
		b.vmm.text = NULL;
		expect_error(&b, "PUT", "vm.boot", NULL, cases[i].status, "Error from API", "vm.boot: ");
	}
	bench_done(&b);
}

TEST(every_route_refuses_what_it_does_not_take)
{
	struct bench b;
	bench_init(&b);
	for (size_t i = 0; i < api_n_routes; i++) {
		const struct route *r = &api_routes[i];
		const char *right = r->method == HTTP_GET ? "GET" : "PUT", *wrong = r->method == HTTP_GET ? "PUT" : "GET";
		b.vmm.asked[0] = '\0';
		expect_error(&b, wrong, r->name, NULL, 400, "Bad Request", right);
		expect(&b, "POST", r->name, "{}", 400, "");
		if (r->body) {
			expect_error(&b, right, r->name, NULL, 400, "Bad Request", r->body->name);
			expect_error(&b, right, r->name, "", 400, "Bad Request", r->body->name);
			expect_error(&b, right, r->name, "{", 400, "Failed to deserialize JSON", "JSON");
			expect_error(&b, right, r->name, "[]", 400, "Failed to deserialize JSON", "expected an object");
			expect_error(&b, right, r->name, "{} {}", 400, "Failed to deserialize JSON", "JSON");
		} else if (r->method == HTTP_PUT) {
			expect_error(&b, right, r->name, "{}", 400, "Bad Request", "takes no body");
		}
		STR_EQ(b.vmm.asked, "");
	}
	OK(!b.vmm.is_stopped);
	bench_done(&b);
}

TEST(unknown_paths_are_not_found)
{
	static const char *const paths[] = { "/", "", "/api/v1", "/api/v1/", "/api/v1/vm", "/api/v1/vm.bootx", "/api/v1/vm.boo",
		                             "/api/v2/vm.boot", "/vm.boot", "/api/v1//vm.boot", "/api/v1/vm.boot/",
		                             "/api/v1/vm.boot?x=1", "/api/v1/VM.BOOT", "http://x" };
	struct bench b;
	bench_init(&b);
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		text_scoped t = TEXT_INIT;
		bool is_end;
		text_appendf(&t, "PUT %s HTTP/1.1\r\n\r\n", paths[i][0] ? paths[i] : "x");
		OK(client_send(b.loop, b.fd, text_get(&t)));
		(void)client_read(b.loop, b.fd, b.answer, sizeof b.answer, &is_end);
		STR_HAS(b.answer, "HTTP/1.1 404 \r\n");
		STR_HAS(b.answer, "\r\n\r\n[\"Not Found\"]");
	}
	STR_EQ(b.vmm.asked, "");
	bench_done(&b);
}

TEST(what_is_valid_and_not_there_yet_says_so)
{
	static const char *const bodies[][2] = {
		{ "vm.resize", "{\"desired_vcpus\":2}" },
		{ "vm.resize-zone", "{\"id\":\"a\",\"desired_ram\":4096}" },
		{ "vm.snapshot", "{\"destination_url\":\"file:///x\"}" },
		{ "vm.coredump", "{\"destination_url\":\"file:///x\"}" },
		{ "vm.restore", "{\"source_url\":\"file:///x\"}" },
		{ "vm.send-migration", "{\"destination_url\":\"unix:/x\",\"connections\":128}" },
		{ "vm.receive-migration", "{\"receiver_url\":\"unix:/x\"}" },
	};
	struct bench b;
	bench_init(&b);
	for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
		char answer[128];
		(void)snprintf(answer, sizeof answer, "[\"Error from API\",\"not supported yet: %s\"]", bodies[i][0]);
		expect(&b, "PUT", bodies[i][0], bodies[i][1], 500, answer);
	}
	expect_error(&b, "PUT", "vm.resize", "{\"desired_vcpus\":0}", 400, "Failed to deserialize JSON", "desired_vcpus: 0 is not");
	expect_error(&b, "PUT", "vm.send-migration", "{\"destination_url\":\"x\",\"connections\":129}", 400,
	             "Failed to deserialize JSON", "connections: 129 is not within 1 to 128");
	expect_error(&b, "PUT", "vm.snapshot", "{}", 400, "Failed to deserialize JSON", "missing member 'destination_url'");
	bench_done(&b);
}

TEST(disks_are_resized_by_id)
{
	static const char body[] = "{\"id\":\"_disk0\",\"desired_size\":10737418240}";
	static const struct {
		int rc;
		unsigned status;
	} refusals[] = { { -ENOENT, 404 }, { -EBUSY, 500 }, { -EIO, 500 }, { -ENOTSUP, 500 } };
	struct bench b;
	bench_init(&b);
	expect(&b, "PUT", "vm.resize-disk", body, 204, "");
	STR_EQ(b.vmm.asked, "resize_disk");
	STR_EQ(b.vmm.argument, "_disk0 to 10737418240");
	b.vmm.text = "The disk could not be resized\nwhy";
	for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
		b.vmm.rc = refusals[i].rc;
		expect(&b, "PUT", "vm.resize-disk", body, refusals[i].status,
		       "[\"Error from API\",\"The disk could not be resized\",\"why\"]");
	}
	b.vmm.asked[0] = 0;
	static const char *const wrong[] = { "{\"id\":\"a\"}", "{\"id\":\"a\",\"desired_size\":-512}",
		                             "{\"id\":\"a\",\"desired_size\":\"1G\"}" };
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		expect_error(&b, "PUT", "vm.resize-disk", wrong[i], 400, "Failed to deserialize JSON", "desired_size");
	STR_EQ(b.vmm.asked, "");
	bench_done(&b);
}

TEST(descriptors_are_refused_where_they_have_no_meaning_and_closed)
{
	struct bench b;
	bench_init(&b);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < api_n_routes; i++) {
		const struct route *r = &api_routes[i];
		char text[128];
		bool is_end;
		(void)snprintf(text, sizeof text, "%s /api/v1/%s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s",
		               r->method == HTTP_GET ? "GET" : "PUT", r->name, r->body ? 2 : 0, r->body ? "{}" : "");
		client_send_fds(b.fd, text, (int[]){ null, null }, 2);
		(void)client_read(b.loop, b.fd, b.answer, sizeof b.answer, &is_end);
		if (r->flags & ROUTE_TAKES_FDS)
			OK(!strstr(b.answer, "takes no descriptors"));
		else
			STR_HAS(b.answer, "takes no descriptors, and 2 came with it");
	}
	STR_EQ(b.vmm.asked, "add_net"); /* the double takes anything; the real one counts queues */
	OK(!b.vmm.is_stopped);
	close(null);
	bench_done(&b);
}

static void send_with_fds(struct bench *b, const char *name, const char *body, const int *fds, size_t n_fds)
{
	char text[256];
	bool is_end;
	(void)snprintf(text, sizeof text, "PUT /api/v1/%s HTTP/1.1\r\nContent-Length: %zu\r\n\r\n%s", name, strlen(body), body);
	client_send_fds(b->fd, text, fds, n_fds);
	(void)client_read(b->loop, b->fd, b->answer, sizeof b->answer, &is_end);
}

TEST(descriptors_become_part_of_the_device)
{
	struct bench b;
	bench_init(&b);
	int fds[2] = { open("/dev/null", O_RDONLY | O_CLOEXEC), open("/dev/null", O_RDONLY | O_CLOEXEC) };

	send_with_fds(&b, "vm.add-net", "{\"num_queues\":4,\"fds\":[0,1,2]}", fds, 2);
	STR_HAS(b.answer, "HTTP/1.1 204 ");
	STR_EQ(b.vmm.asked, "add_net");
	STR_EQ(b.vmm.argument, "2 of 2, the same"); /* and not the numbers of the body */
	expect(&b, "PUT", "vm.add-net", "{\"fds\":[0,1,2]}", 204, "");
	STR_EQ(b.vmm.argument, "0 of 0");

	b.vmm.asked[0] = '\0';
	send_with_fds(&b, "vm.add-device", "{\"path\":\"/x\"}", fds, 1);
	STR_HAS(b.answer, "HTTP/1.1 500 ");
	STR_HAS(b.answer, "not supported yet: --device fd");
	STR_EQ(b.vmm.asked, "");
	EQ(close(fds[0]) | close(fds[1]), 0);
	bench_done(&b);
}

TEST(the_answer_to_vmm_shutdown_comes_before_the_end)
{
	struct bench b;
	bool is_end;
	bench_init(&b);
	EQ(send(b.fd, "PUT /api/v1/vmm.shutdown HTTP/1.1\r\n\r\n", 37, 0), 37);
	while (!b.vmm.is_stopped)
		(void)loop_run_once(b.loop, 10);
	api_close(b.api);
	b.api = NULL;
	(void)client_read(b.loop, b.fd, b.answer, sizeof b.answer, &is_end);
	STR_EQ(b.answer, "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
	                 "Content-Type: application/json\r\nContent-Length: 0\r\n\r\n");
	OK(is_end);
	bench_done(&b);
}

TEST(the_document_has_every_route)
{
	text_scoped t = TEXT_INIT;
	api_write_openapi_paths(&t);
	OK(!t.is_out_of_memory);
	for (size_t i = 0; i < api_n_routes; i++) {
		const struct route *r = &api_routes[i];
		char words[160];
		(void)snprintf(words, sizeof words, "\n  /%s:\n    %s:\n", r->name, r->method == HTTP_GET ? "get" : "put");
		STR_HAS(text_get(&t), words);
		if (r->body) {
			(void)snprintf(words, sizeof words, "\n    %s:\n", r->body->name);
			STR_HAS(text_get(&t), words);
		}
		if (r->answer) {
			(void)snprintf(words, sizeof words, "\n    %s:\n", r->answer);
			STR_HAS(text_get(&t), words);
		}
		for (size_t k = 0; k < i; k++)
			OK(strcmp(api_routes[k].name, r->name) != 0);
	}
}

TEST(the_schemas_are_sound)
{
	static const struct schema *const all[] = { &resize_schema,   &resize_disk_schema, &resize_zone_schema,
		                                    &snapshot_schema, &coredump_schema,    &remove_device_schema,
		                                    &ping_schema,     &pci_device_schema };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		struct err e = { 0 };
		if (schema_is_sound(all[i], &e) < 0)
			test_fail(__FILE__, __LINE__, "%s: %s", all[i]->name, e.text);
	}
}
