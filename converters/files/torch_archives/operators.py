"""The operators that a torch file may call: arithmetic on tensors and sizes, and nothing else.

An allow-list, by the names of ATen (native_functions.yaml of torch). What is missing on purpose: `from_file` and `save`
(files), `set_`, `set_data`, `resize_` (storages), seeds and generators, printing, waiting on other processes, packed
weights of quantised layers, and whatever begins with an underscore and is not what torch itself writes for a layer. A
name ending in `_` works in place, on tensors only, and is allowed where the plain name is.
"""

from __future__ import annotations

import re
from functools import cache

__all__ = ["ALLOWED_ATEN", "ALLOWED_PRIM", "HIGHER_ORDER", "SYMBOLIC", "has_overload", "is_allowed_target"]

_ATEN = """
Bool Float FloatImplicit Int IntImplicit ScalarImplicit Size __and__ __contains__ __derive_index __getitem__ __iand__
__interpolate __ior__ __is__ __isnot__ __ixor__ __lshift__ __not__ __or__ __range_length __rshift__ __upsample
__upsample_bilinear __upsample_nearest __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar
_assert_tensor_metadata _convolution _convolution_mode _embedding_bag _log_softmax _native_batch_norm_legit
_native_batch_norm_legit_functional _native_batch_norm_legit_no_training _native_multi_head_attention _prelu_kernel
_reshape_alias _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention
_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _set_item _shape_as_tensor _softmax
_to_copy _transformer_encoder_layer_fwd _trilinear _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
_upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_norm
_weight_norm_interface abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint
affine_grid_generator alias all allclose alpha_dropout amax amin aminmax angle any append arange arccos arccosh arcsin
arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere as_strided as_tensor asin asinh atan atan2 atanh
atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bilinear bin
binary_cross_entropy binary_cross_entropy_with_logits bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor block_diag bmm broadcast_tensors broadcast_to bucketize capitalize cat cdist ceil celu
center chain_matmul channel_shuffle cholesky chr chunk clamp clamp_max clamp_min clear clip clone col2im column_stack
combinations complex concat concatenate conj constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d convolution copy copysign corrcoef cos cosh cosine_similarity count count_nonzero
cov cpu cross cross_entropy_loss cummax cummin cumprod cumsum cumulative_trapezoid data deg2rad degrees det detach
detach_copy device diag diag_embed diagflat diagonal dict diff digamma dim dist div divide divmod dot dropout dsplit
dstack einsum elu embedding embedding_bag empty empty_like empty_permuted empty_strided endswith eq equal erf erfc
erfinv exp exp2 expand expand_as expm1 extend eye fabs factorial feature_alpha_dropout feature_dropout fft_fft
fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft
fft_rfft2 fft_rfftn fill fill_diagonal find fix flatten flip fliplr flipud float_power floor floor_divide floordiv
fmax fmin fmod format frac frexp frobenius_norm full full_like gamma gather gcd ge gelu ger get get_device glu grad
greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt hardshrink hardsigmoid
hardswish hardtanh hash heaviside hex hinge_embedding_loss histc hsplit hstack huber_loss hypot i0 im2col imag index
index_add index_copy index_fill index_put index_reduce index_select inner insert instance_norm inverse
is_autocast_enabled is_complex is_contiguous is_floating_point is_grad_enabled is_leaf is_nonzero is_same_size
is_scripting isclose isdigit isfinite isin isinf isnan isneginf isposinf isreal istft item items join keys kl_div kron
kthvalue l1_loss layer_norm lcm ldexp le leaky_relu len lerp less less_equal lgamma lift lift_fresh lift_fresh_copy
linalg_cross linalg_det linalg_diagonal linalg_eigh linalg_inv linalg_matmul linalg_matrix_exp linalg_matrix_norm
linalg_matrix_power linalg_multi_dot linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_svd
linalg_svdvals linalg_vecdot linalg_vector_norm linear linspace list ljust log log10 log1p log2 log_sigmoid
log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logspace
logsumexp lower lstm lstm_cell lstrip lt mH mT margin_ranking_loss masked_fill masked_scatter masked_select matmul
matrix_H matrix_exp matrix_power max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm mode modf moveaxis
movedim mse_loss msort mul multinomial multiply mv nan_to_num nanmean nanmedian nanquantile nansum narrow narrow_copy
native_batch_norm native_channel_shuffle native_dropout native_group_norm native_layer_norm ne neg negative new_empty
new_empty_strided new_full new_ones new_zeros nll_loss nll_loss2d nll_loss_nd nonzero nonzero_numpy norm normal
not_equal nuclear_norm numel numpy_T oct one_hot ones ones_like ord outer pad pad_sequence pairwise_distance partition
permute pin_memory pinverse pixel_shuffle pixel_unshuffle polar polygamma pop popitem positive pow prelu prod qr
quantile rad2deg radians rand rand_like randint randint_like randn randn_like randperm ravel real reciprocal
reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder remove renorm repeat repeat_interleave replace
replication_pad1d replication_pad2d replication_pad3d requires_grad_ reshape reshape_as resolve_conj resolve_neg
result_type reverse rfind rjust rms_norm rnn_relu rnn_tanh roll rot90 round rrelu rsqrt rstrip rsub scalar_tensor
scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted select select_copy select_scatter selu
setdefault sgn sigmoid sign signbit silu sin sinc sinh size slice slice_copy slice_scatter slogdet smooth_l1_loss
softmax softplus softshrink sort sorted special_entr special_erf special_erfc special_erfinv special_exp2
special_expit special_expm1 special_gammaln special_i0 special_log1p special_log_softmax special_logit
special_logsumexp special_ndtr special_round special_sinc special_softmax special_xlog1py special_xlogy split
split_copy split_with_sizes splitlines sqrt square squeeze squeeze_copy stack startswith std std_mean stft
storage_offset str stride strip sub subtract sum sum_to_size svd swapaxes swapdims sym_constrain_range
sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride t take take_along_dim
tan tanh tensor tensor_split tensordot thnn_conv2d threshold tile title to topk trace transpose trapezoid trapz
triangular_solve tril tril_indices triplet_margin_loss triu triu_indices true_divide trunc type_as unbind unflatten
unfold uniform unique_consecutive unique_dim unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
unsqueeze_copy update upper upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d values vander var var_mean vdot view view_as
view_as_complex view_as_real view_copy vsplit vstack warn where xlogy zero zeros zeros_like zfill
"""

_PRIM = """
EnumName EnumValue NumToTensor RaiseException TupleIndex TupleUnpack Uninitialized abs data device dtype grad index
is_cpu is_cuda is_meta is_mkldnn is_mps is_nested is_quantized is_sparse is_xla is_xpu itemsize layout max min name
nbytes rangelist requires_grad tolist type unchecked_cast unchecked_unwrap_optional
"""

_PLAIN = frozenset(_ATEN.split())
ALLOWED_ATEN = _PLAIN | {f"{name}_" for name in _PLAIN}
"""Names below `aten::`."""

ALLOWED_PRIM = frozenset(_PRIM.split())
"""Names below `prim::`, which TorchScript uses beside them."""

_SIZES = """
_operator.eq _operator.ne _operator.le _operator.ge _operator.lt _operator.gt _operator.neg _operator.pos _operator.and_
_operator.or_ _operator.add _operator.sub _operator.mul _operator.mod _operator.pow _operator.floordiv
_operator.truediv _operator.lshift _operator.rshift _operator.getitem math.trunc torch.sym_int torch.sym_float
torch.sym_max torch.sym_min torch.sym_not torch.sym_ite
"""
SYMBOLIC = frozenset(_SIZES.split())
"""What an exported program calls on sizes, as the file spells it."""

HIGHER_ORDER = frozenset(
    f"torch.ops.higher_order.{name}" for name in ("cond", "wrap_with_autocast", "wrap_with_set_grad_enabled")
)
"""Operators that take a graph, which is checked as the file's own is."""

_TARGET = re.compile(r"torch\.ops\.aten\.(\w+)\.((?!__)\w+)", re.ASCII)


def is_allowed_target(target: str) -> bool:
    """Whether a node of an exported program may call `target`, e.g. `torch.ops.aten.conv2d.default`.

    Whether torch has that overload of the operator, `has_overload` tells.
    """
    if target in SYMBOLIC or target in HIGHER_ORDER:
        return True
    match = _TARGET.fullmatch(target)
    return match is not None and match[1] in ALLOWED_ATEN


def has_overload(target: str) -> bool:
    """Whether torch has the operator that `target`, an allowed one, names."""
    match = _TARGET.fullmatch(target)
    return match is None or match[2] in _overloads(match[1])


@cache
def _overloads(name: str) -> frozenset[str]:
    import torch  # `inspect` reads the lists above without it

    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    return frozenset(schema.overload_name or "default" for schema in schemas)
