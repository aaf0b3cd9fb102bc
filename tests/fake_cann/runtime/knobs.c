/* The knobs: environment variables, and the failures of operators that they ask for. README.md lists them. */
#include "fake.h"

#include "acl/acl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int ACLNN_ERR_INNER = 561000; /* what an operator gives that fails on the host */

const char *fake_text(const char *knob) {
    char name[64];
    snprintf(name, sizeof name, "FAKE_CANN_%s", knob);
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

long fake_number(const char *knob, long otherwise) {
    const char *value = fake_text(knob);
    return value ? strtol(value, NULL, 10) : otherwise;
}

bool fake_lists(const char *knob, const char *word) {
    size_t length = strlen(word);
    for (const char *at = fake_text(knob); at; at = strchr(at, ',')) {
        at += *at == ',';
        if (!strncmp(at, word, length) && (at[length] == ',' || at[length] == 0))
            return true;
    }
    return false;
}

void fake_trace(const char *format, ...) {
    const char *path = fake_text("TRACE");
    if (!path)
        return;
    FILE *file = strcmp(path, "1") ? fopen(path, "a") : stderr;
    if (!file)
        return;
    va_list values;
    va_start(values, format);
    vfprintf(file, format, values);
    va_end(values);
    if (file != stderr)
        fclose(file);
}

/* A fault: NAME, NAME@CALL or NAME@CALL:CODE, where NAME may be `any`. It acts from that call on; the first is 1. */
static int fault(const char *knob, const char *operator_name, int code) {
    const char *text = fake_text(knob);
    if (!text)
        return 0;
    static int calls; /* each process has at most one fault, so one counter is enough */
    char name[128] = "";
    int from = 1;
    sscanf(text, "%127[^@:]@%d", name, &from);
    if (strcmp(name, "any") && strcmp(name, operator_name))
        return 0;
    const char *own_code = strchr(text, ':');
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST) < from)
        return 0;
    return own_code ? atoi(own_code + 1) : code;
}

int fake_launch(const char *operator_name) {
    fake_trace("%s\n", operator_name);
    int broken = fault("FAIL_LATER", operator_name, ACL_ERROR_RT_AICORE_EXCEPTION);
    if (broken)
        fake_break_device(broken);
    int refused = fault("FAIL", operator_name, ACLNN_ERR_INNER);
    return refused ? fake_failure(refused, "%s was told to fail", operator_name) : 0;
}

/* Called by the stubs of what torch_npu wants to find and is not here. The failure that was told first stays told. */
int fake_missing(const char *name) {
    fake_trace("%s is not there\n", name);
    return ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
}
