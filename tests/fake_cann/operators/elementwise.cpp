// Operators that compute each element from those at its place.
#include "operator.h"

// ---------------------------------------------------------------------------------------------------- of one tensor
#define UNARY(NAME, FUNCTION)                                                      \
    OPERATOR(aclnn##NAME, (In self, Out out), { give(out, at::FUNCTION(*self)); }) \
    OPERATOR(aclnnInplace##NAME, (Out self), { give(self, at::FUNCTION(*self)); })

UNARY(Abs, abs)
UNARY(BitwiseNot, bitwise_not)
UNARY(Ceil, ceil)
UNARY(Cos, cos)
UNARY(Erf, erf)
UNARY(Exp, exp)
UNARY(Floor, floor)
UNARY(Hardsigmoid, hardsigmoid)
UNARY(Hardswish, hardswish)
UNARY(IsFinite, isfinite)
UNARY(Log, log)
UNARY(LogicalNot, logical_not)
UNARY(Mish, mish)
UNARY(Neg, neg)
UNARY(Reciprocal, reciprocal)
UNARY(Relu, relu)
UNARY(Round, round)
UNARY(Rsqrt, rsqrt)
UNARY(Sigmoid, sigmoid)
UNARY(Sign, sign)
UNARY(Silu, silu)
UNARY(Sin, sin)
UNARY(Sqrt, sqrt)
UNARY(Tanh, tanh)

// CANN's page on aclnnGelu gives the tanh formula alone, whatever torch was asked for; V2 computes either.
OPERATOR(aclnnGelu, (In self, Out out), { give(out, at::gelu(*self, "tanh")); })
OPERATOR(aclnnGeluV2, (In self, int64_t approximate, Out out), {
    give(out, at::gelu(*self, approximate ? "tanh" : "none"));
})

OPERATOR(aclnnHardtanh, (In self, Scalar* low, Scalar* high, Out out), {
    give(out, at::hardtanh(*self, low->value, high->value));
})
OPERATOR(aclnnInplaceHardtanh, (Out self, Scalar* low, Scalar* high), {
    give(self, at::hardtanh(*self, low->value, high->value));
})
OPERATOR(aclnnClamp, (In self, Scalar* low, Scalar* high, Out out), {
    give(out, at::clamp(*self, optional(low), optional(high)));
})
OPERATOR(aclnnClampTensor, (In self, In low, In high, Out out), {
    give(out, at::clamp(*self, optional(low), optional(high)));
})
OPERATOR(aclnnClampMin, (In self, Scalar* low, Out out), { give(out, at::clamp_min(*self, low->value)); })
OPERATOR(aclnnClampMax, (In self, Scalar* high, Out out), { give(out, at::clamp_max(*self, high->value)); })
OPERATOR(aclnnClampMinTensor, (In self, In low, Out out), { give(out, at::clamp_min(*self, *low)); })
OPERATOR(aclnnLeakyRelu, (In self, Scalar* slope, Out out), { give(out, at::leaky_relu(*self, slope->value)); })
OPERATOR(aclnnElu, (In self, Scalar* alpha, Scalar* scale, Scalar* input_scale, Out out), {
    give(out, at::elu(*self, alpha->value, scale->value, input_scale->value));
})
OPERATOR(aclnnSoftplus, (In self, Scalar* beta, Scalar* threshold, Out out), {
    give(out, at::softplus(*self, beta->value, threshold->value));
})

// --------------------------------------------------------------------------------------------------- of two tensors
OPERATOR(aclnnAdd, (In self, In other, Scalar* alpha, Out out), { give(out, at::add(*self, *other, alpha->value)); })
OPERATOR(aclnnAdds, (In self, Scalar* other, Scalar* alpha, Out out), {
    give(out, at::add(*self, other->value, alpha->value));
})
OPERATOR(aclnnInplaceAdd, (Out self, In other, Scalar* alpha), { self->add_(*other, alpha->value); })
OPERATOR(aclnnInplaceAdds, (Out self, Scalar* other, Scalar* alpha), { self->add_(other->value, alpha->value); })

OPERATOR(aclnnSub, (In self, In other, Scalar* alpha, Out out), { give(out, at::sub(*self, *other, alpha->value)); })
OPERATOR(aclnnSubs, (In self, Scalar* other, Scalar* alpha, Out out), {
    give(out, at::sub(*self, other->value, alpha->value));
})
OPERATOR(aclnnInplaceSub, (Out self, In other, Scalar* alpha), { self->sub_(*other, alpha->value); })
OPERATOR(aclnnInplaceSubs, (Out self, Scalar* other, Scalar* alpha), { self->sub_(other->value, alpha->value); })
OPERATOR(aclnnRsubs, (In self, Scalar* other, Scalar* alpha, Out out), {
    give(out, at::rsub(*self, other->value, alpha->value));
})

OPERATOR(aclnnMul, (In self, In other, Out out), { give(out, at::mul(*self, *other)); })
OPERATOR(aclnnMuls, (In self, Scalar* other, Out out), { give(out, at::mul(*self, other->value)); })
OPERATOR(aclnnInplaceMul, (Out self, In other), { self->mul_(*other); })
OPERATOR(aclnnInplaceMuls, (Out self, Scalar* other), { self->mul_(other->value); })

OPERATOR(aclnnDiv, (In self, In other, Out out), { give(out, at::div(*self, *other)); })
OPERATOR(aclnnDivs, (In self, Scalar* other, Out out), { give(out, at::div(*self, other->value)); })
OPERATOR(aclnnInplaceDiv, (Out self, In other), { self->div_(*other); })
OPERATOR(aclnnInplaceDivs, (Out self, Scalar* other), { self->div_(other->value); })
OPERATOR(aclnnFloorDivides, (In self, Scalar* other, Out out), { give(out, at::floor_divide(*self, other->value)); })

OPERATOR(aclnnPowTensorScalar, (In self, Scalar* exponent, Out out), { give(out, at::pow(*self, exponent->value)); })
OPERATOR(aclnnInplacePowTensorScalar, (Out self, Scalar* exponent), { self->pow_(exponent->value); })
OPERATOR(aclnnPowTensorTensor, (In self, In exponent, Out out), { give(out, at::pow(*self, *exponent)); })
OPERATOR(aclnnPowScalarTensor, (Scalar* self, In exponent, Out out), { give(out, at::pow(self->value, *exponent)); })

#define BINARY(NAME, FUNCTION)                                                                       \
    OPERATOR(aclnn##NAME, (In self, In other, Out out), { give(out, at::FUNCTION(*self, *other)); }) \
    OPERATOR(aclnnInplace##NAME, (Out self, In other), { give(self, at::FUNCTION(*self, *other)); })

BINARY(BitwiseAndTensor, bitwise_and)
BINARY(BitwiseOrTensor, bitwise_or)
BINARY(LogicalAnd, logical_and)
BINARY(LogicalOr, logical_or)
BINARY(Maximum, maximum)
BINARY(Minimum, minimum)

#define COMPARISON(NAME, FUNCTION)   \
    BINARY(NAME##Tensor, FUNCTION)   \
    OPERATOR(aclnn##NAME##Scalar, (In self, Scalar* other, Out out), { give(out, at::FUNCTION(*self, other->value)); })

COMPARISON(Eq, eq)
COMPARISON(Ge, ge)
COMPARISON(Gt, gt)
COMPARISON(Le, le)
COMPARISON(Lt, lt)
COMPARISON(Ne, ne)

// ------------------------------------------------------------------------------------------------- of three tensors
OPERATOR(aclnnAddcmul, (In self, In left, In right, Scalar* value, Out out), {
    give(out, at::addcmul(*self, *left, *right, value->value));
})
OPERATOR(aclnnSWhere, (In condition, In self, In other, Out out), { give(out, at::where(*condition, *self, *other)); })
OPERATOR(aclnnInplaceMaskedFillScalar, (Out self, In mask, Scalar* value), { self->masked_fill_(*mask, value->value); })
OPERATOR(aclnnInplaceMaskedFillTensor, (Out self, In mask, In value), { self->masked_fill_(*mask, *value); })
