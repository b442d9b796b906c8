"""Operators of PyTorch that a stranger's program may use.

A list of what is allowed, not of what is dangerous: `aten::save` and `aten::from_file` write and
read files, and each release may bring others. The list holds what torchvision's, timm's and
Keras's classifiers use, their other names and forms in place, and close relatives.
"""

from __future__ import annotations

__all__ = ["ATEN", "PRIM"]

_ATEN = """
    _convolution _convolution_mode _softmax _log_softmax _to_copy _unsafe_view
    _native_batch_norm_legit_no_training _native_batch_norm_legit _batch_norm_impl_index
    _adaptive_avg_pool2d _assert_tensor_metadata _shape_as_tensor
    _scaled_dot_product_flash_attention_for_cpu
    abs abs_ adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add add_ addmm alias
    all amax amin any arange argmax as_tensor avg_pool1d avg_pool2d baddbmm batch_norm bitwise_and
    bitwise_not bitwise_or bmm broadcast_to broadcast_tensors cat ceil celu channel_shuffle chunk
    clamp clamp_ clamp_max clamp_min clone concat constant_pad_nd contiguous conv1d conv2d
    conv_transpose2d convolution cos cumsum detach detach_ dim div div_ dropout dropout_ einsum elu
    elu_ embedding empty empty_like eq erf exp expand expand_as fill fill_ flatten flip floor
    floor_divide full full_like ge gather gelu getitem glu group_norm gt hardshrink hardsigmoid
    hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ index index_select instance_norm
    interpolate is_floating_point isnan item layer_norm le leaky_relu leaky_relu_ lift_fresh
    lift_fresh_copy linalg_norm linalg_vector_norm linear log log1p log_softmax logical_and
    logical_not logical_or logsumexp lt masked_fill masked_fill_ matmul max max_pool1d max_pool2d
    max_pool2d_with_indices maximum mean meshgrid min minimum mish mish_ mm movedim mul mul_
    multi_head_attention_forward narrow native_batch_norm native_dropout native_group_norm
    native_layer_norm ne neg new_empty new_full new_ones new_zeros norm numel ones ones_like outer
    pad permute pixel_shuffle pixel_unshuffle pow prelu prod ravel reciprocal reflection_pad2d relu
    relu6 relu6_ relu_ remainder repeat repeat_interleave replication_pad2d reshape reshape_as
    resolve_conj resolve_neg rms_norm roll round rsqrt rsub scalar_tensor
    scaled_dot_product_attention select selu selu_ sigmoid sigmoid_ sign silu silu_ sin size slice
    softmax softplus softshrink softsign split split_with_sizes sqrt square squeeze squeeze_ stack
    std std_mean stride sub sub_ sum swapaxes swapdims sym_numel sym_size sym_stride t tanh tanh_
    tensor tensor_split tile to to_dense topk transpose tril triu type_as unbind unflatten unfold
    unsafe_chunk unsafe_split unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d
    upsample_nearest2d var var_mean view view_as where zero_ zeros zeros_like
    __getitem__ _set_item copy bernoulli bernoulli_ is_grad_enabled is_autocast_enabled clamp_min_
    clamp_max_ _native_multi_head_attention
    __and__ __not__ __is__ __isnot__ __contains__ __range_length __derive_index __or__
    absolute absolute_ addcdiv addcmul addmv argmin argsort atan atan2 bitwise_xor ceil_ clip clip_
    column_stack cos_ cosh count_nonzero diag diagonal divide divide_ dot erf_ erfc exp_ expm1 eye
    floor_ fmax fmin fmod greater greater_equal hsplit hstack index_put kthvalue less less_equal
    lerp linspace log10 log2 log_ logical_xor logit logsigmoid moveaxis multiply multiply_ mv
    nan_to_num neg_ negative not_equal positive pow_ reciprocal_ round_ rsqrt_ scatter scatter_add
    select_scatter sign_ sin_ sinh slice_scatter sort sqrt_ square_ subtract subtract_ take
    take_along_dim tan threshold threshold_ true_divide true_divide_ trunc vstack xlogy
    append extend insert len list format is_scripting copy_ Int Float Bool IntImplicit
    FloatImplicit ScalarImplicit floordiv warn device dtype layout
"""
ATEN = frozenset(_ATEN.split())
"""Names behind `aten::`, without overload."""

_PRIM = """
    Constant GetAttr ListConstruct ListUnpack TupleConstruct TupleUnpack TupleIndex NumToTensor If
    Loop RaiseException Uninitialized unchecked_cast unchecked_unwrap_optional isinstance
    device dtype layout is_cuda is_quantized requires_grad data shape min max abs DictConstruct
    SetAttr is_nested type
"""
PRIM = frozenset(_PRIM.split())
"""Names behind `prim::`: the language itself."""
