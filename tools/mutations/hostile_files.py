"""A checkpoint from the internet is refused in bounded time and memory, and leads nowhere: containers, folders, names."""

from __future__ import annotations

from .mutation import Mutation

ZIP, DIRECTORY, FILES = (
    "archive/container.py",
    "archive/zip_directory.py",
    "archive/test_hostile_containers.py::test_forged_containers_are_refused",
)
LEGACY = "archive/test_hostile_containers.py::test_forged_legacy_containers_are_refused"
FOLDERS = "archive/test_hostile_folders.py"
LATEST = f"{FOLDERS}::test_latest_names_a_folder_beside_it"
NAMES = "catalog/test_hostile_catalogs.py::test_names_of_parameters"
SHAPES = "catalog/test_hostile_catalogs.py::test_shapes"
RULES = "catalog/test_hostile_catalogs.py::test_rules_of_tensor_parallelism"
INDEX = "whole/test_hostile_models.py::test_an_index_names_files_beside_it"

MUTATIONS = (
    # --- containers
    Mutation("records do not overlap", FILES, (DIRECTORY, "        if header_start < end:\n", "        if False:\n")),
    Mutation("records do not reach into the directory", FILES, (DIRECTORY, "    if end > start:\n", "    if False:\n")),
    Mutation(
        "a record's data do not overlap what follows",
        FILES,
        (ZIP, "            if start + record.size_bytes > record.stop:\n", "            if False:\n"),
    ),
    Mutation("no name comes twice", FILES, (DIRECTORY, "    if name in records:\n", "    if False:\n")),
    Mutation(
        "a local header is where the directory says",
        FILES,
        (ZIP, '            if signature != b"PK\\x03\\x04":\n', "            if False:\n"),
    ),
    Mutation(
        "a local header has the directory's name",
        FILES,
        (
            ZIP,
            "            if name_bytes != len(full_name) or header[LOCAL_HEADER.size :] != full_name:\n",
            "            if False:\n",
        ),
    ),
    Mutation(
        "records are stored: no bomb, no encryption",
        FILES,
        (ZIP, "        if not record.stored:\n", "        if False:\n"),
    ),
    Mutation("compression shows in the method", FILES, (DIRECTORY, "stored = method == 0 and", "stored =")),
    Mutation("encryption shows in the flags", FILES, (DIRECTORY, " and not flags & 1", "")),
    Mutation(
        "compression shows in the sizes",
        FILES,
        (DIRECTORY, "method == 0 and packed == unpacked and", "method == 0 and"),
    ),
    Mutation(
        "what is read whole is small",
        "archive/test_hostile_containers.py::test_a_pickle_of_many_gigabytes_is_not_read",
        (ZIP, "        if record.size_bytes > limit_bytes:\n", "        if False:\n"),
    ),
    Mutation(
        "records are counted",
        "archive/test_hostile_containers.py::test_records_are_bounded",
        (DIRECTORY, "count > MAX_RECORDS or start", "start"),
    ),
    Mutation("the count fits the directory", FILES, (DIRECTORY, " or count * _CENTRAL.size > directory_bytes:", ":")),
    Mutation(
        "names of records are short",
        "archive/test_hostile_containers.py::test_names_of_records_are_bounded",
        (DIRECTORY, "    if directory_bytes > count * _MAX_ENTRY_BYTES:\n", "    if False:\n"),
    ),
    Mutation(
        "the directory is no longer than its records",
        FILES,
        (DIRECTORY, "    if position != len(data):\n", "    if False:\n"),
    ),
    Mutation("nothing hides in a comment", FILES, (DIRECTORY, "    if comment_bytes:\n", "    if False:\n")),
    Mutation(
        "the directory is made of its entries",
        FILES,
        (DIRECTORY, '        if signature != b"PK\\x01\\x02":\n', "        if False:\n"),
    ),
    Mutation(
        "the zip64 end is in the file",
        FILES,
        (DIRECTORY, "            if end64_start + END64.size > locator_start:\n", "            if False:\n"),
    ),
    Mutation(
        "the zip64 end is one",
        FILES,
        (DIRECTORY, '            if end64[0] != b"PK\\x06\\x06":\n', "            if False:\n"),
    ),
    Mutation(
        "a zip64 field has what it should",
        FILES,
        (
            DIRECTORY,
            "            if length < 8 * len(wide) or position + 4 + length > len(extra):\n",
            "            if False:\n",
        ),
    ),
    Mutation("one file, one pickle", FILES, (ZIP, "    if len(found) != 1:\n", "    if not found:\n")),
    Mutation(
        "the byte order is known", FILES, (ZIP, '        if order not in (b"little", b"big"):\n', "        if False:\n")
    ),
    Mutation(
        "legacy: a storage has the size the pickle says",
        LEGACY,
        ("archive/legacy.py", "            if count != storage.numel:\n", "            if False:\n"),
    ),
    Mutation(
        "legacy: the storages are the file",
        LEGACY,
        ("archive/legacy.py", "        if here != self.size_bytes:\n", "        if False:\n"),
    ),
    Mutation(
        "legacy: the keys are those of the pickle",
        LEGACY,
        (
            "archive/legacy.py",
            "        if not isinstance(keys, list) or not named or sorted(keys) != sorted(world.storages):\n",
            "        if False:\n",
        ),
    ),
    Mutation(
        "legacy: the magic number", LEGACY, ("archive/legacy.py", "        if magic != MAGIC:\n", "        if False:\n")
    ),
    Mutation(
        "legacy: the protocol",
        LEGACY,
        ("archive/legacy.py", "        if protocol != PROTOCOL:\n", "        if False:\n"),
    ),
    # --- folders
    Mutation(
        "only regular files are opened",
        f"{FOLDERS}::test_a_pipe_as_a_rank {FOLDERS}::test_devices_are_not_read {FOLDERS}::test_a_directory_as_a_rank",
        ("archive/regular.py", "    if stat.S_ISREG(mode):\n", "    if True:\n"),
    ),
    Mutation(
        "opening does not wait",
        f"{FOLDERS}::test_pipes_are_not_opened_to_wait",
        ("archive/regular.py", " | os.O_NONBLOCK", ""),
    ),
    Mutation(
        "small files are small",
        f"{FOLDERS}::test_small_files_have_a_limit {FOLDERS}::test_latest_of_a_terabyte",
        ("archive/regular.py", "    if len(data) > limit_bytes:\n", "    if False:\n"),
    ),
    Mutation(
        "no more of a small file is read than it may have",
        f"{FOLDERS}::test_latest_of_a_terabyte",
        (
            "archive/regular.py",
            "data = file.read(min(limit_bytes, os.fstat(file.fileno()).st_size) + 1)",
            "data = file.read()",
        ),
    ),
    Mutation(
        "entries of a directory are counted",
        f"{FOLDERS}::test_directories_are_read_to_a_limit",
        ("archive/regular.py", "        if count >= MAX_ENTRIES:\n", "        if False:\n"),
    ),
    Mutation(
        "entries of the folders beside the tags are counted",
        f"{FOLDERS}::test_folders_beside_the_tags_are_looked_into_to_a_limit",
        (
            "archive/discover.py",
            "                for file in islice(inside, max(left, 1)):\n",
            "                for file in inside:\n",
        ),
    ),
    Mutation(
        "links do not lead out",
        f"{FOLDERS}::test_a_fence_is_not_its_neighbours",
        ("archive/regular.py", 'path.startswith(directory.rstrip("/") + "/")', "path.startswith(directory)"),
    ),
    Mutation(
        "`latest` is no link out",
        f"{FOLDERS}::test_latest_is_not_a_link_that_leads_out",
        ("archive/discover.py", "            Fence(root).check(path)\n", "            pass\n"),
    ),
    Mutation(
        "a tag is no link out",
        f"{FOLDERS}::test_a_tag_is_not_a_link_that_leads_out",
        ("archive/discover.py", "    with at(tag):\n        fence.check(directory)\n", ""),
    ),
    Mutation(
        "a rank's file is no link out",
        f"{FOLDERS}::test_rank_files_are_not_links_that_lead_out",
        (
            "archive/discover.py",
            "                with at(entry.name):\n                    fence.check(entry.path)\n",
            "                pass\n",
        ),
    ),
    Mutation(
        "a universal checkpoint's state is no link out",
        f"{FOLDERS}::test_a_universal_folder_leads_nowhere",
        (
            "archive/discover.py",
            "            fence.check(entry.path)\n            yield FileKind.UNIVERSAL_STATE",
            "            yield FileKind.UNIVERSAL_STATE",
        ),
    ),
    Mutation(
        "a universal checkpoint's weights are no links out",
        f"{FOLDERS}::test_a_universal_folder_leads_nowhere",
        ("archive/discover.py", "                fence.check(weights)\n", ""),
    ),
    Mutation(
        "what was swapped out is no link out",
        f"{FOLDERS}::test_a_folder_of_swapped_masters_leads_nowhere",
        ("archive/discover.py", "                    fence.check(file.path)\n", ""),
    ),
    Mutation(
        "files beside the weights are no links out",
        f"{FOLDERS}::test_no_file_is_published_through_a_link",
        ("outputs/assets.py", "                fence.check(entry.path)\n", ""),
    ),
    Mutation(
        "files in folders beside the weights are no links out",
        f"{FOLDERS}::test_no_file_is_published_through_a_link_in_a_folder",
        ("outputs/assets.py", "        fence.check(source)\n", ""),
    ),
    Mutation(
        "remote code is no link out",
        f"{FOLDERS}::test_remote_code_is_not_a_link",
        ("outputs/assets.py", "                fence.check(path)\n                found", "                found"),
    ),
    Mutation(
        "adapter_config.json is no link out",
        f"{FOLDERS}::test_an_adapters_config_is_not_a_link",
        ("adapters/find.py", "        Fence(root).check(path)  #", "        pass  #"),
    ),
    Mutation(
        "`latest` names no path",
        LATEST,
        (
            "archive/discover.py",
            'if not text or "/" in text or "\\\\" in text or text in (".", "..") or not text.isprintable():',
            "if not text or not text.isprintable():",
        ),
    ),
    Mutation(
        "`latest` is printable",
        LATEST,
        ("archive/discover.py", 'text in (".", "..") or not text.isprintable():', 'text in (".", ".."):'),
    ),
    Mutation(
        "a tag is one of the folders",
        f"{FOLDERS}::test_tags_are_folders_of_the_checkpoint",
        ("archive/discover.py", "        if chosen not in tags:\n", "        if False:\n"),
    ),
    Mutation(
        "an index names files beside it",
        INDEX,
        (
            "archive/safetensors.py",
            '            if "/" in file or "\\\\" in file or file in ("", ".", "..") or not file.isprintable():\n',
            "            if False:\n",
        ),
    ),
    Mutation(
        "remote code has no path",
        f"{FOLDERS}::test_remote_code_is_looked_for_beside_the_config",
        ("outputs/assets.py", "if module.isidentifier() and name not in found", "if name not in found"),
    ),
    Mutation(
        "files beside the weights are counted",
        f"{FOLDERS}::test_files_beside_the_weights_are_counted {FOLDERS}::test_files_in_folders_are_counted",
        ("outputs/assets.py", "    if len(listed) > MAX_ASSETS:\n", "    if False:\n"),
    ),
    Mutation(
        "files beside the weights are of a size",
        f"{FOLDERS}::test_tokenizers_of_a_terabyte",
        ("outputs/assets.py", "    if size_bytes > MAX_COPY_BYTES:\n", "    if False:\n"),
    ),
    Mutation(
        "files are copied in blocks",
        f"{FOLDERS}::test_large_tokenizers_are_copied_in_blocks",
        ("write/stage.py", "while data := file.read(1 << 20):", "while data := file.read():"),
    ),
    Mutation(
        "a config may nest",
        f"{FOLDERS}::test_configs_nested_to_overflow",
        ("archive/json_file.py", "    except RecursionError:\n", "    except ZeroDivisionError:\n"),
    ),
    Mutation(
        "numbers of a config cost nothing",
        f"{FOLDERS}::test_long_numbers_in_configs_cost_nothing",
        (
            "archive/model_config.py",
            "parse_int: Callable[[str], object] = str",
            "parse_int: Callable[[str], object] = int",
        ),
    ),
    Mutation(
        "an adapter's config may nest",
        "whole/test_hostile_models.py::test_an_adapters_config_that_is_none",
        ("archive/json_file.py", "    except RecursionError:\n", "    except ZeroDivisionError:\n"),
    ),
    Mutation(
        "no path in an adapter's config is followed",
        "whole/test_hostile_models.py::test_an_adapters_config_names_a_base_that_is_not_opened",
        (
            "outputs/adapted.py",
            "            base=base,\n            base_differs",
            "            base=base or next(iter(adapters.configs.values())).base,\n            base_differs",
        ),
    ),
    Mutation(
        "numbers of an adapter are numbers",
        "catalog/test_hostile_catalogs.py::test_numbers_of_adapters",
        (
            "adapters/peft_config.py",
            "    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1 << 53:\n",
            "    if False:\n",
        ),
    ),
    Mutation(
        "patterns of an adapter do not backtrack",
        "catalog/test_hostile_catalogs.py::test_patterns_of_adapters",
        ("adapters/peft_config.py", "        if not is_tame(key):\n", "        if False:\n"),
    ),
    # --- what well-formed files say
    Mutation(
        "names are printable",
        NAMES,
        (
            "catalog/fields.py",
            "    if not isinstance(name, str) or not name or not name.isprintable():\n",
            "    if not isinstance(name, str) or not name:\n",
        ),
    ),
    Mutation(
        "names are text",
        NAMES,
        (
            "catalog/fields.py",
            "    if not isinstance(name, str) or not name or not name.isprintable():\n",
            "    if isinstance(name, str) and not name.isprintable():\n",
        ),
    ),
    Mutation(
        "names are short", NAMES, ("catalog/fields.py", "    if len(name) > MAX_NAME_CHARACTERS:\n", "    if False:\n")
    ),
    Mutation(
        "names are no paths",
        NAMES,
        ("catalog/fields.py", 'if "/" in name or "\\\\" in name or name in _RESERVED:', "if name in _RESERVED:"),
    ),
    Mutation(
        "names are not safetensors' own",
        NAMES,
        (
            "catalog/fields.py",
            'if "/" in name or "\\\\" in name or name in _RESERVED:',
            'if "/" in name or "\\\\" in name:',
        ),
    ),
    Mutation(
        "names in the module are checked",
        "catalog/test_hostile_catalogs.py::test_names_everywhere",
        ("catalog/fields.py", "    return {name_of(name): item for", "    return {name: item for"),
    ),
    Mutation(
        "names in lists are checked",
        "catalog/test_hostile_catalogs.py::test_names_of_other_things",
        ("catalog/fields.py", "    return tuple(name_of(name) for name in value)", "    return tuple(value)"),
    ),
    Mutation(
        "names of shapes are checked",
        "catalog/test_hostile_catalogs.py::test_names_that_only_one_of_them_has",
        ("catalog/fields.py", "        checked[name_of(name)] = tuple(shape)", "        checked[name] = tuple(shape)"),
    ),
    Mutation(
        "a universal checkpoint's names are checked",
        "catalog/test_hostile_catalogs.py::test_names_of_a_universal_checkpoint",
        (
            "catalog/universal.py",
            'name = fields.name_of(raw.name.name.split("/")[1])',
            'name = raw.name.name.split("/")[1]',
        ),
    ),
    Mutation("shapes are possible", SHAPES, ("catalog/fields.py", "or not _possible(shape):", "or False:")),
    Mutation(
        "shapes are of integers that are not negative",
        SHAPES,
        ("catalog/fields.py", "        if type(n) is not int or not 0 <= n <= MAX_NUMEL:\n", "        if False:\n"),
    ),
    Mutation(
        "shapes have few dimensions",
        SHAPES,
        (
            "catalog/fields.py",
            "    return len(shape) <= MAX_DIMENSIONS and numel <= MAX_NUMEL",
            "    return numel <= MAX_NUMEL",
        ),
    ),
    Mutation(
        "shapes do not leave 64 bits",
        SHAPES,
        (
            "catalog/fields.py",
            "    return len(shape) <= MAX_DIMENSIONS and numel <= MAX_NUMEL",
            "    return len(shape) <= MAX_DIMENSIONS",
        ),
    ),
    Mutation(
        "ranks are counted",
        "catalog/test_hostile_catalogs.py::test_world_sizes",
        (
            "catalog/model_file.py",
            "        if world_size is not None and not 1 <= world_size <= MAX_WORLD_SIZE:\n",
            "        if False:\n",
        ),
    ),
    Mutation(
        "what is made up is counted",
        "catalog/test_hostile_catalogs.py::test_ranks_and_groups_that_are_only_claimed",
        ("opening/stand_ins.py", "    if world_size * len(groups) > MAX_STAND_INS:\n", "    if False:\n"),
    ),
    Mutation(
        "patterns do not backtrack",
        RULES,
        ("catalog/tensor_parallel.py", "    if not is_tame(pattern):\n", "    if False:\n"),
    ),
    Mutation(
        "sub-parameters are counted",
        RULES,
        ("catalog/tensor_parallel.py", "if not 1 <= totals <= MAX_SUB_PARAMETERS or", "if not 1 <= totals or"),
    ),
    Mutation(
        "nothing of a checkpoint is imported by who asks transformers",
        "whole/test_hostile_models.py::test_code_in_the_checkpoint_is_not_imported",
        (
            "naming/asking.py",
            "apart.command(script, alone)",
            'apart.command("-c", f"import sys; sys.argv[1:] = [{alone!r}]; sys.path.insert(0, \'.\'); exec(open({script!r}).read())")',
        ),
    ),
    Mutation(
        "nothing of a checkpoint is imported by who asks PEFT",
        "adapters/test_lora_by_peft.py::test_nothing_in_the_working_directory_is_imported",
        ("integrations/apart.py", '["-P"] if', "[] if"),
    ),
    Mutation(
        "nor on a Python without -P",
        "integrations/test_apart.py::test_a_script_and_a_module",
        ("integrations/apart.py", "del sys.path[0]\n", ""),
    ),
    Mutation(
        "who asks transformers has bounded memory",
        "whole/test_hostile_models.py::test_a_config_that_fills_the_memory",
        (
            "integrations/architecture.py",
            "        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))\n",
            "        pass\n",
        ),
    ),
    Mutation(
        "who asks transformers has bounded time",
        "whole/test_hostile_models.py::test_a_config_that_takes_for_ever",
        ("naming/asking.py", "                timeout=ARCHITECTURE_SECONDS,\n", ""),
    ),
    Mutation(
        "a config names models only",
        "whole/test_hostile_models.py::test_a_config_names_models_only",
        (
            "integrations/architecture.py",
            "    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None",
            "    return found",
        ),
    ),
    Mutation(
        "terminals are not steered by reports",
        f"{FOLDERS}::test_terminals_are_not_steered",
        (
            "cli/actions.py",
            'painted(printable(text(), keep="\\n"), "WRONG", RED, sys.stdout)',
            "text()",
        ),
    ),
    Mutation(
        "terminals are not steered by errors",
        f"{LATEST} catalog/test_hostile_catalogs.py::test_terminals_are_not_steered_by_errors",
        (
            "cli/problems.py",
            "        return printable(line)\n",
            "        return line\n",
        ),
        ("cli/problems.py", 'return "\\n".join(map(printable, lines))', 'return "\\n".join(lines)'),
    ),
    Mutation(
        "terminals are not steered by warnings",
        f"{FOLDERS}::test_terminals_are_not_steered",
        ("cli/problems.py", 'f"warning: {printable(text)}"', 'f"warning: {text}"'),
    ),
)
