// Convolution and products of matrices.
#include "cube.h"

#include <cstring>

extern "C" const char* aclrtGetSocName();

static bool has_hf32() {
    return !strncmp(aclrtGetSocName(), "Ascend910B", 10) || !strncmp(aclrtGetSocName(), "Ascend910_93", 12);
}

// HF32 keeps 11 bits of the mantissa's 23; the nearest value, and of two the larger.
static at::Tensor rounded_to_hf32(const at::Tensor& values) {
    constexpr int dropped = 12;
    auto bits = values.contiguous().view(at::kInt);
    return (bits + (1 << (dropped - 1))).bitwise_and(~((1 << dropped) - 1)).view(at::kFloat);
}

at::Tensor operand(const at::Tensor& values, int8_t cube_math_type) {
    TORCH_CHECK(values.scalar_type() != at::kDouble, "no cube unit computes float64");
    if (values.scalar_type() != at::kFloat)
        return values.to(at::kFloat);
    if (cube_math_type == ALLOW_FP32_DOWN_PRECISION)
        cube_math_type = has_hf32() ? USE_HF32 : USE_FP16;
    switch (cube_math_type) {
        case USE_FP16: return values.to(at::kHalf).to(at::kFloat);
        case USE_HF32: return rounded_to_hf32(values);
        default: return values;
    }
}

static std::optional<at::Tensor> in_float32(In tensor) {
    return tensor ? std::optional<at::Tensor>(tensor->to(at::kFloat)) : std::nullopt;
}

CUBE_OPERATOR(aclnnMatmul, (In left, In right, Out out, int8_t cube_math_type), {
    give(out, at::matmul(operand(*left, cube_math_type), operand(*right, cube_math_type)));
})

CUBE_OPERATOR(aclnnMm, (In left, In right, Out out, int8_t cube_math_type), {
    give(out, at::mm(operand(*left, cube_math_type), operand(*right, cube_math_type)));
})

CUBE_OPERATOR(aclnnBatchMatMul, (In left, In right, Out out, int8_t cube_math_type), {
    give(out, at::bmm(operand(*left, cube_math_type), operand(*right, cube_math_type)));
})

CUBE_OPERATOR(aclnnMv, (In matrix, In vector, Out out, int8_t cube_math_type), {
    give(out, at::mv(operand(*matrix, cube_math_type), operand(*vector, cube_math_type)));
})

CUBE_OPERATOR(aclnnAddmm,
              (In bias, In left, In right, Scalar* beta, Scalar* alpha, Out out, int8_t cube_math_type), {
    give(out, at::addmm(*in_float32(bias), operand(*left, cube_math_type), operand(*right, cube_math_type),
                        beta->value, alpha->value));
})

CUBE_OPERATOR(aclnnBaddbmm,
              (In bias, In left, In right, Scalar* beta, Scalar* alpha, Out out, int8_t cube_math_type), {
    give(out, at::baddbmm(*in_float32(bias), operand(*left, cube_math_type), operand(*right, cube_math_type),
                          beta->value, alpha->value));
})

CUBE_OPERATOR(aclnnConvolution,
              (In input, In weight, In bias, Integers* stride, Integers* padding, Integers* dilation, bool transposed,
               Integers* output_padding, int64_t groups, Out out, int8_t cube_math_type), {
    give(out, at::convolution(operand(*input, cube_math_type), operand(*weight, cube_math_type), in_float32(bias),
                              *stride, *padding, *dilation, transposed, *output_padding, groups));
})

CUBE_OPERATOR(aclnnConvDepthwise2d,
              (In input, In weight, Integers* kernel, In bias, Integers* stride, Integers* padding,
               Integers* dilation, Out out, int8_t cube_math_type), {
    give(out, at::convolution(operand(*input, cube_math_type), operand(*weight, cube_math_type), in_float32(bias),
                              *stride, *padding, *dilation, false, {0, 0}, input->size(1)));
})
