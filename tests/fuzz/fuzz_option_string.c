/* SPDX-License-Identifier: Apache-2.0 */
/* Option strings: text from a command line into each kind of object. */
#include "fuzz_schemas.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = { 0 };
	if (!size)
		return 0;
	const struct schema *s = choose_schema(data[0]);
	char *text = malloc(size);
	void *object = malloc(s->size);
	require(text && object);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	memset(object, 0xa5, s->size);
	if (schema_parse_option(s, text, object, &e) == 0)
		check_object(s, object);
	else
		require(e.code && e.text[0]);
	free(object);
	free(text);
	return 0;
}
