"""Files that are made from the specs: schemas, templates, tables of playbooks, indexes, lists.

`write` and `check` use the same `outputs`, so they cannot disagree.
"""

from skillbank.generate.files import check, outputs, write

__all__ = ["check", "outputs", "write"]
