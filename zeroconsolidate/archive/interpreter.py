"""The bytes of a pickle that is not trusted -> the object in it, without running anything.

Python's own unpicklers cannot be made safe by answering for the names a pickle imports: they let a pickle size
the memo (one opcode allocates gigabytes), hash what it likes (a tuple nested 100,000 deep overflows the C stack,
tuples made to collide turn a dict quadratic) and set the state of objects that were already checked. This one

* knows the opcodes that picklers of protocol 2 to 5 write, and refuses the others;
* never allocates what a pickle merely announces: every length is compared with the bytes that are there;
* makes at most one object a step, and takes at most `machine.Limits.steps` of them; containers are bounded by the
  pickle's size and in depth, whatever opcode makes or fills them;
* uses as dict keys only text, bytes and small integers, whose hashes cannot be steered;
* imports and calls nothing: names, calls and persistent ids are handed to a :class:`.machine.World`.

The opcodes are those of CPython's `Lib/pickle.py`, whose comments describe them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import DamagedFile, ZeroConsolidateError
from .inert import Inert
from .machine import CONTAINERS, INERT, Machine, beyond
from .opcodes import TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator


class Interpreter(Machine):
    """Reads one pickle after another out of `data`.

    Raises DamagedFile for what no pickler writes, UnsafePickle for opcodes that only an attack needs, and
    whatever the world raises. Python's own errors for a broken pickle (LookupError, TypeError, ValueError, …)
    are left to the caller, who has :func:`broken_pickles` for them.
    """

    def run(self, start: int = 0) -> tuple[object, int]:
        """The object of the pickle that begins at byte `start`, and the byte behind its end."""
        self.begin(start)
        stack, marks, memo, data, world = self.stack, self.marks, self.memo, self.data, self.world
        push, position = stack.append, start
        nest, containers, made, most = self.nest, CONTAINERS, 0, self.most
        for _ in range(self.limits.steps):
            opcode = data[position]
            position += 1
            # The dozen opcodes that make up a tensor stand here, the most frequent first: a checkpoint of a
            # thousand ranks has a hundred million of them. All others are functions in a table.
            if opcode == 0x72:  # LONG_BINPUT
                memo[int.from_bytes(data[position : position + 4], "little")] = stack[-1]
                position += 4
            elif opcode == 0x68:  # BINGET
                push(memo[data[position]])
                position += 1
            elif opcode == 0x4B:  # BININT1
                push(data[position])
                position += 1
            elif opcode == 0x52:  # REDUCE
                arguments = stack.pop()
                if type(arguments) is not tuple:
                    raise DamagedFile("a call's arguments are not a tuple")
                stack[-1] = result = world.call(stack[-1], arguments)
                if type(result) is Inert:
                    self.count(INERT)
                    self.wrap(result, arguments)
            elif opcode == 0x85:  # TUPLE1
                item = stack[-1]
                stack[-1] = made_of_one = (item,)
                made += 1
                if made > most:
                    raise self.too_many()
                if type(item) in containers:
                    nest(made_of_one, made_of_one)
            elif opcode == 0x58:  # BINUNICODE
                stop = position + 4 + int.from_bytes(data[position : position + 4], "little")
                if stop > len(data):
                    raise beyond(stop, data)
                push(str(data[position + 4 : stop], "utf-8", "surrogatepass"))
                position = stop
            elif opcode == 0x28:  # MARK
                if len(marks) >= self.limits.open_marks:
                    raise DamagedFile(f"the pickle is nested deeper than {self.limits.open_marks} levels")
                marks.append(len(stack))
            elif opcode == 0x4D:  # BININT2
                push(data[position] | data[position + 1] << 8)
                position += 2
            elif opcode == 0x74:  # TUPLE
                mark = marks.pop()
                items = tuple(stack[mark:])
                del stack[mark:]
                push(items)
                made += 1
                if made > most:
                    raise self.too_many()
                if len(items) <= 3:
                    nest(items, items)
            elif opcode == 0x6A:  # LONG_BINGET
                push(memo[int.from_bytes(data[position : position + 4], "little")])
                position += 4
            elif opcode == 0x29:  # EMPTY_TUPLE
                push(())
            elif opcode == 0x51:  # BINPERSID
                stack[-1] = world.persistent(stack[-1])
            elif opcode == 0x86:  # TUPLE2
                last = stack.pop()
                item = stack[-1]
                stack[-1] = pair = (item, last)
                made += 1
                if made > most:
                    raise self.too_many()
                if type(item) in containers or type(last) in containers:
                    nest(pair, pair)
            elif opcode == 0x2E:  # STOP
                if marks or len(stack) != 1:
                    raise DamagedFile("the pickle ends before its object is complete")
                return stack[0], position
            else:
                position = TABLE[opcode](self, position)
        raise DamagedFile("the pickle is too long", expected=f"at most {self.limits.steps} opcodes")


@contextmanager
def broken_pickles(what: str) -> Iterator[None]:
    """Python's own errors for a broken pickle as DamagedFile: an opcode that pops an empty stack, a memo entry that is
    not there, text that is not UTF-8, …"""
    try:
        yield
    except ZeroConsolidateError:
        raise
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise DamagedFile(f"{what} is damaged: {type(error).__name__}: {error!s:.200}") from None
