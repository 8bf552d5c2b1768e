"""How fast this program is, measured beside what it is compared with: the same machine, the same run, in turns."""
