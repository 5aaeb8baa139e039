"""The files in the folder of a run.

`done` is written last, so a folder without it is a run that was interrupted, or was left at a step that `paused` names. While
it is trained there is a `lock`, and once it was saved a folder `checkpoints`. Nothing of it is reached through a link; see
`equimu.files`.
"""

import re

CONFIG, RULES, METRICS, SOURCE = "config.json", "rules.json", "metrics.jsonl", "source"
"""Names of files in a run's folder."""
DONE, PAUSED = "done", "paused"
LOCK, CHECKPOINTS = "lock", "checkpoints"
"""Names of the lock and of the folder of checkpoints."""
NAMES = (CONFIG, RULES, METRICS, SOURCE, DONE, PAUSED, LOCK, CHECKPOINTS)
LEFTOVER = re.compile(rf"{LOCK}(-[0-9a-f]+)?|({RULES}|{METRICS}|{SOURCE})(\.tmp)?|{CONFIG}\.tmp")
"""What a start leaves that was killed before the config was there."""
