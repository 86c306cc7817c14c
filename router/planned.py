"""Plans that were made before: by the whole text, or by its template (:mod:`router.lifting`).

Valid for one catalog; whoever changes the catalog clears it. Pure, like everything here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from router import lifting
from router.cache import Cache
from router.lifting import Lifted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from router.lifting import Template
    from router.plan import Statement

# A text that holds its values is rarely seen twice; long ones (a load by INSERT) must not fill the memory.
MAX_TEXT_CHARACTERS: Final = 16_384
_SEEN: Final = "seen once"  # learning costs as much as planning twice more: not for a text that never comes again
_UNSURE: Final = "planned for each text"

Plans = tuple["Statement", ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A text whose plans are not known, and the template that it has, with what is known of that."""

    exact: tuple[str, tuple[str, ...], tuple[int, ...]]
    template: Template | None
    integers: Sequence[str]
    known: str | None

    @property
    def learns(self) -> bool:
        """Whether its template is to be learned, which costs two more plans."""
        return self.known == _SEEN

    def make(self, plan: Callable[[str], Plans]) -> Made:
        """Plan it from scratch; nothing is kept yet."""
        plans = plan(self.exact[0])
        learned = None
        if self.template is not None and self.learns:
            learned = lifting.learn(self.template, self.integers, plans, plan)
        return Made(plans, learned)


@dataclass(frozen=True, slots=True)
class Made:
    """What came of it: its plans, and the one of all texts of its template, if there is one."""

    plans: Plans
    learned: Lifted | None


class PlannedStatements:
    """At most ``entries`` texts, and as many templates."""

    def __init__(self, entries: int) -> None:
        self.texts: Cache[Plans] = Cache(entries)
        self.templates: Cache[Lifted | str] = Cache(entries)

    def plan(
        self, text: str, search_path: tuple[str, ...], oids: tuple[int, ...], plan: Callable[[str], Plans]
    ) -> Plans:
        """Return the plans of a text, from the cache if they can be; ``plan`` makes them from scratch."""
        found = self.find(text, search_path, oids)
        if not isinstance(found, Missing):
            return found
        made = found.make(plan)
        self.keep(found, made)
        return made.plans

    def find(self, text: str, search_path: tuple[str, ...], oids: tuple[int, ...]) -> Plans | Missing:
        """Return the plans of a text, from the cache, or what is to be made, perhaps elsewhere, and kept here."""
        exact = (text, search_path, oids)
        plans = self.texts.get(exact)
        if plans is not None:
            return plans
        cut = lifting.lift(text) if not oids else None
        if cut is None:
            return Missing(exact, None, (), None)
        template, integers = cut
        known = self.templates.get((template, search_path))
        if isinstance(known, Lifted):
            return (lifting.apply(known, text, integers),)
        return Missing(exact, template, integers, known)

    def keep(self, missing: Missing, made: Made) -> None:
        """Keep what was made with this catalog, but no text that is too long, or that a template was learned by."""
        if missing.template is not None:
            key = (missing.template, missing.exact[1])
            if missing.known is None:
                self.templates.put(key, _SEEN)
            elif missing.learns:
                self.templates.put(key, made.learned or _UNSURE)
                return
        if len(missing.exact[0]) <= MAX_TEXT_CHARACTERS:
            self.texts.put(missing.exact, made.plans)

    def known_template(self, template: Template, search_path: tuple[str, ...]) -> Lifted | None:
        """Return what was learned of a template, if it was."""
        known = self.templates.get((template, search_path))
        return known if isinstance(known, Lifted) else None

    def known_text(self, text: str, search_path: tuple[str, ...], oids: tuple[int, ...] = ()) -> Plans | None:
        """Return the plans of a whole text, if it is kept."""
        return self.texts.get((text, search_path, oids))

    def clear(self) -> None:
        """Forget everything: the catalog has changed."""
        self.texts.clear()
        self.templates.clear()
