"""What a pickle would import and call, read off its instructions without running one.

The instructions are followed on a stack that holds names and plain values instead of objects. So a
name that is put together from two texts is seen, too, and so are the arrays that joblib writes
between the instructions. A pickle runs as far as it can be read: what came before damage counts.

The lists are for telling people, and no fence: a name on neither list may do anything.
"""

from __future__ import annotations

import math
import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from onnx_soda._converters.archives import FRAMEWORK_NAMES

# The largest checkpoints have some hundred thousand.
_MOST_INSTRUCTIONS = 5_000_000
# Pickles behind each other in one file; torch's old form has five.
_MOST_PICKLES = 1_000
# Bytes of a text of protocol 0, which is a line.
_MOST_LINE = 2**24

# Modules that reach files, programs, the network, or the interpreter itself.
_MODULES = """
    os posix nt subprocess sys shutil socket ssl select pty pdb bdb code codeop runpy importlib imp
    pkgutil zipimport zipapp ctypes _ctypes cffi multiprocessing concurrent threading _thread signal
    asyncio _posixsubprocess webbrowser urllib urllib2 http httplib requests httpx aiohttp ftplib
    telnetlib smtplib poplib imaplib nntplib xmlrpc pip ensurepip venv virtualenv distutils
    setuptools timeit trace cProfile profile pstats doctest pydoc marshal pickle _pickle cPickle
    cloudpickle dill commands popen2 platform tempfile fileinput glob mmap fcntl resource
    sqlite3 linecache inspect gc atexit site idlelib lib2to3 tkinter turtledemo
    paramiko fabric psutil win32api winreg _winapi msvcrt pexpect nturl2path
    """
_BUILTINS = """
    eval exec execfile compile open input __import__ getattr setattr delattr globals locals vars
    breakpoint apply reload help exit quit memoryview
    """
_DANGEROUS = re.compile(
    rf"(?:{'|'.join(_MODULES.split())})(?:\.\S*)? .*"
    rf"|(?:__builtin__|builtins|__builtins__) (?:{'|'.join(_BUILTINS.split())})(?:\..*)?"
    r"|_?io (?:open\w*|FileIO)|types (?:Function|Code|Method|Lambda)Type|logging\.config .*"
    r"|operator (?:attrgetter|methodcaller)(?:\..*)?"
    r"|torch(?:\.serialization|\.jit(?:\._serialization)?)? (?:load|save)"
    r"|torch\.(?:hub|utils\.cpp_extension|utils\.model_zoo|_inductor|_dynamo)(?:\.\S+)? .*"
    r"|torch\.ops \S*|torch classes\S*|torch ops\S*"
    r"|numpy (?:load|fromfile|memmap|savetxt|save|genfromtxt|loadtxt)"
    r"|numpy\.(?:testing|f2py|distutils)(?:\.\S+)? .*"
    r"|joblib(?:\.\S+)? (?:load|dump|Parallel|Memory)|pandas(?:\.\S+)? (?:read_\w+|eval)"
    r"|tensorflow(?:\.\S+)? (?:load_library|load_op_library|py_func\w*)"
    r"|.* (?:__import__|system|popen|eval|exec|__globals__|__subclasses__)(?:\..*)?"
)
_KNOWN = re.compile(
    FRAMEWORK_NAMES.pattern
    + r"|torch\._utils _rebuild_\w+|torch \w+Storage|torch\.storage \w+Storage"
    r"|torch\.(?:nn|optim)(?:\.\w+)* [A-Z]\w*|torch\.jit\._pickle \w+|__torch__(?:\.\w+)* \w+"
    r"|torchvision\.(?:models|ops|transforms)(?:\.\w+)* [A-Z]\w*"
    r"|(?:builtins|__builtin__) (?:set|frozenset|dict|list|tuple|int|long|float|complex|bool|bytes"
    r"|bytearray|str|unicode|slice|range|xrange|object)"
    r"|collections (?:OrderedDict|defaultdict|deque|Counter)|_codecs encode"
    r"|copy_?reg (?:_reconstructor|__newobj__)|datetime (?:datetime|date|time|timedelta|timezone)"
    r"|decimal Decimal|fractions Fraction|uuid UUID|pathlib \w*Path"
    r"|numpy (?:ndarray|dtype|bool_|u?int\d+|float\d+|complex\d+)"
    r"|numpy\.(?:_core|core)\.(?:multiarray (?:_reconstruct|scalar)|numeric _frombuffer)"
    r"|numpy\.dtypes \w+DType"
    r"|numpy\.random\._pickle __\w+_ctor|numpy\.random\.\w+ [A-Z]\w*"
    r"|numpy\.ma\.core (?:MaskedArray|_mareconstruct)"
    r"|scipy\.sparse(?:\.\w+)* [a-z]{3}_(?:matrix|array)"
    r"|joblib\.numpy_pickle NumpyArrayWrapper"
    r"|sklearn(?:\.\w+)+ (?:[A-Z]\w*|__pyx_unpickle_\w+)"
)
_JOBLIB_ARRAY = "joblib.numpy_pickle NumpyArrayWrapper"
_OBJECTS = re.compile(r"[|<>=]?O\d*")
_ELEMENTS = re.compile(r"[|<>=]?(?P<kind>[biufcSUV])(?P<size>\d{1,9})")


@dataclass
class Pickle:
    """What a pickle was seen to name.

    Attributes:
        names: What it would import, as "module.name", in order.
        dangerous: Those that reach files, programs or the interpreter.
        unknown: Those on no list.
        computed: A name is put together while it is loaded, and cannot be told.
        calls: Whether it calls anything.
        problem: Why it could not be followed to its end; "" where it could.
        instructions: How many were followed.
    """

    names: dict[str, None] = field(default_factory=dict)
    dangerous: dict[str, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)
    computed: bool = False
    calls: bool = False
    problem: str = ""
    instructions: int = 0

    def note(self, name: str) -> None:
        """Take in a name, as "module name"."""
        shown = name.replace(" ", ".", 1)[:200]
        self.names[shown] = None
        if _DANGEROUS.fullmatch(name):
            self.dangerous[shown] = None
        elif not _KNOWN.fullmatch(name):
            self.unknown[shown] = None


def read_pickles(stream: BinaryIO, follow: bool = True) -> Pickle:
    """Follow a pickle, and those behind it.

    Args:
        stream: Where it begins; a stream that can be moved back.
        follow: Look for further pickles behind the first one. What is no pickle there, as the
            numbers behind those of torch's old form, is no problem.
    """
    found, bounded = Pickle(), _Lines(stream)
    for number in range(_MOST_PICKLES):
        begin = stream.tell()
        before = len(found.names)
        with warnings.catch_warnings():  # of texts with escapes that Python does not know
            warnings.simplefilter("ignore")
            _Machine(bounded, found).run()
        if found.problem:
            if number and len(found.names) == before and not found.computed:
                found.problem = ""  # no pickle any more
            break
        if not follow or stream.tell() == begin or not stream.read(1):
            break
        stream.seek(-1, 1)
    return found


class _Lines:
    """A stream whose lines end: a file of another kind may be one line of gigabytes.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell
        self._stream = stream

    def readline(self) -> bytes:
        """Return a line, or the first part of a very long one."""
        return self._stream.readline(_MOST_LINE)


class _BrokenError(Exception):
    """The instructions make no sense here."""


@dataclass(frozen=True)
class _Name:
    """A class or function."""

    name: str


@dataclass
class _Made:
    """What a call returns: whom it called, with what; and the state that it is then given."""

    of: Any
    arguments: Any
    state: Any = None


_MARK = object()
_UNKNOWN = object()
_TEXTS = frozenset(
    {
        "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING",
        "SHORT_BINSTRING",
    }
)  # fmt: skip
_VALUES = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
)
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Machine:
    """Follows one pickle.

    Args:
        stream: Where it begins.
        found: Takes what it names.
    """

    def __init__(self, stream: _Lines, found: Pickle) -> None:
        self._stream = stream
        self._found = found
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            "GLOBAL": lambda name: self._push(self._named(name)),
            "STACK_GLOBAL": lambda _: self._joined_name(),
            "INST": self._inst,
            "OBJ": lambda _: self._obj(),
            "REDUCE": lambda _: self._call(2),
            "NEWOBJ": lambda _: self._call(2),
            "NEWOBJ_EX": lambda _: self._call(3),
            "BUILD": lambda _: self._build(),
            "TUPLE": lambda _: self._push(tuple(self._to_mark())),
            "MEMOIZE": lambda _: self._memo.__setitem__(len(self._memo), self._top()),
            "DUP": lambda _: self._push(self._top()),
            "POP": lambda _: self._drop(),
            "POP_MARK": lambda _: self._drop_to_mark(),
            "EMPTY_DICT": lambda _: self._push({}),
            "SETITEM": lambda _: self._set([self._pop(), self._pop()][::-1]),
            "SETITEMS": lambda _: self._set(self._to_mark()),
            "DICT": lambda _: self._dict(),
            "BINPERSID": lambda _: self._replace_top(),
            **dict.fromkeys(("EXT1", "EXT2", "EXT4"), self._extension),
        }

    def run(self) -> None:
        """Follow the instructions to the end, or as far as they make sense."""
        found = self._found
        try:
            # It asks for what `_Lines` has alone.
            for code, argument, _ in pickletools.genops(cast(BinaryIO, self._stream)):
                found.instructions += 1
                if found.instructions > _MOST_INSTRUCTIONS:
                    found.problem = f"it has over {_MOST_INSTRUCTIONS} instructions"
                    return
                if code.name != "STOP":
                    self._step(code, argument)
        except _BrokenError:
            found.problem = "its instructions make no sense"
        except RecursionError:  # arrays of objects, each a pickle in a pickle
            found.problem = "it nests pickles too deep"
        except (ValueError, EOFError, OverflowError, MemoryError, IndexError):
            # A text may declare more bytes than there is memory for.
            found.problem = "it ends or breaks off before its last instruction"

    def _step(self, code: Any, argument: Any) -> None:
        name = code.name
        if name in self._steps:
            self._steps[name](argument)
        elif name in _TEXTS or name in _VALUES:
            self._push(argument)
        elif name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name in _TUPLES:
            self._push(tuple([self._pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in _PUT:
            self._memo[int(argument)] = self._top()
        elif name in _GET:
            self._push(self._memo.get(int(argument), _UNKNOWN))
        else:
            self._by_the_book(code)

    def _by_the_book(self, code: Any) -> None:
        """Take from the stack and put on it what pickletools says of an instruction."""
        for kind in reversed(code.stack_before):
            if kind is pickletools.stackslice:
                self._to_mark()
            elif kind is not pickletools.markobject:  # taken with what lies on it
                self._pop()
        for kind in code.stack_after:
            self._push(_MARK if kind is pickletools.markobject else _UNKNOWN)

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _top(self) -> Any:
        if not self._stack:
            raise _BrokenError
        return self._stack[-1]

    def _pop(self) -> Any:
        top = self._top()
        if top is _MARK:
            raise _BrokenError
        return self._stack.pop()

    def _drop(self) -> None:
        self._top()
        self._stack.pop()

    def _to_mark(self) -> list[Any]:
        taken = []
        while self._top() is not _MARK:
            taken.append(self._stack.pop())
        self._stack.pop()
        return taken[::-1]

    def _drop_to_mark(self) -> None:
        self._to_mark()

    def _replace_top(self) -> None:
        self._pop()
        self._push(_UNKNOWN)

    def _named(self, name: str) -> _Name:
        self._found.note(name)
        return _Name(name)

    def _joined_name(self) -> None:
        name, module = self._pop(), self._pop()
        if isinstance(name, str) and isinstance(module, str):
            self._push(self._named(f"{module} {name}"))
        else:
            self._found.computed = True
            self._push(_UNKNOWN)

    def _extension(self, number: Any) -> None:
        """A number of the registry `copyreg`, which the program that loads has filled."""
        self._push(self._named(f"copyreg extension_{number}"))

    def _inst(self, name: str) -> None:
        arguments = self._to_mark()
        self._made(self._named(name), tuple(arguments))

    def _obj(self) -> None:
        called, *arguments = self._to_mark() or [_UNKNOWN]
        self._made(called, tuple(arguments))

    def _call(self, taken: int) -> None:
        called, *arguments = [self._pop() for _ in range(taken)][::-1]
        self._made(called, arguments[0])

    def _made(self, called: Any, arguments: Any) -> None:
        self._found.calls = True
        self._push(_Made(called, arguments))

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, dict):
            keys = items[::2]
            target.update(
                (key, value)
                for key, value in zip(keys, items[1::2], strict=False)
                if isinstance(key, str)
            )

    def _dict(self) -> None:
        items = self._to_mark()
        self._push({})
        self._set(items)

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if not isinstance(target, _Made):
            return
        target.state = state
        if target.of == _Name(_JOBLIB_ARRAY) and isinstance(state, dict):
            self._pass_array(state)

    def _pass_array(self, state: dict[str, Any]) -> None:
        """Go behind an array that joblib put between the instructions."""
        kind = state.get("dtype")
        arguments = kind.arguments if isinstance(kind, _Made) else ()
        text = arguments[0] if isinstance(arguments, tuple) and arguments else ""
        if isinstance(text, str) and _OBJECTS.fullmatch(text):
            _Machine(self._stream, self._found).run()
            return
        element, shape = _ELEMENTS.fullmatch(str(text)), state.get("shape")
        if element is None or not isinstance(shape, tuple):
            raise _BrokenError
        if not all(type(one) is int and one >= 0 for one in shape):
            raise _BrokenError
        if state.get("numpy_array_alignment_bytes") is not None:
            padding = self._stream.read(1)
            self._stream.seek(padding[0] if padding else 0, 1)
        wide = 4 if element["kind"] == "U" else 1  # bytes of a character
        self._stream.seek(math.prod(shape) * int(element["size"]) * wide, 1)
