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

_NODES = frozenset(
    getattr(ast, name)
    for name in [
        "Module",
        "FunctionDef",
        "Return",
        "Delete",
        "Assign",
        "AugAssign",
        "AnnAssign",
        "For",
        "While",
        "If",
        "Raise",
        "Try",
        "Assert",
        "Import",
        "ImportFrom",
        "Global",
        "Nonlocal",
        "Expr",
        "Pass",
        "Break",
        "Continue",
        "BoolOp",
        "NamedExpr",
        "BinOp",
        "UnaryOp",
        "Lambda",
        "IfExp",
        "Dict",
        "Set",
        "ListComp",
        "SetComp",
        "DictComp",
        "GeneratorExp",
        "Yield",
        "YieldFrom",
        "Compare",
        "Call",
        "FormattedValue",
        "JoinedStr",
        "Constant",
        "Attribute",
        "Subscript",
        "Starred",
        "Name",
        "List",
        "Tuple",
        "Slice",
        "Load",
        "Store",
        "Del",
        "And",
        "Or",
        "Add",
        "Sub",
        "Mult",
        "Div",
        "Mod",
        "Pow",
        "LShift",
        "RShift",
        "BitOr",
        "BitXor",
        "BitAnd",
        "FloorDiv",
        "MatMult",
        "Invert",
        "Not",
        "UAdd",
        "USub",
        "Eq",
        "NotEq",
        "Lt",
        "LtE",
        "Gt",
        "GtE",
        "Is",
        "IsNot",
        "In",
        "NotIn",
        "comprehension",
        "ExceptHandler",
        "arguments",
        "arg",
        "keyword",
        "alias",
    ]
)

_SAFE_BUILTINS = (
    "abs all any ascii bin bool bytearray bytes callable chr complex dict divmod enumerate filter float format frozenset "
    "hash hex id int isinstance issubclass iter len list map max min next oct ord pow print range repr reversed round set "
    "slice sorted str sum tuple zip NotImplemented Ellipsis BaseException Exception ArithmeticError AssertionError "
    "AttributeError EOFError GeneratorExit ImportError IndexError KeyError KeyboardInterrupt LookupError MemoryError "
    "ModuleNotFoundError NameError NotImplementedError OverflowError RecursionError RuntimeError StopIteration "
    "SyntaxError SystemExit TypeError UnboundLocalError UnicodeError ValueError ZeroDivisionError"
)
#: Built-in names that give no way to attributes by their text, to files, or to new classes.
BUILTINS = frozenset(_SAFE_BUILTINS.split())
_ALL_BUILTINS = frozenset(__builtins__ if isinstance(__builtins__, dict) else vars(__builtins__))

#: Modules, and the names in them that keep nothing between calls (`random` is put back, see `program_side`).
MODULES = {
    module: frozenset(names.split())
    for module, names in {
        "math": "acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp exp2 "
        "expm1 fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma "
        "log log10 log1p log2 modf nan nextafter perm pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc ulp",
        "cmath": "acos acosh asin asinh atan atanh cos cosh e exp inf isclose isfinite isinf isnan log log10 nan phase "
        "pi polar rect sin sinh sqrt tan tanh tau",
        "random": "choice choices randint random randrange sample seed shuffle uniform gauss",
        "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile "
        "filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest",
        "functools": "cache cmp_to_key lru_cache partial reduce",
        "collections": "Counter OrderedDict defaultdict deque",
        "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "operator": "add and_ concat contains countOf eq floordiv ge getitem gt iadd index indexOf inv invert itemgetter "
        "le lshift lt mod mul ne neg not_ or_ pos pow rshift sub truediv truth xor",
        "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits printable punctuation "
        "whitespace",
        "re": "compile escape findall finditer fullmatch match search split sub subn A ASCII DOTALL I IGNORECASE M "
        "MULTILINE S VERBOSE X",
        "typing": "Any Callable Collection Counter DefaultDict Deque Dict FrozenSet Generator Hashable Iterable "
        "Iterator List Mapping MutableSequence NoReturn Optional OrderedDict Sequence Set Sized Text Tuple Type Union "
        "defaultdict",
        "copy": "copy deepcopy",
        "sys": "maxsize",
        "__future__": "annotations",
    }.items()
}
_TYPES = (str, bytes, bytearray, int, float, complex, list, tuple, dict, set, range, slice)
_MORE_METHODS = (
    "popleft appendleft extendleft rotate maxlen most_common elements subtract total default_factory move_to_end group "
    "groups groupdict start end span expand pos endpos lastindex lastgroup string pattern args send throw close "
    "cache_clear from_iterable"
)
#: What may follow a dot: those names, and the methods of built-in types, of what iterates, of exceptions.
ATTRIBUTES = frozenset().union(
    *MODULES.values(),
    (name for kind in _TYPES for name in dir(kind) if not name.startswith("_")),
    _MORE_METHODS.split(),
)


def is_traceless(tree: ast.Module) -> bool:
    """Whether code can change nothing that outlives it, by the rule of this file."""
    return all(type(node) in _NODES and _may_stand(node) for node in ast.walk(tree))


def _may_stand(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return _may_name(node.id) or (node.id == "__name__" and isinstance(node.ctx, ast.Load))
    if isinstance(node, ast.Attribute):
        return isinstance(node.ctx, ast.Load) and node.attr in ATTRIBUTES
    if isinstance(node, ast.FunctionDef | ast.ExceptHandler):
        return node.name is None or _may_name(node.name)
    if isinstance(node, ast.arg):
        return _may_name(node.arg)
    if isinstance(node, ast.Global | ast.Nonlocal):
        return all(map(_may_name, node.names))
    if isinstance(node, ast.Import):
        return all(one.name in MODULES and _may_name(one.asname or "") for one in node.names)
    if isinstance(node, ast.ImportFrom):
        names = MODULES.get(node.module or "", frozenset())
        return not node.level and all(one.name in names and _may_name(one.asname or "") for one in node.names)
    return True


def _may_name(name: str) -> bool:
    return not name.startswith("__") and (name in BUILTINS or name not in _ALL_BUILTINS)


def names_read(tree: ast.Module) -> list[str]:
    """The names that code reads, in order, each once."""
    names = [
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    ]
    return [name for name in dict.fromkeys(names) if not name.startswith("__")]
