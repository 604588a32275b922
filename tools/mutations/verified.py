"""`verify` finds every kind of difference."""

from __future__ import annotations

from .mutation import Mutation

DAMAGE = "audit/test_verify.py::TestOutput::test_damage_is_named"
CONFIG = "audit/test_verify.py::TestConfig::test_against_shapes"
SOURCE = "audit/test_verify.py::TestSource"
AGAINST = "audit/test_verify.py::TestAgainst"
NAMED = f"{AGAINST}::test_missing_extra_and_misshapen_tensors_are_named"
HEADERS = "whole/test_hostile_models.py::test_headers"

MUTATIONS = (
    Mutation(
        "a merged tensor with two names is one",
        f"{AGAINST}::test_a_merge_into_a_model_that_ties_its_head",
        (
            "adapters/merged_names.py",
            "            named[alias] = replace(named[alias], recipe=named[target].recipe)\n",
            "            pass\n",
        ),
    ),
    Mutation(
        "an interrupted conversion is noticed",
        DAMAGE,
        ("audit/output.py", "    if exists(os.path.join(directory, STAGING, JOURNAL)):\n", "    if False:\n"),
    ),
    Mutation(
        "a digest that cannot be computed here is no damage",
        "audit/test_verify.py::test_xxh3_without_its_package_is_not_checked",
        ("audit/output.py", "if isinstance(got, (BadOption, MissingPackage)):", "if isinstance(got, BadOption):"),
    ),
    Mutation(
        "weights that cannot be read are a problem",
        DAMAGE,
        (
            "audit/output.py",
            "    except ZeroConsolidateError as error:\n        findings.problems.append(str(error))\n",
            "    except ZeroConsolidateError:\n        pass\n",
        ),
    ),
    Mutation(
        "a shard that the index does not name is a problem",
        DAMAGE,
        (
            "audit/output.py",
            '        findings.problems += [f"{name}: the index does not name this file" for name in unlisted]\n',
            "",
        ),
    ),
    Mutation(
        "the index's total is compared",
        DAMAGE,
        ("audit/output.py", "        if total is not None and total != held:\n", "        if False:\n"),
    ),
    Mutation(
        "names, dtypes and shapes are compared with the manifest",
        "audit/test_verify.py::TestOutput::test_what_the_manifest_lists_is_compared",
        ("audit/output.py", "\n        if got != expected:\n", "\n        if False:\n"),
    ),
    Mutation(
        "tensors that the manifest does not list are a problem",
        "audit/test_verify.py::TestOutput::test_what_the_manifest_lists_is_compared",
        (
            "audit/output.py",
            '    findings.problems += [f"{name}: the manifest has no such tensor" for name in extra]\n',
            "",
        ),
    ),
    Mutation(
        "files that are missing are a problem",
        DAMAGE,
        ("audit/output.py", '            wrong.append(f"{name}: {reason(error)}")\n', ""),
    ),
    Mutation(
        "sizes are compared with the manifest",
        "audit/test_verify.py::TestOutput::test_sizes_are_compared_where_there_are_no_digests",
        ("audit/output.py", '        if size_bytes != entry.get("bytes"):\n', "        if False:\n"),
    ),
    Mutation(
        "digests are compared with the manifest",
        "audit/test_verify.py::TestOutput::test_one_bit_is_found_and_traced_to_its_tensor",
        ("audit/output.py", "                elif got != expected:\n", "                elif False:\n"),
    ),
    Mutation(
        "damage is traced to its tensor",
        "audit/test_verify.py::TestOutput::test_one_bit_is_found_and_traced_to_its_tensor",
        ("audit/output.py", 'damaged = _damaged(directory, name, file.algorithm, manifest["tensors"])', "damaged = []"),
    ),
    Mutation(
        "a manifest leads nowhere else",
        "whole/test_hostile_models.py::test_a_manifest_entry_that_is_nothing",
        ("audit/output.py", '        if os.path.isabs(name) or ".." in name.split("/"):\n', "        if False:\n"),
    ),
    Mutation(
        "a manifest of another version is not believed",
        DAMAGE,
        ("archive/manifest_file.py", '        if manifest.get("manifest") != 1:\n', "        if False:\n"),
    ),
    Mutation(
        "what was not checked is said",
        "audit/test_verify.py::TestOutput::test_without_digests_it_says_that_contents_were_not_checked",
        ("audit/output.py", '    if manifest.get("digest") is None:\n', "    if False:\n"),
    ),
    Mutation(
        "config.json: dtype",
        DAMAGE,
        ("outputs/config_check.py", '    if stated.removeprefix("torch.") not in written:\n', "    if False:\n"),
    ),
    Mutation(
        "config.json: vocabulary",
        CONFIG,
        ("outputs/config_check.py", "if isinstance(vocabulary, int) and rows < vocabulary:", "if False:"),
    ),
    Mutation(
        "config.json: width",
        CONFIG,
        ("outputs/config_check.py", "    if widths and width not in widths:\n", "    if False:\n"),
    ),
    Mutation(
        "config.json: layers",
        DAMAGE,
        ("outputs/config_check.py", "    if len(layers) != stated or max(layers) >= stated:\n", "    if False:\n"),
    ),
    Mutation(
        "--against: values",
        f"{AGAINST}::test_one_bit_is_found_with_its_index",
        ("audit/against.py", "        if found is not None:\n", "        if False:\n"),
    ),
    Mutation(
        "--against: the first difference has its index",
        f"{AGAINST}::test_one_bit_is_found_with_its_index",
        (
            "run/compare.py",
            "                return Difference(index=first + begin + index,",
            "                return Difference(index=index,",
        ),
    ),
    Mutation(
        "--against: shapes",
        NAMED,
        ("audit/against.py", "        if tensor.shape != plan.shape:\n", "        if False:\n"),
    ),
    Mutation(
        "--against: dtypes",
        NAMED,
        (
            "audit/against.py",
            '        if written is not made and not (written.is_floating and made.kind.startswith("float")):\n',
            "        if False:\n",
        ),
    ),
    Mutation(
        "--against: tensors that the checkpoint has not",
        NAMED,
        (
            "audit/against.py",
            '            wrong[name] = "the checkpoint has no such tensor"\n',
            "",
        ),
    ),
    Mutation(
        "--against: tensors that the output has not",
        NAMED,
        (
            "audit/against.py",
            '    findings.problems += [f"{name}: the output has no such tensor" for name in lacking]\n',
            "",
        ),
    ),
    Mutation(
        "--against: NaN is one value only where something was cast",
        f"{AGAINST}::test_nan_payloads_count_where_nothing_was_cast",
        ("run/compare.py", "    if source is not target:\n        different &=", "    if True:\n        different &="),
    ),
    Mutation(
        "--against: an output that leaves out what its manifest says may do so",
        f"{AGAINST}::test_our_own_output_is_equal",
        (
            "options/convert.py",
            'if declared.decides == "tensors"}',
            'if declared.name == "names"}',
        ),
    ),
    Mutation(
        "--source: CRC-32 of storages",
        f"{SOURCE}::test_one_bit_of_a_master_is_found_twice {SOURCE}::test_one_bit_of_a_model_file_is_found",
        ("audit/source.py", "            elif crc != record.stated:\n", "            elif False:\n"),
    ),
    Mutation(
        "--source: CRC-32 of every record that is used",
        f"{SOURCE}::test_one_bit_of_a_master_is_found_twice",
        ("audit/source.py", 'if record == "data.pkl" or (first', "if (first"),
        ("audit/source.py", 'if record != "data.pkl" and not record.startswith("data/"):', 'if record != "data.pkl":'),
    ),
    Mutation(
        "--source: CRC-32 of the pickle",
        f"{SOURCE}::test_one_bit_of_a_pickle_is_found",
        (
            "audit/source.py",
            'if record != "data.pkl" and not record.startswith("data/"):',
            'if not record.startswith("data/"):',
        ),
    ),
    Mutation(
        "--source: masters against the 16-bit copies",
        f"{SOURCE}::test_masters_of_another_save_are_found_by_the_witness",
        ("audit/source.py", "    _witness(catalog, stored, subset, inputs, others, findings)\n", ""),
    ),
    Mutation(
        "--source: all of the masters",
        f"{SOURCE}::test_one_master_among_many_is_found_by_the_witness",
        (
            "audit/source.py",
            "comparisons(catalog, stored, everything=True)",
            "comparisons(catalog, stored, everything=False)",
        ),
    ),
    Mutation(
        "--source: NaN",
        f"{SOURCE}::test_nan_and_infinity_are_counted",
        ("audit/source.py", "nans += int(np.count_nonzero(np.isnan(values)))", "nans += 0"),
    ),
    Mutation(
        "--source: infinity",
        f"{SOURCE}::test_nan_and_infinity_are_counted",
        ("audit/source.py", "infinities += int(np.count_nonzero(np.isinf(values)))", "infinities += 0"),
    ),
    Mutation(
        "--source: ranks agree",
        f"{SOURCE}::test_ranks_that_do_not_agree_are_found",
        ("audit/source.py", "    _replicas(catalog, subset, inputs, others, findings)\n", ""),
    ),
    Mutation(
        "every piece of a tensor is compared, whichever thread has it",
        "whole/test_workers.py::TestVerify",
        ("run/compare.py", "            found = found or result\n", "            found = result\n"),
    ),
    Mutation(
        "in every thread, a piece is compared with its own",
        "whole/test_workers.py::TestVerify",
        ("run/compare.py", "if self._last is None or self._last[0] is not comparison:", "if self._last is None:"),
    ),
    Mutation(
        "the exit code is 1 if something is wrong",
        "audit/test_verify.py::TestCommand::test_exit_codes",
        ("cli/actions.py", "    code = ExitCode.DONE if found.ok else ExitCode.WRONG\n", "    code = ExitCode.DONE\n"),
    ),
    Mutation(
        "safetensors: length of the header",
        HEADERS,
        (
            "archive/safetensors.py",
            "if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, size_bytes - 8):",
            "if len(prefix) < 8:",
        ),
    ),
    Mutation(
        "safetensors: names that come twice",
        HEADERS,
        ("archive/json_file.py", "        if len(found) != len(pairs):\n", "        if False:\n"),
    ),
    Mutation(
        "safetensors: gaps and overlaps",
        HEADERS,
        ("archive/safetensors.py", "        if start != here:\n", "        if False:\n"),
    ),
    Mutation(
        "safetensors: bytes left over or past the end",
        HEADERS,
        ("archive/safetensors.py", "    if data_start + here != size_bytes:\n", "    if False:\n"),
    ),
    Mutation(
        "safetensors: shapes that do not fit their bytes",
        HEADERS,
        ("archive/safetensors.py", "    if stop - start != numel * dtype.itemsize:\n", "    if False:\n"),
    ),
    Mutation(
        "safetensors: sizes that are no sizes",
        HEADERS,
        ("archive/safetensors.py", " and all(type(n) is int and 0 <= n <= MAX_NUMEL for n in value)", ""),
    ),
    Mutation(
        "safetensors: number of dimensions",
        HEADERS,
        ("archive/safetensors.py", "isinstance(value, list) and len(value) <= most and", "isinstance(value, list) and"),
    ),
    Mutation(
        "safetensors: names that are not printable",
        HEADERS,
        (
            "archive/safetensors.py",
            "if not isinstance(entry, dict) or not name.isprintable():",
            "if not isinstance(entry, dict):",
        ),
    ),
    Mutation(
        "safetensors: JSON that nests",
        HEADERS,
        ("archive/json_file.py", "    except RecursionError:\n", "    except ZeroDivisionError:\n"),
    ),
    Mutation(
        "safetensors: a tensor in two files",
        DAMAGE,
        ("archive/safetensors.py", "                if name in tensors:\n", "                if False:\n"),
    ),
    Mutation(
        "safetensors: an index that names what its files do not hold",
        "audit/test_verify.py::TestOutput::test_an_index_and_its_files_must_fit",
        ("archive/safetensors.py", "        if name not in files[file].tensors:\n", "        if False:\n"),
    ),
    Mutation(
        "safetensors: files that hold what the index does not name",
        "audit/test_verify.py::TestOutput::test_an_index_and_its_files_must_fit",
        ("archive/safetensors.py", "        if extra is not None:\n", "        if False:\n"),
    ),
    Mutation(
        "only trained tokens are in a file beyond the config's targets",
        "outputs/test_gate.py::TestAdapter::test_trained_tokens_of_a_tied_model",
        (
            "outputs/gate/adapter.py",
            '    return config.peft_type == "TRAINABLE_TOKENS" and list(kept) == ["trainable_tokens_delta"] and kept in targets\n',
            "    return True\n",
        ),
    ),
    Mutation(
        "a head that the run has, and the file has not, is not taken for one that PEFT lists",
        "outputs/test_gate.py::TestAdapter::test_a_head_that_peft_lists_and_the_run_has_not",
        (
            "outputs/gate/examine.py",
            "    if finding.module and excuses.modules and finding.module not in excuses.modules:\n",
            "    if finding.module:\n",
        ),
    ),
    Mutation(
        "with --subset no more is read than that",
        "audit/test_subset.py::test_laws",
        ("audit/subset.py", "            left -= sizes[name]\n", ""),
    ),
    Mutation(
        "what was not read is said",
        "audit/test_subset.py::TestAgainst::test_it_says_what_was_not_read",
        ("audit/against.py", '    subset.tell(findings, "tensor")\n', ""),
    ),
)
