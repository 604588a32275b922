"""A checkpoint from the internet is refused in bounded time and memory, and nothing of it is run: pickles."""

from __future__ import annotations

from .mutation import Mutation

PICKLES = "archive/test_hostile_pickles.py"
DAMAGED = f"{PICKLES}::test_damaged_pickles_are_one_sentence"
PIDS = f"{PICKLES}::test_persistent_ids_are_storages"
GEOMETRY = f"{PICKLES}::test_tensors_lie_in_their_storages"
CALLS = f"{PICKLES}::test_constructors_take_what_torch_gives_them"
STORAGES = f"{PICKLES}::test_storages_are_records"
OPCODES, WORLD, LOCATED = "archive/opcodes.py", "archive/unpickle.py", "archive/located.py"

MUTATIONS = (
    Mutation(
        "what a pickle names is not imported, and not called",
        f"{PICKLES}::test_the_real_thing_does_not_run cli/test_bad_input.py::test_nothing_of_a_hostile_pickle_is_run",
        (WORLD, "        if is_hostile(module, name):\n", "        if False:\n"),
        (
            WORLD,
            "            Name(qualified) if own is None else",
            "            getattr(__import__(module), name) if own is None else",
        ),
        (
            WORLD,
            "        if not isinstance(function, Name):\n",
            "        if not isinstance(function, Name):\n            return function(*arguments)\n        if False:\n",
        ),
    ),
    Mutation(
        "names that only an attack uses are told",
        f"{PICKLES}::test_code_is_refused_by_name",
        (WORLD, "        if is_hostile(module, name):\n", "        if False:\n"),
    ),
    Mutation(
        "what is no function is not called",
        DAMAGED,
        (WORLD, "        if not isinstance(function, Name):\n", "        if False:\n"),
    ),
    Mutation(
        "state is set only on what is inert",
        f"{PICKLES}::test_state_is_set_only_on_what_is_inert",
        (OPCODES, "    elif type(target) is not PlainDict:\n", "    elif False:\n"),
    ),
    Mutation(
        "items are added only to lists, dicts and what is inert",
        DAMAGED,
        (
            OPCODES,
            "        target.items.extend(items)\n    else:\n        raise _wrong_target(target)",
            "        target.items.extend(items)\n    else:\n        return",
        ),
        (
            OPCODES,
            "        target.items.extend(pairs)\n    else:\n        raise _wrong_target(target)",
            "        target.items.extend(pairs)\n    else:\n        return",
        ),
    ),
    Mutation(
        "opcodes that torch does not write are refused",
        f"{PICKLES}::test_opcodes_torch_does_not_write_are_refused",
        (
            OPCODES,
            '        raise UnsafePickle(f"the pickle uses the opcode {name} at byte {position - 1}, which torch does not write")',
            "        return position",
        ),
    ),
    Mutation(
        "unknown opcodes are refused",
        DAMAGED,
        (
            OPCODES,
            '    raise DamagedFile(f"the pickle is damaged: byte {position - 1} is not an opcode")',
            "    return position",
        ),
    ),
    Mutation(
        "lengths are compared with the bytes that are there",
        f"{PICKLES}::test_sizes_are_compared_with_what_is_there",
        ("archive/machine.py", "        if stop > len(self.data):\n", "        if False:\n"),
    ),
    Mutation(
        "lengths of text are compared with the bytes that are there",
        f"{PICKLES}::test_sizes_are_compared_with_what_is_there",
        ("archive/interpreter.py", "                if stop > len(data):\n", "                if False:\n"),
    ),
    Mutation(
        "integers are short",
        f"{PICKLES}::test_long_integers_are_refused",
        (OPCODES, "        if size_bytes > machine.limits.integer_bytes:\n", "        if False:\n"),
    ),
    Mutation(
        "a memo index costs an entry, not an array as in CPython",
        f"{PICKLES}::test_a_memo_index_costs_an_entry",
        (
            "archive/interpreter.py",
            '                memo[int.from_bytes(data[position : position + 4], "little")] = stack[-1]\n',
            '                memo[int.from_bytes(data[position : position + 4], "little")] = stack[-1]\n                memo[-1] = bytes(8 * max(memo))\n',
        ),
    ),
    Mutation(
        "open containers are counted",
        f"{PICKLES}::test_marks_are_bounded",
        (
            "archive/interpreter.py",
            "                if len(marks) >= self.limits.open_marks:\n",
            "                if False:\n",
        ),
    ),
    Mutation(
        "containers in containers are bounded",
        f"{PICKLES}::test_what_is_built_is_bounded_in_depth",
        ("archive/machine.py", "        if depth > self.limits.open_marks:\n", "        if False:\n"),
    ),
    Mutation(
        "containers that the table makes are counted",
        f"{PICKLES}::test_containers_are_bounded_by_the_bytes_that_make_them",
        ("archive/machine.py", "        if self.made > self.most:\n", "        if False:\n"),
    ),
    Mutation(
        "tuples are counted",
        f"{PICKLES}::test_containers_are_bounded_by_the_bytes_that_make_them",
        ("archive/interpreter.py", "self.nest, CONTAINERS, 0, self.most\n", "self.nest, CONTAINERS, 0, 1 << 60\n"),
    ),
    Mutation(
        "opcodes are counted",
        f"{PICKLES}::test_steps_are_bounded",
        ("archive/interpreter.py", "        for _ in range(self.limits.steps):\n", "        while True:\n"),
    ),
    Mutation(
        "deep keys are not hashed",
        f"{PICKLES}::test_deep_keys_do_not_overflow_the_stack",
        (OPCODES, "target[key if type(key) is str else _key(key)] = value", "target[key] = value"),
    ),
    Mutation(
        "integers that collide are no keys",
        f"{PICKLES}::test_keys_that_collide_take_no_longer",
        (OPCODES, "kind is int and -_KEY_LIMIT < key < _KEY_LIMIT:", "kind is int:"),
    ),
    Mutation(
        "tuples that collide are no keys",
        f"{PICKLES}::test_tuples_that_collide_take_no_longer",
        (OPCODES, "    return OpaqueKey(key)\n", "    return key\n"),
    ),
    Mutation(
        "text is not encoded again and again",
        f"{PICKLES}::test_text_is_not_encoded_again_and_again",
        (WORLD, "        if self._encodable < 0:\n", "        if False:\n"),
    ),
    Mutation(
        "bytes are encoded only as pickle does it",
        CALLS,
        (WORLD, '        if type(text) is not str or encoding not in ("latin1", "latin-1"):\n', "        if False:\n"),
    ),
    Mutation("a set is made of a list", CALLS, (WORLD, "    if type(items) is not list:\n", "    if False:\n")),
    Mutation("a size is made of a tuple", CALLS, (WORLD, "    if type(items) is not tuple:\n", "    if False:\n")),
    Mutation(
        "a tensor is rebuilt by a rebuild function",
        CALLS,
        (
            WORLD,
            "        if type(function) is not _Constructor or function.make == self._from_type or type(arguments) is not tuple:\n",
            "        if False:\n",
        ),
    ),
    Mutation(
        "errors do not walk into what the file made",
        f"{PICKLES}::test_errors_do_not_walk_into_what_the_file_made",
        (
            "archive/printable.py",
            '        return f"{type(value).__name__} of {len(value)}"',
            "        return repr(value)[:100]",
        ),
    ),
    Mutation(
        "Python's own errors become one sentence",
        DAMAGED,
        (
            "archive/interpreter.py",
            "    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:\n",
            "    except MemoryError as error:\n",
        ),
    ),
    Mutation("a pickle ends where the record ends", DAMAGED, (WORLD, "    if stop != len(data):\n", "    if False:\n")),
    Mutation(
        "a pickle does not stop in the middle",
        DAMAGED,
        ("archive/interpreter.py", "                if marks or len(stack) != 1:\n", "                if False:\n"),
    ),
    Mutation("protocols are known", DAMAGED, (OPCODES, "    if not 2 <= version <= 5:\n", "    if False:\n")),
    Mutation(
        "a call's arguments are a tuple",
        DAMAGED,
        ("archive/interpreter.py", "                if type(arguments) is not tuple:\n", "                if False:\n"),
    ),
    Mutation(
        "an object's arguments are a tuple",
        DAMAGED,
        (OPCODES, "    if type(arguments) is not tuple:\n", "    if False:\n"),
    ),
    Mutation(
        "keyword arguments are a dict", DAMAGED, (OPCODES, "    if type(keywords) is not dict:\n", "    if False:\n")
    ),
    Mutation(
        "a key has a value",
        DAMAGED,
        (OPCODES, '    if len(items) % 2:\n        raise DamagedFile("a dict\'s last key has no value")\n', ""),
        (OPCODES, "zip(items[::2], items[1::2], strict=True)", "zip(items[::2], items[1::2])"),
    ),
    Mutation(
        "imported names are short",
        DAMAGED,
        (
            OPCODES,
            'machine.data.find(b"\\n", position, position + _MAX_NAME_BYTES)',
            'machine.data.find(b"\\n", position)',
        ),
    ),
    Mutation(
        "imported names are text",
        DAMAGED,
        (
            OPCODES,
            "    if type(name) is not str or type(module) is not str or max(len(name), len(module)) > _MAX_NAME_BYTES:\n",
            "    if False:\n",
        ),
    ),
    Mutation(
        "a persistent id is a storage's",
        PIDS,
        (WORLD, '        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":\n', "        if False:\n"),
    ),
    Mutation(
        "a storage's type is known", PIDS, (WORLD, "if type(element) is not _Element or type(key)", "if type(key)")
    ),
    Mutation("a storage's key is text", PIDS, (WORLD, "or type(key) is not str or", "or")),
    Mutation(
        "a storage's size is an integer", PIDS, (WORLD, "or type(numel) is not int or numel < 0:", "or numel < 0:")
    ),
    Mutation(
        "a storage's size is not negative",
        PIDS,
        (WORLD, "or type(numel) is not int or numel < 0:", "or type(numel) is not int:"),
    ),
    Mutation(
        "a storage is described once",
        STORAGES,
        (WORLD, "        elif known.numel != numel or known.dtype is not dtype:\n", "        elif False:\n"),
    ),
    Mutation(
        "a storage lies in its record",
        STORAGES,
        ("archive/container.py", "        if record.size_bytes < size_bytes:\n", "        if False:\n"),
    ),
    Mutation(
        "a storage has a record",
        STORAGES,
        (
            "archive/container.py",
            "        if record is None:\n            raise",
            "        if record is None:\n            return next(iter(self._records.values()))\n            raise",
        ),
    ),
    Mutation(
        "shapes and strides are tuples over a storage",
        GEOMETRY,
        (
            WORLD,
            "        if type(storage) is not LocatedStorage or type(size) is not tuple or type(stride) is not tuple:\n",
            "        if False:\n",
        ),
    ),
    Mutation(
        "shapes and strides are integers",
        GEOMETRY,
        (WORLD, "            if type(value) is not int:\n", "            if False:\n"),
    ),
    Mutation(
        "shapes are not negative",
        GEOMETRY,
        (LOCATED, "possible and 0 <= n <= MAX_NUMEL and", "possible and n <= MAX_NUMEL and"),
    ),
    Mutation("strides are not negative", GEOMETRY, (LOCATED, "0 <= step <= MAX_NUMEL", "step <= MAX_NUMEL")),
    Mutation("offsets are not negative", GEOMETRY, (LOCATED, "0 <= offset <= MAX_NUMEL", "offset <= MAX_NUMEL")),
    Mutation(
        "sizes do not leave 64 bits",
        GEOMETRY,
        (LOCATED, "possible and 0 <= n <= MAX_NUMEL and", "possible and 0 <= n and"),
    ),
    Mutation("strides do not leave 64 bits", GEOMETRY, (LOCATED, "0 <= step <= MAX_NUMEL", "0 <= step")),
    Mutation("offsets do not leave 64 bits", GEOMETRY, (LOCATED, "0 <= offset <= MAX_NUMEL", "0 <= offset")),
    Mutation(
        "dimensions are few, and as many as strides",
        GEOMETRY,
        (LOCATED, "len(shape) == len(stride) <= MAX_DIMENSIONS and 0", "0"),
        (
            LOCATED,
            "for n, step in zip(shape, stride, strict=True):\n                possible",
            "for n, step in zip(shape, stride):\n                possible",
        ),
    ),
    Mutation(
        "a tensor lies in its storage",
        GEOMETRY,
        (LOCATED, "        if numel and last >= self.storage.numel:\n", "        if False:\n"),
    ),
    Mutation(
        "a tensor does not repeat its storage without end",
        GEOMETRY,
        (LOCATED, "        if numel > self.storage.numel and numel > MAX_REPEATED_NUMEL:\n", "        if False:\n"),
    ),
)
