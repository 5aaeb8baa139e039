"""The files in the folder of a run.

`done` is written last, so a folder without it is a run that was interrupted, or was left at a step that `paused` names. While
it is trained there is a `lock`, and once it was saved a folder `checkpoints`. Nothing of it is reached through a link; see
`equimu.files`.
"""

import re

CONFIG = "config.json"
"""The file in a run's folder that says what the run is."""
RULES, METRICS, SOURCE = "rules.json", "metrics.jsonl", "source"
DONE, PAUSED = "done", "paused"
LOCK = "lock"
CHECKPOINTS = "checkpoints"
"""The folder of checkpoints in a run's folder."""
NAMES = (CONFIG, RULES, METRICS, SOURCE, DONE, PAUSED, LOCK, CHECKPOINTS)
LEFTOVER = re.compile(rf"{LOCK}(-[0-9a-f]+)?|({RULES}|{METRICS}|{SOURCE})(\.tmp)?|{CONFIG}\.tmp")
"""What a start leaves that was killed before the config was there."""
