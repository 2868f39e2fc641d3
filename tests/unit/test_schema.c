/* SPDX-License-Identifier: Apache-2.0 */
/* The schema engine, on a struct that has a row of every type. */
#include "schema_kit.h"

#include <errno.h>

struct point {
	uint32_t x;
	uint8_t pad_[4];
	uint64_t *ys;
	size_t n_ys;
};

#define T struct point
static const struct field point_rows[] = {
	ROW_U32(T, x, .flags = ROW_REQUIRED, .help = "Where"),
	ROW_PAD(T, pad_),
	ROW_INTEGERS(T, ys, uint64_t, .flags = ROW_REQUIRED, .help = "How high"),
};
static const struct schema point_schema = SCHEMA(T, point_rows, .name = "Point", .help = "A point");
#undef T

struct pair {
	uint32_t destination;
	uint8_t distance;
	uint8_t pad_[3];
};

#define T struct pair
static const struct field pair_rows[] = {
	ROW_U32(T, destination, .flags = ROW_REQUIRED, .help = "To"),
	ROW_U8(T, distance, .flags = ROW_REQUIRED, .help = "How far"),
	ROW_PAD(T, pad_),
};
static const struct schema pair_schema = SCHEMA(T, pair_rows, .name = "Pair", .help = "A pair");
#undef T

struct inner {
	uint64_t size, burst;
};

#define T struct inner
static const struct field inner_rows[] = {
	ROW_U64(T, size, .flags = ROW_HOT, .help = "Size"),
	ROW_U64(T, burst, .help = "Burst"),
};
static const struct schema inner_schema =
    SCHEMA(T, inner_rows, .name = "Inner", .help = "Inside", .flags = SCHEMA_STRICT);
#undef T

static bool inner_is_present(const void *object)
{
	return ((const struct inner *)object)->size != 0;
}

struct grid {
	uint8_t a, b, c;
};

#define T struct grid
static const struct field grid_rows[] = {
	ROW_U8(T, a, .help = "A"),
	ROW_U8(T, b, .help = "B"),
	ROW_U8(T, c, .help = "C"),
};
static const struct schema grid_schema = SCHEMA(T, grid_rows, .name = "Grid", .help = "A grid");
#undef T

enum colour { RED, GREEN, BLUE };

static const struct enum_name colour_names[] = {
	{ .json = "Red", .word = "red", .value = RED },
	{ .json = "Green", .word = "light-green", .value = GREEN },
	{ .json = "Blue", .value = BLUE },
	{ 0 },
};

struct demo {
	char *path, *text, *secret, *short_text;
	uint64_t u64, size, bounded;
	struct inner always, maybe;
	uint16_t *u16s;
	size_t n_u16s;
	int32_t *fds;
	size_t n_fds;
	char **strings;
	size_t n_strings;
	struct point *points;
	size_t n_points;
	struct pair *pairs;
	size_t n_pairs;
	uint32_t u32;
	int32_t i32;
	enum colour colour;
	uint16_t u16;
	uint8_t u8, other_u8;
	uint8_t mac[6], ip[4], blob[5];
	struct grid grid;
	bool on, is_fast, is_loud, has_u16, has_grid, has_maybe;
	uint8_t pad_[8];
};

#define T struct demo
static const struct field flag_rows[] = {
	ROW_BOOL(T, is_fast, .json = "fast", .help = "Fast"),
	ROW_BOOL(T, is_loud, .json = "loud", .help = "Loud"),
};
static const struct schema flag_schema = SCHEMA(T, flag_rows, .name = "Flags", .help = "Flags");

static const struct field demo_rows[] = {
	ROW_U8(T, u8, .def = 1, .help = "A byte"),
	ROW_U8(T, other_u8, .key = "other", .def_key = "u8", .help = "Another, like the first"),
	ROW_U16(T, u16, .has = HAS(T, has_u16), .flags = ROW_HOT, .help = "Sixteen bits"),
	ROW_U32(T, u32, .def = 7, .help = "Thirty-two bits"),
	ROW_U64(T, u64, .help = "Sixty-four bits"),
	ROW_U64(T, bounded, .def = 10, .min = 10, .max = 20, .help = "Ten to twenty"),
	ROW_SIZE(T, size, .def = 512ull << 20, .help = "Bytes"),
	ROW_I32(T, i32, .def = (uint64_t)-5, .help = "Signed"),
	ROW_ENUM(T, colour, enum colour, colour_names, .def = GREEN, .help = "A colour"),
	ROW_PATH(T, path, .def_string = "/dev/zero", .help = "A path: \"quoted\""),
	ROW_STRING(T, text, .help = "A text"),
	ROW_STRING(T, secret, .flags = ROW_SECRET | ROW_HOST, .help = "A secret"),
	ROW_STRING(T, short_text, .max = 4, .too_long = "max length is 4", .help = "Four bytes"),
	ROW_MAC(T, mac, .def_string = "02:00:00:00:00:01", .help = "A MAC address"),
	ROW_IPV4(T, ip, .def_string = "192.168.249.1", .help = "An IPv4 address"),
	ROW_BLOB(T, blob, .help = "Raw bytes"),
	ROW_INTEGERS(T, u16s, uint16_t, .max_items = 10, .help = "Integers"),
	ROW_INTEGERS(T, fds, int32_t, .help = "Descriptors"),
	ROW_STRINGS(T, strings, .help = "Strings"),
	ROW_LIST(T, points, struct point, &point_schema, .flags = ROW_TUPLES, .help = "Points"),
	ROW_LIST(T, pairs, struct pair, &pair_schema, .flags = ROW_TUPLES, .help = "Pairs"),
	ROW_OBJECT(T, grid, struct grid, &grid_schema, .flags = ROW_COLONS, .has = HAS(T, has_grid), .help = "A grid"),
	ROW_OBJECT(T, always, struct inner, &inner_schema, .key = "al_", .flags = ROW_FLAT, .help = "Always there"),
	ROW_OBJECT(T, maybe, struct inner, &inner_schema, .key = "may_", .flags = ROW_FLAT, .has = HAS(T, has_maybe),
	           .is_present = inner_is_present, .help = "There with a size"),
	ROW_HERE(T, "flags", &flag_schema, .flags = ROW_NAME_SET, .missing = "no such flag: ", .help = "Flags"),
	ROW_BOOL(T, on, .def = true, .help = "A toggle"),
	ROW_IGNORED("junk", .help = "Ignored"),
	ROW_PAD(T, pad_),
};
static const struct schema demo_schema = SCHEMA(T, demo_rows, .name = "Demo", .option = "demo", .help = "One of each");
#undef T

/* The JSON of an object, which the caller frees. */
static char *json_of(const struct schema *s, const void *object)
{
	struct text t = TEXT_INIT;
	struct err e = { 0 };
	char *json = NULL;
	if (schema_write_json(s, object, 0, &t, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	EQ(text_take(&t, &json), 0);
	return json;
}

TEST(tables_are_sound)
{
	struct err e = { 0 };
	if (schema_is_sound(&demo_schema, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
}

TEST(every_byte_belongs_to_a_row)
{
	check_every_byte(&demo_schema);
	check_every_byte(&point_schema);
}

struct holed {
	uint8_t a, forgotten, b;
};

TEST(a_forgotten_member_is_found)
{
	static const struct field rows[] = { ROW_U8(struct holed, a, .help = "A"),
		                             ROW_U8(struct holed, b, .help = "B") };
	static const struct schema s = SCHEMA(struct holed, rows, .name = "Holed", .help = "H");
	struct err e = { 0 };
	EQ(schema_is_sound(&s, &e), -EINVAL);
	STR_HAS(e.text, "byte 1 of 3 belongs to no row");
	struct holed h;
	memset(&h, 0xff, sizeof h);
	EQ(schema_init(&s, &h, NULL), 0);
	schema_done(&s, &h);
	EQ(h.forgotten, 0xff);
}

TEST(faulty_tables_are_found)
{
	static const struct field twice[] = { ROW_U8(struct holed, a, .help = "A"),
		                              ROW_U8(struct holed, a, .help = "A") };
	static const struct field no_help[] = { ROW_U8(struct holed, a), ROW_U8(struct holed, forgotten, .help = "F") };
	static const struct field bad_default[] = { ROW_U8(struct holed, a, .def = 3, .max = 2, .help = "A") };
	static const struct field same_key[] = { ROW_U8(struct holed, a, .help = "A"),
		                                 ROW_U8(struct holed, b, .key = "a", .help = "B") };
	static const struct schema faulty[] = {
		SCHEMA(struct holed, twice, .name = "F", .help = "F"),
		SCHEMA(struct holed, no_help, .name = "F", .help = "F"),
		SCHEMA(struct holed, bad_default, .name = "F", .help = "F"),
		SCHEMA(struct holed, same_key, .name = "F", .help = "F"),
	};
	static const char *const texts[] = { "two rows", "no help", "out of bounds", "two rows for one key" };
	for (size_t i = 0; i < ARRAY_LEN(faulty); i++) {
		struct err e = { 0 };
		EQ(schema_is_sound(&faulty[i], &e), -EINVAL);
		STR_HAS(e.text, texts[i]);
	}
}

TEST(defaults)
{
	struct demo d;
	memset(&d, 0xff, sizeof d);
	EQ(schema_init(&demo_schema, &d, NULL), 0);
	char *json = json_of(&demo_schema, &d);
	STR_EQ(json,
	       "{\"u8\":1,\"other_u8\":0,\"u32\":7,\"u64\":0,\"bounded\":10,\"size\":536870912,\"i32\":-5,\"colour\":"
	       "\"Green\","
	       "\"path\":\"/dev/zero\",\"mac\":\"02:00:00:00:00:01\",\"ip\":\"192.168.249.1\",\"blob\":\"0000000000\","
	       "\"always\":{\"size\":0,\"burst\":0},\"flags\":{\"fast\":false,\"loud\":false},\"on\":true}");
	OK(!d.text && !d.u16s && !d.points && !d.has_u16 && !d.has_maybe && !d.has_grid);
	free(json);
	schema_done(&demo_schema, &d);
}

static const struct {
	const char *text;
	const char *part; /* of the JSON; NULL: an error */
	const char *error;
} option_cases[] = {
	{ "", "\"u8\":1,\"other_u8\":1", NULL },
	{ "u8=3", "\"u8\":3,\"other_u8\":3", NULL },
	{ "other=4,u8=3", "\"u8\":3,\"other_u8\":4", NULL },
	{ "u16=9", "\"u16\":9", NULL },
	{ "u8=256", NULL, "Error parsing --demo: unable to convert 256 for u8" },
	{ "u16=65536", NULL, "Error parsing --demo: unable to convert 65536 for u16" },
	{ "u32=4294967296", NULL, "Error parsing --demo: unable to convert 4294967296 for u32" },
	{ "bounded=9", NULL, "Error parsing --demo: unable to convert 9 for bounded" },
	{ "bounded=20", "\"bounded\":20", NULL },
	{ "bounded=21", NULL, "Error parsing --demo: unable to convert 21 for bounded" },
	{ "size=2G", "\"size\":2147483648", NULL },
	{ "i32=-2147483648", "\"i32\":-2147483648", NULL },
	{ "i32=2147483648", NULL, "Error parsing --demo: unable to convert 2147483648 for i32" },
	{ "colour=RED", "\"colour\":\"Red\"", NULL },
	{ "colour=Light-Green", "\"colour\":\"Green\"", NULL },
	{ "colour=blue", NULL, "Error parsing --demo: unable to convert blue for colour" },
	{ "path=\"/a,b\"", "\"path\":\"/a,b\"", NULL },
	{ "path=", "\"path\":\"/dev/zero\"", NULL },
	{ "text=[a,b]", "\"text\":\"[a,b]\"", NULL },
	{ "text=a=b", "\"text\":\"a=b\"", NULL },
	{ "short_text=abcd", "\"short_text\":\"abcd\"", NULL },
	{ "short_text=abcde", NULL, "Error parsing --demo: max length is 4" },
	{ "mac=DE:AD:BE:EF:12:34", "\"mac\":\"de:ad:be:ef:12:34\"", NULL },
	{ "mac=de-ad-be-ef-12-34", NULL, "Error parsing --demo: unable to convert de-ad-be-ef-12-34 for mac" },
	{ "ip=1.2.3.4", "\"ip\":\"1.2.3.4\"", NULL },
	{ "ip=1.2.3", NULL, "Error parsing --demo: unable to convert 1.2.3 for ip" },
	{ "blob=00", NULL, "Error parsing --demo: unknown option: blob" },
	{ "u16s=1", "\"u16s\":[1]", NULL },
	{ "u16s=1-3", "\"u16s\":[1,2,3]", NULL },
	{ "u16s=[1-3,7]", "\"u16s\":[1,2,3,7]", NULL },
	{ "u16s=[[1]]", "\"u16s\":[1]", NULL },
	{ "u16s=[]", NULL, "Error parsing --demo: unable to convert [] for u16s" },
	{ "u16s=[1,]", NULL, "Error parsing --demo: unable to convert [1,] for u16s" },
	{ "u16s=[3-1]", NULL, "Error parsing --demo: unable to convert [3-1] for u16s" },
	{ "u16s=[3-3]", NULL, "Error parsing --demo: unable to convert [3-3] for u16s" },
	{ "u16s=[1-2-3]", NULL, "Error parsing --demo: unable to convert [1-2-3] for u16s" },
	{ "u16s=[-1]", NULL, "Error parsing --demo: unable to convert [-1] for u16s" },
	{ "u16s=[a]", NULL, "Error parsing --demo: unable to convert [a] for u16s" },
	{ "u16s=[1, 2]", NULL, "Error parsing --demo: unable to convert [1, 2] for u16s" },
	{ "u16s=[65536]", NULL, "Error parsing --demo: unable to convert [65536] for u16s" },
	{ "u16s=[1-10]", "\"u16s\":[1,2,3,4,5,6,7,8,9,10]", NULL },
	{ "u16s=[1-11]", NULL, "Error parsing --demo: unable to convert [1-11] for u16s" },
	{ "u16s=[0-18446744073709551615]", NULL,
	  "Error parsing --demo: unable to convert [0-18446744073709551615] for u16s" },
	{ "u16s=1,2", NULL, "Error parsing --demo: unknown option: 2" },
	{ "fds=[3,7]", "\"fds\":[3,7]", NULL },
	{ "fds=-1", NULL, "Error parsing --demo: unable to convert -1 for fds" },
	{ "fds=[2147483648]", NULL, "Error parsing --demo: unable to convert [2147483648] for fds" },
	{ "fds=[4294967299]", NULL, "Error parsing --demo: unable to convert [4294967299] for fds" },
	{ "strings=one", "\"strings\":[\"one\"]", NULL },
	{ "strings=[\"a,b\",c]", "\"strings\":[\"a\",\"b\",\"c\"]", NULL },
	{ "strings=[]", "\"strings\":[\"\"]", NULL },
	{ "strings=[a,,b]", "\"strings\":[\"a\",\"\",\"b\"]", NULL },
	{ "strings=[a, b]", "\"strings\":[\"a\",\" b\"]", NULL },
	{ "points=[0@[0,2],1@[1-3]]", "\"points\":[{\"x\":0,\"ys\":[0,2]},{\"x\":1,\"ys\":[1,2,3]}]", NULL },
	{ "points=[0@2-4]", "\"points\":[{\"x\":0,\"ys\":[2,3,4]}]", NULL },
	{ "points=0@[1]", NULL, "Error parsing --demo: unable to convert 0@[1] for points" },
	{ "points=[]", NULL, "Error parsing --demo: unable to convert [] for points" },
	{ "points=[0@1,]", NULL, "Error parsing --demo: unable to convert [0@1,] for points" },
	{ "points=[0@1, 1@1]", NULL, "Error parsing --demo: unable to convert [0@1, 1@1] for points" },
	{ "points=[0@1@2]", NULL, "Error parsing --demo: unable to convert [0@1@2] for points" },
	{ "points=[0]", NULL, "Error parsing --demo: unable to convert [0] for points" },
	{ "points=[0@[0]],[1@[1]]", NULL, "Error parsing --demo: unknown option: [1@[1]]" },
	{ "points=[0@\"[0]],[1@[1]\"]", NULL, "Error parsing --demo: unable to convert [0@[0]],[1@[1]] for points" },
	{ "pairs=[1@15,2@25]", "\"pairs\":[{\"destination\":1,\"distance\":15},{\"destination\":2,\"distance\":25}]",
	  NULL },
	{ "pairs=[1@300]", NULL, "Error parsing --demo: unable to convert [1@300] for pairs" },
	{ "pairs=[4294967296@10]", NULL, "Error parsing --demo: unable to convert [4294967296@10] for pairs" },
	{ "grid=1:2:3", "\"grid\":{\"a\":1,\"b\":2,\"c\":3}", NULL },
	{ "grid=1:2", NULL, "Error parsing --demo: unable to convert 1:2 for grid" },
	{ "grid=1:2:3:4", NULL, "Error parsing --demo: unable to convert 1:2:3:4 for grid" },
	{ "grid=1::3", NULL, "Error parsing --demo: unable to convert 1::3 for grid" },
	{ "grid=1:256:3", NULL, "Error parsing --demo: unable to convert 1:256:3 for grid" },
	{ "al_size=3,al_burst=4", "\"always\":{\"size\":3,\"burst\":4}", NULL },
	{ "may_size=3", "\"maybe\":{\"size\":3,\"burst\":0}", NULL },
	{ "may_burst=3", "\"always\":{\"size\":0,\"burst\":0},\"flags\"", NULL },
	{ "size=1,burst=2", NULL, "Error parsing --demo: unknown option: burst" },
	{ "flags=fast", "\"flags\":{\"fast\":true,\"loud\":false}", NULL },
	{ "flags=[loud,fast]", "\"flags\":{\"fast\":true,\"loud\":true}", NULL },
	{ "flags=[fast,slow]", NULL, "Error parsing --demo: no such flag: slow" },
	{ "fast=on", NULL, "Error parsing --demo: unknown option: fast" },
	{ "on=FALSE", "\"on\":false", NULL },
	{ "on", NULL, "Error parsing --demo: invalid syntax:on" },
	{ "junk=what,u8=2", "\"u8\":2", NULL },
	{ "i32=x,u8=x", NULL, "Error parsing --demo: unable to convert x for u8" },
	{ "u8=x,y", NULL, "Error parsing --demo: unknown option: y" },
};

TEST(option_strings)
{
	for (size_t i = 0; i < ARRAY_LEN(option_cases); i++) {
		struct demo d;
		struct err e = { 0 };
		memset(&d, 0xff, sizeof d);
		int rc = schema_parse_option(&demo_schema, option_cases[i].text, &d, &e);
		if ((rc == 0) != (option_cases[i].part != NULL))
			test_fail(__FILE__, __LINE__, "'%s' gave %d: %s", option_cases[i].text, rc, e.text);
		if (rc < 0) {
			STR_EQ(e.text, option_cases[i].error);
			continue;
		}
		char *json = json_of(&demo_schema, &d);
		STR_HAS(json, option_cases[i].part);
		free(json);
		schema_done(&demo_schema, &d);
	}
}

struct needy {
	char *tag, *socket;
};

TEST(required_keys)
{
	static const struct field rows[] = {
		ROW_STRING(struct needy, tag, .flags = ROW_REQUIRED, .help = "Tag"),
		ROW_PATH(struct needy, socket, .flags = ROW_REQUIRED, .missing = "path missing", .help = "Socket"),
	};
	static const struct schema s = SCHEMA(struct needy, rows, .name = "Needy", .option = "fs", .help = "N");
	static const char *const cases[][2] = {
		{ "", "Error parsing --fs: tag missing" },
		{ "tag=,socket=/s", "Error parsing --fs: tag missing" },
		{ "tag=t", "Error parsing --fs: path missing" },
		{ "tag=t,socket=", "Error parsing --fs: path missing" },
		{ "tag=t,socket=/s", "" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct needy n;
		struct err e = { 0 };
		int rc = schema_parse_option(&s, cases[i][0], &n, &e);
		STR_EQ(e.text, cases[i][1]);
		if (rc == 0)
			schema_done(&s, &n);
	}
}

static const char *const bad_json[][2] = {
	{ "", "JSON: line 1: " },
	{ "[]", "JSON: expected an object, found an array" },
	{ "{", "JSON: line 1: " },
	{ "{} x", "JSON: line 1: " },
	{ "{\"u8\":1,\"u8\":2}", "duplicate" },
	{ "{\"u8\":\"1\"}", "u8: expected a number, found a string" },
	{ "{\"u8\":1.0}", "u8: expected a number, found a number with a fraction" },
	{ "{\"u8\":null}", "u8: expected a number, found null" },
	{ "{\"u8\":256}", "u8: 256 is not within 0 to 255" },
	{ "{\"u8\":-1}", "u8: -1 is not within 0 to 255" },
	{ "{\"u64\":18446744073709551615}", "too big integer" },
	{ "{\"bounded\":9}", "bounded: 9 is not within 10 to 20" },
	{ "{\"i32\":2147483648}", "i32: 2147483648 is not within -2147483648 to 2147483647" },
	{ "{\"on\":1}", "on: expected a boolean, found a number" },
	{ "{\"colour\":\"green\"}", "colour: unknown value 'green', expected Red, Green or Blue" },
	{ "{\"colour\":1}", "colour: expected a string, found a number" },
	{ "{\"text\":[]}", "text: expected a string, found an array" },
	{ "{\"text\":\"\\u0000\"}", "JSON: line 1: " },
	{ "{\"text\":\"\xff\"}", "JSON: line 1: " },
	{ "{\"short_text\":\"abcde\"}", "short_text: 5 bytes are not within 0 to 4" },
	{ "{\"mac\":\"xx\"}", "mac: 'xx' is not a MAC address" },
	{ "{\"ip\":\"1.2.3\"}", "ip: '1.2.3' is not an IPv4 address" },
	{ "{\"blob\":\"00\"}", "blob: expected 5 bytes in hexadecimal" },
	{ "{\"u16s\":1}", "u16s: expected an array, found a number" },
	{ "{\"u16s\":[1,65536]}", "u16s[1]: 65536 is not within 0 to 65535" },
	{ "{\"u16s\":[1,2,3,4,5,6,7,8,9,10,11]}", "u16s: 11 elements are more than 10" },
	{ "{\"strings\":[\"a\",1]}", "strings[1]: expected a string, found a number" },
	{ "{\"points\":[{\"x\":1,\"ys\":[]},{\"x\":1}]}", "points[1]: missing member 'ys'" },
	{ "{\"points\":[{\"x\":1,\"ys\":[null]}]}", "points[0].ys[0]: expected a number, found null" },
	{ "{\"points\":[[]]}", "points[0]: expected an object, found an array" },
	{ "{\"grid\":[]}", "grid: expected an object, found an array" },
	{ "{\"always\":{\"bogus\":1}}", "always: unknown member 'bogus'" },
	{ "{\"flags\":{\"fast\":1}}", "flags.fast: expected a boolean, found a number" },
};

TEST(json_that_is_refused)
{
	for (size_t i = 0; i < ARRAY_LEN(bad_json); i++) {
		struct demo d;
		struct err e = { 0 };
		memset(&d, 0xff, sizeof d);
		if (schema_parse_json(&demo_schema, bad_json[i][0], strlen(bad_json[i][0]), 0, &d, &e) == 0)
			test_fail(__FILE__, __LINE__, "accepted: %s", bad_json[i][0]);
		STR_HAS(e.text, bad_json[i][1]);
	}
}

static void parse_demo(const char *json, unsigned flags, struct demo *ret_d)
{
	struct err e = { 0 };
	memset(ret_d, 0xff, sizeof *ret_d);
	if (schema_parse_json(&demo_schema, json, strlen(json), flags, ret_d, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
}

TEST(json_null_is_absent_and_unknown_members_are_ignored)
{
	struct demo a, b;
	parse_demo("{}", 0, &a);
	parse_demo("{\"u16\":null,\"text\":null,\"u16s\":null,\"maybe\":null,\"bogus\":{\"x\":[1]}}", 0, &b);
	OK(schema_equal(&demo_schema, &a, &b));
	schema_done(&demo_schema, &a);
	schema_done(&demo_schema, &b);
}

TEST(an_empty_list_is_not_an_absent_one)
{
	struct demo a, b;
	parse_demo("{}", 0, &a);
	parse_demo("{\"u16s\":[],\"points\":[]}", 0, &b);
	OK(!a.u16s && b.u16s && b.n_u16s == 0);
	OK(!schema_equal(&demo_schema, &a, &b));
	char *json = json_of(&demo_schema, &b);
	STR_HAS(json, "\"u16s\":[],\"points\":[]");
	free(json);
	schema_done(&demo_schema, &a);
	schema_done(&demo_schema, &b);
}

TEST(deep_and_large_json_is_refused_before_it_is_parsed)
{
	struct demo d;
	struct err e = { 0 };
	size_t n = SCHEMA_JSON_MAX_BYTES + 1;
	char *s = malloc(n);
	OK(s);
	memset(s, '[', n);
	EQ(schema_parse_json(&demo_schema, s, n, 0, &d, &e), -E2BIG);
	EQ(schema_parse_json(&demo_schema, s, n - 1, 0, &d, &e), -EINVAL);
	STR_HAS(e.text, "nested deeper than 32");
	free(s);
	/* Brackets in strings are no nesting, whatever is escaped in front of them. */
	parse_demo("{\"text\":\"[[[[[[[[[[[[[[[[[[\\\"[[[[[[[[[[[[[[[[[[[[\\\\\"}", 0, &d);
	schema_done(&demo_schema, &d);
}

/* A tree of empty objects is a hundred times as large as its text. */
TEST(json_of_many_values_is_refused_before_it_is_parsed)
{
	struct demo d;
	struct err e = { 0 };
	const size_t n_max = SCHEMA_JSON_MAX_VALUES * 2;
	char *s = malloc(n_max + 64);
	OK(s);
	/* Exactly as many: the object, the list, and the numbers in it. */
	size_t n = (size_t)snprintf(s, 64, "{\"x\":[0");
	for (size_t i = 1; i < SCHEMA_JSON_MAX_VALUES - 2; i++) {
		memcpy(s + n, ",0", 2);
		n += 2;
	}
	memcpy(s + n, "]}", 2);
	EQ(schema_parse_json(&demo_schema, s, n + 2, 0, &d, &e), 0);
	schema_done(&demo_schema, &d);
	memcpy(s + n, ",0]}", 4);
	EQ(schema_parse_json(&demo_schema, s, n + 4, 0, &d, &e), -EINVAL);
	STR_EQ(e.text, "JSON: more than 131072 values");
	/* What stands in a string are no values. */
	memset(s, ',', n_max);
	memcpy(s, "{\"x\":\"", 6);
	memcpy(s + n_max, "\"}", 2);
	EQ(schema_parse_json(&demo_schema, s, n_max + 2, 0, &d, &e), 0);
	schema_done(&demo_schema, &d);
	for (size_t i = 0; i < n_max; i++)
		s[i] = "{},"[i % 3];
	s[0] = '[';
	EQ(schema_parse_json(&demo_schema, s, n_max, 0, &d, &e), -EINVAL);
	STR_HAS(e.text, "more than 131072 values");
	free(s);
}

TEST(secrets_and_host_rows)
{
	struct demo d;
	struct err e = { 0 };
	const char *json = "{\"secret\":\"xyz\"}";
	parse_demo(json, 0, &d);
	char *shown = json_of(&demo_schema, &d);
	STR_HAS(shown, "\"secret\":\"***\"");
	free(shown);
	schema_done(&demo_schema, &d);
	EQ(schema_parse_json(&demo_schema, json, strlen(json), SCHEMA_FROM_REMOTE, &d, &e), -EINVAL);
	STR_EQ(e.text, "secret: only the host may set this");
	parse_demo("{\"secret\":null,\"u8\":3}", SCHEMA_FROM_REMOTE, &d);
	schema_done(&demo_schema, &d);
}

TEST(what_has_no_json_form_is_refused)
{
	struct demo d;
	struct err e = { 0 };
	struct text t = TEXT_INIT;
	EQ(schema_parse_option(&demo_schema, "u64=9223372036854775808", &d, &e), 0);
	EQ(schema_write_json(&demo_schema, &d, 0, &t, &e), -ERANGE);
	STR_EQ(e.text, "Demo: u64: 9223372036854775808 is too large for JSON");
	schema_done(&demo_schema, &d);
	EQ(schema_parse_option(&demo_schema, "path=/\xff", &d, &e), 0);
	EQ(schema_write_json(&demo_schema, &d, 0, &t, &e), -EILSEQ);
	schema_done(&demo_schema, &d);
	text_done(&t);
}

TEST(round_trips)
{
	check_round_trips(&demo_schema, 500);
	check_round_trips(&point_schema, 100);
}

TEST(records_keep_all_64_bits)
{
	struct demo a, b;
	struct text t = TEXT_INIT;
	EQ(schema_parse_option(&demo_schema, "u64=18446744073709551615,i32=-7,path=/\xff", &a, NULL), 0);
	EQ(schema_write_record(&demo_schema, &a, &t, NULL), 0);
	EQ(schema_read_record(&demo_schema, t.bytes, t.n_bytes, &b, NULL), 0);
	OK(schema_equal(&demo_schema, &a, &b) && b.u64 == UINT64_MAX && b.i32 == -7);
	schema_done(&demo_schema, &a);
	schema_done(&demo_schema, &b);
	text_done(&t);
}

static void check_record(const char *bytes, size_t n_bytes, const char *error)
{
	struct demo d;
	struct err e = { 0 };
	memset(&d, 0xff, sizeof d);
	int rc = schema_read_record(&demo_schema, bytes, n_bytes, &d, &e);
	if (!error) {
		EQ(rc, 0);
		schema_done(&demo_schema, &d);
		return;
	}
	EQ(rc, -EINVAL);
	STR_HAS(e.text, error);
}

#define RECORD(s, error) check_record(s, sizeof(s) - 1, error)

TEST(records_are_checked)
{
	RECORD("", NULL);
	RECORD("\x02u8\x01\x08\0\0\0\x05\0\0\0\0\0\0\0", NULL);
	RECORD("\x02u8\x01\x08\0\0\0\x00\x01\0\0\0\0\0\0", "record 'u8': out of bounds");
	RECORD("\x02u8\x01\x04\0\0\0\x05\0\0\0", "cut short");
	RECORD("\x02u8\x02\x08\0\0\0\x05\0\0\0\0\0\0\0", "record 'u8': of another kind");
	RECORD("\x02u9\x01\x08\0\0\0\x05\0\0\0\0\0\0\0", "unknown record 'u9'");
	RECORD("\x02u8\x01\x08\0\0\0\x05\0\0\0\0\0\0\0\x02u8\x01\x08\0\0\0\x05\0\0\0\0\0\0\0", "given twice");
	RECORD("\x02u8\x01\xff\xff\xff\xff\x05", "cut short");
	RECORD("\x02u", "cut short");
	RECORD("\x02on\x01\x08\0\0\0\x02\0\0\0\0\0\0\0", "record 'on': out of bounds");
	RECORD("\x06" "colour\x01\x08\0\0\0\x03\0\0\0\0\0\0\0", "record 'colour': out of bounds");
	RECORD("\x04text\x02\x02\0\0\0a\0", "a NUL byte");
	RECORD("\x0ashort_text\x02\x05\0\0\0abcde", "length out of bounds");
	RECORD("\x03mac\x03\x05\0\0\0abcde", "wrong length");
	RECORD("\x04u16s\x05\x07\0\0\0abcdefg", "cut short");
	RECORD("\x04u16s\x05\x08\0\0\0\0\0\x01\0\0\0\0\0", "out of bounds");
	RECORD("\x07strings\x06\x05\0\0\0\x02\0\0\0a", "cut short");
	RECORD("\x07strings\x06\x05\0\0\0\x01\0\0\0a", NULL);
	RECORD("\x06points\x07\x04\0\0\0\0\0\0\0", "record 'ys': missing");
	RECORD("\x06points\x07\x07\0\0\0\x03\0\0\0\x01z\x01", "cut short");
	RECORD("\x04pad_\x03\x04\0\0\0abcd", "unknown record");
}

/* Each prefix of a good record is refused or read, and nothing is lost on the way: ASan and LSan look on. */
TEST(records_cut_anywhere)
{
	struct demo d;
	struct text t = TEXT_INIT;
	EQ(schema_parse_option(&demo_schema, "text=t,u16s=[1-3],strings=[a,b],points=[1@[2,3]],may_size=3,grid=1:2:3",
	                       &d, NULL),
	   0);
	EQ(schema_write_record(&demo_schema, &d, &t, NULL), 0);
	schema_done(&demo_schema, &d);
	for (size_t n = 0; n < t.n_bytes; n++) {
		struct demo r;
		if (schema_read_record(&demo_schema, t.bytes, n, &r, NULL) == 0)
			schema_done(&demo_schema, &r);
	}
	text_done(&t);
}

TEST(changes_are_held_to_hot_rows)
{
	struct demo a, b;
	struct err e = { 0 };
	EQ(schema_parse_option(&demo_schema, "", &a, NULL), 0);
	EQ(schema_parse_option(&demo_schema, "u16=3,al_size=5", &b, NULL), 0);
	EQ(schema_check_change(&demo_schema, &a, &b, &e), 0);
	schema_done(&demo_schema, &b);
	EQ(schema_parse_option(&demo_schema, "al_size=5,al_burst=1", &b, NULL), 0);
	EQ(schema_check_change(&demo_schema, &a, &b, &e), -EBUSY);
	STR_EQ(e.text, "Inner: 'burst' cannot change while the VM runs");
	schema_done(&demo_schema, &b);
	EQ(schema_parse_option(&demo_schema, "text=x", &b, NULL), 0);
	EQ(schema_check_change(&demo_schema, &a, &b, &e), -EBUSY);
	schema_done(&demo_schema, &a);
	schema_done(&demo_schema, &b);
}

TEST(help_fits_80_columns_and_names_every_key)
{
	struct text t = TEXT_INIT;
	schema_write_help(&demo_schema, 12, &t);
	for (const char *line = text_get(&t); *line;) {
		size_t n = strcspn(line, "\n");
		OK(n <= 80);
		line += n + 1;
	}
	STR_HAS(text_get(&t), "            u8=<number>               A byte [default: 1]\n");
	STR_HAS(text_get(&t), "other=<number>            Another, like the first [default: that of\n");
	STR_HAS(text_get(&t), "points=[<x>@<ys>,...]     Points\n");
	STR_HAS(text_get(&t), "grid=<a>:<b>:<c>          A grid\n");
	STR_HAS(text_get(&t), "al_size=<number>          Size [default: 0]\n");
	STR_HAS(text_get(&t), "colour=red|light-green    A colour [default: light-green]\n");
	text_done(&t);
}

TEST(manual_escapes_roff)
{
	struct text t = TEXT_INIT;
	schema_write_man(&demo_schema, &t);
	STR_HAS(text_get(&t), ".TP\n\\fBcolour=red|light\\-green\\fR\nA colour [default: light\\-green]\n");
	text_done(&t);
}

TEST(openapi_components)
{
	static const struct schema *const all[] = { &demo_schema };
	struct text t = TEXT_INIT;
	schema_write_openapi_all(all, 1, 4, &t);
	STR_HAS(text_get(&t), "    Demo:\n      description: \"One of each\"\n      type: object\n      properties:\n");
	STR_HAS(text_get(&t), "          description: \"A path: \\\"quoted\\\"\"\n          type: string\n          "
	                      "default: \"/dev/zero\"\n");
	STR_HAS(text_get(&t), "          items:\n            $ref: \"#/components/schemas/Point\"\n");
	STR_HAS(text_get(&t), "    Point:\n      description: \"A point\"\n      type: object\n      required:\n       "
	                      " - x\n        - ys\n");
	STR_HAS(text_get(&t),
	        "    Inner:\n      description: \"Inside\"\n      type: object\n      additionalProperties: false\n");
	/* Each once. */
	const char *first = strstr(text_get(&t), "    Inner:\n");
	OK(first && !strstr(first + 1, "    Inner:\n"));
	text_done(&t);
}
