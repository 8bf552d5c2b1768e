"""The defenses: one file a method, each a class derived from `defenses.base.Defense`."""
