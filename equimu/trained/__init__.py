"""What is done with a trained run: its model loaded, evaluated, sampled from."""

from equimu.trained._evaluate import Evaluation as Evaluation
from equimu.trained._evaluate import evaluate as evaluate
from equimu.trained._load import Trained as Trained
from equimu.trained._load import load as load
from equimu.trained._sample import Sample as Sample
from equimu.trained._sample import sample as sample
from equimu.trained._sample import stream_text as stream_text
