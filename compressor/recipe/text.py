"""YAML from anyone: of stated size and depth, each key once, and no more behind its aliases than stands in a long file."""

from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode
from yaml.resolver import Resolver

if yaml.__with_libyaml__:
    from yaml.cyaml import CParser as Events
else:

    class Events(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
        """The parser in Python, where PyYAML was built without libyaml."""

        def __init__(self, text: str) -> None:
            yaml.reader.Reader.__init__(self, text)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)


MOST_BYTES = 1_000_000
"""Length of a file; a sweep of ten thousand points has half of it."""
MOST_VALUES = 100_000
"""Values in a file, those that an alias stands for counted each time."""
DEEPEST = 40
"""Lists and mappings within one another."""
LONGEST_NUMBER = 100
"""Signs of a number."""
NUMBERS = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class Bounded(Events, Composer, SafeConstructor, Resolver):
    """PyYAML's safe loader that stops at the limits above, by a MarkedYAMLError, before anything of that size is made."""

    check_node, get_node, get_single_node = Composer.check_node, Composer.get_node, Composer.get_single_node

    def __init__(self, text: str) -> None:
        Events.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._made = self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node:  # noqa: ANN401
        """Return the next node; the whole is counted while it is put together."""
        mark = self.peek_event().start_mark
        self._depth += 1
        if self._depth > DEEPEST:
            _refuse(f"lists and mappings are nested more than {DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if id(node) not in self._sizes and not isinstance(node, ScalarNode) and not self._closed(node):
            _refuse("an alias stands within what it stands for", mark)
        size, height = self._sizes.setdefault(id(node), self._account(node))
        self._made += 1
        if max(self._made, size) > MOST_VALUES:
            _refuse(f"there are more than {MOST_VALUES:,} values, aliases counted each time", mark)
        if height > DEEPEST:
            _refuse(f"lists and mappings are nested more than {DEEPEST} deep", mark)
        return node

    def _closed(self, node: Node) -> bool:
        return node.end_mark is not None

    def _account(self, node: Node) -> tuple[int, int]:
        """Return how many values a node holds, itself included, and how deep they are nested."""
        if isinstance(node, ScalarNode):
            if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
                _refuse(f"a number has {len(node.value):,} signs, and {LONGEST_NUMBER} are read", node.start_mark)
            return 1, 1
        inner = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
        if isinstance(node, MappingNode):
            _check_keys(node)
        sizes = [self._sizes[id(part)] for part in inner]
        return 1 + sum(size for size, _ in sizes), 1 + max((height for _, height in sizes), default=0)


def _check_keys(node: MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, ScalarNode):
            if (key.tag, key.value) in seen:
                _refuse(f"the key {key.value[:60]!r} stands twice", key.start_mark)
            seen.add((key.tag, key.value))


def _refuse(problem: str, mark: yaml.Mark) -> None:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def parse(text: str) -> Any:  # noqa: ANN401
    """Return what a YAML text holds.

    Raises YAMLError where it is none or goes beyond a limit, and whatever else values such as 2001-13-45 lead yaml to.
    """
    return _load(text, Bounded.get_single_data)


def compose(text: str) -> Node | None:
    """Return the nodes of a YAML text, with the places where they stand; raises as `parse` does."""
    return _load(text, Bounded.get_single_node)


def _load(text: str, what: Any) -> Any:  # noqa: ANN401
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"it has {len(text):,} signs, and {MOST_BYTES:,} are read")
    loader = Bounded(text)
    try:
        return what(loader)
    finally:
        loader.dispose()
