"""Ways out to other programs: each module needs an extra of its own, and nothing here is needed by the rest."""
