"""Which code can leave no trace in the interpreter that runs it, judged by what it can name.

Such code may share a warm process with what runs after it; any other gets a process of its own. The rule is a list
of what is allowed, so that what we did not think of is refused: no class, no `with`, no pattern, no attribute that
is set, no name with two underscores, no built-in function that reaches attributes by their text, and of modules only
functions that keep nothing. What is left can change nothing but objects that it made itself, and those are dropped
after it. `tests/test_traceless.py` tries the known ways out.

Not a wall by itself: around the process that runs such code stand the same ones as around any other (`server`).
Standard library only: this runs in the sandbox's processes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

_NODES = (
    "Module Return Delete Assign AugAssign AnnAssign For While If Raise Try Assert Expr Pass Break Continue BoolOp "
    "NamedExpr BinOp UnaryOp Lambda IfExp Dict Set ListComp SetComp DictComp GeneratorExp Yield YieldFrom Compare "
    "Call FormattedValue JoinedStr Constant Subscript Starred List Tuple Slice comprehension arguments keyword alias"
)
_ALLOWED = frozenset(getattr(ast, name) for name in _NODES.split())
_SAFE_BUILTINS = (
    "abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float format "
    "frozenset hash hex id int isinstance issubclass iter len list map max min next oct ord pow print range repr "
    "reversed round set slice sorted str sum tuple zip NotImplemented Ellipsis BaseException Exception "
    "ArithmeticError AssertionError AttributeError EOFError GeneratorExit ImportError IndexError KeyError "
    "KeyboardInterrupt LookupError MemoryError ModuleNotFoundError NameError NotImplementedError OverflowError "
    "RecursionError RuntimeError StopIteration SyntaxError SystemExit TypeError UnboundLocalError UnicodeError "
    "ValueError ZeroDivisionError"
)
#: Built-in names that give no way to attributes by their text, to files, or to new classes. ``type`` may be called
#: with one argument, and `program_side` sees to it that nothing but a plain type comes out.
BUILTINS = frozenset(_SAFE_BUILTINS.split())
_SITE = {"exit", "quit", "help", "copyright", "credits", "license"}  # there only where `site` was imported
_ALL_BUILTINS = _SITE | set(__builtins__ if isinstance(__builtins__, dict) else vars(__builtins__))

#: Modules, and the names in them that keep nothing between calls (`random` is seeded anew for each program).
MODULES = {
    module: frozenset(names.split())
    for module, names in {
        "math": "acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc "
        "exp exp2 expm1 fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf "
        "isnan isqrt lcm ldexp lgamma log log10 log1p log2 modf nan nextafter perm pi pow prod radians "
        "remainder sin sinh sqrt tan tanh tau trunc ulp",
        "cmath": "acos acosh asin asinh atan atanh cos cosh e exp inf isclose isfinite isinf isnan log log10 nan "
        "phase pi polar rect sin sinh sqrt tan tanh tau",
        "random": "choice choices randint random randrange sample seed shuffle uniform gauss",
        "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile "
        "filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest",
        "functools": "cache cmp_to_key lru_cache partial reduce",
        "collections": "Counter OrderedDict defaultdict deque",
        "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "operator": "add and_ concat contains countOf eq floordiv ge getitem gt iadd index indexOf inv invert "
        "itemgetter le lshift lt mod mul ne neg not_ or_ pos pow rshift sub truediv truth xor",
        "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits printable punctuation "
        "whitespace",
        "re": "compile escape findall finditer fullmatch match search split sub subn",
        "typing": "Any Callable Counter DefaultDict Deque Dict FrozenSet Hashable Iterable Iterator List NoReturn "
        "Optional OrderedDict Set Text Tuple Type Union defaultdict",
        "sys": "maxsize getsizeof",
        "array": "array",
        "datetime": "date datetime time timedelta",  # but for strptime, which keeps what it has compiled
        "hashlib": "md5 sha1 sha256 sha512",
        "json": "dumps loads",
        "__future__": "annotations",
    }.items()
}
_TYPES = (str, bytes, bytearray, int, float, complex, list, tuple, dict, set, range, slice)
_MORE_METHODS = (
    "popleft appendleft extendleft rotate maxlen most_common elements subtract total default_factory move_to_end "
    "group groups groupdict start end span expand pos endpos lastindex lastgroup string pattern args send throw "
    "close cache_clear from_iterable tolist typecode year month day hour minute second days seconds total_seconds "
    "strftime isoformat weekday isoweekday toordinal digest hexdigest"
)
#: What may follow a dot: those names, and the methods of built-in types, of what iterates, of exceptions.
ATTRIBUTES = frozenset().union(
    *MODULES.values(),
    (name for kind in _TYPES for name in dir(kind) if not name.startswith("_")),
    _MORE_METHODS.split(),
)


#: The nodes of a tree by their class.
Nodes = dict[type[ast.AST], list[Any]]


def nodes_of(tree: ast.Module) -> Nodes:
    """Every node of a tree, by class; operators, and what marks names as read or stored, are left out."""
    found: Nodes = {}
    waiting: list[ast.AST] = [tree]
    for node in waiting:
        kind = type(node)
        same = found.get(kind)
        if same is None:
            same = found[kind] = []
        same.append(node)
        for field in _INNER[kind]:
            value = getattr(node, field, None)
            if type(value) is list:
                waiting += [item for item in value if isinstance(item, ast.AST)]
            elif isinstance(value, ast.AST):
                waiting.append(value)
    return found


def is_traceless(nodes: Nodes) -> bool:
    """Whether code of these nodes can change nothing that outlives it, by the rule of this file."""
    if ast.Try in nodes and not nodes.keys().isdisjoint(_YIELDS):
        return False  # a generator that was left in the middle would run its `finally` when it is collected
    for kind, same in nodes.items():
        if kind not in _ALLOWED and not (kind in _MAY_STAND and all(map(_MAY_STAND[kind], same))):
            return False
    return _only_asks_for_types(nodes) and not _copies_counters(nodes)


def _copies_counters(nodes: Nodes) -> bool:
    """`Counter` is written in Python, and its ``copy`` hands out the class of whatever it is called with."""
    names = {node.attr for node in nodes.get(ast.Attribute, ())}
    imported = {node.name for node in nodes.get(ast.alias, ())}
    return "copy" in names and "Counter" in names | imported


def names_read(nodes: Nodes) -> list[str]:
    """The names that code of these nodes reads, each once."""
    names = [node.id for node in nodes.get(ast.Name, ()) if type(node.ctx) is ast.Load]
    return [name for name in dict.fromkeys(names) if not name.startswith("__")]


_YIELDS = {ast.Yield, ast.YieldFrom}
#: Fields that hold no node, or a mere mark: no operator does more than the objects that it stands between allow.
_MARKS = {
    "ctx",
    "op",
    "ops",
    "id",
    "attr",
    "kind",
    "type_comment",
    "type_ignores",
    "simple",
    "conversion",
    "level",
}
_INNER = {
    kind: tuple(field for field in kind._fields if field not in _MARKS)
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
} | {ast.Constant: ()}


def _name(node: Any) -> bool:
    return _may_name(node.id) or (node.id in ("__name__", "type") and type(node.ctx) is ast.Load)


#: A replacement field that reads attributes or items.
_READING_FIELD = re.compile(r"\{[^{}:!]*[.\[]")


def _attribute(node: Any) -> bool:
    if node.attr in (
        "format",
        "format_map",
    ):  # fields read attributes: only of a text that is known, and has none
        text = getattr(node.value, "value", None)
        return (
            isinstance(text, str) and isinstance(node.value, ast.Constant) and not _READING_FIELD.search(text)
        )
    return type(node.ctx) is ast.Load and node.attr in ATTRIBUTES


def _import(node: Any) -> bool:
    return all(one.name in MODULES and _may_name(one.asname or "") for one in node.names)


def _import_from(node: Any) -> bool:
    names = MODULES.get(node.module or "", frozenset())
    return not node.level and all(one.name in names and _may_name(one.asname or "") for one in node.names)


_MAY_STAND: dict[type[ast.AST], Callable[[Any], bool]] = {
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Import: _import,
    ast.ImportFrom: _import_from,
    ast.arg: lambda node: _may_name(node.arg),
    ast.FunctionDef: lambda node: _may_name(node.name),
    ast.ExceptHandler: lambda node: _may_name(node.name or ""),
    ast.Global: lambda node: all(map(_may_name, node.names)),
    ast.Nonlocal: lambda node: all(map(_may_name, node.names)),
}


def _may_name(name: str) -> bool:
    return not name.startswith("__") and (name in BUILTINS or name not in _ALL_BUILTINS)


def _only_asks_for_types(nodes: Nodes) -> bool:
    """Whether ``type`` stands nowhere but in calls with one argument."""
    names = {id(node) for node in nodes.get(ast.Name, ()) if node.id == "type"}
    calls = nodes.get(ast.Call, ()) if names else ()
    asking = {
        id(call.func)
        for call in calls
        if len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Starred)
    }
    return names <= asking
