"""Every code a finding can have, with its meaning in one line. A code is never reused.

The families: SC1xx bytes and syntax, SC2xx the schema, SC3xx cross references, SC4xx `${…}` references
and secrets, SC5xx faults of a provider type, SC6xx budgets, SC7xx what a reload cannot prepare, SC9xx
faults of ours. Knows nothing of who reports them.
"""

from __future__ import annotations

from typing import Final

CODES: Final = {
    "SC101": "the file is not UTF-8",
    "SC102": "a character that a text file does not have",
    "SC103": "the file holds no manifest",
    "SC104": "not valid YAML",
    "SC105": "a quote that is never closed",
    "SC106": "a tab where YAML wants spaces",
    "SC107": "a backslash that starts no escape sequence",
    "SC108": "a `${…}` reference that needs quotes where it stands",
    "SC109": "a key that is there twice",
    "SC110": "more than one YAML document",
    "SC111": "a YAML tag or directive",
    "SC112": "a merge key",
    "SC113": "a key that is not text",
    "SC114": "a number with a leading zero",
    "SC115": "a number that is infinite, too large, or not a number",
    "SC117": "the file is missing, or cannot be read",
    "SC116": "an alias without its anchor",
    "SC201": "a field that does not exist",
    "SC202": "a field that is missing",
    "SC203": "a value of the wrong type",
    "SC204": "a value that is none of those allowed",
    "SC205": "a number out of its range",
    "SC206": "too short, too long, too few or too many",
    "SC207": "a text of the wrong form",
    "SC208": "a name of the wrong form",
    "SC209": "a value that breaks another rule of its schema",
    "SC210": "a config that its provider type refuses",
    "SC301": "the default is not declared",
    "SC302": "an unknown provider type",
    "SC303": "a provider type that this version does not have yet",
    "SC304": "defaults for an unknown provider type",
    "SC305": "defaults that no provider uses",
    "SC306": "a provider that code of the process has registered under the same name",
    "SC307": "a provider that is declared in two files",
    "SC308": "files that include each other",
    "SC401": "a variable of the environment that is not set",
    "SC402": "a `${…}` that is no reference",
    "SC403": "a reference inside of a reference",
    "SC404": "a reference where none is resolved",
    "SC405": "a referenced file that cannot be used",
    "SC501": "a provider type whose schema is broken",
    "SC502": "a provider type whose check failed",
    "SC601": "the file is too large",
    "SC602": "nested too deeply",
    "SC603": "too many values",
    "SC604": "a text that is too long",
    "SC605": "a number of too many digits",
    "SC606": "aliases that stand for too much",
    "SC607": "more findings than are shown",
    "SC608": "files included too deeply",
    "SC609": "too many files",
    "SC701": "a storage that cannot be opened",
    "SC702": "an init hook that refuses a provider",
    "SC703": "a provider that its type refuses",
    "SC704": "a provider that code changes again and again while it is being reconciled",
    "SC901": "a reload that failed for a reason of its own",
}
