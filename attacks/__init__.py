"""The attacks: one file a method, each a class derived from `attacks.base.Attack`; what several share has a folder."""
