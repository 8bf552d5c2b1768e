"""unsplit-bench: the harness that judges defenses for split learning by the attacks they must survive."""
