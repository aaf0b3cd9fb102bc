// The cube unit, which multiplies matrices: what it makes of the precision of its operands.
#pragma once

#include "operator.h"

// cubeMathType, as aclnn numbers it
enum : int8_t { KEEP_DTYPE = 0, ALLOW_FP32_DOWN_PRECISION = 1, USE_FP16 = 2, USE_HF32 = 3 };

// An operand as the unit reads it: of a float32 the bits that cubeMathType leaves, of 16 bits all. Products are summed
// in float32, so that is the dtype.
at::Tensor operand(const at::Tensor& values, int8_t cube_math_type);

// An operator of the cube unit; its parameters include `int8_t cube_math_type`, which the trace shows.
#define CUBE_OPERATOR(NAME, PARAMETERS, ...)                            \
    OPERATOR(NAME, PARAMETERS, {                                        \
        fake_trace(#NAME " cubeMathType=%d\n", int(cube_math_type));    \
        __VA_ARGS__                                                     \
    })
