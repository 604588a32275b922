"""What is cloned is right, and what cannot be cloned is copied."""

from __future__ import annotations

from .mutation import Mutation

CLONE = "whole/test_clone.py"
MODULE = "whole/test_clone_module.py"
WITNESSED = "run/test_witnessed.py"
PLACES = "plan/test_congruent.py::TestPlaces"

MUTATIONS = (
    Mutation(
        "no tensor is planned where a loader could not map it",
        f"{PLACES}::test_a_residue_at_which_no_loader_maps_the_tensor_does_not_count",
        ("plan/congruent.py", "residue % itemsize == 0 and ", ""),
    ),
    Mutation(
        "no tensor stands behind others where its items are not aligned",
        f"{PLACES}::test_no_tensor_stands_where_its_items_are_not_aligned",
        ("plan/congruent.py", "return is_aligned and (", "return ("),
    ),
    Mutation(
        "files on another file system are not counted as shared",
        f"{PLACES}::test_what_is_cast_small_or_on_another_disk_stands_behind",
        ("plan/congruent.py", " and copy.file not in sharing.apart", ""),
    ),
    Mutation(
        "a disk that is full while blocks are shared is an error",
        f"{CLONE}::TestTheCall::test_what_fails_is_an_error",
        ("run/local_output.py", "            if error.errno not in CANNOT:\n                raise OutputFailed.from_system"
         "(self.path, error) from None\n            self._refuse", "            self._refuse"),
    ),
    Mutation(
        "with --reflink always, a block that cannot be shared is an error",
        f"{CLONE}::TestTheCall::test_always_fails_where_one_block_cannot",
        ("run/local_output.py", "if self._means.must_share:", "if False:"),
    ),
    Mutation(
        "with --reflink always, an output of which nothing can be cloned is refused",
        f"{CLONE}::TestNotWorthIt::test_what_is_cast_cannot_be_cloned",
        ("outputs/sharing.py", 'if options.reflink == "always" and plan.sharing is None:', "if False:"),
    ),
    Mutation(
        "with --reflink never, the kernel is not asked to copy, which may share",
        f"{CLONE}::TestNever::test_leaves_nothing_to_the_kernel_which_shares_what_it_can",
        ("outputs/sharing.py", "Means(in_kernel=False, drop_cache=options.drop_cache)", "Means(drop_cache=options.drop_cache)"),
    ),
    Mutation(
        "an interrupted conversion continues with its layout, whatever the disk says now",
        f"{CLONE}::TestInterrupted::test_goes_on_with_the_layout_it_has_begun",
        ("outputs/sharing.py", "if before is not None:", "if False:"),
    ),
    Mutation(
        "the checksum of a fragment is that of what was shared, too",
        "run/test_checksum.py",
        ("run/checksum.py", "            self.value = zlib.crc32(part, self.value)\n        return got", "        return got"),
    ),
    Mutation(
        "no fragment's header is padded by more than its length can say",
        "plan/test_fragment.py::TestShared::test_not",
        ("plan/fragment.py", "if sharing is not None and sharing.block_bytes <= MOST_MODULUS:", "if sharing is not None:"),
    ),
    Mutation(
        "the tensor of a fragment begins where its bytes lie within a block",
        "plan/test_fragment.py::TestShared::test_torch_loads_it",
        ("plan/fragment.py", "padding = (residue - before) % modulus", "padding = -before % ALIGNMENT_BYTES"),
    ),
    Mutation(
        "a copy in 16 bits is shared only where it is, bit for bit, what the masters round to",
        f"{WITNESSED}::TestBytes::test_one_bit_and_the_masters_are_written",
        ("run/cast.py", "    if not different.any():\n        return None\n    different &=", "    return None\n    different &="),
    ),
    Mutation(
        "every element of a copy in 16 bits is compared",
        f"{MODULE}::TestThatDiffers::test_one_bit_of_one_tensor",
        ("run/cast.py", "    different = raw(ours) != raw(theirs)\n    if not different.any():\n        return None\n    different &=",
         "    different = raw(ours) != raw(theirs)\n    if not different[:512].any():\n        return None\n    different &="),
    ),
    Mutation(
        "a NaN of other bits than the cast's is not shared",
        f"{WITNESSED}::test_a_nan_is_the_one_that_the_cast_makes",
        ("run/cast.py", "    return int(np.count_nonzero(different))\n", "    return int(np.count_nonzero(different)) or None\n"),
    ),
    Mutation(
        "blocks behind one that differs are compared again from there",
        f"{WITNESSED}::TestBytes::test_one_bit_and_the_masters_are_written",
        ("run/execute.py", "equal_from, seen_equal, seen = end, NOTHING,", "equal_from, seen_equal, seen = begin, NOTHING,"),
    ),
    Mutation(
        "what is counted of a copy that differs is counted once, wherever a run was interrupted",
        f"{WITNESSED}::TestBytes::test_counts_are_right_whenever_they_are_told",
        ("run/execute.py", "equal_from, seen_equal, seen = end, NOTHING,", "equal_from, seen_equal, seen = end, seen,"),
    ),
    Mutation(
        "a copy in 16 bits that differs is said",
        f"{MODULE}::TestThatDiffers::test_one_bit_of_one_tensor",
        ("outputs/report.py", "            *_unlike(counts.differing),\n", ""),
    ),
    Mutation(
        "the copy of a master is not taken for that of what was made of it",
        "plan/test_witness.py::TestPlans::test_only_the_masters_themselves_have_one",
        ("plan/build.py", "masters is source.recipe and ", ""),
    ),
    Mutation(
        "a mean is compared with no copy",
        f"{MODULE}::TestOtherMeanings::test_a_mean_is_of_no_copy",
        ("outputs/planned.py", "{} if sharing is None or opened.members else", "{} if sharing is None else"),
    ),
    Mutation(
        "a copy that is not one extent stands for nothing",
        "plan/test_witness.py::TestWitnesses::test_not_where_the_copy_is_in_pieces_or_of_another_shape",
        ("plan/witness.py", " and view.is_plain:", ":"),
    ),
    Mutation(
        "the copies of ranks that hold parts stand for nothing",
        "plan/test_witness.py::TestWitnesses::test_not_of_a_model_whose_ranks_hold_parts",
        ("plan/witness.py", "    if len(catalog.parts) != 1:\n", "    if False:\n"),
    ),
    Mutation(
        "a source that has become shorter is damaged, not one that cannot be cloned",
        f"{CLONE}::TestTheCall::test_a_source_that_has_become_shorter_is_damaged",
        ("run/local_output.py", "        if size_bytes < stop:", "        if False:"),
    ),
)  # fmt: skip
