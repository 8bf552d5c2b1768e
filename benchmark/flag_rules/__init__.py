"""What each flag looks for; `benchmark.flags` says what each finding weighs.

A rule is given a row and the table it is ranked in, and returns one sentence about what it found in this row, or None.
Its docstring is the flag's meaning.
"""
