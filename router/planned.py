"""Plans that were made before: by the whole text, or by its template (:mod:`router.lifting`).

Valid for one catalog; whoever changes the catalog clears it. Pure, like everything here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router import lifting
from router.cache import Cache
from router.lifting import Lifted

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.lifting import Template
    from router.plan import Statement

# A text that holds its values is rarely seen twice; long ones (a load by INSERT) must not fill the memory.
MAX_TEXT_CHARACTERS: Final = 16_384
_SEEN: Final = "seen once"  # learning costs as much as planning twice more: not for a text that never comes again
_UNSURE: Final = "planned for each text"

Plans = tuple["Statement", ...]


class PlannedStatements:
    """At most ``entries`` texts, and as many templates."""

    def __init__(self, entries: int) -> None:
        self.texts: Cache[Plans] = Cache(entries)
        self.templates: Cache[Lifted | str] = Cache(entries)

    def plan(
        self, text: str, search_path: tuple[str, ...], oids: tuple[int, ...], plan: Callable[[str], Plans]
    ) -> Plans:
        """Return the plans of a text, from the cache if they can be; ``plan`` makes them from scratch."""
        exact = (text, search_path, oids)
        plans = self.texts.get(exact)
        if plans is not None:
            return plans
        cut = lifting.lift(text) if not oids else None
        if cut is None:
            plans = plan(text)
            self.keep(text, search_path, oids, plans)
            return plans
        template, integers = cut
        key = (template, search_path)
        known = self.templates.get(key)
        if isinstance(known, Lifted):
            return (lifting.apply(known, text, integers),)
        plans = plan(text)
        if known is None:
            self.templates.put(key, _SEEN)
        elif known == _SEEN:
            self.templates.put(key, lifting.learn(template, integers, plans, plan) or _UNSURE)
        if known != _SEEN:
            self.texts.put(exact, plans)
        return plans

    def known_template(self, template: Template, search_path: tuple[str, ...]) -> Lifted | None:
        """Return what was learned of a template, if it was."""
        known = self.templates.get((template, search_path))
        return known if isinstance(known, Lifted) else None

    def known_text(self, text: str, search_path: tuple[str, ...], oids: tuple[int, ...] = ()) -> Plans | None:
        """Return the plans of a whole text, if it is kept."""
        return self.texts.get((text, search_path, oids))

    def keep(self, text: str, search_path: tuple[str, ...], oids: tuple[int, ...], plans: Plans) -> None:
        """Keep the plans of a whole text, unless it is too long for that."""
        if len(text) <= MAX_TEXT_CHARACTERS:
            self.texts.put((text, search_path, oids), plans)

    def clear(self) -> None:
        """Forget everything: the catalog has changed."""
        self.texts.clear()
        self.templates.clear()
