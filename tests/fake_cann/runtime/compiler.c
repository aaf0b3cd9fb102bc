/* The compiler of single operators. Its options are kept; it compiles nothing: what torch_npu asks of it is missing in
 * ../operators, and the operator's name says what. */
#include "fake.h"

#include "acl/acl.h"
#include "acl/acl_op_compiler.h"

#include <stdio.h>
#include <string.h>

#define OPTIONS 32
#define LENGTH 256

static char values[OPTIONS][LENGTH];

/* On 310P and 910 CANN's own default is `enable`: they compile operators as they come. That would lead torch_npu here,
 * so only the knob says it, for a program that asks. */
static const char *default_of(aclCompileOpt option) {
    const char *jit_compile = fake_text("JIT_COMPILE");
    if (option == ACL_OP_JIT_COMPILE)
        return jit_compile ? jit_compile : "disable";
    return option == ACL_PRECISION_MODE ? "allow_fp32_to_fp16" : "0";
}

aclError aclSetCompileopt(aclCompileOpt option, const char *value) {
    fake_trace("aclSetCompileopt %d=%s\n", option, value);
    if (option < OPTIONS)
        snprintf(values[option], LENGTH, "%s", value);
    return ACL_SUCCESS;
}

aclError aclGetCompileopt(aclCompileOpt option, char *value, size_t length) {
    const char *kept = option < OPTIONS && *values[option] ? values[option] : default_of(option);
    snprintf(value, length, "%s", kept);
    return ACL_SUCCESS;
}

size_t aclGetCompileoptSize(aclCompileOpt option) {
    return LENGTH;
}

/* What an operator would be compiled for is described to no effect. */
aclTensorDesc *aclCreateTensorDesc(aclDataType type, int dimensions, const int64_t *sizes, aclFormat format) {
    return NULL;
}

void aclDestroyTensorDesc(const aclTensorDesc *description) {}

aclError aclSetTensorFormat(aclTensorDesc *description, aclFormat format) {
    return ACL_SUCCESS;
}

aclError aclSetTensorShape(aclTensorDesc *description, int dimensions, const int64_t *sizes) {
    return ACL_SUCCESS;
}

size_t aclGetTensorDescNumDims(const aclTensorDesc *description) {
    return 0;
}

aclDataBuffer *aclCreateDataBuffer(void *data, size_t size) {
    return NULL;
}

aclError aclDestroyDataBuffer(const aclDataBuffer *buffer) {
    return ACL_SUCCESS;
}

static aclError missing(const char *name) {
    fprintf(stderr, "fake CANN: no operator for what torch_npu calls %s\n", name);
    return fake_failure(ACL_ERROR_OP_NOT_FOUND, "no operator for %s", name);
}

aclError aclopCompileAndExecute(const char *name, int inputs, const aclTensorDesc *const input_descriptions[],
    const aclDataBuffer *const input_buffers[], int outputs, const aclTensorDesc *const output_descriptions[],
    aclDataBuffer *const output_buffers[], const aclopAttr *attributes, aclopEngineType engine,
    aclopCompileType compile_flag, const char *path, aclrtStream stream) {
    return missing(name);
}

aclError aclopCompileAndExecuteV2(const char *name, int inputs, aclTensorDesc *input_descriptions[],
    aclDataBuffer *input_buffers[], int outputs, aclTensorDesc *output_descriptions[],
    aclDataBuffer *output_buffers[], aclopAttr *attributes, aclopEngineType engine, aclopCompileType compile_flag,
    const char *path, aclrtStream stream) {
    return missing(name);
}
