/* SPDX-License-Identifier: Apache-2.0 */
#include "config/rules.h"
#include "schema/schema.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MISSING "path/access field missing"

#define T struct landlock_config
static const struct field landlock_rows[] = {
	ROW_PATH(T, path, .flags = ROW_REQUIRED, .missing = MISSING, .help = "A file, or a directory with all in it"),
	ROW_STRING(T, access, .flags = ROW_REQUIRED, .missing = MISSING, .placeholder = "r|w|rw",
	           .help = "What may be done there"),
};
const struct schema landlock_schema = SCHEMA(T, landlock_rows, .name = "LandlockConfig", .option = "landlock-rules",
                                             .help = "What the process may use besides what the VM is made of");
#undef T

int landlock_check(const struct landlock_config *l, struct err *e)
{
	if (access(l->path, F_OK) < 0)
		return err_set(e, EINVAL, "Path \"%s\" provided in landlock-rules does not exist", l->path);
	if (!*l->access || l->access[strspn(l->access, "rw")])
		return err_set(e, EINVAL, "Invalid Landlock access: %s", l->access);
	return 0;
}
