/* SPDX-License-Identifier: Apache-2.0 */
/* schema.h - one row per setting; from the rows come option strings, JSON, OpenAPI, help, manual and snapshot records.
 *
 * A `struct schema` is a constant table beside a hand-written struct. Every byte of the struct belongs to exactly one
 * row (padding too: ROW_PAD), so that nothing can be forgotten; schema_is_sound() and the unit tests hold the tables to
 * it. Strings and lists in an object are heap memory that the object owns. Option strings, JSON and records are
 * hostile: what they hold is bounded and checked, and a failed parse leaves nothing to free. No locking; no state of
 * its own. */
#pragma once
#include "base/checked.h"
#include "base/err.h"
#include "base/forward.h"
#include "base/text.h"

struct schema;

enum field_type {
	FIELD_BOOL,     /* bool; option: on|off|true|false in any case */
	FIELD_U8,
	FIELD_U16,
	FIELD_U32,
	FIELD_U64,
	FIELD_SIZE,     /* uint64_t of bytes; option: with an optional K, M or G */
	FIELD_I32,
	FIELD_ENUM,     /* an enum with names for JSON and, in any case, for options */
	FIELD_STRING,   /* char *, NULL when absent */
	FIELD_PATH,     /* as FIELD_STRING, and shown as a path */
	FIELD_MAC,      /* uint8_t[6] */
	FIELD_IPV4,     /* uint8_t[4] */
	FIELD_BLOB,     /* uint8_t[N]; JSON: hexadecimal; no option form */
	FIELD_INTEGERS, /* a list of uint8_t, uint16_t, uint32_t, uint64_t or int32_t; option: [1,3-5] */
	FIELD_STRINGS,  /* a list of char *; option: [a,b] */
	FIELD_OBJECT,   /* a nested struct with a schema of its own */
	FIELD_LIST,     /* a list of such structs */
	FIELD_IGNORED,  /* an option key that is accepted and means nothing */
	FIELD_PAD,      /* bytes that hold nothing; always 0 */
};

enum row_flags {
	ROW_REQUIRED_JSON = 1 << 0,   /* its JSON object is refused without it */
	ROW_REQUIRED_OPTION = 1 << 1, /* its option string is refused without it, or with an empty value */
	ROW_REQUIRED = ROW_REQUIRED_JSON | ROW_REQUIRED_OPTION,
	ROW_HOT = 1 << 2,        /* may change while the VM runs (schema_check_change()) */
	ROW_SECRET = 1 << 3,     /* written as "***" unless asked for */
	ROW_HOST = 1 << 4,       /* names something of the host: refused from a remote client */
	ROW_NO_JSON = 1 << 5,
	ROW_NO_OPTION = 1 << 6,
	ROW_MODE = 1 << 7,       /* ENUM: chosen by mentioning a name as a key; the first name in table order wins */
	ROW_IN_MODE = 1 << 8,    /* STRING, PATH: the value of the mode `.mode`; dropped in other modes */
	ROW_FLAT = 1 << 9,       /* OBJECT: its keys, behind the prefix `.key`, are keys of this option string */
	ROW_COLONS = 1 << 10,    /* OBJECT: option form is its rows' values in order, separated by ':' */
	ROW_NAME_SET = 1 << 11,  /* OBJECT of BOOL rows: option form is the list of those that are on */
	ROW_TUPLES = 1 << 12,    /* LIST of objects with two rows: option form is [first@second,...] */
	ROW_PLAIN_TEXT = 1 << 13, /* `.missing` and `.refusal` are shown without the option's prefix */
	ROW_HEX = 1 << 14,        /* a number whose option form is 0x and hexadecimal digits */
	ROW_DESCRIPTORS = 1 << 15, /* INTEGERS: of this process; they leave and enter it as -1 */
	ROW_NO_RECORD = 1 << 16,   /* of this process, and neither written to a snapshot nor taken from one */
	ROW_NOT_SAID = 1 << 17,    /* a number, BOOL or ENUM: left out of JSON when it is the default */
};

struct enum_name {
	const char *json; /* NULL ends the table */
	const char *word; /* in option strings; NULL: cannot be said there */
	unsigned value;
	bool takes_value; /* ROW_MODE: the word is the key of a ROW_IN_MODE row */
};

/* Offsets of optional members are stored plus 1: 0 says "none". */
struct field {
	const char *name; /* the C member; also JSON member and option key unless those are given */
	const char *json, *key;
	const char *help;
	const char *missing;     /* instead of "<key> missing"; ROW_NAME_SET: what stands before an unknown name */
	const char *placeholder; /* in documents, what stands behind the '='; default: by type */
	const char *too_long;    /* option: text for a string of more than max bytes; default: the conversion error */
	const char *refusal;     /* option: what stands before a value that does not convert; default: the conversion error */
	enum field_type type;
	uint32_t flags;
	uint32_t at;    /* offset of the member */
	uint32_t size;  /* bytes of the member; lists: of one element */
	uint32_t has;   /* of the bool that says whether the member is set */
	uint32_t count; /* lists: of the size_t beside the pointer */
	bool is_signed; /* INTEGERS: the element's type */
	uint64_t def;
	uint64_t min, max; /* of the number, of each in a list, of a string's bytes; max 0: the type's own */
	uint32_t max_items; /* lists; 0: FIELD_MAX_ITEMS */
	uint32_t mode;      /* ROW_IN_MODE */
	const char *def_string;
	const char *def_key; /* option: without a value of its own, takes that of this key's row, an earlier one */
	const char *instead; /* option: with this key, the row need not be there, though ROW_REQUIRED_OPTION */
	const struct enum_name *names; /* of an ENUM; of a number: words that stand for it in option strings */
	const struct schema *schema;
	/* ROW_FLAT with has: whether the parsed object counts as given. NULL: when a key of its was given. */
	bool (*is_present)(const void *object);
};

#define FIELD_MAX_ITEMS 65536u

enum schema_flags {
	SCHEMA_STRICT = 1 << 0, /* unknown JSON members are an error; otherwise they are ignored */
};

struct schema {
	const char *name;   /* in OpenAPI and error texts: "DiskConfig" */
	const char *option; /* in error texts: "disk" gives "Error parsing --disk: " */
	const char *help;
	const struct field *fields;
	uint32_t n_fields;
	uint32_t size; /* of the struct */
	uint32_t flags;
	/* Rules over several settings of one object. */
	int (*check)(const void *object, struct err *e);
	/* Defaults that an object has as a whole, after those of its rows: a nested object that is given has its rows'. */
	void (*set_defaults)(void *object);
};

/* offsetof() that does not compile when the member is not a CT. */
#define FIELD_AT(T, m, CT) ((uint32_t)(offsetof(T, m) + 0 * _Generic(((T *)NULL)->m, CT : 1)))
#define FIELD_AT_ARRAY(T, m, E, n) ((uint32_t)(offsetof(T, m) + 0 * _Generic(&((T *)NULL)->m, E(*)[n] : 1)))
#define FIELD_BYTES(T, m) ((uint32_t)sizeof(((T *)NULL)->m))

/* .has = HAS(T, has_x) in a row makes it optional. */
#define HAS(T, m) (1 + FIELD_AT(T, m, bool))
#define FIELD_(T, m, type_, CT) .name = #m, .type = type_, .at = FIELD_AT(T, m, CT), .size = FIELD_BYTES(T, m)
#define FIELD_LIST_(T, m, type_, E)                                                                       \
	.name = #m, .type = type_, .at = FIELD_AT(T, m, E *), .size = sizeof(E), .count = 1 + FIELD_AT(T, n_##m, size_t)

#define ROW_BOOL(T, m, ...) { FIELD_(T, m, FIELD_BOOL, bool), __VA_ARGS__ }
#define ROW_U8(T, m, ...) { FIELD_(T, m, FIELD_U8, uint8_t), __VA_ARGS__ }
#define ROW_U16(T, m, ...) { FIELD_(T, m, FIELD_U16, uint16_t), __VA_ARGS__ }
#define ROW_U32(T, m, ...) { FIELD_(T, m, FIELD_U32, uint32_t), __VA_ARGS__ }
#define ROW_U64(T, m, ...) { FIELD_(T, m, FIELD_U64, uint64_t), __VA_ARGS__ }
#define ROW_SIZE(T, m, ...) { FIELD_(T, m, FIELD_SIZE, uint64_t), __VA_ARGS__ }
#define ROW_I32(T, m, ...) { FIELD_(T, m, FIELD_I32, int32_t), __VA_ARGS__ }
#define ROW_ENUM(T, m, ET, names_, ...) { FIELD_(T, m, FIELD_ENUM, ET), .names = names_, __VA_ARGS__ }
#define ROW_STRING(T, m, ...) { FIELD_(T, m, FIELD_STRING, char *), __VA_ARGS__ }
#define ROW_PATH(T, m, ...) { FIELD_(T, m, FIELD_PATH, char *), __VA_ARGS__ }
#define ROW_ARRAY_(T, m, type_, n, ...) \
	{ .name = #m, .type = type_, .at = FIELD_AT_ARRAY(T, m, uint8_t, n), .size = FIELD_BYTES(T, m), __VA_ARGS__ }
#define ROW_MAC(T, m, ...) ROW_ARRAY_(T, m, FIELD_MAC, 6, __VA_ARGS__)
#define ROW_IPV4(T, m, ...) ROW_ARRAY_(T, m, FIELD_IPV4, 4, __VA_ARGS__)
#define ROW_BLOB(T, m, ...) ROW_ARRAY_(T, m, FIELD_BLOB, sizeof(((T *)NULL)->m), __VA_ARGS__)
#define ROW_PAD(T, m) ROW_ARRAY_(T, m, FIELD_PAD, sizeof(((T *)NULL)->m), .help = NULL)
/* A list m of element type E; its count is the member n_m. Of integers: min and max bound each item. */
#define ROW_INTEGERS(T, m, E, ...) \
	{ FIELD_LIST_(T, m, FIELD_INTEGERS, E), .is_signed = (E)-1 < (E)1, __VA_ARGS__ }
#define ROW_STRINGS(T, m, ...) { FIELD_LIST_(T, m, FIELD_STRINGS, char *), __VA_ARGS__ }
#define ROW_OBJECT(T, m, E, schema_, ...) { FIELD_(T, m, FIELD_OBJECT, E), .schema = schema_, __VA_ARGS__ }
#define ROW_LIST(T, m, E, schema_, ...) { FIELD_LIST_(T, m, FIELD_LIST, E), .schema = schema_, __VA_ARGS__ }
/* A nested JSON object whose rows are members of T itself. */
#define ROW_HERE(T, name_, schema_, ...) \
	{ .name = name_, .type = FIELD_OBJECT, .size = sizeof(T), .schema = schema_, __VA_ARGS__ }
#define ROW_IGNORED(name_, ...) { .name = name_, .type = FIELD_IGNORED, __VA_ARGS__ }

#define SCHEMA(T, rows, ...) { .fields = rows, .n_fields = ARRAY_LEN(rows), .size = sizeof(T), __VA_ARGS__ }

/* Objects. schema_init() and all that reads into an object take raw memory and fill every byte of it. */
int schema_init(const struct schema *s, void *object, struct err *e); /* all defaults */
void schema_done(const struct schema *s, void *object);               /* frees; all bytes 0 afterwards; twice is fine */
int schema_copy(const struct schema *s, void *to, const void *from, struct err *e);
bool schema_equal(const struct schema *s, const void *a, const void *b);
int schema_check(const struct schema *s, const void *object, struct err *e);
/* Refuses when a row that is not ROW_HOT differs, and names it. */
int schema_check_change(const struct schema *s, const void *from, const void *to, struct err *e);
/* Grows a list row's array by one initialised element. */
int schema_append(const struct schema *element, void *list, size_t *n, void **ret_element, struct err *e);
const struct field *schema_find(const struct schema *s, const char *name);

/* "key=value,..." with the grammar of option_string.h. Error texts are those of Cloud Hypervisor. */
int schema_parse_option(const struct schema *s, const char *text, void *object, struct err *e);

/* JSON. Integers travel as JSON integers up to 2^63 - 1; a larger uint64_t has no JSON form and is refused both ways.
 * Input is at most SCHEMA_JSON_MAX_BYTES, SCHEMA_JSON_MAX_DEPTH deep, and has about SCHEMA_JSON_MAX_VALUES. */
#define SCHEMA_JSON_MAX_BYTES (4u << 20)
#define SCHEMA_JSON_MAX_DEPTH 32u
#define SCHEMA_JSON_MAX_VALUES (128u << 10)
enum schema_json_flags {
	SCHEMA_FROM_REMOTE = 1 << 0,  /* in: ROW_HOST rows are refused */
	SCHEMA_WITH_SECRETS = 1 << 1, /* out */
	SCHEMA_LARGE_NUMBERS = 1 << 2, /* out: write what is above 2^63 - 1, too; we cannot read that back */
};
int schema_parse_json(const struct schema *s, const char *json, size_t n_bytes, unsigned flags, void *object,
                      struct err *e);
int schema_write_json(const struct schema *s, const void *object, unsigned flags, struct text *t, struct err *e);

/* Snapshot records: see record.c for the format. Reading checks bounds as for JSON; schema_check() is the caller's. */
int schema_write_record(const struct schema *s, const void *object, struct text *t, struct err *e);
int schema_read_record(const struct schema *s, const void *record, size_t n_bytes, void *object, struct err *e);

/* Documents. */
void schema_write_help(const struct schema *s, unsigned indent, struct text *t); /* one entry per key, 80 columns */
void schema_write_man(const struct schema *s, struct text *t);                   /* the same as roff, .TP entries */
void schema_write_man_json(const struct schema *s, struct text *t); /* .TP entries of its JSON members */
/* For completion, separated by spaces: "path=@ readonly=on|off id=" with '@' for a path; modes without values stand alone. */
void schema_write_keys(const struct schema *s, struct text *t);
void schema_write_roff(const char *s, struct text *t); /* a line of plain text, escaped */
/* The component `name:` of an OpenAPI 3.0 document in YAML, for s alone, and with all schemas that are referred to. */
void schema_write_openapi(const struct schema *s, unsigned indent, struct text *t);
void schema_write_openapi_all(const struct schema *const *schemas, size_t n, unsigned indent, struct text *t);
/* `words` filled into lines of at most 80 columns; the first starts at `column`, the others at `indent`. */
void schema_write_wrapped(const char *words, unsigned column, unsigned indent, struct text *t);

/* For tests: whether the table is consistent in itself, and covers every byte of its struct. */
int schema_is_sound(const struct schema *s, struct err *e);
