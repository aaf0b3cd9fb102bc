// Attention in one kernel. Its softmax and sums are float32's whatever the dtype, and a query for which every key is
// masked gives zeros.
#include "operator.h"

#include <limits>

// FAKE_CANN_ATTENTION_ULPS moves each float32 away from zero by so many units in the last place.
static at::Tensor off_by_ulps(const at::Tensor& values) {
    long ulps = fake_number("ATTENTION_ULPS", 0);
    return ulps && values.scalar_type() == at::kFloat ? (values.view(at::kInt) + ulps).view(at::kFloat) : values;
}

static at::Tensor repeated_heads(const at::Tensor& values, int64_t heads) {
    return values.to(at::kFloat).repeat_interleave(heads / values.size(1), 1);
}

static constexpr int64_t LEFT_UP_CAUSAL = 2;  // a sparse mode

OPERATOR(aclnnFlashAttentionScore,
         (In query, In key, In value, In position_shift, In dropout_mask, In padding_mask, In attention_mask,
          Integers* prefix, double scale, double keep_probability, int64_t tokens_before, int64_t tokens_after,
          int64_t heads, char* layout, int64_t inner_precise, int64_t sparse_mode, Out softmax_max, Out softmax_sum,
          Out softmax_out, Out out), {
    TORCH_CHECK(query->dim() == 4 && query->size(1) == heads, "attention in another layout than BNSD");
    auto keys = repeated_heads(*key, heads), values = repeated_heads(*value, heads);
    auto scores = at::matmul(query->to(at::kFloat), keys.transpose(-2, -1)) * scale;
    if (sparse_mode == LEFT_UP_CAUSAL)
        scores.masked_fill_(at::ones_like(scores, at::kBool).triu(1), -std::numeric_limits<double>::infinity());
    else if (attention_mask)
        scores.masked_fill_(attention_mask->to(at::kBool), -std::numeric_limits<double>::infinity());
    give(out, off_by_ulps(at::matmul(at::_safe_softmax(scores, -1), values).to(out->scalar_type())));
})
