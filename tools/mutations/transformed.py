"""What keeps means, transformations and quantized weights right."""

from __future__ import annotations

from .mutation import Mutation

AVERAGE = "transforms/test_average.py"
QUANTIZE = "transforms/test_quantize.py"
STEPS = "transforms/test_transforms.py"

MUTATIONS = (
    Mutation(
        "a mean is summed in float64",
        f"{AVERAGE}::test_the_newest_complete_saves_of_a_run {AVERAGE}::test_any_two_layouts_have_torchs_mean",
        (
            "transforms/averaging.py",
            "        self._sums = np.empty(min(BLOCK_NUMEL, recipe.numel), np.float64)\n",
            "        self._sums = np.empty(min(BLOCK_NUMEL, recipe.numel), np.float32)\n",
        ),
        (
            "transforms/averaging.py",
            "out=product if number else sums, dtype=np.float64)",
            "out=product if number else sums)",
        ),
        ("transforms/averaging.py", "np.float64(weight)", "np.float32(weight)"),
        ("transforms/averaging.py", "np.float64(sum(recipe.weights))", "np.float32(sum(recipe.weights))"),
    ),
    Mutation(
        "a mean is divided by the sum of the weights",
        f"{AVERAGE}::test_the_newest_complete_saves_of_a_run",
        ("transforms/averaging.py", "            np.divide(sums, self._total, out=sums)\n", ""),
    ),
    Mutation(
        "buffers are the last checkpoint's",
        f"{AVERAGE}::test_buffers_and_whole_numbers_are_the_last_ones",
        ("transforms/averaged.py", 'if source.role == "buffer"', "if False"),
    ),
    Mutation(
        "a mean is of tensors that all checkpoints have",
        f"{AVERAGE}::test_checkpoints_of_different_models",
        ("transforms/averaged.py", "    if lacking or extra:\n", "    if lacking:\n"),
    ),
    Mutation(
        "a mean is of tensors of one shape",
        f"{AVERAGE}::test_checkpoints_of_different_models",
        ("transforms/averaged.py", "        if source.shape != other[name].shape:\n", "        if False:\n"),
    ),
    Mutation(
        "a mean is of models that are tied alike",
        f"{AVERAGE}::test_ties_that_differ",
        (
            "outputs/averaging.py",
            "        if dict(other.catalog.ties) != dict(last.catalog.ties):\n",
            "        if False:\n",
        ),
        ("transforms/averaged.py", "    if lacking or extra:\n", "    if False:\n"),
    ),
    Mutation(
        "each checkpoint of a mean is held against its own copies",
        f"{AVERAGE}::test_each_is_held_against_its_own_copies",
        ("outputs/checks.py", "    for each in opened.each:\n", "    for each in opened.each[-1:]:\n"),
    ),
    Mutation(
        "only complete saves are averaged",
        f"{AVERAGE}::test_the_newest_complete_saves_of_a_run",
        ("saves/averaged.py", "for save in run.saves if save.complete]", "for save in run.saves]"),
    ),
    Mutation(
        "a save that is called best or last is averaged itself",
        f"{AVERAGE}::test_saves_that_are_called_best_and_last_are_themselves",
        (
            "saves/several.py",
            "[settled_on(save, found, src, alone) for save in chosen]",
            "[settled(src, replace(alone, checkpoint=save.name)) for save in chosen]",
        ),
    ),
    Mutation(
        "of several saves with one tag, verify averages those that were averaged",
        f"{AVERAGE}::test_a_mean_of_saves_with_one_tag_is_verified_against_the_run",
        ("saves/averaged.py", "if examine(listings[save.name]).step == step]", "]"),
    ),
    Mutation(
        "a mean is not listed as the model of its last save",
        f"{AVERAGE}::test_a_mean_is_the_model_of_none_of_its_saves",
        ("saves/converted.py", """ or manifest.get("averaged"):""", ":"),
    ),
    Mutation(
        "verify averages what was averaged, whatever was saved since",
        f"{AVERAGE}::test_the_newest_complete_saves_of_a_run",
        ("audit/reopened.py", "several(src, chosen, averaged=averaged)", "several(src, chosen, averaged=())"),
    ),
    Mutation(
        "one step's NaN is not the mean of all",
        f"{AVERAGE}::test_a_value_that_is_not_finite_in_one_step_only",
        ("transforms/averaging.py", "                self._refuse_odd(start, stop)\n", "                pass\n"),
    ),
    Mutation(
        "weights whose products leave float64 are refused",
        f"{AVERAGE}::test_what_is_no_average",
        ("options/averages.py", "LEAST <= each <= MOST", "0 < each < math.inf"),
    ),
    Mutation(
        "factors that are used differently have no mean",
        f"{AVERAGE}::test_factors_that_are_used_differently_have_no_mean",
        ("outputs/planned.py", "            refuse_different_adapters(opened, adapters, options)\n", ""),
    ),
    Mutation(
        "adapters are merged as their own checkpoint configures them",
        f"{AVERAGE}::test_factors_that_are_used_differently_have_no_mean",
        (
            "outputs/averaging.py",
            "        adapters = _adapters_of(each, options)\n",
            "        adapters = _adapters_of(opened.members[-1], options)\n",
        ),
    ),
    Mutation(
        "what was trained around several models is averaged",
        f"{AVERAGE}::test_what_was_trained_around_the_models",
        ("outputs/averaging.py", "replace(beside, tensors=around)", "beside"),
    ),
    Mutation(
        "a transformation whose shapes are not those of its elements is refused",
        f"{STEPS}::test_a_shape_that_is_not_that_of_the_elements",
        ("transforms/transform.py", "            if source.recipe.numel != numel:\n", "            if False:\n"),
    ),
    Mutation(
        "transformations are part of what an interrupted conversion is continued with",
        f"{STEPS}::test_it_is_continued_with_the_same_ones_only",
        ("options/values.py", "        return dict(value.record)\n", '        return "a step"\n'),
    ),
    Mutation(
        "verify compares with the same transformations only",
        f"{STEPS}::test_it_is_verified_with_the_same_ones_only",
        ("audit/reopened.py", "    if given != recorded:\n", "    if False:\n"),
    ),
    Mutation(
        "E4M3 is rounded to even",
        f"{QUANTIZE}::test_every_exponent_and_edge_of_the_mantissa_rounds_as_torch_does",
        ("run/e4m3.py", "    bits += odd\n", ""),
    ),
    Mutation(
        "small E4M3 numbers are multiples of the smallest",
        f"{QUANTIZE}::test_every_exponent_and_edge_of_the_mantissa_rounds_as_torch_does",
        ("run/e4m3.py", "np.flatnonzero(bits < np.uint32(_NORMAL))", "np.flatnonzero(bits < np.uint32(0))"),
    ),
    Mutation(
        "a row of zeros has a scale that is not zero",
        f"{QUANTIZE}::test_matrices_of_several_blocks",
        ("transforms/quantizing.py", "    scales[scales == 0] = _SMALLEST\n", ""),
    ),
    Mutation(
        "what is not finite is not quantized",
        f"{QUANTIZE}::test_what_is_not_finite_is_refused",
        ("transforms/quantizing.py", "    if not np.isfinite(found).all():\n", "    if False:\n"),
    ),
    Mutation(
        "routers stay as they are",
        f"{QUANTIZE}::test_linear_layers_of_blocks_of_text_and_nothing_else",
        ("transforms/quantize.py", "            and not _ROUTER.search(_module(name))\n", ""),
    ),
    Mutation(
        "towers of pictures stay as they are",
        f"{QUANTIZE}::test_linear_layers_of_blocks_of_text_and_nothing_else",
        ("transforms/quantize.py", "            and not _OTHER_SENSES.search(name)\n", ""),
    ),
    Mutation(
        "merged weights are quantized from float32",
        f"{QUANTIZE}::test_merged_adapters_are_quantized_from_float32",
        ("outputs/planned.py", "merge_dtype = DType.F32 if options.quantize else dtype", "merge_dtype = dtype"),
    ),
    Mutation(
        "a scale is not cast",
        f"{QUANTIZE}::test_merged_adapters_are_quantized_from_float32 {STEPS}::test_a_tensor_may_keep_the_dtype_it_was_given",
        ("plan/build.py", "castable = is_parameter and not source.keeps_dtype and", "castable = is_parameter and"),
    ),
    Mutation(
        "a quantized weight without its scale is found",
        f"{QUANTIZE}::test_what_is_missing",
        ("outputs/gate/quantized.py", "    if held is None or scale is None:\n", "    if held is None:\n"),
    ),
    Mutation(
        "a layer that the config has quantized and that is not is found",
        f"{QUANTIZE}::test_what_the_config_says_and_the_weights_do_not",
        (
            "outputs/gate/quantized.py",
            "not _is_quantized(module, tensors) and not is_excepted:",
            "not _is_quantized(module, tensors) and False:",
        ),
    ),
)
