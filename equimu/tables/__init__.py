"""Tables of runs that other trainers left, as they wrote them: CSV, JSON, Weights & Biases, MLflow, TensorBoard."""

from equimu.tables._read import read_rows as read_rows
from equimu.tables._row import Row as Row
