/* What the parts of the fake CANN share: its knobs, and the failures that they ask for. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The environment variable FAKE_CANN_<knob>; NULL where it is unset or empty. Read anew at every call. */
const char *fake_text(const char *knob);

/* The same as a number. */
long fake_number(const char *knob, long otherwise);

/* Whether the knob's value, a list with commas, holds this word. */
bool fake_lists(const char *knob, const char *word);

/* Called as an operator starts: counts and traces it. Gives 0, or the code with which a knob lets it fail. */
int fake_launch(const char *operator_name);

/* A line for what FAKE_CANN_TRACE shows; nothing without it. */
void fake_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Keep a text for aclGetRecentErrMsg, which torch_npu shows below its own; gives the code back. */
int fake_failure(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What every synchronisation gives from now on: a device does not recover from a kernel that failed on it. */
void fake_break_device(int code);

/* What a function gives that torch_npu wants to find and that is not here. */
int fake_missing(const char *name);

/* The device of this thread; -1 before one was set. */
int fake_current_device(void);

#ifdef __cplusplus
}
#endif
